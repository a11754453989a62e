use candle_core::{DType, Device};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;
use serde_json::Value;

use super::*;

/// Written by `tests/goldens/make_goldens.py`.
const GOLDEN: &str = include_str!("../../tests/goldens/adamw.json");

fn tensor(value: &Value) -> Tensor {
    let rows = value.as_array().unwrap();
    let numbers = |values: &Value| values.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
    if rows[0].is_array() {
        let flat: Vec<f64> = rows.iter().flat_map(numbers).collect();
        let columns = flat.len() / rows.len();
        Tensor::from_vec(flat, (rows.len(), columns), &Device::Cpu).unwrap()
    } else {
        Tensor::new(numbers(value), &Device::Cpu).unwrap()
    }
}

fn gradients(of: &Value) -> Gradients {
    let mut gradients = Gradients::default();
    for (name, value) in of.as_object().unwrap() {
        gradients.add(name, &tensor(value)).unwrap();
    }
    gradients
}

fn from_golden(golden: &Value, dtype: DType) -> AdamW {
    let settings: AdamWSettings = serde_json::from_value(golden["settings"].clone()).unwrap();
    let parameters = ["weight", "bias"].map(|name| {
        let value = tensor(&golden["start"][name]).to_dtype(dtype).unwrap();
        (name.to_owned(), Var::from_tensor(&value).unwrap())
    });
    AdamW::new(groups_by_decay(parameters, settings.weight_decay), settings).unwrap()
}

fn values(optimiser: &AdamW) -> Vec<Vec<f64>> {
    let flat = |var: &Var| var.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
    optimiser.parameters().map(|(_, var)| flat(var)).collect()
}

fn largest_difference(optimiser: &AdamW, expected: &Value) -> f64 {
    let difference = |(name, var): (&str, &Var)| {
        let difference = (var.to_dtype(DType::F64).unwrap() - tensor(&expected[name])).unwrap();
        difference.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap()
    };
    optimiser.parameters().map(difference).fold(0.0, f64::max)
}

#[test]
fn five_steps_match_the_transcription() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let mut optimiser = from_golden(&golden, DType::F64);
    for step in 0..5 {
        let norm = optimiser.step(&gradients(&golden["gradients"][step]), golden["rates"][step].as_f64().unwrap());
        assert!((norm.unwrap() - golden["norms"][step].as_f64().unwrap()).abs() < 1e-12);
    }
    assert!(largest_difference(&optimiser, &golden["end"]) < 1e-12);
}

/// As on a GPU, where nobody waits for the norm: the factor is a tensor.
#[test]
fn a_factor_on_the_device_clips_like_one_on_the_host() {
    let settings = AdamWSettings::default();
    for dtype in [DType::F32, DType::BF16] {
        let start = Tensor::new(&[[0.5f32, -0.25, 1.0], [2.0, 0.125, -1.0]], &Device::Cpu).unwrap();
        let moved = [(0.3, None), (1.0, Some(0.3f32))].map(|(clip, there)| {
            let var = Var::from_tensor(&start.to_dtype(dtype).unwrap()).unwrap();
            let mut history = History::start(&var).unwrap();
            let AdamWSettings { beta1, beta2, epsilon, .. } = settings;
            let update = in_place::Update { beta1, beta2, clip, rate: 0.1, spread: 7.0, epsilon, kept: 0.99 };
            let there = there.map(|factor| Tensor::new(&[factor], &Device::Cpu).unwrap());
            for _ in 0..3 {
                history.step(&var, &(&start * 0.7).unwrap(), &update, there.as_ref()).unwrap();
            }
            let first = history.first_moment().to_vec2::<f32>().unwrap();
            (var.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap(), first)
        });
        let flat = |(weights, moments): &(Vec<Vec<f32>>, Vec<Vec<f32>>)| [weights.concat(), moments.concat()].concat();
        for (here, there) in flat(&moved[0]).iter().zip(flat(&moved[1])) {
            assert!((here - there).abs() <= 1e-6 * here.abs(), "{dtype:?}: {moved:?}");
        }
    }
}

#[test]
fn a_step_that_is_not_waited_for_is_the_same_step() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let [mut waited, mut unread] = [(); 2].map(|()| from_golden(&golden, DType::F64));
    for step in 0..5 {
        let (gradients, rate) = (gradients(&golden["gradients"][step]), golden["rates"][step].as_f64().unwrap());
        let norm = waited.step(&gradients, rate).unwrap();
        assert_eq!(unread.step_unread(&gradients, rate).unwrap().to_scalar::<f64>().unwrap(), norm);
        assert_eq!(values(&waited), values(&unread));
    }
}

#[test]
fn half_precision_parameters_keep_f32_masters() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let mut optimiser = from_golden(&golden, DType::BF16);
    let before = values(&optimiser);
    // A thousand steps, each far below the resolution of bf16: without masters nothing would move.
    for _ in 0..1000 {
        optimiser.step(&gradients(&golden["gradients"][0]), 1e-4).unwrap();
    }
    let moved = before
        .iter()
        .flatten()
        .zip(values(&optimiser).iter().flatten())
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max);
    assert!((0.05..0.2).contains(&moved), "moved by {moved}");
}

#[test]
fn a_loaded_state_continues_bit_for_bit() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for dtype in [DType::F32, DType::BF16] {
        let path = folder.path().join("optimiser.safetensors");
        let step = |optimiser: &mut AdamW, index: usize| {
            optimiser.step(&gradients(&golden["gradients"][index]), 0.05).unwrap();
        };
        let mut whole = from_golden(&golden, dtype);
        (0..5).for_each(|index| step(&mut whole, index));
        let mut first = from_golden(&golden, dtype);
        (0..3).for_each(|index| step(&mut first, index));
        first.save(&path).unwrap();
        let mut second = from_golden(&golden, dtype);
        for ((_, to), (_, from)) in second.parameters().zip(first.parameters()) {
            to.set(from).unwrap();
        }
        second.load(&path).unwrap();
        (3..5).for_each(|index| step(&mut second, index));
        assert_eq!(values(&whole), values(&second));
    }
}

#[test]
fn foreign_state_is_refused_by_name() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("optimiser.safetensors");
    from_golden(&golden, DType::F32).save(&path).unwrap();
    let error = from_golden(&golden, DType::F64).load(&path).unwrap_err().to_string();
    assert!(error.contains("first_moment/bias is ([2], F32), the model needs ([2], F64)"), "{error}");
    let var = Var::zeros((3, 2), DType::F32, &Device::Cpu).unwrap();
    let mut smaller = AdamW::new(groups_by_decay([("weight".to_owned(), var)], 0.1), AdamWSettings::default()).unwrap();
    let error = smaller.load(&path).unwrap_err().to_string();
    assert!(error.contains("holds first_moment/bias, which the model does not have"), "{error}");
    std::fs::write(&path, b"not a safetensors file").unwrap();
    assert!(matches!(smaller.load(&path), Err(Error::DamagedCheckpoint { .. })));
}

#[test]
fn diverged_gradients_change_nothing() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let mut optimiser = from_golden(&golden, DType::F64);
    let before = values(&optimiser);
    let mut bad = gradients(&golden["gradients"][0]);
    bad.add("bias", &Tensor::new(&[f64::NAN, 0.0], &Device::Cpu).unwrap()).unwrap();
    let error = optimiser.step(&bad, 0.1).unwrap_err().to_string();
    assert!(error.contains("gradient norm of step 0") && error.contains("NaN"), "{error}");
    assert_eq!(before, values(&optimiser));
}

#[test]
fn decay_follows_open_clip_and_spares_embeddings() {
    assert!(decays("visual.transformer.resblocks.0.mlp.c_fc.weight", &[64, 16]));
    assert!(decays("text_projection", &[64, 32]));
    for (name, dims) in [
        ("visual.transformer.resblocks.0.mlp.c_fc.bias", vec![64]),
        ("visual.ln_post.weight", vec![64]),
        ("visual.class_embedding", vec![64]),
        ("token_embedding.weight", vec![100, 64]),
        ("positional_embedding", vec![77, 64]),
        ("logit_scale", vec![]),
    ] {
        assert!(!decays(name, &dims), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, rng_seed: RngSeed::Fixed(24), failure_persistence: None, ..ProptestConfig::default() })]

    /// What is taken up has the shapes and types of the parameters; what is refused has changed nothing.
    #[test]
    fn damaged_states_are_answered(
        damage in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..6),
        cut in proptest::option::weighted(0.2, any::<Index>()),
    ) {
        let golden: Value = serde_json::from_str(GOLDEN).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optimiser.safetensors");
        let mut optimiser = from_golden(&golden, DType::F32);
        optimiser.save(&path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        std::fs::write(&path, bytes).unwrap();
        if optimiser.load(&path).is_ok() {
            optimiser.step(&gradients(&golden["gradients"][0]), 0.1).ok();
        } else {
            prop_assert_eq!(*optimiser.steps(), 0);
        }
    }
}
