//! Where the vectors of a build's images by a model come from: its table, or what searches keep.

use std::sync::Arc;

use manifests::plan::PinnedTable;
use manifests::words::count;
use manifests::{Artifact, digest};
use stages::Training;
use stages::stage::StageContext;
use workers::WorkerError;
use workers::map::MapContext;
use workers::parts;
use workers::search::{Gallery, VectorFile, kept_vectors, model_of_vectors};

use super::{KNOWN, SearchModel};
use crate::build::Build;
use crate::plan::{Model, uncounted_plan};
use crate::progress::Progress;
use crate::trainings::current_record;

/// The images of a build with vectors by a model. Those by the build's own model are its table.
pub(super) async fn gallery(model: &SearchModel, build: &Build, progress: &Progress) -> Result<Gallery, WorkerError> {
    let own = current_record(build, Training::Pretrain).await?;
    let files = if own.is_some_and(|record| record.trained.model_digest == model.digest) {
        let table = build.pin(Artifact::ImageEmbeddings).await?;
        if table.parts.is_empty() {
            return Err(WorkerError::Configuration(format!(
                "{} has a trained model, but no vectors of its images yet: run its build to its end (`urbancross run` \
                 with its spec)",
                build.spec.country
            )));
        }
        files_of(&table)
    } else {
        by_another_model(model, build, progress).await?
    };
    assemble(build, files, model.digest.clone()).await
}

/// The images of a build with the vectors of what was written about them.
pub(super) async fn gallery_of_texts(model: &SearchModel, build: &Build) -> Result<Gallery, WorkerError> {
    let table = build.pin(Artifact::StructuredEmbeddings).await?;
    if table.parts.is_empty() {
        return Err(WorkerError::Configuration(format!(
            "{} has no vectors of texts yet: run its build (`urbancross run` with its spec)",
            build.spec.country
        )));
    }
    let files = table.parts.iter().map(VectorFile::of_texts).collect();
    let pooling = Some(model.spec.text_retrieval.pooling);
    Ok(Gallery { pooling, ..assemble(build, files, model.digest.clone()).await? })
}

/// The images of a build with the vectors of a version of its table, and the model that made them.
pub(super) async fn gallery_at(build: &Build, version: u64) -> Result<(SearchModel, Gallery), WorkerError> {
    let (country, artifact) = (&build.spec.country, Artifact::ImageEmbeddings);
    let table = build.tables.pin(artifact, country, Some(version)).await?;
    let newest = build.pin(artifact).await?.version.map_or(String::new(), |newest| format!("; the newest is {newest}"));
    let gone = parts::lost(&build.work, &table, country).await?;
    if !gone.is_empty() {
        return Err(WorkerError::Configuration(format!(
            "{country}: {} of {} at version {version} are no longer in the store (`gc` clears away what is old){newest}",
            count(gone.len(), "file"),
            artifact.name()
        )));
    }
    let files = files_of(&table);
    let Some(digest) = model_of_vectors(&build.work, &files).await? else {
        return Err(WorkerError::Configuration(format!(
            "{country} has no vectors in {} at version {version}{newest}",
            artifact.name()
        )));
    };
    let model = SearchModel::of_digest(build, &digest).await?;
    let gallery = assemble(build, files, digest).await?;
    Ok((model, gallery))
}

fn files_of(table: &PinnedTable) -> Vec<VectorFile> {
    table.parts.iter().map(VectorFile::of_pictures).collect()
}

async fn assemble(build: &Build, vectors: Vec<VectorFile>, model: String) -> Result<Gallery, WorkerError> {
    let mut tables = Vec::with_capacity(KNOWN.len());
    for artifact in KNOWN {
        tables.push(build.pin(artifact).await?);
    }
    let table = |artifact: Artifact| {
        let found = tables.iter().find(|table| table.artifact == artifact);
        found.cloned().unwrap_or_else(|| PinnedTable::empty(artifact))
    };
    Ok(Gallery {
        work: build.work.clone(),
        country: build.spec.country.clone(),
        shards: build.spec.work.shards,
        at_once: build.spec.work.concurrency,
        vectors,
        rule: build.spec.text_retrieval.variants,
        model,
        pooling: None,
        geotags: table(Artifact::Geotags),
        splits: table(Artifact::Splits),
        captions: table(Artifact::Captions),
        images: table(Artifact::Images),
        index: Arc::default(),
    })
}

/// Makes the vectors of a build's images by a model, as far as they are not kept yet.
///
/// # Errors
/// A build without images; weights and stores that fail.
pub(crate) async fn keep_vectors(model: &SearchModel, build: &Build, progress: &Progress) -> Result<(), WorkerError> {
    by_another_model(model, build, progress).await.map(drop)
}

/// Vectors that searches keep. Those that are not there are made, by the stage that makes the table.
async fn by_another_model(
    model: &SearchModel,
    build: &Build,
    progress: &Progress,
) -> Result<Vec<VectorFile>, WorkerError> {
    let images = build.pin(Artifact::Images).await?;
    if images.parts.is_empty() {
        return Err(WorkerError::Configuration(format!(
            "{} has no images yet: run its build first (`urbancross run` with its spec)",
            build.spec.country
        )));
    }
    let stage = stages::image_embeddings::stage();
    let of_model = Model { digest: model.digest.clone(), ..Model::default() };
    let mut plan = uncounted_plan(build, &stage, &of_model, false).await?;
    // how vectors are made is the model's affair
    plan.parameters = digest::canonical_json(&(stage.parameters)(&model.spec));
    let devices = stages::device::devices(stage.name, &model.spec)?;
    let stage_context = StageContext {
        spec: &model.spec,
        device: devices[0],
        model_folder: Some(model.folder.clone()),
        weights: &build.weights,
        server: None,
        stop: build.stop.clone(),
    };
    let bar = progress.stage("vectors", images.rows());
    let context = MapContext {
        work: &build.work,
        slices: build.virtual_inputs.slices.store(),
        tables: &build.tables,
        source: &build.source,
        fetch: build.fetch_settings(),
        stop: &build.stop,
        observer: &bar,
    };
    let announce = |rows: u64| {
        progress.note(&format!(
            "{}: making vectors of {} by the model of {}; they are kept for the next search",
            build.spec.country,
            count(rows, "image"),
            model.name
        ));
    };
    let files = kept_vectors(&context, &stage, &plan, stage_context, &devices, announce).await;
    bar.clear();
    files
}
