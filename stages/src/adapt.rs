//! Adaptation of one country's model to another (UrbanCross, stage 3).

mod batches;
mod look;

use choices::SegmentTower;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::{Device, Tensor};
use manifests::pair::AdaptSpec;
use manifests::spec::PretrainSpec;
use manifests::{BuildSpec, PairSpec};
use models::dual_encoder::DualEncoder;
use training::adapt::{Adaptation, Settings};
use training::batch::BatchSource;
use training::communicator::Communicator;
use training::trainer::{self, Event, Trainer};

use crate::device::{arithmetic, device, dtype, opening_error};
use crate::encoder::Encoder;
use crate::fit::{TrainJob, Trained, warn_of_rounding};
use crate::image_embeddings::mean_direction;
use crate::network::Network;
use crate::pretrain::batches::Preparer;
use crate::pretrain::reader::Reader;
use crate::pretrain::{self, check_batch, execution, note_warmup, pairs_identity};
use crate::stage::StageError;
use crate::text_embeddings::{TOKENIZER_FILE, read_tokenizer};
use crate::train_rows::{Embedded, TrainRows, rows_of};
use models::tokenizer::Tokenizer;

pub use look::{LookAt, Sampled, look};

/// Raised when the same tables and settings would give another model.
pub const VERSION: u32 = 1;
/// The stage's name in paths and messages.
pub const NAME: &str = "adapt";

/// An adaptation to start or to go on with.
pub struct Run<'a> {
    /// How the source's model was built: its network, device and precision.
    pub source_spec: &'a BuildSpec,
    /// Source and target, and the settings of the adaptation.
    pub pair: &'a PairSpec,
    /// The ranks that train together.
    pub ranks: &'a mut dyn Communicator,
    /// Training rows of the source, with their embeddings.
    pub source: &'a mut dyn TrainRows,
    /// Labelled training rows of the target.
    pub target: &'a mut dyn TrainRows,
    /// Validation rows of the target: the best epoch is chosen by them.
    pub validation: &'a mut dyn TrainRows,
    /// Result folder of the source's training.
    pub checkpoint: &'a Path,
    /// Folder of the run on this machine.
    pub folder: &'a Path,
    /// Identity of the rows.
    pub data: String,
    /// Set when the run is to end; it saves first.
    pub stop: &'a AtomicBool,
    /// Told of every step, epoch and checkpoint.
    pub observe: &'a mut dyn FnMut(&Event),
}

/// The method's settings that a pair spec names.
///
/// # Errors
/// An unknown field, a value that makes no sense, or a seed beside that of the adaptation.
pub fn settings(pair: &PairSpec) -> Result<Settings, StageError> {
    let configuration = |why: String| StageError::Configuration { stage: NAME, why };
    if pair.adapt.method.contains_key("seed") {
        return Err(configuration("there is no `adapt.method.seed`: set `adapt.seed`, the method's too".into()));
    }
    let method = manifests::spec::section(&pair.adapt.method, "adapt.method").map_err(configuration)?;
    let settings = Settings { seed: pair.adapt.seed, ..method };
    settings.check().map_err(|e| match e {
        training::Error::Argument { what, problem } => configuration(format!("adapt.method.{what} {problem}")),
        other => configuration(other.to_string()),
    })?;
    Ok(settings)
}

/// The settings of an adaptation, as they enter its identity: the pair's, and what the source's spec decides.
///
/// # Errors
/// Those of [`settings`].
pub fn parameters(pair: &PairSpec, source: &BuildSpec) -> Result<serde_json::Value, StageError> {
    let settings = settings(pair)?;
    let mut value = serde_json::json!({
        "adapt": pair.adapt,
        "ratio": pair.ratio,
        "precision": arithmetic(&pair.network_of(source)),
        "average_over_turns": source.evaluate.average_over_turns,
        "shuffle_window_row_groups": source.pretrain.shuffle_window_row_groups,
    });
    if pair.adapt.segments_per_image > 0 {
        let score = &source.score;
        value["segment_view"] = serde_json::json!([score.canvas, score.crop_margin, score.background]);
    }
    if let Some(pairs) = pairs_identity(&source.pretrain.pairs) {
        value["pairs"] = pairs;
    }
    if let Some(map) = value["adapt"].as_object_mut() {
        map.remove("precision");
    }
    note_warmup(&mut value["adapt"], pair.adapt.schedule, pair.adapt.warmup_share);
    // with every default written out
    value["adapt"]["method"] = serde_json::json!(settings);
    Ok(value)
}

/// Adapts to the end, or until `stop`; resumes from the folder's last checkpoint. Only rank 0 gets the result.
///
/// # Errors
/// [`StageError::Configuration`] for settings, weights or rows that do not fit together, [`StageError::RankLost`] if
/// another rank is gone, [`StageError::Unreachable`] and [`StageError::DiskFull`] where another try may go on, else
/// [`StageError::Compute`].
pub fn adapt(run: Run<'_>) -> Result<Option<Trained>, StageError> {
    let failed = |e: training::Error| StageError::of(NAME, &e);
    let (spec, method) = (&run.pair.adapt, settings(run.pair)?);
    let train_rows = rows_of(run.target);
    let place = (run.ranks.rank(), run.ranks.world_size());
    check_batch(NAME, ("adapt.batch", spec.batch), ("the target's labelled part", train_rows), place.1)?;
    if method.source_pairs {
        let sources = sources_of(spec, &method);
        check_batch(NAME, sources, ("the source's train split", rows_of(run.source)), place.1)?;
    }
    std::fs::create_dir_all(run.folder).map_err(|e| StageError::of(NAME, &e))?;
    let opened = Opened::load(&run.pair.network_of(run.source_spec), run.checkpoint)?;
    let target_embedded = if method.source_pairs {
        let mut embedded = opened.embed(run.source_spec, run.target)?;
        share_embedded(&mut embedded, &opened.device, run.ranks).map_err(failed)?;
        embedded
    } else {
        BTreeMap::new()
    };
    let Opened { network, tokenizer, device } = opened;
    let model = (&network, &tokenizer);
    let mut source = batches_of(run.source_spec, run.pair, model, (run.source, run.target), (target_embedded, place))?;
    let steps_per_epoch = source.steps_per_epoch();
    let (rate, steps) = (("adapt.learning_rate", spec.learning_rate), spec.epochs * steps_per_epoch);
    if place.0 == 0 {
        warn_of_rounding(network.dtype(), rate, steps, "adapt.precision");
    }
    let objective = Adaptation::new(method, network.embed_dim(), &device).map_err(failed)?;
    let settings = trainer_settings(run.pair, &run.data, steps_per_epoch);
    let mut trainer = Trainer::new(network, settings, Box::new(objective)).map_err(failed)?;
    let fitting = TrainJob {
        stage: NAME,
        ranks: run.ranks,
        source: &mut source,
        train_rows,
        validation: run.validation,
        tokenizer: &tokenizer,
        limits: crate::images::limits(run.source_spec),
        segments: None,
        folder: run.folder,
        execution: execution(run.source_spec),
        stop: run.stop,
        observe: run.observe,
    };
    fitting.fit(&mut trainer)
}

/// The model that an adaptation starts from.
struct Opened {
    network: Network,
    tokenizer: Tokenizer,
    device: Device,
}

impl Opened {
    fn load(source_spec: &BuildSpec, checkpoint: &Path) -> Result<Opened, StageError> {
        let (device, dtype) = (device(NAME, source_spec)?, dtype(source_spec));
        let network = <Network as DualEncoder>::load(checkpoint, &device, dtype)
            .map_err(|e| opening_error(NAME, &device, format!("model {}: {e}", checkpoint.display()), &e))?;
        let tokenizer = read_tokenizer(NAME, &checkpoint.join(TOKENIZER_FILE))?;
        Ok(Opened { network, tokenizer, device })
    }

    /// Embeddings of the target's training rows by the frozen model.
    fn embed(
        &self,
        source_spec: &BuildSpec,
        target: &mut dyn TrainRows,
    ) -> Result<BTreeMap<String, Embedded>, StageError> {
        let frozen = self.network.frozen().map_err(|e| StageError::of(NAME, &e))?;
        let encoder = Encoder {
            stage: NAME,
            network: &frozen,
            tokenizer: &self.tokenizer,
            limits: crate::images::limits(source_spec),
            // as the source's tables were made: vectors of both countries are compared
            average_over_turns: source_spec.evaluate.average_over_turns,
        };
        embed_all(&encoder, target)
    }
}

/// The batches of one rank.
fn batches_of<'a>(
    source_spec: &BuildSpec,
    pair: &PairSpec,
    (network, tokenizer): (&Network, &'a Tokenizer),
    (source, target): (&'a mut dyn TrainRows, &'a mut dyn TrainRows),
    (target_embedded, place): (BTreeMap<String, Embedded>, (usize, usize)),
) -> Result<batches::Batches<'a>, StageError> {
    let (spec, base, method) = (&pair.adapt, &source_spec.pretrain, settings(pair)?);
    let rows = PretrainSpec {
        seed: spec.seed,
        segments_per_image: spec.segments_per_image,
        captions_per_image: 1,
        word_dropout: spec.word_dropout,
        augment: spec.augment,
        ..base.clone()
    };
    let window = base.shuffle_window_row_groups;
    let source = match method.source_pairs {
        true => Some(Reader::new(NAME, source, window, sources_of(spec, &method), spec.seed)?),
        false => None,
    };
    Ok(batches::Batches {
        preparer: Preparer {
            spec: rows,
            // one network looks at the segments of both countries
            score: source_spec.score.clone(),
            limits: crate::images::limits(source_spec),
            side_px: network.preprocessing().side_px,
            context_length: network.context_length(),
            tokenizer,
            used_pixels: Vec::new(),
        },
        source,
        target: Reader::new(NAME, target, window, ("adapt.batch", spec.batch), spec.seed)?,
        target_embedded,
        settings: method,
        passes_per_epoch: spec.passes_per_epoch,
        place,
    })
}

/// Sources of a step, of which some are chosen, with the settings that say so.
fn sources_of(spec: &AdaptSpec, method: &Settings) -> (&'static str, usize) {
    let sources = spec.batch.saturating_mul(method.sources_per_target);
    ("adapt.batch x adapt.method.sources_per_target", sources)
}

fn trainer_settings(pair: &PairSpec, data: &str, steps_per_epoch: usize) -> trainer::Settings {
    let spec = &pair.adapt;
    trainer::Settings {
        epochs: spec.epochs,
        learning_rate: spec.learning_rate,
        schedule: pretrain::schedule(spec.schedule, spec.warmup_share, spec.epochs * steps_per_epoch),
        optimiser: training::optimiser::AdamWSettings {
            weight_decay: spec.weight_decay,
            max_grad_norm: spec.max_grad_norm,
            ..Default::default()
        },
        segment_tower: SegmentTower::Shared,
        ema_decay: spec.ema_decay,
        dropout: spec.dropout,
        norm_group: 0,
        seed: spec.seed,
        patience: 0,
        data: data.to_owned(),
    }
}

/// Embeddings of all rows by the frozen model: a labelled target set is small, two vectors a row.
fn embed_all(
    encoder: &Encoder<'_, Network>,
    rows: &mut dyn TrainRows,
) -> Result<BTreeMap<String, Embedded>, StageError> {
    let mut embedded = BTreeMap::new();
    for group in (0..rows.groups().len()).filter(|&g| rows.groups()[g] > 0).collect::<Vec<_>>() {
        let read = rows.read(group).map_err(|e| StageError::of(NAME, &e))?;
        for row in encoder.encode(read)? {
            let text = mean_direction(row.captions.into_iter().map(|(_, vector)| vector).collect());
            embedded.insert(row.image_id, Embedded { image: row.embedding, text });
        }
    }
    Ok(embedded)
}

/// Gives every rank rank 0's vectors, of the same rows: unlike GPUs round differently, and must not choose unlike sources.
fn share_embedded(
    embedded: &mut BTreeMap<String, Embedded>,
    device: &Device,
    ranks: &mut dyn Communicator,
) -> training::Result<()> {
    let own: Vec<f32> = embedded.values().flat_map(|e| e.image.iter().chain(&e.text)).copied().collect();
    // a GPU holds no tensor without elements
    if ranks.world_size() == 1 || own.is_empty() {
        return Ok(());
    }
    let own = Tensor::from_slice(&own, own.len(), &Device::Cpu)?.to_device(device)?;
    let shared = ranks.broadcast(&own, 0)?.to_device(&Device::Cpu)?.to_vec1::<f32>()?;
    let mut shared = shared.into_iter();
    for vectors in embedded.values_mut() {
        vectors.image.iter_mut().chain(&mut vectors.text).zip(&mut shared).for_each(|(own, shared)| *own = shared);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train_rows::Untouched;

    #[test]
    fn ranks_choose_by_the_same_vectors() {
        let ranks = training::communicator::Threads::world(2, std::time::Duration::from_secs(30));
        let found: Vec<Vec<f32>> = std::thread::scope(|scope| {
            let of = |mut rank: training::communicator::Threads| {
                scope.spawn(move || {
                    // the other rank's GPU has rounded differently
                    let own = rank.rank() as f32;
                    let vectors = Embedded { image: vec![own, 1.0], text: vec![2.0, own] };
                    let mut embedded = BTreeMap::from([("a".to_owned(), vectors.clone()), ("b".to_owned(), vectors)]);
                    share_embedded(&mut embedded, &Device::Cpu, &mut rank).unwrap();
                    embedded.into_values().flat_map(|e| [e.image, e.text].concat()).collect()
                })
            };
            ranks.into_iter().map(of).collect::<Vec<_>>().into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        assert_eq!(found, [[0.0, 1.0, 2.0, 0.0, 0.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 0.0, 0.0, 1.0, 2.0, 0.0]]);
    }

    fn pair(method: &str) -> PairSpec {
        let text = format!("source = \"a\"\ntarget = \"b\"\n[adapt.method]\n{method}");
        PairSpec::parse(&text, "t", &[]).unwrap()
    }

    #[test]
    fn the_method_is_read_and_checked_early() {
        assert_eq!(settings(&pair("beta = 0.5\ncurriculum = \"cumulative\"\n")).unwrap().beta, 0.5);
        for (method, words) in [
            ("bta = 1.0\n", "there is no field `adapt.method.bta`"),
            ("bta = 1.0\n", "did you mean `beta`?"),
            ("beta = -1.0\n", "adapt.method.beta is -1"),
            ("beta = true\n", "adapt.method.beta = true: it must be a number"),
            ("curriculum = 1\n", "adapt.method.curriculum = 1: expected one of "),
            ("seed = 7\n", "there is no `adapt.method.seed`: set `adapt.seed`"),
        ] {
            let error = settings(&pair(method)).unwrap_err().to_string();
            assert!(error.contains("adapt.method") && error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_batch_larger_than_either_country_is_refused_before_anything_is_read() {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
        let source_spec = BuildSpec::parse(text, "t", &[]).unwrap();
        let pair = PairSpec::parse("source = \"a\"\ntarget = \"b\"\n[adapt]\nbatch = 8\n", "t", &[]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut of_targets_alone = pair.clone();
        of_targets_alone.adapt.method.insert("source_pairs".into(), false.into());
        for (pair, source, target, words) in [
            (&pair, 40, 7, "adapt.batch = 8 is more than the 7"),
            (&pair, 39, 8, "= 40 is more than the 39"),
            // nothing is learnt from the source: the model is looked for
            (&of_targets_alone, 0, 8, "model /nowhere"),
        ] {
            let run = Run {
                source_spec: &source_spec,
                pair,
                ranks: &mut training::communicator::Solo,
                source: &mut Untouched(vec![source]),
                target: &mut Untouched(vec![target]),
                validation: &mut Untouched(vec![1]),
                checkpoint: Path::new("/nowhere"),
                folder: folder.path(),
                data: String::new(),
                stop: &AtomicBool::new(false),
                observe: &mut |_| (),
            };
            let error = adapt(run).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_default_that_is_written_out_is_the_same_adaptation() {
        let of = |method: &str, set: &str| {
            let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n[score]\nclip = \"bootstrap\"\n";
            parameters(&pair(method), &BuildSpec::parse(text, "t", &[set.to_owned()]).unwrap()).unwrap()
        };
        let base = of("", "model.precision=\"f32\"");
        assert_eq!(base, of("margin = 0.2\n", "model.device=\"cuda:0\""));
        assert_ne!(base, of("margin = 0.3\n", "model.precision=\"f32\""));
        assert_ne!(base, of("", "model.precision=\"bf16\""));
        let in_f32 = |method: &str| format!("{method}[adapt]\nprecision = \"f32\"\n");
        assert_eq!(base, of(&in_f32(""), "model.precision=\"bf16\""), "the adaptation has one of its own");
        assert_ne!(base, of("", "evaluate.average_over_turns=true"));
        assert_eq!(base, of("", "score.canvas=\"cropped\""), "nobody looks at segments");
        assert_eq!(base, of("", "pretrain.pairs.near_duplicate_bits=5"), "nothing is left out");
        assert_ne!(base, of("", "pretrain.pairs.min_tag_coverage=0.1"));
    }

    #[test]
    fn how_segments_are_shown_counts_where_they_are_learnt_from() {
        let of = |set: &str| {
            let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
            let pair = "source = \"a\"\ntarget = \"b\"\n[adapt]\nsegments_per_image = 2\n";
            let pair = PairSpec::parse(pair, "t", &[]).unwrap();
            parameters(&pair, &BuildSpec::parse(text, "t", &[set.to_owned()]).unwrap()).unwrap()
        };
        let base = of("score.canvas=\"full\"");
        assert_ne!(base, of("score.canvas=\"cropped\""));
        assert_ne!(base, of("score.background=\"mean\""));
    }
}
