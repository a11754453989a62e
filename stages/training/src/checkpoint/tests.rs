use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;
use serde_json::json;

use super::*;

const LENGTH: RunLength = RunLength { epochs: 4, steps_per_epoch: 3 };

fn written(position: Value) -> String {
    json!({ "format": FORMAT, "position": position, "settings": {} }).to_string()
}

fn sound() -> Value {
    json!({
        "epoch": 2, "step": 3, "best": { "epoch": 1, "metric": 40.5 }, "epochs_without_gain": 1, "samples": 90,
        "loss_scale": { "factor": 1024.0, "steps": 7 },
    })
}

fn read(json: &str) -> Result<Position, String> {
    let run = tempfile::tempdir().unwrap();
    std::fs::write(run.path().join(POSITION), json).unwrap();
    let position = position(run.path()).map_err(|error| error.to_string())?;
    position.check(LENGTH).map(|()| position)
}

#[test]
fn a_position_that_no_run_has_is_refused() {
    assert_eq!(read(&written(sound())).unwrap().step, 3);
    let max = json!(u64::MAX);
    for (field, value) in [
        ("/epoch", json!(5)),
        ("/epoch", max.clone()),
        ("/step", json!(4)),
        ("/step", max.clone()),
        ("/epochs_without_gain", json!(3)),
        ("/samples", max),
        ("/loss_scale/factor", json!(0.0)),
        ("/loss_scale/factor", json!(-2.0)),
        ("/loss_scale/factor", json!(3.0)),
        ("/loss_scale/factor", json!(1e300)),
        ("/loss_scale/steps", json!(u32::MAX)),
    ] {
        let mut position = sound();
        *position.pointer_mut(field).unwrap() = value;
        let problem = read(&written(position)).unwrap_err();
        assert!(["stands at", "counts", "loss scale"].iter().any(|words| problem.contains(words)), "{problem}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, rng_seed: RngSeed::Fixed(24), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_positions_are_answered(damage in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..6)) {
        let mut json = written(sound()).into_bytes();
        for (place, value) in damage {
            let place = place.index(json.len());
            json[place] = value;
        }
        let run = tempfile::tempdir().unwrap();
        std::fs::write(run.path().join(POSITION), json).unwrap();
        if let Ok(position) = position(run.path()) && position.check(LENGTH).is_ok() {
            prop_assert!(position.epoch <= LENGTH.epochs && position.step <= LENGTH.steps_per_epoch);
            prop_assert!(position.loss_scale.halved().is_none_or(|halved| halved.factor() >= 1.0));
        }
    }
}

#[test]
fn the_first_difference_names_field_and_both_values() {
    let written = json!({"model": {"width": 64, "layers": 2}, "settings": {"batch": 40}});
    assert_eq!(first_difference("", &written, &written), None);
    let present = json!({"model": {"width": 64, "layers": 3}, "settings": {"batch": 80}});
    let message = first_difference("", &written, &present).unwrap();
    assert_eq!(message, "model.layers is 2 in the checkpoint and 3 in this run");
    let present = json!({"model": {"width": 64, "layers": 2}, "settings": {}});
    let message = first_difference("", &written, &present).unwrap();
    assert_eq!(message, "settings.batch is 40 in the checkpoint and null in this run");
}

#[test]
fn a_damaged_position_is_reported_with_its_path() {
    let run = tempfile::tempdir().unwrap();
    std::fs::write(run.path().join(POSITION), "{\"format\": 1").unwrap();
    let message = position(run.path()).unwrap_err().to_string();
    assert!(message.contains("position.json") && message.contains("EOF"), "{message}");
    std::fs::write(run.path().join(POSITION), vec![b' '; MAX_POSITION_BYTES as usize + 1]).unwrap();
    assert!(position(run.path()).unwrap_err().to_string().contains("at most 1048576 are read"));
}
