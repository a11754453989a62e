//! Checkpoints of a run: a folder `last` to continue from and a folder `best` to use.
//!
//! ```text
//! RUN/last/position.json            where the run stands, and the settings that it belongs to
//!          model/                   the network, as it saves itself
//!          average/                 the moving average of the weights, if one is kept
//!          segment_tower/           the segment tower, unless it is the image tower
//!          optimiser.safetensors    moments, master weights, step count
//!          objective/               what the objective has learnt, such as a discriminator
//! RUN/earlier/NUMBER/              checkpoints before the last, as many as are kept
//! RUN/best/position.json, model/    the weights that validated best (the average, if one is kept)
//! ```

mod folder;

pub use folder::replace;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use models::dual_encoder::DualEncoder;
use models::parameters::Parameters;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{AtPath, Error, Result};
use crate::objective::Objective;
use crate::optimiser::{self, AdamW};
use crate::schedule::RunLength;
use crate::trainer::LossScale;

/// Largest `position.json` that is read: settings and counters are a few kilobytes.
const MAX_POSITION_BYTES: u64 = 1 << 20;
const POSITION: &str = "position.json";
const OPTIMISER: &str = "optimiser.safetensors";
const OBJECTIVE: &str = "objective";
const PARAMETERS: &str = "parameters.safetensors";
const EARLIER: &str = "earlier";

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Epoch of the next step, from 0.
    pub epoch: usize,
    /// Next step within the epoch, from 0; equal to the steps of an epoch when only validation is missing.
    pub step: usize,
    /// The best validation so far.
    pub best: Option<Best>,
    /// Epochs validated since the best one.
    pub epochs_without_gain: usize,
    /// Pairs learnt from so far.
    pub samples: u64,
    /// Of towers in f16; others leave it alone.
    #[serde(default)]
    pub loss_scale: LossScale,
}

impl Position {
    /// Whether a run of this length can stand there.
    ///
    /// # Errors
    /// What cannot be, in words.
    pub(crate) fn check(&self, length: RunLength) -> Result<(), String> {
        let Self { epoch, step, epochs_without_gain, samples, loss_scale, .. } = self;
        let RunLength { epochs, steps_per_epoch } = length;
        if *epoch > epochs || *step > steps_per_epoch {
            return Err(format!("stands at epoch {epoch}, step {step} of {epochs} epochs of {steps_per_epoch} steps"));
        }
        if epochs_without_gain > epoch || *samples > i64::MAX as u64 {
            return Err(format!("counts {epochs_without_gain} epochs without gain and {samples} samples"));
        }
        loss_scale.check()
    }
}

/// A validated epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// The epoch, from 0.
    pub epoch: usize,
    /// Its metric; higher is better.
    pub metric: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PositionFile {
    format: u32,
    position: Position,
    /// Everything that the numbers depend on.
    settings: Value,
}

const FORMAT: u32 = 2;

/// What a run continues from, beside the optimiser's state.
pub struct State<'a, N> {
    /// The network being trained.
    pub network: &'a N,
    /// The moving average of its weights.
    pub average: Option<&'a N>,
    /// The segment tower, when it is not the image tower.
    pub segment_tower: Option<&'a N>,
    /// The objective, with what it has learnt.
    pub objective: &'a mut dyn Objective,
}

/// Which checkpoint of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The latest, to continue from.
    Last,
    /// The best validated, to use.
    Best,
}

impl Which {
    fn path(self, run: &Path) -> PathBuf {
        run.join(match self {
            Self::Last => "last",
            Self::Best => "best",
        })
    }
}

/// Folder of a complete checkpoint, if there is one. Its `model/` is what [`DualEncoder::load`] reads.
pub fn find(run: &Path, which: Which) -> Option<PathBuf> {
    folder::find(&which.path(run), POSITION)
}

/// Where the checkpoint in `folder` stands.
///
/// # Errors
/// A missing or damaged `position.json`.
pub fn position(folder: &Path) -> Result<Position> {
    Ok(read_position(folder)?.position)
}

/// Writes `last` atomically: a crash at any moment leaves the old one or the new one. Of the ones before it `keep - 1`
/// stay, to be renamed to `last` by hand should it turn out bad.
///
/// # Errors
/// The file system's.
pub fn write_last<N: DualEncoder>(
    run: &Path,
    (state, optimiser): (&State<N>, &optimiser::State),
    position: &Position,
    settings: &Value,
    keep: usize,
) -> Result<()> {
    let target = Which::Last.path(run);
    if keep > 1 && folder::is_whole(&target, POSITION) {
        keep_earlier(run, &target, keep - 1)?;
    }
    folder::replace(&target, |folder| {
        write_position(folder, position, settings)?;
        state.network.save(&subfolder(folder, "model")?)?;
        if let Some(average) = state.average {
            average.save(&subfolder(folder, "average")?)?;
        }
        if let Some(tower) = state.segment_tower {
            tower.save(&subfolder(folder, "segment_tower")?)?;
        }
        optimiser.save(&folder.join(OPTIMISER))?;
        let objective = subfolder(folder, OBJECTIVE)?;
        if let Some(parameters) = state.objective.parameters() {
            parameters.save_safetensors(&objective.join(PARAMETERS))?;
        }
        state.objective.save(&objective)
    })
}

/// Puts a second name on each file of `last` below `earlier`, and drops the oldest beyond `keep`.
fn keep_earlier(run: &Path, last: &Path, keep: usize) -> Result<()> {
    let earlier = run.join(EARLIER);
    std::fs::create_dir_all(&earlier).at(&earlier)?;
    let Position { epoch, step, .. } = position(last)?;
    folder::link(last, &earlier.join(format!("{epoch:05}-{step:07}")))?;
    let entries = std::fs::read_dir(&earlier).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).at(&earlier)?;
    // what was deleted has left folders behind
    let (mut names, left): (Vec<PathBuf>, Vec<PathBuf>) =
        entries.into_iter().map(|entry| entry.path()).partition(|path| folder::is_whole(path, POSITION));
    names.sort_unstable();
    for old in names[..names.len().saturating_sub(keep)].iter().chain(&left) {
        std::fs::remove_dir_all(old).at(old)?;
    }
    Ok(())
}

/// Writes `best` atomically.
///
/// # Errors
/// The file system's.
pub fn write_best<N: DualEncoder>(run: &Path, network: &N, position: &Position, settings: &Value) -> Result<()> {
    folder::replace(&Which::Best.path(run), |folder| {
        write_position(folder, position, settings)?;
        Ok(network.save(&subfolder(folder, "model")?)?)
    })
}

/// Takes up `last`, if there is one, and returns where it stands and the optimiser's state, which the caller hands on.
///
/// # Errors
/// [`Error::ForeignCheckpoint`] for other settings or another model, with the first difference; damaged files, and a
/// position that a run of this length cannot have.
pub fn resume<N: DualEncoder>(
    run: &Path,
    (state, optimiser): (&mut State<N>, &AdamW),
    settings: &Value,
    length: RunLength,
) -> Result<Option<(Position, optimiser::State)>> {
    let Some(folder) = find(run, Which::Last) else {
        return Ok(None);
    };
    let PositionFile { position, settings: written, .. } = read_position(&folder)?;
    if let Some(difference) = first_difference("", &written, &as_read(settings)) {
        return Err(Error::ForeignCheckpoint { folder, difference });
    }
    position.check(length).map_err(|problem| damaged(&folder.join(POSITION), problem))?;
    state.network.restore(&folder.join("model"))?;
    if let Some(average) = state.average {
        average.restore(&folder.join("average"))?;
    }
    if let Some(tower) = state.segment_tower {
        tower.restore(&folder.join("segment_tower"))?;
    }
    let moments = optimiser.read(&folder.join(OPTIMISER))?;
    let objective = folder.join(OBJECTIVE);
    if let Some(parameters) = state.objective.parameters() {
        // wide enough for each: they need not be of one type
        parameters.copy_from(&Parameters::load_safetensors(&objective.join(PARAMETERS), &Device::Cpu, DType::F64)?)?;
    }
    state.objective.load(&objective)?;
    Ok(Some((position, moments)))
}

fn subfolder(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::create_dir(&path).at(&path)?;
    Ok(path)
}

fn write_position(folder: &Path, position: &Position, settings: &Value) -> Result<()> {
    let path = folder.join(POSITION);
    let file = PositionFile { format: FORMAT, position: position.clone(), settings: settings.clone() };
    let json = serde_json::to_vec_pretty(&file).map_err(|error| damaged(&path, error))?;
    std::fs::write(&path, json).at(&path)
}

fn read_position(folder: &Path) -> Result<PositionFile> {
    let path = folder.join(POSITION);
    let bytes = std::fs::metadata(&path).at(&path)?.len();
    if bytes > MAX_POSITION_BYTES {
        return Err(damaged(&path, format!("has {bytes} bytes, at most {MAX_POSITION_BYTES} are read")));
    }
    let file: PositionFile =
        serde_json::from_slice(&std::fs::read(&path).at(&path)?).map_err(|error| damaged(&path, error))?;
    if file.format != FORMAT {
        return Err(damaged(&path, format!("is of format {}, this program reads {FORMAT}", file.format)));
    }
    Ok(file)
}

fn damaged(path: &Path, problem: impl std::fmt::Display) -> Error {
    Error::DamagedCheckpoint { path: path.to_path_buf(), problem: problem.to_string() }
}

/// The value as it comes back from a file: JSON's reader may return another last bit of a number than was written.
fn as_read(value: &Value) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or(Value::Null)
}

/// The first field, in name order, that differs, with both values.
pub(crate) fn first_difference(field: &str, written: &Value, present: &Value) -> Option<String> {
    match (written, present) {
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
            names.sort_unstable();
            names.dedup();
            let value = |of: &serde_json::Map<String, Value>, name: &str| of.get(name).cloned().unwrap_or(Value::Null);
            names.into_iter().find_map(|name| {
                let path = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
                first_difference(&path, &value(a, name), &value(b, name))
            })
        }
        _ if written == present => None,
        _ => Some(format!("{field} is {written} in the checkpoint and {present} in this run")),
    }
}

#[cfg(test)]
mod tests;
