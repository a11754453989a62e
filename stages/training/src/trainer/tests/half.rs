//! Towers in half precision.

use super::*;
use crate::adapt::{self, Adaptation, Adversary};
use crate::batch::Domains;
use crate::objective::Gathered;
use choices::SegmentTower;
use models::dual_encoder::MAX_LOGIT_SCALE;

/// Masters and average in f32: in bf16 alone the small steps would be rounded away.
#[test]
fn a_run_in_half_precision_learns_and_resumes_exactly() {
    learns_and_resumes_exactly(DType::BF16);
    learns_and_resumes_exactly(DType::F16);
}

fn learns_and_resumes_exactly(dtype: DType) {
    let half = || Clip::init(&config(), 1, &Device::Cpu, dtype).unwrap();
    // long enough for steps after those that overflow
    let settings = || Settings { epochs: 6, learning_rate: 1e-3, ema_decay: 0.999, ..settings() };
    let mut whole = trainer(half(), settings(), INFO_NCE).unwrap();
    fit(&mut whole, &mut patterns(), None, 0).unwrap();
    assert_eq!((whole.network().dtype(), whole.network().logit_scale().dtype()), (dtype, DType::F32));
    assert_eq!(whole.averaged().logit_scale().dtype(), DType::F32);
    assert_ne!(digests(&whole), digests(&trainer(half(), settings(), INFO_NCE).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let mut killed = Patterns { dies_at: Some(STEPS + 1), ..patterns() };
    fit(&mut trainer(half(), settings(), INFO_NCE).unwrap(), &mut killed, Some(folder.path()), 1).unwrap_err();
    let mut resumed = trainer(half(), settings(), INFO_NCE).unwrap();
    fit(&mut resumed, &mut patterns(), Some(folder.path()), 1).unwrap();
    assert_eq!(digests(&whole), digests(&resumed));
}

/// A loss whose gradients f16 cannot hold.
struct Faint;

impl Objective for Faint {
    fn identity(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn differentiate(&mut self, of: &Gathered, _: StepInfo, _: &mut dyn Communicator) -> Result<Differentiated> {
        let tilted = |x: &Tensor| -> Result<Tensor> {
            let slopes = Tensor::arange(0f32, x.elem_count() as f32, x.device())?.sin()?.reshape(x.shape())?;
            Ok(((x * slopes)?.sum_all()? * 1e-7)?)
        };
        Differentiated::sum_of(&[("faint", (tilted(&of.image_nd)? + tilted(&of.text_nd)?)?)])
    }
}

#[test]
fn gradients_too_small_for_f16_arrive_by_the_loss_scale() {
    let batch = loaded(&patterns().batch(0, 0).unwrap()).unwrap();
    let gradients = |dtype: DType, loss_scale: f64| {
        let clip = Clip::init(&config(), 1, &Device::Cpu, dtype).unwrap();
        let (settings, execution) = (Settings::default(), Execution::default());
        let networks = networks(&clip, &settings, &execution);
        let info = StepInfo { epoch: 0, global_step: 0, progress: 0.0, rate_factor: 1.0 };
        let mut watch = StopWatch::new(None);
        let at = (info, 0, loss_scale);
        let found = differentiate(&networks, &mut Faint, &batch, at, (&mut Solo, &mut watch)).unwrap();
        let of = |name: &str| found.gradients.get(name).map(|g| g.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        clip.parameters().iter().filter_map(|(name, _)| of(name)).flatten().collect::<Vec<f32>>()
    };
    let size = |values: &[f32]| values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let exact = gradients(DType::F32, 1.0);
    let off = |found: Vec<f32>| {
        let difference: Vec<f32> = found.iter().zip(&exact).map(|(a, b)| a - b).collect();
        size(&difference) / size(&exact)
    };
    let (lost, kept) = (off(gradients(DType::F16, 1.0)), off(gradients(DType::F16, LossScale::default().factor())));
    assert!(lost > 0.3 && kept < 0.03, "{lost} of the gradient is lost without, {kept} with the factor");
    assert!(off(gradients(DType::F32, 65536.0)) < 1e-6, "a power of two rounds nothing in f32");
}

/// The first factor is far too large for these gradients: steps are left out until one fits, and then the run learns.
#[test]
fn overflowing_steps_are_left_out() {
    let half = Clip::init(&config(), 1, &Device::Cpu, DType::F16).unwrap();
    let before = half.parameters().digest().unwrap();
    let mut norms = Vec::new();
    let mut observe = |event: &Event| {
        if let Event::Step(progress) = event {
            norms.push(progress.gradient_norm);
        }
    };
    let settings = Settings { epochs: 8, segment_tower: SegmentTower::Shared, ..settings() };
    let mut trainer = Trainer::new(half, settings, Box::new(Loud)).unwrap();
    let (stop, execution) = (AtomicBool::new(false), Execution::default());
    let summary = fit_with(&mut trainer, &mut patterns(), &mut validate, None, execution, &stop, &mut observe).unwrap();
    let left_out = norms.iter().filter(|norm| norm.is_infinite()).count();
    assert!(norms[0].is_infinite() && left_out < norms.len() / 2 + 2, "{norms:?}");
    assert_eq!(summary.position.loss_scale.factor(), 65536.0 / f64::powi(2.0, left_out as i32));
    assert_ne!(before, trainer.network().parameters().digest().unwrap());
}

/// A loss whose gradients f16 holds, but not times the first factor.
struct Loud;

impl Objective for Loud {
    fn identity(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn differentiate(&mut self, of: &Gathered, _: StepInfo, _: &mut dyn Communicator) -> Result<Differentiated> {
        let loss = ((of.image_nd.as_tensor() * of.text_nd.as_tensor())?.sum_all()? * -1.0)?;
        Differentiated::sum_of(&[("loud", loss)])
    }
}

/// Pulls the temperature up for two epochs, then down.
struct Pull;

impl Objective for Pull {
    fn identity(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn differentiate(&mut self, of: &Gathered, at: StepInfo, _: &mut dyn Communicator) -> Result<Differentiated> {
        let direction = if at.epoch < 2 { -1.0 } else { 1.0 };
        Differentiated::sum_of(&[("pull", (&of.logit_scale * direction)?)])
    }
}

/// A copy in f16 that alone is held at its bound has a master that winds up beyond it, and comes back late.
#[test]
fn the_temperature_leaves_its_bound_at_the_first_step_down() {
    let config = ClipConfig { init_logit_scale: MAX_LOGIT_SCALE, ..config() };
    let optimiser = AdamWSettings { beta1: 0.0, beta2: 0.0, ..AdamWSettings::default() };
    let settings = Settings {
        epochs: 3,
        learning_rate: 1e-3,
        schedule: Schedule::Constant { warmup_steps: 0 },
        optimiser,
        segment_tower: SegmentTower::Shared,
        ema_decay: 0.0,
        ..settings()
    };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let clip = Clip::init(&config, 1, &Device::Cpu, dtype).unwrap();
        let mut trainer = Trainer::new(clip, settings.clone(), Box::new(Pull)).unwrap();
        fit_with(
            &mut trainer,
            &mut patterns(),
            &mut |_, epoch, _| Ok(epoch as f64),
            None,
            Execution::default(),
            &AtomicBool::new(false),
            &mut |_| (),
        )
        .unwrap();
        let scale = f64::from(trainer.network().logit_scale().to_scalar::<f32>().unwrap());
        let down = STEPS as f64 * settings.learning_rate;
        assert!((MAX_LOGIT_SCALE - scale - down).abs() < 1e-5, "{dtype:?}: {scale} is not {down} below the bound");
    }
}

/// Patterns of which the second half are targets.
struct TwoDomains;

impl BatchSource for TwoDomains {
    fn steps_per_epoch(&self) -> usize {
        STEPS
    }

    fn batch(&mut self, epoch: usize, step: usize) -> Result<PairBatch, BoxError> {
        let target_b = (0..BATCH).map(|row| row >= BATCH / 2).collect();
        let domains = Some(Domains { target_b, weights_b: vec![1.0; BATCH] });
        Ok(PairBatch { segments: None, domains, ..patterns().batch(epoch, step)? })
    }
}

/// What an adaptation has learnt besides the encoders, as it stands in a checkpoint.
fn game(folder: &Path) -> [Vec<u8>; 2] {
    ["discriminator.safetensors", "discriminator_optimiser.safetensors"]
        .map(|name| std::fs::read(folder.join(name)).unwrap())
}

#[test]
fn a_step_that_overflows_leaves_the_discriminator_alone() {
    for adversary in [Adversary::Reversal, Adversary::Alternating] {
        // gradients too large for the first factor
        let method = adapt::Settings { adversary, discriminator_hidden: 8, source_weight: 100.0, ..Default::default() };
        let objective = Adaptation::new(method, config().embed_dim, &Device::Cpu).unwrap();
        let folder = tempfile::tempdir().unwrap();
        objective.save(folder.path()).unwrap();
        let mut before = game(folder.path());
        let run = folder.path().join("run");
        let (mut norm, mut left_out, mut taken) = (0.0, 0, 0);
        let mut observe = |event: &Event| match event {
            Event::Step(progress) => norm = progress.gradient_norm,
            Event::EpochEnd(_) => {}
            Event::Saved => {
                let after = game(&run.join("last/objective"));
                let stayed = before.iter().zip(&after).map(|(a, b)| a == b).collect::<Vec<_>>();
                assert_eq!(stayed, [norm.is_infinite(); 2], "{adversary:?}: gradient norm {norm}");
                if norm.is_infinite() {
                    left_out += 1
                } else {
                    taken += 1
                }
                before = after;
            }
        };
        let half = Clip::init(&config(), 1, &Device::Cpu, DType::F16).unwrap();
        let settings = Settings { epochs: 8, segment_tower: SegmentTower::Shared, ema_decay: 0.0, ..settings() };
        let mut trainer = Trainer::new(half, settings, Box::new(objective)).unwrap();
        trainer
            .fit(Fit {
                ranks: &mut Solo,
                source: &mut TwoDomains,
                validate: &mut |_, epoch, _| Ok(epoch as f64),
                folder: Some(&run),
                execution: Execution { checkpoint_every_steps: 1, ..Execution::default() },
                stop: &AtomicBool::new(false),
                observe: &mut observe,
            })
            .unwrap();
        assert!(left_out > 0 && taken > 0, "{adversary:?}: {left_out} steps left out, {taken} taken");
    }
}
