//! Steps that are looked at together, as on a GPU.

use super::*;
use crate::objective::Gathered;
use choices::SegmentTower;

/// What a run tells, without its times.
fn told(
    trainer: &mut Trainer<Clip>,
    execution: Execution,
    folder: Option<&Path>,
    stop_after: usize,
) -> Result<(Summary, Vec<String>)> {
    let (stop, mut told, mut steps) = (AtomicBool::new(false), Vec::new(), 0);
    let mut observe = |event: &Event| {
        told.push(match event {
            Event::Step(Progress { epoch, step, loss, parts, learning_rate, gradient_norm, .. }) => {
                steps += 1;
                stop.fetch_or(steps == stop_after, Ordering::Relaxed);
                format!("{epoch} {step} {loss:?} {parts:?} {learning_rate:?} {gradient_norm:?}")
            }
            other => format!("{other:?}"),
        });
    };
    let summary = fit_with(trainer, &mut patterns(), &mut validate, folder, execution, &stop, &mut observe)?;
    Ok((summary, told))
}

#[test]
fn steps_looked_at_together_are_the_same_run_to_the_bit() {
    for dtype in [DType::F32, DType::F16] {
        let new = || {
            let clip = Clip::init(&config(), 1, &Device::Cpu, dtype).unwrap();
            trainer(clip, Settings { epochs: 3, ..settings() }, INFO_NCE).unwrap()
        };
        for checkpoint_every_steps in [0, 2] {
            let run = |look_every_steps| {
                let (folder, mut trainer) = (tempfile::tempdir().unwrap(), new());
                let execution = Execution { look_every_steps, checkpoint_every_steps, ..Execution::default() };
                let (_, told) = told(&mut trainer, execution, Some(folder.path()), usize::MAX).unwrap();
                (told, digests(&trainer))
            };
            let each = run(1);
            assert_eq!(each.0.len(), 3 * STEPS + 3 + 3 + 3 * (checkpoint_every_steps / 2));
            for look_every_steps in [0, 2, 100] {
                assert_eq!(run(look_every_steps), each, "{dtype:?}, a look every {look_every_steps} steps");
            }
        }
    }
}

#[test]
fn a_run_that_is_stopped_between_two_looks_goes_on_to_the_same_weights() {
    let mut whole = trainer(clip(), settings(), INFO_NCE).unwrap();
    fit(&mut whole, &mut patterns(), None, 0).unwrap();
    let execution = Execution { look_every_steps: 2, ..Execution::default() };
    let folder = tempfile::tempdir().unwrap();
    let mut stopped = trainer(clip(), settings(), INFO_NCE).unwrap();
    let (summary, _) = told(&mut stopped, execution, Some(folder.path()), 1).unwrap();
    assert_eq!((summary.steps, summary.finished), (2, false), "told of the first step at the first look");
    let mut resumed = trainer(clip(), settings(), INFO_NCE).unwrap();
    let (summary, _) = told(&mut resumed, execution, Some(folder.path()), usize::MAX).unwrap();
    assert_eq!((summary.steps, summary.finished), (2 * STEPS - 2, true));
    assert_eq!(digests(&whole), digests(&resumed));
}

/// A loss without a number at one step.
struct Breaks {
    at: usize,
    /// The objective's own gradient has none, not the encoders'.
    own: bool,
    norm: Option<Tensor>,
}

impl Objective for Breaks {
    fn identity(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn differentiate(&mut self, of: &Gathered, at: StepInfo, _: &mut dyn Communicator) -> Result<Differentiated> {
        let factor = if at.global_step == self.at { f64::NAN } else { 1.0 };
        self.norm = self.own.then(|| Tensor::new(factor, &Device::Cpu)).transpose()?;
        let loss =
            ((of.image_nd.as_tensor() * of.text_nd.as_tensor())?.sum_all()? * if self.own { 1.0 } else { factor })?;
        Differentiated::sum_of(&[("breaks", loss)])
    }

    fn take_norm(&mut self) -> Option<Tensor> {
        self.norm.take()
    }
}

/// However late it is seen, nothing of it is validated or saved.
#[test]
fn a_norm_that_is_not_finite_is_seen_before_anything_is_kept() {
    for (at, own) in [(1, false), (4, false), (4, true)] {
        for look_every_steps in [1, 2, 100] {
            let settings = Settings { segment_tower: SegmentTower::Shared, ..settings() };
            let mut trainer = Trainer::new(clip(), settings, Box::new(Breaks { at, own, norm: None })).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let execution = Execution { look_every_steps, ..Execution::default() };
            let (mut told, mut validated) = (0, 0);
            let mut observe = |event: &Event| told += usize::from(matches!(event, Event::Step(_)));
            let mut validate = |_: &Clip, _: usize, _: &mut dyn Communicator| -> Result<f64, BoxError> {
                validated += 1;
                Ok(1.0)
            };
            let stop = AtomicBool::new(false);
            let run = Some(folder.path());
            let error = fit_with(&mut trainer, &mut patterns(), &mut validate, run, execution, &stop, &mut observe)
                .unwrap_err();
            let words = format!("gradient norm of step {at}: is NaN");
            assert!(error.to_string().contains(&words), "{error}");
            assert_eq!((told, validated), (at, at / STEPS), "{own}, a look every {look_every_steps} steps");
            let last = checkpoint::find(folder.path(), Which::Last);
            assert_eq!(last.map(|last| checkpoint::position(&last).unwrap().epoch), (at > STEPS).then_some(1));
        }
    }
}
