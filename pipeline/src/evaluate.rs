//! Evaluation of builds: a model on its own test split, and models on each other's.

mod places;
mod rows;
mod text;

use std::path::Path;
use std::time::Instant;

use manifests::plan::PinnedTable;
use manifests::words::count;
use manifests::{Artifact, BuildSpec, digest, paths};
use stages::Training;
use stages::encoder::Encoder;
use stages::evaluate::{self, EvaluatedRow, Evaluation, LeftOut, Reranked};
use stages::stage::StageContext;
use stages::table::TableError;
use stages::text_retrieval;
use stages::train_rows::TrainRows;
use workers::WorkerError;
use workers::stores::Hint;
use workers::train::{self, Members, RunInputs, RunRows, TableRows};

use self::rows::embedded_rows;
use crate::build::Build;
use crate::progress::Progress;
use crate::trainings::{Learnt, by_another_model, current_record, learnt_and_held_out, no_model};
pub(crate) use places::{Places, places};

pub(crate) const SPLIT: &str = "test";
const STAGE: &str = "evaluate";

fn broken(error: TableError) -> WorkerError {
    WorkerError::Broken(error.to_string())
}

/// Vectors that the figures are made from.
pub(crate) fn vectors_of(spec: &BuildSpec) -> Vec<Artifact> {
    let texts = if spec.text_retrieval.is_on() { &text::TABLES[..] } else { &[] };
    [Artifact::ImageEmbeddings, Artifact::TextEmbeddings].iter().chain(texts).copied().collect()
}

/// Tables that an evaluation reads.
struct Pinned {
    /// Vectors by the trained model, splits and pictures.
    tables: Vec<PinnedTable>,
    /// Vectors of texts by the sentence encoder; none where there is none.
    texts: Vec<PinnedTable>,
}

impl Pinned {
    async fn of(build: &Build) -> Result<Self, WorkerError> {
        let (mut tables, mut texts) = (Vec::new(), Vec::new());
        for artifact in [Artifact::ImageEmbeddings, Artifact::TextEmbeddings, Artifact::Splits, Artifact::Images] {
            tables.push(build.pin(artifact).await?);
        }
        if build.spec.text_retrieval.is_on() {
            for artifact in text::TABLES {
                texts.push(build.pin(artifact).await?);
            }
        }
        Ok(Self { tables, texts })
    }

    /// Where the evaluation at these versions lies.
    fn path(&self, spec: &BuildSpec) -> String {
        let digests = |tables: &[PinnedTable]| tables.iter().map(PinnedTable::digest).collect::<Vec<_>>();
        let versions = (evaluate::VERSION, evaluate::PANELS_VERSION);
        let of_model = (versions, spec.evaluate.protocol, digests(&self.tables));
        let of_text = match self.texts.is_empty() {
            true => digest::of_value(&of_model),
            false => {
                let (retrieval, writer) = (&spec.text_retrieval, spec.caption.structured_by());
                let settings = (retrieval.variants, &retrieval.fusion_alpha, writer);
                digest::of_value(&(of_model, text_retrieval::VERSION, settings, digests(&self.texts)))
            }
        };
        // evaluations that were made before there were reranks keep their names
        let key = match spec.evaluate.rerank.methods.is_empty() {
            true => of_text,
            false => digest::of_value(&(of_text, evaluate::RERANKED_VERSION, &spec.evaluate.rerank)),
        };
        paths::evaluation(&spec.country, &key)
    }
}

/// Refuses figures over no image at all.
fn check_left(rows: &[EvaluatedRow], left_out: Option<&LeftOut>, country: &str) -> Result<(), WorkerError> {
    match left_out {
        Some(left_out) if rows.is_empty() => Err(WorkerError::Configuration(format!(
            "no test image of {country} is left to take figures over: {left_out}. Evaluate the model on another country, or \
             with the splits that it was trained with"
        ))),
        _ => Ok(()),
    }
}

/// Evaluates a build's model on its own test split; nothing happens if its figures are up to date.
pub(crate) async fn evaluate_build(build: &Build, progress: &Progress) -> Result<(), WorkerError> {
    let pinned = Pinned::of(build).await?;
    let path = pinned.path(&build.spec);
    if let Some(stored) = build.work.get_sealed::<Evaluation>(&path).await? {
        progress.note(&format!("{:21} up to date: {}", "evaluate", stored.quoted().in_words()));
        return Ok(());
    }
    let began = Instant::now();
    let mut rows = embedded_rows(build, &pinned.tables, SPLIT).await?;
    if rows.is_empty() {
        return Err(WorkerError::Configuration(
            "the test split is empty: raise the third part of split.ratio, or use more images".into(),
        ));
    }
    let record = current_record(build, Training::Pretrain).await?;
    let learnt = match &record {
        Some(record) => learnt_and_held_out(build, record).await?,
        None => Learnt::new(),
    };
    let left_out = evaluate::leave_out(&mut rows, &learnt);
    check_left(&rows, left_out.as_ref(), &build.spec.country)?;
    let protocol = build.spec.evaluate.protocol;
    let (recall, panels) = tokio::task::block_in_place(|| evaluate::evaluate(&rows, protocol))?;
    let text = match pinned.texts.is_empty() {
        true => None,
        false => Some(text::evaluate(build, &pinned.tables, &pinned.texts, (&rows, &learnt)).await?),
    };
    let reranked = reranked(build, &pinned.tables, (&rows, &learnt)).await?;
    let evaluation = Evaluation {
        model_of: build.spec.country.clone(),
        country: build.spec.country.clone(),
        split: SPLIT.into(),
        model_digest: record.map(|r| r.trained.model_digest).unwrap_or_default(),
        average_over_turns: build.spec.evaluate.average_over_turns,
        seen: None,
        left_out,
        recall,
        panels,
        text,
        reranked,
    };
    build.work.put_sealed(&path, &evaluation).await?;
    progress.note(&format!(
        "{:21} {}, {} in {:.1} s",
        "evaluate",
        count(rows.len(), "image"),
        count(evaluation.recall.caption_gallery, "caption"),
        began.elapsed().as_secs_f64()
    ));
    if let Some(left_out) = &evaluation.left_out {
        progress.note(&format!("{:21} {left_out}", "evaluate"));
    }
    Ok(())
}

/// Figures after reranking, if the spec asks for any.
async fn reranked(
    build: &Build,
    tables: &[PinnedTable],
    (test, learnt): (&[EvaluatedRow], &Learnt),
) -> Result<Vec<Reranked>, WorkerError> {
    let spec = &build.spec.evaluate;
    if spec.rerank.methods.is_empty() {
        return Ok(Vec::new());
    }
    let mut validation = embedded_rows(build, tables, "val").await?;
    evaluate::leave_out(&mut validation, learnt);
    Ok(tokio::task::block_in_place(|| evaluate::reranked(&validation, test, spec))?)
}

/// The evaluation at the newest versions, if it was made.
///
/// # Errors
/// A store that does not answer or lets nobody in. Damaged figures are as good as none.
pub async fn stored(build: &Build) -> Result<Option<Evaluation>, WorkerError> {
    Ok(stored_or_why(build).await?.ok())
}

/// That the figures of a build's newest tables are not of its model of now, in words; `None`: they are, or there are
/// none.
///
/// # Errors
/// A store that does not answer or lets nobody in.
pub(crate) async fn outdated(build: &Build) -> Result<Option<String>, WorkerError> {
    match stored(build).await? {
        Some(evaluation) => by_another_model(build, "own figures", &evaluation.model_digest).await,
        None => Ok(None),
    }
}

/// The evaluation at the newest versions, or why it must be made.
///
/// # Errors
/// A store that does not answer or lets nobody in.
pub async fn stored_or_why(build: &Build) -> Result<Result<Evaluation, String>, WorkerError> {
    let path = Pinned::of(build).await?.path(&build.spec);
    Ok(match build.work.look_at(&path).await? {
        Hint::Sealed(evaluation) => Ok(evaluation),
        other => Err(other.why_absent().map_or_else(
            || "its tables or settings are new".to_owned(),
            |what| format!("the figures that are there are {what}"),
        )),
    })
}

/// The evaluation at the newest versions, of a build that must have one.
///
/// # Errors
/// A build that is not finished.
pub async fn finished(build: &Build) -> Result<Evaluation, WorkerError> {
    stored_or_why(build).await?.map_err(|why| {
        WorkerError::Configuration(format!(
            "{}: no evaluation of its newest tables in {} ({why}); run its build first (`urbancross run` with its spec)",
            build.spec.country,
            build.work.url()
        ))
    })
}

/// The model of one build on the test split of another. Its vectors are made on the spot: tables
/// hold a country's own model only.
///
/// # Errors
/// [`WorkerError::Configuration`] if one of the builds is not finished, or the test split is empty; otherwise what
/// ends an evaluation.
pub async fn evaluate_across(model_of: &Build, on: &Build) -> Result<Evaluation, WorkerError> {
    let Some(record) = current_record(model_of, Training::Pretrain).await? else {
        return Err(no_model(model_of).await?);
    };
    let folder =
        train::fetch_result(&model_of.work, &model_of.spec, Training::Pretrain, &record.key, &model_of.scratch).await?;
    let mut inputs = Vec::new();
    for artifact in [Artifact::Images, Artifact::Captions, Artifact::Splits] {
        inputs.push(on.pin(artifact).await?);
    }
    let (learnt, seen) = seen(&model_of.spec.country, &folder, on, &inputs).await?;
    let mut rows = TableRows::open(&on.work, &inputs, Members::Split(SPLIT)).await?;
    let mut evaluated = embed(&model_of.spec, &folder, &mut rows).await?;
    let left_out = evaluate::leave_out(&mut evaluated, &learnt);
    check_left(&evaluated, left_out.as_ref(), &on.spec.country)?;
    let protocol = on.spec.evaluate.protocol;
    let (recall, panels) = tokio::task::block_in_place(|| evaluate::evaluate(&evaluated, protocol))?;
    Ok(Evaluation {
        model_of: model_of.spec.country.clone(),
        country: on.spec.country.clone(),
        split: SPLIT.into(),
        model_digest: record.trained.model_digest,
        average_over_turns: model_of.spec.evaluate.average_over_turns,
        seen,
        left_out,
        recall,
        panels,
        text: None,
        reranked: Vec::new(),
    })
}

/// What the model in a folder, or one that it descends from, had seen of the held-out images of another build; in words, if
/// that is not known.
async fn seen(
    model_of: &str,
    folder: &Path,
    on: &Build,
    tables: &[PinnedTable],
) -> Result<(Learnt, Option<String>), WorkerError> {
    let geotags = on.pin(Artifact::Geotags).await?;
    let source = on.source.url().as_str();
    let rows = RunRows::read(RunInputs { work: &on.work, source, tables, geotags: &geotags, assignment: None }).await?;
    let Some(learnt) = RunRows::of_weights(folder, &RunRows::default()) else {
        let unknown = format!("it is not known what the model of {model_of} was trained on: its run did not record it");
        return Ok((Learnt::new(), Some(unknown)));
    };
    Ok((learnt.leaked(&rows), None))
}

/// Vectors of rows by the model in a folder, made on a thread of its own.
///
/// # Errors
/// [`WorkerError::Broken`] for rows or weights that cannot be read; a store that does not answer.
pub async fn embed(spec: &BuildSpec, folder: &Path, rows: &mut TableRows) -> Result<Vec<EvaluatedRow>, WorkerError> {
    let embedded = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| scope.spawn(|| embed_all(spec, folder, rows)).join())
    });
    embedded.map_err(|_| WorkerError::Broken("the evaluation failed; its message is above".into()))?
}

fn embed_all(spec: &BuildSpec, folder: &Path, rows: &mut TableRows) -> Result<Vec<EvaluatedRow>, WorkerError> {
    let stage_context = StageContext {
        spec,
        device: stages::device::devices(STAGE, spec)?[0],
        model_folder: Some(folder.to_owned()),
        weights: &Default::default(),
        server: None,
        stop: std::sync::Arc::default(),
    };
    let network = stages::network::load_network(STAGE, &stage_context)?;
    let tokenizer = stages::text_embeddings::load_tokenizer(STAGE, &stage_context)?;
    let encoder = Encoder {
        stage: STAGE,
        network: &network,
        tokenizer: &tokenizer,
        limits: stages::images::limits(spec),
        average_over_turns: spec.evaluate.average_over_turns,
    };
    let mut evaluated = Vec::new();
    for group in 0..rows.groups().len() {
        let read = rows.read(group)?;
        evaluated.extend(encoder.encode(read)?);
    }
    if evaluated.is_empty() {
        return Err(WorkerError::Configuration("the test split is empty".into()));
    }
    Ok(evaluated)
}
