//! Training of a retrieval model from the tables: image–text and segment–text contrast
//! (UrbanCross, stage 2), as `bootstrap` (short, without segments) and as `pretrain`.
//!
//! Rows come through [`TrainRows`], a row group at a time; images are decoded and augmented ahead
//! of the step on other threads. Every random choice about a row is drawn from (seed, epoch, image
//! id), so that it depends neither on threads nor on where a run was resumed.

pub(crate) mod batches;
mod init;
pub(crate) mod reader;
mod start;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use choices::SegmentTower;
use manifests::BuildSpec;
use manifests::spec::{LossKind, PairsSpec, PretrainSpec, ScheduleKind, ScoreSpec};
use manifests::weights::Weights;
use models::dual_encoder::DualEncoder;
use models::tokenizer::Tokenizer;
use training::communicator::Communicator;
use training::contrastive::{Contrastive, Loss};
use training::optimiser::AdamWSettings;
use training::schedule::Schedule;
use training::trainer::{Event, Execution, Settings, Trainer};

use crate::Training;
use crate::device::arithmetic;
use crate::fit::{TrainJob, Trained, warn_of_rounding};
use crate::stage::StageError;
use crate::train_rows::{TrainRows, rows_of};

pub use batches::check_batch;
pub(crate) use init::preset;
pub(crate) use init::{check_vocabulary, described};
pub use start::{Start, open_network};

/// Raised when the same tables and settings would give another model.
pub const VERSION: u32 = 2;

/// A run to start or to go on with.
pub struct Run<'a> {
    /// The whole build; the training follows its `pretrain`, `model` and `ranks`.
    pub spec: &'a BuildSpec,
    /// Which of the build's trainings this is.
    pub training: Training,
    /// The ranks that train together. Every rank reads the rows of its slice of each batch.
    pub ranks: &'a mut dyn Communicator,
    /// Rows to learn from.
    pub train: &'a mut dyn TrainRows,
    /// Rows that the best epoch is chosen by.
    pub validation: &'a mut dyn TrainRows,
    /// Folder of the run on this machine: checkpoints, curve and result.
    pub folder: &'a Path,
    /// Identity of the rows, so that a checkpoint is not continued on others.
    pub data: String,
    /// What the spec's fields name, on this machine.
    pub weights: &'a Weights,
    /// Result folder of an earlier run to start from.
    pub warm_start: Option<PathBuf>,
    /// Set when the run is to end; it saves first.
    pub stop: &'a AtomicBool,
    /// Told of every step, epoch and checkpoint.
    pub observe: &'a mut dyn FnMut(&Event),
}

/// The settings of a training, as they enter its identity. Files made elsewhere enter by their content, wherever
/// they lie.
pub fn parameters(spec: &BuildSpec, training: Training, weights: &Weights) -> serde_json::Value {
    let pretrain = of_training(spec, training);
    let mut value = serde_json::json!({
        "model": spec.model,
        "pretrain": pretrain,
        "score": (pretrain.segments_per_image > 0).then(|| scoring(&spec.score)),
    });
    // these change no number, or decide only whether to train
    for section in [
        "checkpoint_every_steps",
        "keep_checkpoints",
        "micro_batches",
        "prefetch_batches",
        "recompute_activations",
        "retrain_above",
        "time_phases",
    ] {
        if let Some(map) = value["pretrain"].as_object_mut() {
            map.remove(section);
        }
    }
    // weights below 0 counted in an earlier version
    if value["score"]["min_similarity"].as_f64().is_some_and(|least| least < 0.0) {
        value["score"]["negative_weights"] = false.into();
    }
    note_warmup(&mut value["pretrain"], pretrain.schedule, pretrain.warmup_share);
    // trainings that were made before pairs could be left out, or before rules were added, keep their names
    if let Some(map) = value["pretrain"].as_object_mut() {
        match pairs_identity(&pretrain.pairs) {
            Some(pairs) => _ = map.insert("pairs".into(), pairs),
            None => _ = map.remove("pairs"),
        }
    }
    if let Some(map) = value["model"].as_object_mut() {
        map.remove("device");
        map.remove("activation");
        map.insert("precision".into(), arithmetic(spec).into());
        map.extend(init::identity(&spec.model, weights.path("model.init")).map(|network| ("network".into(), network)));
    }
    for (section, name, field) in
        [("model", "init", "model.init"), ("model", "tokenizer", "model.tokenizer"), ("score", "clip", "score.clip")]
    {
        if let Some(map) = value[section].as_object_mut()
            && !weights.digest(field).is_empty()
        {
            map.insert(name.into(), weights.digest(field).into());
        }
    }
    value
}

/// The settings of segments with those that are idle at their defaults, which changes nothing.
fn scoring(score: &ScoreSpec) -> ScoreSpec {
    let (mut score, idle) = (score.clone(), ScoreSpec::default());
    if score.clip != "bootstrap" {
        score.bootstrap_epochs = idle.bootstrap_epochs;
    }
    if score.clip == "none" {
        score.min_similarity = idle.min_similarity;
    }
    score
}

/// Rules by which pairs are left out, as they enter an identity; `None`: there are none.
pub(crate) fn pairs_identity(pairs: &PairsSpec) -> Option<serde_json::Value> {
    let mut value = pairs.is_on().then(|| serde_json::json!(pairs))?;
    if let Some(map) = value.as_object_mut() {
        let off = PairsSpec::default();
        for (name, is_off) in [
            ("near_duplicate_cosine", pairs.near_duplicate_cosine == off.near_duplicate_cosine),
            ("max_untagged_share", pairs.max_untagged_share == off.max_untagged_share),
        ] {
            if is_off {
                map.remove(name);
            }
        }
    }
    Some(value)
}

/// The bootstrap is the pre-training cut short: fewer epochs, no segments.
pub fn of_training(spec: &BuildSpec, training: Training) -> PretrainSpec {
    match training {
        Training::Pretrain if spec.uses_segments() => spec.pretrain.clone(),
        Training::Pretrain => PretrainSpec { segments_per_image: 0, ..spec.pretrain.clone() },
        Training::Bootstrap => PretrainSpec {
            segments_per_image: 0,
            epochs: spec.score.bootstrap_epochs,
            ema_decay: 0.0,
            segment_tower: SegmentTower::Shared,
            // what tells pairs apart is made with it
            pairs: PairsSpec::default(),
            ..spec.pretrain.clone()
        },
    }
}

fn settings(spec: &PretrainSpec, data: &str, steps_per_epoch: usize) -> Settings {
    Settings {
        epochs: spec.epochs,
        learning_rate: spec.learning_rate,
        schedule: schedule(spec.schedule, spec.warmup_share, spec.epochs * steps_per_epoch),
        optimiser: AdamWSettings {
            weight_decay: spec.weight_decay,
            max_grad_norm: spec.max_grad_norm,
            ..AdamWSettings::default()
        },
        segment_tower: spec.segment_tower,
        ema_decay: spec.ema_decay,
        dropout: spec.dropout,
        norm_group: 0,
        seed: spec.seed,
        patience: spec.patience_epochs,
        data: data.to_owned(),
    }
}

pub(crate) fn schedule(kind: ScheduleKind, warmup_share: f64, steps: usize) -> Schedule {
    let warmup_steps = (warmup_share * steps as f64) as usize;
    match kind {
        ScheduleKind::Constant => Schedule::Constant { warmup_steps },
        ScheduleKind::Step => Schedule::StepDecay { factor: 0.3, every_epochs: 10, warmup_steps },
        ScheduleKind::Cosine => Schedule::WarmupCosine { warmup_steps },
    }
}

/// Tells a training from one with the same settings by an earlier version, which warmed up before a cosine alone.
pub(crate) fn note_warmup(value: &mut serde_json::Value, kind: ScheduleKind, warmup_share: f64) {
    if warmup_share > 0.0 && kind != ScheduleKind::Cosine {
        value["warmup"] = "all".into();
    }
}

fn objective(spec: &PretrainSpec) -> Result<Contrastive, training::Error> {
    Contrastive::new(match spec.loss {
        LossKind::InfoNce => Loss::InfoNce { label_smoothing: spec.label_smoothing },
        LossKind::Hinge => Loss::Hinge { margin: spec.margin },
    })
}

/// How the spec wants a training to be carried out.
pub(crate) fn execution(spec: &BuildSpec) -> Execution {
    let pretrain = &spec.pretrain;
    Execution {
        checkpoint_every_steps: pretrain.checkpoint_every_steps,
        keep_last: pretrain.keep_checkpoints,
        prefetch_batches: pretrain.prefetch_batches,
        micro_batches: pretrain.micro_batches,
        recompute: pretrain.recompute_activations,
        bucket_bytes: spec.ranks.bucket_mib << 20,
        shard_optimiser: spec.ranks.shard_optimiser,
        look_every_steps: 0,
        time_phases: pretrain.time_phases,
    }
}

/// Trains to the end, or until `stop`; resumes from the folder's last checkpoint. On success the
/// folder has a [`RESULT_FOLDER`]. All ranks call it, each with a folder of its own; only rank 0's
/// is written and only rank 0 gets the result.
///
/// # Errors
/// [`StageError::Configuration`] for settings, weights or rows that do not fit together, [`StageError::RankLost`] if
/// another rank is gone, [`StageError::Unreachable`] and [`StageError::DiskFull`] where another try may go on, else
/// [`StageError::Compute`].
pub fn train(run: Run<'_>) -> Result<Option<Trained>, StageError> {
    let stage = run.training.name();
    let spec = of_training(run.spec, run.training);
    let train_rows = rows_of(run.train);
    let place = (run.ranks.rank(), run.ranks.world_size());
    batches::check_batch(stage, ("pretrain.batch", spec.batch), ("the train split", train_rows), place.1)?;
    std::fs::create_dir_all(run.folder).map_err(|e| StageError::of(stage, &e))?;
    let start =
        Start { spec: run.spec, weights: run.weights, folder: run.folder, warm_start: run.warm_start.as_deref() };
    let (network, tokenizer) = open_network(stage, &start, run.train)?;
    let score = run.spec.score.clone();
    let limits = crate::images::limits(run.spec);
    let preparer = batches::Preparer {
        spec: spec.clone(),
        score,
        limits,
        side_px: network.preprocessing().side_px,
        context_length: network.context_length(),
        tokenizer: &tokenizer,
        used_pixels: Vec::new(),
    };
    let mut source = batches::Batches::new(stage, preparer, run.train, place)?;
    let settings = settings(&spec, &run.data, training::batch::BatchSource::steps_per_epoch(&source));
    let steps = spec.epochs * training::batch::BatchSource::steps_per_epoch(&source);
    if place.0 == 0 {
        warn_of_rounding(network.dtype(), ("pretrain.learning_rate", spec.learning_rate), steps, "model.precision");
    }
    let objective = Box::new(objective(&spec).map_err(|e| StageError::of(stage, &e))?);
    let mut trainer = Trainer::new(network, settings, objective).map_err(|e| StageError::of(stage, &e))?;
    let fitting = TrainJob {
        stage,
        ranks: run.ranks,
        source: &mut source,
        train_rows,
        validation: run.validation,
        tokenizer: &tokenizer,
        limits,
        segments: (spec.segments_per_image > 0).then_some(&run.spec.score),
        folder: run.folder,
        execution: execution(run.spec),
        stop: run.stop,
        observe: run.observe,
    };
    fitting.fit(&mut trainer)
}

/// The batches that a training of one rank learns from: decoded, augmented and tokenised, ready for the network.
///
/// # Errors
/// A batch larger than the rows.
pub fn loader<'a>(
    spec: &BuildSpec,
    config: &models::clip::ClipConfig,
    tokenizer: &'a Tokenizer,
    rows: &'a mut dyn TrainRows,
) -> Result<impl training::batch::BatchSource + 'a, StageError> {
    let preparer = batches::Preparer {
        spec: of_training(spec, Training::Pretrain),
        score: spec.score.clone(),
        limits: crate::images::limits(spec),
        side_px: config.vision.image_size,
        context_length: config.text.context_length,
        tokenizer,
        used_pixels: Vec::new(),
    };
    batches::Batches::new(Training::Pretrain.name(), preparer, rows, (0, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_larger_than_the_data_is_refused_before_anything_is_read() {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
        let folder = tempfile::tempdir().unwrap();
        let run = Run {
            spec: &BuildSpec::parse(text, "t", &["pretrain.batch=32".into()]).unwrap(),
            training: Training::Pretrain,
            ranks: &mut training::communicator::Solo,
            train: &mut crate::train_rows::Untouched(vec![20, 11]),
            validation: &mut crate::train_rows::Untouched(vec![3]),
            folder: folder.path(),
            data: String::new(),
            weights: &Weights::default(),
            warm_start: None,
            stop: &AtomicBool::new(false),
            observe: &mut |_| (),
        };
        let error = train(run).unwrap_err();
        assert!(matches!(error, StageError::Configuration { .. }), "{error}");
        assert!(error.to_string().contains("pretrain.batch = 32 is more than the 31 rows"), "{error}");
    }

    #[test]
    fn what_changes_no_number_is_no_parameter() {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
        let of = |set: &str| {
            parameters(&BuildSpec::parse(text, "t", &[set.into()]).unwrap(), Training::Pretrain, &Weights::default())
        };
        let base = of("pretrain.seed=0");
        assert_eq!(base, of("pretrain.prefetch_batches=7"));
        assert_eq!(base, of("pretrain.time_phases=true"));
        assert_eq!(base, of("model.device=\"cuda:0\""));
        assert_ne!(base, of("pretrain.learning_rate=0.5"));
        // the preset's activation is no other for being named
        assert_eq!(base, of("model.activation=gelu"));
        assert_ne!(base, of("model.activation=quick_gelu"));
        assert_eq!(base["model"]["precision"], "f32");
        let text = format!("{text}[model]\ndevice = \"cuda:0\"\n");
        let spec = BuildSpec::parse(&text, "t", &["model.precision=tf32".into()]).unwrap();
        let tf32 = parameters(&spec, Training::Pretrain, &Weights::default());
        assert_eq!(tf32["model"]["precision"], "f32, products of tf32");
        assert_eq!(crate::device::dtype(&spec), candle_core::DType::F32);
    }

    #[test]
    fn what_is_idle_is_no_parameter() {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
        let of = |training: Training, clip: &str, set: &str| {
            let set = [format!("score.clip={clip}"), set.to_owned()];
            parameters(&BuildSpec::parse(text, "t", &set).unwrap(), training, &Weights::default())
        };
        let (similarity, epochs) = ("score.min_similarity=0.3", "score.bootstrap_epochs=9");
        let cases: [(&str, &[&str], &[&str]); 3] = [
            ("none", &[similarity, epochs], &[]),
            ("/clip", &[epochs], &[similarity]),
            ("bootstrap", &[], &[similarity, epochs]),
        ];
        for (clip, idle, counts) in cases {
            let base = of(Training::Pretrain, clip, "pretrain.seed=0");
            assert_eq!(base["score"]["min_similarity"], serde_json::json!(0.2f32), "the name of defaults stands");
            for set in idle {
                assert_eq!(of(Training::Pretrain, clip, set), base, "{clip}: {set}");
            }
            for set in counts {
                assert_ne!(of(Training::Pretrain, clip, set), base, "{clip}: {set}");
            }
        }
        let negative = |clip: &str, least: &str| {
            let parameters = of(Training::Pretrain, clip, &format!("score.min_similarity={least}"));
            parameters["score"].get("negative_weights").is_some()
        };
        assert!(negative("/clip", "-0.1") && !negative("/clip", "0.0") && !negative("none", "-0.1"));
        let (separate, shared) = ("pretrain.segment_tower=separate", "pretrain.segment_tower=shared");
        let tower = |training: Training, tower: &str| of(training, "bootstrap", tower);
        assert_eq!(tower(Training::Bootstrap, separate), tower(Training::Bootstrap, shared));
        assert_ne!(tower(Training::Pretrain, separate), tower(Training::Pretrain, shared));
    }

    #[test]
    fn the_learning_rate_rises_before_every_schedule() {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
        let length = training::schedule::RunLength { epochs: 10, steps_per_epoch: 10 };
        for (kind, name, told) in [
            (ScheduleKind::Cosine, "cosine", false),
            (ScheduleKind::Step, "step", true),
            (ScheduleKind::Constant, "constant", true),
        ] {
            assert_eq!(schedule(kind, 0.1, 100).learning_rate(1.0, 0, length), 0.1, "{name}");
            let warmup = |share: &str| {
                let set = [format!("pretrain.schedule={name}"), format!("pretrain.warmup_share={share}")];
                let spec = BuildSpec::parse(text, "t", &set).unwrap();
                parameters(&spec, Training::Pretrain, &Weights::default())["pretrain"].get("warmup").cloned()
            };
            assert_eq!(warmup("0.1").is_some(), told, "{name}: its numbers are others now");
            assert_eq!(warmup("0.0"), None, "{name}");
        }
    }

    #[test]
    fn weights_count_by_their_content() {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
        let of = |field: &'static str, path: &str, digest: &str| {
            let mut weights = Weights::default();
            let local = manifests::weights::LocalWeights { path: Some(path.into()), digest: digest.into() };
            weights.insert(field, local);
            let spec = BuildSpec::parse(text, "t", &[format!("{field}={path}")]).unwrap();
            parameters(&spec, Training::Pretrain, &weights)
        };
        for field in ["model.init", "model.tokenizer", "score.clip"] {
            assert_eq!(of(field, "here", "1"), of(field, "there", "1"), "{field}");
            assert_ne!(of(field, "here", "1"), of(field, "here", "2"), "{field}");
        }
    }
}
