use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use models::parameters::Parameters;
use serde::Deserialize;

use super::super::*;
use super::{Domain, assert_near, gradient, scalar, tensor};

/// Written by `tests/goldens/make_adapt_goldens.py`.
const GOLDEN: &str = include_str!("../../../tests/goldens/adapt.json");
const TOLERANCE: f64 = 1e-10;

type Matrix = Vec<Vec<f64>>;

#[derive(Deserialize)]
struct Golden {
    frozen: BTreeMap<String, Vec<Vec<f32>>>,
    dim: usize,
    curriculum: Curriculum,
    w1: Matrix,
    curricula: BTreeMap<String, Vec<Vec<usize>>>,
    w_vec: BTreeMap<String, Vec<f64>>,
    features: BTreeMap<String, Matrix>,
    keys: BTreeMap<String, [Vec<u64>; 2]>,
    valid: BTreeMap<String, Vec<bool>>,
    margin: f64,
    factor: f64,
    discriminator: BTreeMap<String, serde_json::Value>,
    source_logits: Vec<f64>,
    target_logits: Vec<f64>,
    triplet: Vec<TripletCase>,
    adversarial: Vec<AdversarialCase>,
    plain: PlainCase,
    encoders: EncoderCase,
}

#[derive(Deserialize)]
struct TripletCase {
    distance: Distance,
    directions: Directions,
    negatives: Negatives,
    loss: f64,
    gradient: BTreeMap<String, Matrix>,
}

#[derive(Deserialize)]
struct AdversarialCase {
    weighted: AdversaryWeights,
    loss: f64,
    gradient: BTreeMap<String, Matrix>,
}

#[derive(Deserialize)]
struct PlainCase {
    loss: f64,
    gradient: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct EncoderCase {
    gradient: BTreeMap<String, Matrix>,
}

fn goldens() -> Vec<Golden> {
    let goldens: Vec<Golden> = serde_json::from_str(GOLDEN).unwrap();
    assert!(goldens.len() >= 3);
    goldens
}

/// A vector or a matrix.
fn array(value: &serde_json::Value) -> Tensor {
    match serde_json::from_value::<Matrix>(value.clone()) {
        Ok(rows) => tensor(&rows),
        Err(_) => Tensor::new(serde_json::from_value::<Vec<f64>>(value.clone()).unwrap(), &Device::Cpu).unwrap(),
    }
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

impl Golden {
    /// Whose adversarial factor is the golden's at any time.
    fn settings(&self) -> Settings {
        Settings { margin: self.margin, beta: self.factor, ramp: Ramp::None, ..Settings::default() }
    }

    fn w1(&self) -> Similarity {
        let pairs = |domain: &str| {
            let values = |modality: &str| self.frozen[&format!("{domain}_{modality}")].concat();
            aggregate(&values("image"), &values("text"), self.dim).unwrap()
        };
        Similarity::new(&pairs("target"), &pairs("source")).unwrap()
    }

    fn domain(&self, name: &str) -> Domain {
        let leaf = |modality: &str| Var::from_tensor(&tensor(&self.features[&format!("{name}_{modality}")])).unwrap();
        let [image_keys, caption_keys] = self.keys[name].clone();
        let valid = self.valid[name].clone();
        Domain { image_nd: leaf("image"), text_nd: leaf("text"), image_keys, caption_keys, valid }
    }

    fn discriminator(&self) -> Discriminator {
        let parameters = self.discriminator.iter().map(|(name, value)| (name.clone(), array(value)));
        Discriminator::from_parameters(Parameters::from_tensors(parameters).unwrap()).unwrap()
    }
}

/// Compares the gradients of both domains; what a golden leaves out is zero.
#[track_caller]
fn assert_gradients(loss: &Tensor, domains: [&Domain; 2], sign: f64, expected: &BTreeMap<String, Matrix>) {
    let gradients = loss.backward().unwrap();
    for (name, domain) in ["source", "target"].iter().zip(domains) {
        for (modality, found) in ["image", "text"].iter().zip(domain.gradients(&gradients)) {
            let name = format!("{name}_{modality}");
            let expected = match expected.get(&name) {
                Some(expected) => expected.concat().iter().map(|x| x * sign).collect(),
                None => vec![0.0; found.concat().len()],
            };
            assert_near(&name, &found.concat(), &expected, TOLERANCE);
        }
    }
}

#[test]
fn similarity_choice_and_weights_match_the_transcription() {
    for golden in goldens() {
        let w1 = golden.w1();
        for (target, expected) in golden.w1.iter().enumerate() {
            assert_near("w1", w1.of_target(target), expected, TOLERANCE);
        }
        for (name, epochs) in &golden.curricula {
            let curriculum = serde_json::from_value(serde_json::Value::from(name.as_str())).unwrap();
            let settings = Settings { curriculum, ..Settings::default() };
            for (epoch, expected) in epochs.iter().enumerate() {
                let chosen = choose_sources(&w1, &settings, (epoch, 0)).unwrap();
                assert_eq!(&chosen, expected, "{name}, epoch {epoch}");
            }
        }
        let settings = Settings { curriculum: golden.curriculum, ..Settings::default() };
        let w2 = w1.columns(&choose_sources(&w1, &settings, (1, 0)).unwrap()).unwrap();
        for (of, name) in
            [(WeightsOf::Source, "source"), (WeightsOf::Target, "target"), (WeightsOf::Uniform, "uniform")]
        {
            assert_near(name, &sample_weights(&w2, of), &golden.w_vec[name], TOLERANCE);
        }
    }
}

#[test]
fn triplets_match_the_transcription() {
    for golden in goldens() {
        assert_eq!(golden.triplet.len(), 8);
        for case in &golden.triplet {
            let (source, target) = (golden.domain("source"), golden.domain("target"));
            let &TripletCase { distance, directions, negatives, .. } = case;
            let settings = Triplet { margin: golden.margin, distance, directions, negatives };
            let loss = triplet(&source.batch(&source.whole()), Some(&golden.w_vec["source"]), &settings).unwrap();
            assert_near("triplet", &[scalar(&loss)], &[case.loss], TOLERANCE);
            assert_gradients(&loss, [&source, &target], 1.0, &case.gradient);
        }
    }
}

#[test]
fn the_adversary_matches_the_transcription() {
    for golden in goldens() {
        let discriminator = golden.discriminator();
        for case in &golden.adversarial {
            let (source, target) = (golden.domain("source"), golden.domain("target"));
            let (source_slice, target_slice) = (source.whole(), target.whole());
            let (source_batch, target_batch) = (source.batch(&source_slice), target.batch(&target_slice));
            let pair = DomainPair {
                source: &source_batch,
                target: &target_batch,
                weights_n: &golden.w_vec["source"],
                weighted: case.weighted,
            };
            let logits = |slice: &super::Slice| flat(&discriminator.logits(&slice.image_bd, &slice.text_bd).unwrap());
            assert_near("source logits", &logits(&source_slice), &golden.source_logits, TOLERANCE);
            assert_near("target logits", &logits(&target_slice), &golden.target_logits, TOLERANCE);

            // The encoders' side alone: minus factor x the weighted loss, nothing in the discriminator.
            let loss = encoder_loss(&discriminator, &pair, golden.factor).unwrap();
            assert_near("encoders", &[scalar(&loss)], &[-golden.factor * case.loss], TOLERANCE);
            assert_gradients(&loss, [&source, &target], -golden.factor, &case.gradient);
            let gradients = loss.backward().unwrap();
            assert!(discriminator.parameters().iter().all(|(_, parameter)| gradients.get(parameter).is_none()));

            // The discriminator's side alone: nothing in the features.
            let loss = discriminator_loss(&discriminator, &pair).unwrap();
            assert_gradients(&loss, [&source, &target], 1.0, &BTreeMap::new());
            assert_discriminator_learns(&golden.plain, &discriminator, &loss);

            // Both in one.
            let loss = reversed_loss(&discriminator, &pair, golden.factor).unwrap();
            assert_gradients(&loss, [&source, &target], -golden.factor, &case.gradient);
            assert_discriminator_learns(&golden.plain, &discriminator, &loss);
        }
    }
}

/// The plain loss and its gradients, whatever the weights.
#[track_caller]
fn assert_discriminator_learns(plain: &PlainCase, discriminator: &Discriminator, loss: &Tensor) {
    assert_near("discriminator", &[scalar(loss)], &[plain.loss], TOLERANCE);
    let gradients = loss.backward().unwrap();
    assert_eq!(plain.gradient.len(), discriminator.parameters().len());
    for (name, parameter) in discriminator.parameters().iter() {
        assert_near(name, &flat(&gradient(&gradients, parameter)), &flat(&array(&plain.gradient[name])), TOLERANCE);
    }
}

#[test]
fn the_objective_matches_the_transcription_in_both_forms_of_the_game() {
    for golden in goldens() {
        for adversary in [Adversary::Reversal, Adversary::Alternating] {
            let (source, target) = (golden.domain("source"), golden.domain("target"));
            let settings = Settings { adversary, ..golden.settings() };
            let discriminator = golden.discriminator();
            let found = objective(
                &source.batch(&source.whole()),
                &target.batch(&target.whole()),
                &golden.w_vec["source"],
                Some(&discriminator),
                &settings,
                0.3,
            )
            .unwrap();
            assert_gradients(&found.total, [&source, &target], 1.0, &golden.encoders.gradient);
            assert_near("eq. 11", &[scalar(&found.source_triplet)], &[golden.triplet[0].loss], TOLERANCE);
            let weighted = scalar(&found.adversarial.unwrap());
            assert_near("eq. 12", &[weighted], &[golden.adversarial[0].loss], TOLERANCE);
        }
    }
}

/// Single precision is what runs train in; half precision is compared in it.
#[test]
fn other_precisions_give_the_same_losses() {
    for golden in goldens() {
        for (features, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 0.1)] {
            let (mut source, mut target) = (golden.domain("source"), golden.domain("target"));
            for domain in [&mut source, &mut target] {
                let cast = |leaf: &Var| Var::from_tensor(&leaf.to_dtype(features).unwrap()).unwrap();
                (domain.image_nd, domain.text_nd) = (cast(&domain.image_nd), cast(&domain.text_nd));
            }
            let parameters = golden.discriminator().parameters().to_dtype(DType::F32).unwrap();
            let discriminator = Discriminator::from_parameters(parameters).unwrap();
            let settings = golden.settings();
            let (source_slice, target_slice) = (source.whole(), target.whole());
            let (source_batch, target_batch) = (source.batch(&source_slice), target.batch(&target_slice));
            let weights = &golden.w_vec["source"];
            let found = objective(&source_batch, &target_batch, weights, Some(&discriminator), &settings, 0.3);
            let found = found.unwrap();
            assert_eq!(found.total.dtype(), DType::F32);
            let adversarial = found.adversarial.unwrap().to_scalar::<f32>().unwrap();
            assert!((f64::from(adversarial) - golden.adversarial[0].loss).abs() < tolerance);
            let source_triplet = found.source_triplet.to_scalar::<f32>().unwrap();
            assert!((f64::from(source_triplet) - golden.triplet[0].loss).abs() < tolerance);
            let gradients = found.total.backward().unwrap();
            assert_eq!(gradients.get(&source.image_nd).unwrap().dtype(), features);
        }
    }
}
