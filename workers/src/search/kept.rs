//! Vectors of a build's images by a model that is not its own: of another country, or adapted to this one. They are the rows
//! that the stage `image_embeddings` would make with that model, made by its code and kept in its columns, but outside of
//! the table, which is the own model's.
//!
//! A file is named by the part of `images` that it was made of, and parts never change: a file that is there is right. An
//! edit makes new parts of few shards, and their files take over the rows whose pictures are the same. Files are hints:
//! losing or doubling them costs work.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use manifests::plan::PinnedTable;
use manifests::spec::DeviceName;
use manifests::{Artifact, PartFile, Plan, digest, paths};
use stages::stage::{Stage, StageContext};

use super::{VectorFile, index};
use crate::attempt;
use crate::compute::ComputeThreads;
use crate::error::WorkerError;
use crate::join::ShardJoin;
use crate::map::shard::write_rows;
use crate::map::{MapContext, SHARDS_AROUND, devices_of};
use crate::parts::{PartReader, PartWriter};
use crate::slices::InputStores;

/// Digest of the model and of all else that decides about vectors but the pictures.
fn key(plan: &Plan) -> String {
    digest::of_value(&(&plan.stage, plan.stage_version, &plan.model, &plan.parameters))
}

/// The vectors of a build's images by the model of a plan of `image_embeddings`; those that are not there are made first,
/// which `announce` is told with the number of images. The plan's own output is not looked at.
///
/// # Errors
/// [`WorkerError::Configuration`] if the model cannot be loaded, [`WorkerError::Broken`] for images that cannot be read,
/// [`WorkerError::Stopped`]; a store that does not answer. What is done stays done.
pub async fn kept_vectors(
    context: &MapContext<'_>,
    stage: &Stage,
    plan: &Plan,
    stage_context: StageContext<'_>,
    devices: &[DeviceName],
    announce: impl FnOnce(u64),
) -> Result<Vec<VectorFile>, WorkerError> {
    let folder = paths::kept_vectors(&plan.country, &key(plan));
    let there = Kept::list(context, &folder).await?;
    let empty = PinnedTable::empty(Artifact::Images);
    let images = plan.inputs.iter().find(|input| input.artifact == Artifact::Images).unwrap_or(&empty);
    // whoever has copied a file has read all of it
    let copied = &index::copied(context.work, &plan.country, &plan.model);
    let kept = futures::stream::iter(0..images.parts.len()).map(|at| {
        let file = there.of_part(&images.parts[at]);
        async move {
            match file {
                Some(file) if copied.has(&file) || is_readable(context, &file).await => Ok(file),
                _ => Err(&images.parts[at]),
            }
        }
    });
    let (mut files, mut missing) = (Vec::new(), Vec::new());
    let mut kept = kept.buffered(context.fetch.concurrency.max(1));
    while let Some(file) = kept.next().await {
        match file {
            Ok(file) => files.push(file),
            Err(part) => missing.push(part),
        }
    }
    if missing.is_empty() {
        return Ok(files);
    }
    announce(missing.iter().map(|part| part.rows).sum());
    // one plan for all: where rows are taken over from is said shard by shard
    let plan = &Plan { output: PinnedTable::empty(plan.output.artifact), ..plan.clone() };
    let devices = devices_of(stage, devices);
    let compute = &ComputeThreads::start(stage, &stage_context, devices)?;
    let (folder, there) = (&folder, &there);
    let made: Vec<VectorFile> = futures::stream::iter(missing)
        .map(|part| async move {
            let older = there.older(context, part).await;
            make(context, stage, plan, part, older, compute, folder).await
        })
        .buffer_unordered(devices.len() + SHARDS_AROUND)
        .try_collect()
        .await?;
    files.extend(made);
    files.sort_by_key(|file| file.shard);
    Ok(files)
}

/// Makes the vectors of one part of `images`.
async fn make(
    context: &MapContext<'_>,
    stage: &Stage,
    plan: &Plan,
    part: &PartFile,
    older: Option<PartReader>,
    compute: &ComputeThreads,
    folder: &str,
) -> Result<VectorFile, WorkerError> {
    let stores = InputStores { tables: context.work, slices: context.slices };
    let join = ShardJoin::load_beside(stores, stage, plan, part.shard, older).await?;
    let places = vec![None; join.tasks.len()];
    let name = paths::vectors_of_part(&part.path, &attempt::id());
    let name = name.ok_or_else(|| WorkerError::Broken(format!("{} is no part of images", part.path)))?;
    let path = format!("{folder}/{name}");
    let mut writer = PartWriter::create_at(context.work, plan.output.artifact, part.shard, path.clone())?;
    let written = write_rows(context, stage, plan, (&join, &places), Some(compute), (&mut writer, None)).await?;
    if written.stopped {
        return Err(WorkerError::Stopped);
    }
    let written = writer.finish().await?;
    Ok(VectorFile { shard: part.shard, artifact: plan.output.artifact, path, size_bytes: written.size_bytes })
}

async fn is_readable(context: &MapContext<'_>, file: &VectorFile) -> bool {
    let opened = file.open(context.work).await;
    opened.inspect_err(|error| tracing::warn!(%error, "vectors that a search kept are made again")).is_ok()
}

/// What a folder holds: for each part of `images`, one file of its vectors.
struct Kept {
    /// By the name of the part, which begins with the shard.
    files: BTreeMap<String, VectorFile>,
}

impl Kept {
    async fn list(context: &MapContext<'_>, folder: &str) -> Result<Self, WorkerError> {
        let mut files = BTreeMap::new();
        // in order of name: of several attempts the last
        for (name, meta) in context.work.list_metas(folder).await? {
            let Some(part) = paths::part_of_vectors(&name) else { continue };
            let Some(shard) = paths::shard_of_part(&part) else { continue };
            let file = VectorFile {
                shard,
                artifact: Artifact::ImageEmbeddings,
                path: format!("{folder}/{name}"),
                size_bytes: meta.size,
            };
            files.insert(part, file);
        }
        Ok(Self { files })
    }

    fn of_part(&self, part: &PartFile) -> Option<VectorFile> {
        self.files.get(part.path.rsplit('/').next()?).filter(|file| file.shard == part.shard).cloned()
    }

    /// The newest vectors of the same shard, of an earlier part; what cannot be read is as good as none.
    async fn older(&self, context: &MapContext<'_>, part: &PartFile) -> Option<PartReader> {
        let name = part.path.rsplit('/').next()?;
        let of_shard = self.files.iter().filter(|(of, file)| file.shard == part.shard && *of != name);
        let (_, newest) = of_shard.max_by_key(|(of, _)| (*of).clone())?;
        newest.open(context.work).await.ok()
    }
}
