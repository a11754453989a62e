mod half;
pub(super) mod matching;
pub(super) mod tiny_network;
mod unread;

use choices::Preset;
use choices::SegmentTower;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Tensor};
use models::clip::{Clip, ClipConfig, Eot, Pool, Stem};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::forward::{Forward, Networks};
use super::gather::gather;
use super::loaded::{Loaded, Loader};
use super::phases::StopWatch;
use super::step::differentiate;
use super::*;
use crate::batch::{BatchSource, BoxError, PairBatch, SegmentBatch};
use crate::checkpoint::{self, Which};
use crate::communicator::{Communicator, Solo};
use crate::contrastive::{Contrastive, Loss};
use crate::error::{Error, Result};
use crate::objective::{Differentiated, Objective, StepInfo, TokenColumns};
use crate::optimiser::AdamWSettings;
use crate::schedule::Schedule;

pub(super) const SIDE: usize = 16;
pub(super) const LENGTH: usize = 6;
const INFO_NCE: Loss = Loss::InfoNce { label_smoothing: 0.0 };
const BATCH: usize = 6;
const STEPS: usize = 3;

pub(super) fn config() -> ClipConfig {
    let mut config = ClipConfig::preset(Preset::Tiny);
    config.embed_dim = 8;
    config.vision.image_size = SIDE;
    config.vision.patch_size = 8;
    config.vision.stem = Stem::Patch;
    config.vision.pool = Pool::Cls;
    (config.vision.width, config.vision.layers, config.vision.heads) = (8, 2, 2);
    (config.text.width, config.text.layers, config.text.heads) = (8, 1, 2);
    (config.text.context_length, config.text.vocab_size, config.text.eot) = (LENGTH, 12, Eot::Argmax);
    config
}

fn clip() -> Clip {
    Clip::init(&config(), 1, &Device::Cpu, DType::F32).unwrap()
}

/// A trainer of the contrastive objective.
fn trainer(clip: Clip, settings: Settings, loss: Loss) -> Result<Trainer<Clip>> {
    Trainer::new(clip, settings, Box::new(Contrastive::new(loss)?))
}

/// A batch as a step takes it.
fn loaded(batch: &PairBatch) -> Result<Loaded> {
    Loader::new(config().preprocessing(), 1, &Device::Cpu).load(batch)
}

/// One network that embeds everything, row by row.
pub(super) fn networks<'a, N>(network: &'a N, settings: &'a Settings, execution: &'a Execution) -> Networks<'a, N> {
    let tokens = TokenColumns::default();
    Networks { network, segment_tower: None, settings, execution, tokens, grouping: None }
}

/// Loss parts of one batch, with `segment_tower` for its segments, and the graph's leaves.
fn loss_parts(clip: &Clip, batch: &PairBatch, loss: Loss) -> Result<Vec<(&'static str, Tensor)>> {
    let (settings, execution) = (Settings::default(), Execution::default());
    let (_, embeddings, _) =
        Forward::run(&networks(clip, &settings, &execution), &loaded(batch)?, (0, None), &mut Solo)?;
    Contrastive::new(loss)?.parts(&gather(&embeddings, batch, clip, &mut Solo)?)
}

fn total(clip: &Clip, batch: &PairBatch, loss: Loss) -> f32 {
    loss_parts(clip, batch, loss).unwrap().iter().map(|(_, part)| part.to_scalar::<f32>().unwrap()).sum()
}

fn settings() -> Settings {
    Settings {
        epochs: 2,
        learning_rate: 3e-3,
        schedule: Schedule::WarmupCosine { warmup_steps: 2 },
        optimiser: AdamWSettings { weight_decay: 0.1, ..AdamWSettings::default() },
        segment_tower: SegmentTower::Separate,
        ema_decay: 0.9,
        dropout: 0.1,
        seed: 5,
        ..Settings::default()
    }
}

/// Pairs of a brightness pattern and its number; a batch depends on (epoch, step) alone.
struct Patterns {
    segments: bool,
    /// Fails at this step of the run, as a killed process would.
    dies_at: Option<usize>,
}

impl BatchSource for Patterns {
    fn steps_per_epoch(&self) -> usize {
        STEPS
    }

    fn batch(&mut self, epoch: usize, step: usize) -> Result<PairBatch, BoxError> {
        if self.dies_at == Some(epoch * STEPS + step) {
            return Err("killed".into());
        }
        let mut rng = ChaCha8Rng::seed_from_u64((epoch * STEPS + step) as u64);
        let mut image = |class: usize| -> Vec<u8> {
            let bright = |x: usize| if (x / 2) % 8 == class { 190 } else { 54 };
            (0..3 * SIDE * SIDE).map(|at| bright(at / 3 % SIDE) + rng.random_range(0..14)).collect()
        };
        let pixels_bhwc = (0..BATCH).flat_map(&mut image).collect();
        let row_of_segment = vec![0, 0, 2, 3];
        let pixels_shwc = row_of_segment.iter().flat_map(|&row| image(row as usize)).collect();
        let weights = vec![0.5, 0.3, 0.9, 0.4];
        Ok(PairBatch {
            pixels_bhwc,
            image_of_row: None,
            input_ids_bl: (0..BATCH as u32).flat_map(|class| [10, class, class, 11, 0, 0]).collect(),
            image_keys: (0..BATCH as u64).collect(),
            caption_keys: (0..BATCH as u64).collect(),
            valid: vec![true; BATCH],
            segments: self.segments.then_some(SegmentBatch { pixels_shwc, row_of_segment, weights }),
            domains: None,
        })
    }
}

fn patterns() -> Patterns {
    Patterns { segments: true, dies_at: None }
}

/// Minus the loss on one fixed batch.
fn validate(clip: &Clip, _: usize, _: &mut dyn Communicator) -> Result<f64, BoxError> {
    let batch = patterns().batch(100, 0)?;
    Ok(-f64::from(loss_parts(clip, &batch, INFO_NCE)?[0].1.to_scalar::<f32>()?))
}

fn fit(trainer: &mut Trainer<Clip>, source: &mut Patterns, folder: Option<&Path>, every: usize) -> Result<Summary> {
    let execution = Execution { checkpoint_every_steps: every, ..Execution::default() };
    fit_with(trainer, source, &mut validate, folder, execution, &AtomicBool::new(false), &mut |_| ())
}

fn fit_with(
    trainer: &mut Trainer<Clip>,
    source: &mut Patterns,
    validate: &mut Validate<'_, Clip>,
    folder: Option<&Path>,
    execution: Execution,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(&Event),
) -> Result<Summary> {
    trainer.fit(Fit { ranks: &mut Solo, source, validate, folder, execution, stop, observe })
}

fn digests(trainer: &Trainer<Clip>) -> Vec<String> {
    [trainer.network(), trainer.averaged()].map(|clip| clip.parameters().digest().unwrap()).to_vec()
}

#[test]
fn a_run_killed_after_any_step_continues_bit_for_bit() {
    let mut whole = trainer(clip(), settings(), INFO_NCE).unwrap();
    let summary = fit(&mut whole, &mut patterns(), None, 0).unwrap();
    assert!(summary.finished && summary.steps == 2 * STEPS);
    for dies_at in 0..2 * STEPS {
        for checkpoint_every in [0, 1, 2] {
            let folder = tempfile::tempdir().unwrap();
            let mut killed = trainer(clip(), settings(), INFO_NCE).unwrap();
            let mut source = Patterns { dies_at: Some(dies_at), ..patterns() };
            let error = fit(&mut killed, &mut source, Some(folder.path()), checkpoint_every).unwrap_err();
            assert!(matches!(error, Error::Source { .. }));
            // Other weights to start from: they must all come from the checkpoint, if there is one.
            let has_checkpoint = checkpoint::find(folder.path(), Which::Last).is_some();
            let seed = if has_checkpoint { 99 } else { 1 };
            let start = Clip::init(&config(), seed, &Device::Cpu, DType::F32).unwrap();
            let mut resumed = trainer(start, settings(), INFO_NCE).unwrap();
            let summary = fit(&mut resumed, &mut patterns(), Some(folder.path()), checkpoint_every).unwrap();
            assert!(summary.finished);
            assert_eq!(summary.position.samples, (2 * STEPS * BATCH) as u64);
            assert_eq!(digests(&whole), digests(&resumed), "killed at step {dies_at}, saved every {checkpoint_every}");
        }
    }
}

#[test]
fn stop_ends_after_the_step_with_a_checkpoint() {
    let mut whole = trainer(clip(), settings(), INFO_NCE).unwrap();
    fit(&mut whole, &mut patterns(), None, 0).unwrap();
    for stop_after in 1..=2 * STEPS {
        let folder = tempfile::tempdir().unwrap();
        let mut stopped = trainer(clip(), settings(), INFO_NCE).unwrap();
        let (stop, mut steps) = (AtomicBool::new(false), 0);
        let mut observe = |event: &Event| {
            steps += usize::from(matches!(event, Event::Step(_)));
            stop.store(steps == stop_after, Ordering::Relaxed);
        };
        let execution = Execution::default();
        let run = Some(folder.path());
        let summary =
            fit_with(&mut stopped, &mut patterns(), &mut validate, run, execution, &stop, &mut observe).unwrap();
        assert_eq!((summary.steps, summary.finished), (stop_after, false));
        let mut resumed = trainer(clip(), settings(), INFO_NCE).unwrap();
        let summary = fit(&mut resumed, &mut patterns(), Some(folder.path()), 0).unwrap();
        assert_eq!((summary.steps, summary.finished), (2 * STEPS - stop_after, true));
        assert_eq!(digests(&whole), digests(&resumed));
    }
}

#[test]
fn every_parameter_moves_except_key_biases() {
    for loss in [Loss::InfoNce { label_smoothing: 0.1 }, Loss::Hinge { margin: 0.2 }] {
        let settings = Settings { segment_tower: SegmentTower::Shared, ..settings() };
        let before = clip();
        let mut trainer = trainer(clip(), settings, loss).unwrap();
        fit(&mut trainer, &mut patterns(), None, 0).unwrap();
        for ((name, old), (_, new)) in before.parameters().iter().zip(trainer.network().parameters().iter()) {
            let flat = |var: &candle_core::Var| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let (old, new) = (flat(old), flat(new));
            assert!(new.iter().all(|v| v.is_finite()), "{name}");
            if name == "logit_scale" && matches!(loss, Loss::Hinge { .. }) {
                continue;
            }
            // A third of `in_proj_bias` are key biases, whose gradient is zero; unused rows of tables do not move.
            let still = old.iter().zip(&new).filter(|(a, b)| a == b).count();
            let may_rest = name.contains("in_proj_bias") || name.contains("embedding");
            assert!(still < old.len() && (may_rest || still == 0), "{name}: {still} of {} did not move", old.len());
        }
    }
}

#[test]
fn pairs_are_learnt() {
    let settings = Settings { epochs: 60, learning_rate: 1e-2, ema_decay: 0.0, dropout: 0.0, ..settings() };
    let mut trainer = trainer(clip(), settings, INFO_NCE).unwrap();
    let before = validate(trainer.network(), 0, &mut Solo).unwrap();
    let summary = fit(&mut trainer, &mut patterns(), None, 0).unwrap();
    let best = summary.position.best.unwrap();
    assert!(before < -1.0 && best.metric > -0.1, "loss went from {} to {}", -before, -best.metric);
}

#[test]
fn a_frozen_segment_tower_keeps_its_weights_and_the_loss_has_both_parts() {
    let settings = Settings { segment_tower: SegmentTower::Frozen, ..settings() };
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = trainer(clip(), settings, INFO_NCE).unwrap();
    let mut parts = Vec::new();
    let mut observe = |event: &Event| {
        if let Event::Step(progress) = event {
            parts.push((progress.loss, progress.parts[0].1, progress.parts[1].1));
        }
    };
    let stop = AtomicBool::new(false);
    let folder_path = Some(folder.path());
    let execution = Execution::default();
    fit_with(&mut trainer, &mut patterns(), &mut validate, folder_path, execution, &stop, &mut observe).unwrap();
    assert!(parts.iter().all(|(sum, image, segment)| (sum - image - segment).abs() < 1e-5 && *segment > 0.0));
    let tower = checkpoint::find(folder.path(), Which::Last).unwrap().join("segment_tower");
    let tower = Clip::load(&tower, &Device::Cpu, DType::F32).unwrap();
    assert_eq!(tower.parameters().digest().unwrap(), clip().parameters().digest().unwrap());
}

#[test]
fn invalid_rows_change_nothing() {
    let mut with_invalid = patterns().batch(0, 0).unwrap();
    with_invalid.valid[5] = false;
    let mut other_content = with_invalid.clone();
    let image = 3 * SIDE * SIDE;
    other_content.pixels_bhwc[5 * image..].fill(7);
    other_content.input_ids_bl[5 * LENGTH + 1] = 9;
    let loss = |batch: &PairBatch| total(&clip(), batch, Loss::InfoNce { label_smoothing: 0.1 });
    assert_eq!(loss(&with_invalid), loss(&other_content));
    assert_ne!(loss(&with_invalid), loss(&patterns().batch(0, 0).unwrap()));
}

#[test]
fn rows_that_share_an_image_equal_rows_that_repeat_it() {
    let image = 3 * SIDE * SIDE;
    let mut shared = patterns().batch(0, 0).unwrap();
    shared.image_of_row = Some(vec![0, 0, 1, 1, 2, 2]);
    shared.image_keys = vec![0, 0, 1, 1, 2, 2];
    shared.pixels_bhwc.truncate(3 * image);
    let mut repeated = shared.clone();
    repeated.image_of_row = None;
    let images = shared.pixels_bhwc.chunks(image);
    repeated.pixels_bhwc = images.flat_map(|image| image.repeat(2)).collect();
    let gradient = |batch: &PairBatch| {
        let clip = clip();
        let (settings, execution) = (Settings::default(), Execution::default());
        let networks = networks(&clip, &settings, &execution);
        let info = crate::objective::StepInfo { epoch: 0, global_step: 0, progress: 0.0, rate_factor: 1.0 };
        let mut objective = Contrastive::new(INFO_NCE).unwrap();
        let (loaded, mut watch) = (loaded(batch).unwrap(), StopWatch::new(None));
        let found = differentiate(&networks, &mut objective, &loaded, (info, 0, 1.0), (&mut Solo, &mut watch)).unwrap();
        let of_proj = found.gradients.get("visual.proj").unwrap();
        (total(&clip, batch, INFO_NCE), of_proj.flatten_all().unwrap().to_vec1::<f32>().unwrap())
    };
    let ((shared_loss, shared_gradient), (loss, repeated_gradient)) = (gradient(&shared), gradient(&repeated));
    assert_eq!(shared_loss, loss);
    let difference = shared_gradient.iter().zip(&repeated_gradient).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-5, "{difference}");
    shared.image_of_row = Some(vec![0, 0, 1, 1, 2, 3]);
    let error = loss_parts(&clip(), &shared, Loss::Hinge { margin: 0.2 }).err().unwrap();
    assert!(error.to_string().contains("6 rows, 4 images"), "{error}");
}

#[test]
fn best_holds_the_average_of_the_best_epoch_and_patience_ends_the_run() {
    let settings = Settings { epochs: 50, patience: 2, ..settings() };
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = trainer(clip(), settings, INFO_NCE).unwrap();
    let mut seen = Vec::new();
    let mut scripted = |clip: &Clip, epoch: usize, _: &mut dyn Communicator| -> Result<f64, BoxError> {
        seen.push(clip.parameters().digest().unwrap());
        Ok([1.0, 3.0, 2.0, 3.0, 9.0][epoch])
    };
    let stop = AtomicBool::new(false);
    let folder_path = Some(folder.path());
    let execution = Execution { keep_last: 3, ..Execution::default() };
    let summary =
        fit_with(&mut trainer, &mut patterns(), &mut scripted, folder_path, execution, &stop, &mut |_| ()).unwrap();
    assert!(summary.finished);
    assert_eq!(summary.position.epoch, 4, "an equal metric is no gain");
    assert_eq!(summary.position.best.unwrap(), checkpoint::Best { epoch: 1, metric: 3.0 });
    let best = checkpoint::find(folder.path(), Which::Best).unwrap();
    let model = Clip::load(&best.join("model"), &Device::Cpu, DType::F32).unwrap();
    assert_eq!(model.parameters().digest().unwrap(), seen[1]);
    assert_ne!(model.parameters().digest().unwrap(), trainer.network().parameters().digest().unwrap());
    assert_eq!(checkpoint::position(&best).unwrap().epoch, 2);
    let mut earlier: Vec<_> =
        std::fs::read_dir(folder.path().join("earlier")).unwrap().map(|e| e.unwrap().path()).collect();
    earlier.sort();
    let epochs: Vec<usize> = earlier.iter().map(|folder| checkpoint::position(folder).unwrap().epoch).collect();
    assert_eq!(epochs, [2, 3], "the last is epoch 4; two before it are kept");
    assert!(Clip::load(&earlier[0].join("model"), &Device::Cpu, DType::F32).is_ok());
}

#[test]
fn phases_are_told_where_they_are_measured() {
    let run = |time_phases| {
        let mut trainer = trainer(clip(), settings(), INFO_NCE).unwrap();
        let mut seen = Vec::new();
        let (mut steps, execution) = (0.0, Execution { time_phases, ..Execution::default() });
        let mut observe = |event: &Event| match event {
            Event::Step(progress) => steps += progress.seconds,
            Event::EpochEnd(end) => seen.push((end.phases, std::mem::take(&mut steps))),
            Event::Saved => {}
        };
        let stop = AtomicBool::new(false);
        fit_with(&mut trainer, &mut patterns(), &mut validate, None, execution, &stop, &mut observe).unwrap();
        (seen, digests(&trainer))
    };
    let ((unmeasured, expected), (measured, found)) = (run(false), run(true));
    assert!(unmeasured.len() == 2 && unmeasured.iter().all(|(phases, _)| phases.is_none()));
    assert_eq!(found, expected);
    for (phases, seconds) in measured {
        let phases = phases.unwrap().named();
        assert!(phases.iter().all(|(_, seconds)| *seconds > 0.0), "{phases:?}");
        assert!(phases.iter().map(|(_, seconds)| seconds).sum::<f64>() <= seconds, "{phases:?} of {seconds} s");
    }
}

#[test]
fn a_checkpoint_of_other_settings_or_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fit(&mut trainer(clip(), settings(), INFO_NCE).unwrap(), &mut patterns(), Some(folder.path()), 0).unwrap();
    let other = Settings { learning_rate: 5e-3, ..settings() };
    let error =
        fit(&mut trainer(clip(), other, INFO_NCE).unwrap(), &mut patterns(), Some(folder.path()), 0).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("settings.learning_rate is 0.003 in the checkpoint and 0.005 in this run"), "{message}");
    let mut wider = config();
    wider.text.width = 16;
    let wider = Clip::init(&wider, 1, &Device::Cpu, DType::F32).unwrap();
    let error =
        fit(&mut trainer(wider, settings(), INFO_NCE).unwrap(), &mut patterns(), Some(folder.path()), 0).unwrap_err();
    assert!(error.to_string().contains("model.text.width is 8 in the checkpoint and 16 in this run"), "{error}");
}

#[test]
fn bad_batches_and_settings_are_named() {
    let mut short = patterns().batch(0, 0).unwrap();
    short.pixels_bhwc.pop();
    let error = loss_parts(&clip(), &short, INFO_NCE).err().unwrap().to_string();
    assert!(error.contains("pixels_bhwc: has 4607 values"), "{error}");
    let bad = Settings { ema_decay: 1.0, ..settings() };
    assert!(trainer(clip(), bad, INFO_NCE).err().unwrap().to_string().contains("ema_decay"));
    let mut trainer = trainer(clip(), settings(), INFO_NCE).unwrap();
    let mut not_a_number = |_: &Clip, _: usize, _: &mut dyn Communicator| -> Result<f64, BoxError> { Ok(f64::NAN) };
    let (stop, execution) = (AtomicBool::new(false), Execution::default());
    let error = fit_with(&mut trainer, &mut patterns(), &mut not_a_number, None, execution, &stop, &mut |_| ());
    assert!(error.unwrap_err().to_string().contains("validation metric of epoch 0: is NaN"));
}
