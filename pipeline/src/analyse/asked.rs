//! Stages asked about a sample of a build: what they make is shown, and goes into no table.

use std::time::Instant;

use arrow::array::{Array, RecordBatch};
use manifests::{Artifact, BuildSpec};
use stages::stage::{InputRows, MapOutput, Outcome, Stage, StageContext, Transform};
use stages::table::{Columns, TableError};
use workers::WorkerError;

use super::sample::{Chunk, Sample, broken};
use crate::build::Build;

/// A stage of some spec, opened.
pub(super) struct Asked {
    stage: Stage,
    transform: Box<dyn Transform>,
    /// What it took to load.
    pub(super) opened_in_seconds: f64,
    /// What its rows took since.
    pub(super) seconds: f64,
}

impl Asked {
    /// The stage that writes a table, as `spec` has it, on the first of its devices. `None`: this spec has no such stage.
    pub(super) async fn open(build: &Build, spec: &BuildSpec, of: Artifact) -> Result<Option<Asked>, WorkerError> {
        let Some(stage) = stages::map_stages(spec).into_iter().find(|stage| stage.output == of) else {
            return Ok(None);
        };
        let weights = workers::weights::fetch(&build.work, spec, &build.stop).await?;
        let began = Instant::now();
        let context = StageContext {
            spec,
            device: stages::device::devices(stage.name, spec)?[0],
            model_folder: None,
            weights: &weights,
            server: workers::chat_server::open(spec, build.stop.clone())?,
            stop: build.stop.clone(),
        };
        let transform = tokio::task::block_in_place(|| (stage.open)(&context))?;
        Ok(Some(Asked { stage, transform, opened_in_seconds: began.elapsed().as_secs_f64(), seconds: 0.0 }))
    }

    /// Makes rows, and counts what it takes.
    pub(super) fn make(&mut self, rows: &InputRows) -> Result<MapOutput, WorkerError> {
        let began = Instant::now();
        let made = tokio::task::block_in_place(|| self.transform.transform(rows));
        self.seconds += began.elapsed().as_secs_f64();
        let made = made?;
        match made.outcomes.len() == rows.len() && made.content.num_rows() == rows.len() {
            true => Ok(made),
            false => Err(WorkerError::Broken(format!("{} gave another number of rows than it got", self.stage.name))),
        }
    }
}

/// What a stage made of every chunk of a sample.
pub(super) struct Made {
    /// Content and outcomes by chunk.
    pub(super) chunks: Vec<MapOutput>,
    /// Images that it was asked about.
    pub(super) images: usize,
    /// What it took to load.
    pub(super) opened_in_seconds: f64,
    /// What one image took on average.
    pub(super) seconds_an_image: f64,
}

impl Made {
    /// Asks the stage of a spec about all of a sample.
    pub(super) async fn of(
        build: &Build,
        spec: &BuildSpec,
        of: Artifact,
        sample: &Sample,
    ) -> Result<Option<Made>, WorkerError> {
        let Some(mut asked) = Asked::open(build, spec, of).await? else { return Ok(None) };
        let mut chunks = Vec::new();
        for (shard, ids) in sample.chunks() {
            chunks.push(asked.make(&Chunk::read(build, (shard, &ids)).await?.rows)?);
        }
        let (images, opened_in_seconds) = (sample.len(), asked.opened_in_seconds);
        Ok(Some(Made { chunks, images, opened_in_seconds, seconds_an_image: asked.seconds / images.max(1) as f64 }))
    }

    /// Rows that came to nothing, with why the first of them did.
    pub(super) fn failed(&self) -> (usize, Option<String>) {
        let mut why = self.chunks.iter().flat_map(|chunk| &chunk.outcomes).filter_map(|outcome| match outcome {
            Outcome::Good => None,
            Outcome::Failed(why) | Outcome::Excluded(why) => Some(why.clone()),
        });
        let first = why.next();
        (usize::from(first.is_some()) + why.count(), first)
    }
}

/// How well one caption fits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Score {
    /// CLIPScore.
    pub(super) clip: f64,
    /// PerceptionScore, where there are segments.
    pub(super) perception: Option<f64>,
}

/// Of each caption of each row.
pub(super) type Scores = Vec<Vec<Score>>;

/// Scores captions of a chunk with the segments of a chunk.
pub(super) fn scores(
    judge: &mut Asked,
    chunk: &Chunk,
    captions: &RecordBatch,
    segments: &RecordBatch,
) -> Result<Scores, WorkerError> {
    let mut tables = chunk.rows.tables.clone();
    tables.insert(Artifact::Captions, captions.clone());
    tables.insert(Artifact::Segments, segments.clone());
    let rows = InputRows { image_ids: chunk.rows.image_ids.clone(), tables, source: Vec::new() };
    read_scores(&judge.make(&rows)?.content).map_err(broken)
}

fn read_scores(content: &RecordBatch) -> Result<Scores, TableError> {
    let columns = Columns::new(Artifact::CaptionScores, content);
    let list = columns.list("scores")?;
    let of_row = |row: usize| {
        if list.is_null(row) {
            return Ok(Vec::new());
        }
        let items = columns.structs("scores", row)?;
        let inner = columns.inner(&items);
        let clip = inner.float32("clip_score")?.iter().flatten().map(f64::from);
        let perception = inner.float32("perception_score")?.iter().map(|score| score.map(f64::from));
        Ok(clip.zip(perception).map(|(clip, perception)| Score { clip, perception }).collect())
    };
    (0..content.num_rows()).map(of_row).collect()
}
