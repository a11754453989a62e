//! The model that a search is made with: a build's own, as it was once, or one that was adapted.

use std::path::PathBuf;

use manifests::weights::Weights;
use manifests::{Artifact, BuildSpec, PairSpec, digest};
use stages::{ModelUse, Training};
use workers::WorkerError;
use workers::adapt::{self, AdaptationRecord};
use workers::train::{TrainingRecord, fetch_result, records};

use crate::build::Build;
use crate::trainings::{current_record, no_model};

/// A trained model, on this machine.
#[derive(Debug, Clone)]
pub struct SearchModel {
    /// Whose it is, for people.
    pub name: String,
    /// Digest of its weights, configuration and vocabulary.
    pub digest: String,
    /// Where its files are.
    pub folder: PathBuf,
    /// Says how it embeds: precision, device, orientations.
    pub spec: BuildSpec,
    /// Of a sentence encoder, which searches what was written about images; otherwise none.
    pub(crate) sentences: Option<Weights>,
    /// Tables that changed since the model was adapted, such as `captions of finland`.
    pub(crate) changed_since: Vec<String>,
}

/// Which model of a pair.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Adapted {
    /// The source's own
    Before,
    /// The one that was adapted to the target
    #[default]
    After,
}

impl SearchModel {
    /// The model of a finished build.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] if nothing was trained yet with the spec's settings.
    pub async fn of_build(build: &Build) -> Result<Self, WorkerError> {
        match current_record(build, Training::Pretrain).await? {
            Some(record) => Self::of_record(build, record).await,
            None => Err(no_model(build).await?),
        }
    }

    /// The model of a build that made some vectors, whatever the spec says now.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] if no finished training of the build made it.
    pub async fn of_digest(build: &Build, digest: &str) -> Result<Self, WorkerError> {
        let all = records(&build.work, &build.spec.country, Training::Pretrain).await?;
        match all.into_iter().rev().find(|record| record.trained.model_digest == digest) {
            Some(record) => Self::of_record(build, record).await,
            None => Err(WorkerError::Configuration(format!(
                "{}: the model that made these vectors ({digest}) is none of its finished trainings",
                build.spec.country
            ))),
        }
    }

    async fn of_record(build: &Build, record: TrainingRecord) -> Result<Self, WorkerError> {
        let folder = fetch_result(&build.work, &build.spec, Training::Pretrain, &record.key, &build.scratch).await?;
        Ok(Self {
            name: build.spec.country.clone(),
            digest: record.trained.model_digest,
            folder,
            spec: build.spec.clone(),
            sentences: None,
            changed_since: Vec::new(),
        })
    }

    /// The sentence encoder of a build, which is fetched if it is not here.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] for a spec that names none; weights that cannot be had.
    pub async fn of_texts(build: &Build) -> Result<Self, WorkerError> {
        let (country, retrieval) = (&build.spec.country, &build.spec.text_retrieval);
        if !retrieval.is_on() {
            return Err(WorkerError::Configuration(format!(
                "{country}: no text is searched by text, since text_retrieval.encoder is empty: name a sentence encoder \
                 such as sentence-transformers/all-MiniLM-L6-v2 in its spec, with caption.structured = true, and run \
                 its build"
            )));
        }
        let weights = workers::weights::fetch(&build.work, &build.spec, &build.stop).await?;
        let stage = stages::map_stages(&build.spec).into_iter().find(|s| s.output == Artifact::StructuredEmbeddings);
        let fields = match stage.map(|stage| stage.model) {
            Some(ModelUse::Named(fields)) => fields,
            _ => &[],
        };
        Ok(Self {
            name: country.clone(),
            digest: crate::plan::named_digest(fields, &weights),
            folder: PathBuf::new(),
            spec: build.spec.clone(),
            sentences: Some(weights),
            changed_since: Vec::new(),
        })
    }

    /// A model of a pair, before or after it was adapted with the settings of the pair's spec.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] if the source has no model yet, or no adaptation with these settings is finished.
    pub async fn of_pair(
        pair: &PairSpec,
        source: &Build,
        target: &Build,
        adapted: Adapted,
    ) -> Result<Self, WorkerError> {
        let before = Self::of_build(source).await?;
        if adapted == Adapted::Before {
            return Ok(before);
        }
        let name = format!("{}_to_{}", source.spec.country, target.spec.country);
        let parameters = digest::canonical_json(&stages::adapt::parameters(pair, &source.spec)?);
        let finished = adapt::records(&target.work, &name).await?;
        let fits = |record: &&AdaptationRecord| {
            record.parameters == parameters && record.stage_version == stages::adapt::VERSION
        };
        let with_settings: Vec<&AdaptationRecord> = finished.iter().filter(fits).collect();
        let of_model = with_settings.iter().filter(|record| record.source_model == before.digest);
        let Some(record) = of_model.max_by_key(|record| pinned_at(record)) else {
            let why = match (finished.is_empty(), with_settings.is_empty()) {
                (true, _) => "nothing was adapted yet".to_owned(),
                (false, true) => "the finished adaptations have other settings than this spec".to_owned(),
                (false, false) => format!("{} was trained again since it was adapted", source.spec.country),
            };
            return Err(WorkerError::Configuration(format!(
                "{name}: {why}; run `urbancross adapt` with its spec, or search with the model as it was before \
                 (--model before)"
            )));
        };
        let folder = adapt::fetch_result(&target.work, &target.scratch, &name, &record.key).await?;
        Ok(Self {
            name,
            digest: record.trained.model_digest.clone(),
            folder,
            // as it was measured
            spec: pair.network_of(&source.spec),
            sentences: None,
            changed_since: changed_since(record, source, target).await?,
        })
    }
}

/// Tables that are others now than those that an adaptation read.
async fn changed_since(record: &AdaptationRecord, source: &Build, target: &Build) -> Result<Vec<String>, WorkerError> {
    let mut changed = Vec::new();
    for (build, inputs) in [(source, &record.source_inputs), (target, &record.target_inputs)] {
        for input in inputs {
            if build.pin(input.artifact).await?.digest() != input.digest() {
                changed.push(format!("{} of {}", input.artifact.name(), build.spec.country));
            }
        }
    }
    Ok(changed)
}

/// Versions of tables only rise: of two adaptations the later one has the larger sum.
fn pinned_at(record: &AdaptationRecord) -> u64 {
    let versions = record.source_inputs.iter().chain(&record.target_inputs).filter_map(|table| table.version);
    versions.fold(0, u64::saturating_add)
}
