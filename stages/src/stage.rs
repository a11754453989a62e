//! What a stage is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::UInt64Array;
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;
use candle_core::Device;
use manifests::plan::Usage;
use manifests::spec::{Captioner, DeviceName};
use manifests::weights::Weights;
use manifests::{Artifact, BuildSpec, Digest, digest};

pub use crate::stage_error::{StageError, is_disk_full};
use crate::table::TableError;

/// Tables that the split assignment is made from: boxes and given splits, and digests of pictures.
pub const ASSIGNED_FROM: [Artifact; 2] = [Artifact::Geotags, Artifact::Images];

/// One input of a stage.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    /// The table, or what is cut into slices.
    pub artifact: Artifact,
    /// Digest columns that enter the row's recipe. An input without any is only required to exist.
    pub digests: &'static [&'static str],
    /// Columns that [`Transform::transform`] reads.
    pub columns: &'static [&'static str],
}

/// Bytes of the source store that a stage wants beside its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceBytes {
    /// The encoded picture.
    Image,
    /// The meta record.
    Meta,
}

/// Which model a stage needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelUse {
    /// It works without weights.
    None,
    /// The CLIP that scores segments: the bootstrap's, or a named checkpoint.
    Scoring,
    /// The trained retrieval model.
    Retrieval,
    /// External weights, named by these fields of the spec, such as `segment.sam.weights`.
    Named(&'static [&'static str]),
    /// One on a server, which its parameters name.
    Served,
}

/// A stage that maps the rows of a shard to rows of the same shard.
#[derive(Clone, Copy)]
pub struct Stage {
    /// As tables, paths and messages have it.
    pub name: &'static str,
    /// Raised when the same inputs would give different rows.
    pub version: u32,
    /// The first input decides which rows exist; a row is made when every input has it without error.
    pub inputs: &'static [Input],
    /// The table that it writes.
    pub output: Artifact,
    /// Bytes of the source that it wants beside its rows.
    pub source: Option<SourceBytes>,
    /// The model that it is opened with.
    pub model: ModelUse,
    /// How it knows that a row comes out as it was though an input is another; `None`: it does not.
    pub told: Option<Told>,
    /// Column that the worker fills with the row's recipe: the digest of floating-point fields,
    /// which may differ in their last bit between batch shapes and devices.
    pub recipe_digest: Option<&'static str>,
    /// The part of the spec that changes this stage's rows.
    pub parameters: fn(&BuildSpec) -> serde_json::Value,
    /// Loads what the stage needs, once per device.
    pub open: fn(&StageContext<'_>) -> Result<Box<dyn Transform>, StageError>,
}

/// What rows were told, as digests; `None`: that row has to be computed.
pub type ToldRows = Vec<Option<Digest>>;

/// How a row is known to come out as it was, though an input of it is another: by what the stage makes use of, a digest of
/// which lies beside the row. A row without one is computed.
#[derive(Clone, Copy)]
pub struct Told {
    /// The input that may be another.
    pub input: Artifact,
    /// Text column of the output that has the digest.
    pub column: &'static str,
    /// Whose it is.
    pub by: Captioner,
    /// The same digests of rows as they are now; `None`: the row has to be computed. No other input is read for it, so it
    /// is cheap. Errors of a row are found when it is computed.
    pub of: fn(Captioner, &InputRows) -> Result<ToldRows, TableError>,
    /// Content of rows that stand, with what else lies in it of the input.
    pub renew: fn(Captioner, &InputRows, &RecordBatch) -> Result<RecordBatch, TableError>,
}

impl Stage {
    /// Whether it computes with a network on a device of its worker. Others take processors alone, or ask a server.
    pub fn asks_network(&self) -> bool {
        !matches!(self.model, ModelUse::None | ModelUse::Served)
    }

    /// Digest of all that decides how fast its rows are made: its parameters, and its network but for what that has learnt.
    pub fn pace(&self, spec: &BuildSpec, weights: &Weights) -> Digest {
        let model = &spec.model;
        let retrieval = (model.preset, &model.init, model.vocabulary, model.context_length, model.image_size_px);
        let network = match self.model {
            ModelUse::None | ModelUse::Served => serde_json::Value::Null,
            ModelUse::Named(fields) => fields.iter().map(|field| weights.digest(field)).collect(),
            ModelUse::Scoring => serde_json::json!([retrieval, weights.digest("score.clip")]),
            ModelUse::Retrieval => serde_json::json!(retrieval),
        };
        digest::of_value(&(self.name, self.version, (self.parameters)(spec), network))
    }

    /// What the stage reads, the listing or tables; of the split assignment, the tables that it is made from.
    pub fn tables(&self) -> impl Iterator<Item = Artifact> {
        self.inputs
            .iter()
            .flat_map(|input| match &input.artifact {
                Artifact::Assignment => &ASSIGNED_FROM[..],
                artifact => std::slice::from_ref(artifact),
            })
            .copied()
    }
}

/// What a stage is opened with.
#[derive(Clone)]
pub struct StageContext<'a> {
    /// The build that the stage belongs to.
    pub spec: &'a BuildSpec,
    /// One of those that the spec names: a stage is opened once for each, and its rows are the same on all.
    pub device: DeviceName,
    /// Folder of the CLIP that [`Stage::model`] asks for.
    pub model_folder: Option<PathBuf>,
    /// What the spec's fields name, on this machine.
    pub weights: &'a Weights,
    /// Who answers questions about images, where the spec names a server.
    pub server: Option<Arc<dyn chat::Server>>,
    /// Set when the run is to end: stages that take long for a row look at it and return [`StageError::Stopped`].
    pub stop: Arc<AtomicBool>,
}

impl StageContext<'_> {
    /// Folder of the model that the stage asked for.
    ///
    /// # Errors
    /// [`StageError::Configuration`] if it was opened without one.
    pub fn model_folder(&self, stage: &'static str) -> Result<&std::path::Path, StageError> {
        self.model_folder.as_deref().ok_or_else(|| StageError::Configuration {
            stage,
            why: "it needs a model, and none was handed to it".into(),
        })
    }

    /// The device to load networks to.
    ///
    /// # Errors
    /// As [`open`](crate::device::open).
    pub fn device(&self, stage: &'static str) -> Result<Device, StageError> {
        crate::device::open(stage, self.spec, self.device)
    }

    /// File or folder of external weights.
    ///
    /// # Errors
    /// [`StageError::Configuration`] if the field names nothing, or its weights were not fetched.
    pub fn weights(&self, stage: &'static str, field: &str) -> Result<&std::path::Path, StageError> {
        self.weights.path(field).ok_or_else(|| StageError::Configuration {
            stage,
            why: format!("{field} is not on this machine: `urbancross weights SPEC --fetch` brings it"),
        })
    }
}

/// The function of a stage. Rows of one call come from one shard; results must not depend on
/// which rows share a call.
pub trait Transform: Send {
    /// Computes the rows.
    ///
    /// # Errors
    /// What ends the whole stage. What ails one row is its [`Outcome`].
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError>;

    /// What a server was asked for since the last call.
    fn usage(&mut self) -> Usage {
        Usage::default()
    }
}

/// Rows to compute: every table has one row per image id, in the same order.
pub struct InputRows {
    /// Ids of the rows, in the order of everything else here.
    pub image_ids: Vec<String>,
    /// The rows by input, with the columns that the stage reads. An input that has rows of some images only is left out
    /// where it has none of these; otherwise it has nulls for the others.
    pub tables: BTreeMap<Artifact, RecordBatch>,
    /// Source bytes per row, where the stage asks for them; `Err` says why they cannot be had.
    /// `None`: the listing has no such object for the row.
    pub source: Vec<Option<Result<Vec<u8>, String>>>,
}

impl InputRows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.image_ids.len()
    }

    /// Some of the rows, by rising number.
    ///
    /// # Errors
    /// [`TableError::Build`] with Arrow's words.
    pub(crate) fn some(&self, rows: &[usize]) -> Result<InputRows, TableError> {
        let indices: UInt64Array = rows.iter().map(|row| Some(*row as u64)).collect();
        let taken = |(artifact, batch): (&Artifact, &RecordBatch)| {
            take_record_batch(batch, &indices)
                .map(|batch| (*artifact, batch))
                .map_err(|e| TableError::Build { table: artifact.name(), why: e.to_string() })
        };
        Ok(InputRows {
            image_ids: rows.iter().map(|row| self.image_ids[*row].clone()).collect(),
            tables: self.tables.iter().map(taken).collect::<Result<_, _>>()?,
            source: rows.iter().filter_map(|row| self.source.get(*row).cloned()).collect(),
        })
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.image_ids.is_empty()
    }
}

/// Computed rows, in the order of the input.
pub struct MapOutput {
    /// One for each row.
    pub outcomes: Vec<Outcome>,
    /// The content columns of the output table.
    pub content: RecordBatch,
}

/// The outcome of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The row has content.
    Good,
    /// The row is broken and stands in the quarantine listing, with the reason.
    Failed(String),
    /// The row is sound but not wanted (another country, too coarse), with the reason.
    Excluded(String),
}

impl Outcome {
    /// One per row; `Err` failed.
    pub fn of<T>(results: &[Result<T, String>]) -> Vec<Outcome> {
        results.iter().map(|r| r.as_ref().map_or_else(|why| Outcome::Failed(why.clone()), |_| Outcome::Good)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a stage took tells how fast it is for the same work alone, on whatever device, whatever the network has learnt.
    #[test]
    fn a_pace_is_of_all_that_decides_how_fast_rows_are_made() {
        let of = |stage: &str, set: &[&str]| {
            let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
            let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
            let spec = BuildSpec::parse(text, "t", &set).unwrap();
            let stage = crate::map_stages(&spec).into_iter().find(|known| known.name == stage).unwrap();
            stage.pace(&spec, &Weights::default())
        };
        for (stage, set) in [
            ("captions", &["caption.captioner=instructblip", "caption.instructblip.weights=x"][..]),
            ("segments", &["segment.segmenter=sam", "segment.sam.weights=x"]),
            ("image_embeddings", &["model.preset=vit-l-14"]),
            ("image_embeddings", &["model.precision=bf16"]),
            ("image_embeddings", &["model.image_size_px=448"]),
        ] {
            assert_ne!(of(stage, &[]), of(stage, set), "{stage} {set:?}");
        }
        for (stage, set) in [
            ("captions", "work.concurrency=3"),
            ("image_embeddings", "model.device=cuda:all"),
            ("image_embeddings", "pretrain.epochs=3"),
        ] {
            assert_eq!(of(stage, &[]), of(stage, &[set]), "{stage} {set}");
        }
    }
}
