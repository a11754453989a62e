//! What answers are made from: builds as they were at one moment, with their models loaded.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use atlas::{ImageName, Model, Trouble};
use manifests::{Artifact, BuildSpec};
use workers::WorkerError;

use super::catalogue::Catalogue;
use super::models::{Origin, Specs};
use super::no_such_image;
use super::plots::Plots;
use crate::build::Build;
use crate::evaluate;
use crate::progress::Progress;
use crate::search::{Adapted, Indexing, SearchModel, Searcher};

/// Builds at one moment.
pub(super) struct Snapshot {
    /// Those whose images are searched.
    pub(super) builds: Vec<Arc<Build>>,
    pub(super) models: Vec<Loaded>,
    pub(super) catalogue: Catalogue,
    /// What a newer snapshot would differ in.
    pub(super) state: State,
}

/// A model with everything that it searches.
pub(super) struct Loaded {
    pub(super) shown: Model,
    pub(super) searcher: Searcher<Arc<Build>>,
    pub(super) plots: Plots,
}

/// What a snapshot is of: as long as that is the same, nothing that pages show is another.
#[derive(PartialEq)]
pub(super) struct State {
    /// Of all tables.
    pub(super) versions: Vec<Option<u64>>,
    /// The model by which each build is evaluated: its vectors are committed before that.
    evaluated: Vec<Option<String>>,
    /// Digests, and the tables that changed since.
    models: Vec<(String, Vec<String>)>,
}

/// Builds that are open, and the models that they name now: enough to see whether anything has changed.
pub(super) struct Opened {
    builds: Vec<Arc<Build>>,
    models: Vec<(Model, SearchModel)>,
    pub(super) state: State,
}

/// Builds that are open, each once. They are opened without their sources: nothing there is listed or read.
struct Open<'s> {
    builds: Vec<Arc<Build>>,
    stop: &'s Arc<AtomicBool>,
}

impl Open<'_> {
    async fn build(&mut self, spec: &BuildSpec) -> Result<Arc<Build>, WorkerError> {
        if let Some(known) = self.builds.iter().find(|build| build.spec == *spec) {
            return Ok(known.clone());
        }
        let build = Arc::new(Build::open_work(spec.clone(), self.stop.clone()).await?);
        self.builds.push(build.clone());
        Ok(build)
    }
}

impl Opened {
    pub(super) async fn now(specs: &Specs, stop: &Arc<AtomicBool>) -> Result<Self, WorkerError> {
        let (mut open, mut builds) = (Open { builds: Vec::new(), stop }, Vec::with_capacity(specs.builds.len()));
        for spec in &specs.builds {
            builds.push(open.build(spec).await?);
        }
        let mut models: Vec<(Model, SearchModel)> = Vec::new();
        let mut add = |id: String, name: String, model: SearchModel| {
            // the source of a pair may be among the builds
            if !models.iter().any(|(_, known)| known.digest == model.digest) {
                models.push((Model { id, name }, model));
            }
        };
        for origin in &specs.models {
            match origin {
                Origin::Build { id, spec } => {
                    let model = SearchModel::of_build(&*open.build(spec).await?).await?;
                    add(id.clone(), named(&spec.country, id), model);
                }
                Origin::Pair { id, pair, source, target } => {
                    let (source, target) = (open.build(source).await?, open.build(target).await?);
                    let [before, after] = [Adapted::Before, Adapted::After];
                    let before = SearchModel::of_pair(pair, &source, &target, before).await?;
                    let after = SearchModel::of_pair(pair, &source, &target, after).await?;
                    let (from, to) = (&source.spec.country, &target.spec.country);
                    add(format!("{id}-before"), from.clone(), before);
                    add(id.clone(), format!("{from} adapted to {to}"), after);
                }
            }
        }
        let state = State {
            versions: versions(&builds).await?,
            evaluated: evaluated(&builds).await?,
            models: models.iter().map(|(_, model)| (model.digest.clone(), model.changed_since.clone())).collect(),
        };
        Ok(Self { builds, models, state })
    }

    /// Opens everything that answers need. Models that an older snapshot has loaded stay loaded.
    ///
    /// # Errors
    /// Beside an older snapshot, [`WorkerError::Configuration`] while a run has trained a model and not yet made all
    /// vectors by it: nothing could be found, or little.
    pub(super) async fn load(self, older: Option<&Snapshot>, progress: &Progress) -> Result<Snapshot, WorkerError> {
        let mut models = Vec::with_capacity(self.models.len());
        for (shown, model) in self.models {
            let mut searcher = Searcher::open(model, self.builds.iter().cloned(), progress).await?;
            if older.is_some() {
                // where a run has come to its end, what it could not make is not waited for
                let model = searcher.model().digest.as_str();
                let is_done = |country: &str| {
                    let mut builds = self.builds.iter().zip(&self.state.evaluated);
                    builds.any(|(build, by)| build.spec.country == country && by.as_deref() == Some(model))
                };
                check_whole(&searcher, is_done).await?;
            }
            searcher.index(Indexing::Auto, progress).await;
            let loaded = older.and_then(|older| {
                older.models.iter().find(|loaded| loaded.searcher.model().digest == searcher.model().digest)
            });
            if let Some(loaded) = loaded {
                searcher.take_encoder(loaded.searcher.model(), loaded.searcher.encoder()?.clone());
            }
            searcher.encoder()?;
            models.push(Loaded { shown, searcher, plots: Plots::default() });
        }
        let galleries = models.first().map(|loaded| loaded.searcher.galleries()).unwrap_or_default();
        let catalogue = Catalogue::of(galleries).await?;
        Ok(Snapshot { builds: self.builds, models, catalogue, state: self.state })
    }
}

/// A country, and the spec's own name where it says more.
fn named(country: &str, id: &str) -> String {
    if id == country { country.to_owned() } else { format!("{country} ({id})") }
}

async fn check_whole(searcher: &Searcher<Arc<Build>>, is_done: impl Fn(&str) -> bool) -> Result<(), WorkerError> {
    for gallery in searcher.galleries() {
        if !is_done(&gallery.country) && !gallery.is_whole().await? {
            return Err(WorkerError::Configuration(format!(
                "not all images of {} have a vector by its newest model yet: run its build to its end \
                 (`urbancross run` with its spec)",
                gallery.country
            )));
        }
    }
    Ok(())
}

/// By which model there are figures of each build's newest tables.
async fn evaluated(builds: &[Arc<Build>]) -> Result<Vec<Option<String>>, WorkerError> {
    let mut evaluated = Vec::with_capacity(builds.len());
    for build in builds {
        evaluated.push(evaluate::stored(build).await?.map(|evaluation| evaluation.model_digest));
    }
    Ok(evaluated)
}

/// Versions of the tables that pages read.
async fn versions(builds: &[Arc<Build>]) -> Result<Vec<Option<u64>>, WorkerError> {
    let mut versions = Vec::new();
    for build in builds {
        for artifact in Artifact::TABLES {
            versions.push(build.pin(artifact).await?.version);
        }
    }
    Ok(versions)
}

impl Snapshot {
    pub(super) fn model(&self, id: Option<&str>) -> Result<&Loaded, Trouble> {
        let found = match id {
            None => self.models.first(),
            Some(id) => self.models.iter().find(|loaded| loaded.shown.id == id),
        };
        let known = || self.models.iter().map(|loaded| loaded.shown.id.as_str()).collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| Trouble::Refused(format!("there is no such model; there are {}", known())))
    }

    pub(super) fn model_name(&self, digest: &str) -> String {
        let of_digest = self.models.iter().find(|loaded| loaded.searcher.model().digest == digest);
        of_digest.map_or_else(String::new, |loaded| loaded.shown.name.clone())
    }

    /// Refuses a country whose images are not served.
    pub(super) fn check_country(&self, country: &str) -> Result<(), Trouble> {
        let mut known = self.builds.iter().map(|build| build.spec.country.as_str());
        if known.any(|known| known == country) {
            return Ok(());
        }
        let known: Vec<&str> = self.builds.iter().map(|build| build.spec.country.as_str()).collect();
        Err(Trouble::Refused(format!("there are no images of {country:?}; there are those of {}", known.join(", "))))
    }

    /// # Errors
    /// [`Trouble::Refused`] for a split that no image is in, with those that there are.
    pub(super) fn check_split(&self, split: &str) -> Result<(), Trouble> {
        let known = &self.catalogue.about.splits;
        if known.iter().any(|known| known == split) {
            return Ok(());
        }
        Err(Trouble::Refused(format!("no image is in the split {split:?}; there are {}", known.join(", "))))
    }

    /// The build that an image is of; whether the build has it, its tables say.
    pub(super) fn build(&self, image: &ImageName) -> Result<&Arc<Build>, Trouble> {
        let build = self.builds.iter().find(|build| build.spec.country == image.country);
        build.ok_or_else(|| no_such_image(image))
    }
}
