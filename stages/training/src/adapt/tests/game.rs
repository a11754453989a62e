//! The game played to its end, on two clouds of points that a linear map can bring together.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use models::ops::{l2_normalise, linear};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::*;
use super::{Domain, gradient, scalar};
use crate::optimiser::{AdamW, AdamWSettings, ParameterGroup};

const ROWS: usize = 48;
const DIM: usize = 4;
/// Cost of a discriminator that cannot tell the domains apart.
const UNDECIDED: f64 = 2.0 * std::f64::consts::LN_2;

/// Points around `centre` on the first axis, with the same spread on all axes in both domains.
fn cloud(rng: &mut ChaCha8Rng, centre: f64) -> Tensor {
    let values = (0..ROWS * DIM).map(|i| {
        let noise: f64 = (0..4).map(|_| rng.random::<f64>() - 0.5).sum();
        noise + if i % DIM == 0 { centre } else { 0.0 }
    });
    Tensor::from_vec(values.collect(), (ROWS, DIM), &Device::Cpu).unwrap()
}

/// Raw inputs of one domain: what encoders see.
struct World {
    image: Tensor,
    text: Tensor,
}

fn worlds() -> [World; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    [1.0, -1.0].map(|centre| World { image: cloud(&mut rng, centre), text: cloud(&mut rng, centre) })
}

/// Two linear encoders that all domains share; at the start they let everything through.
struct Encoders {
    image: Var,
    text: Var,
}

impl Encoders {
    fn new() -> Self {
        let identity = || Var::from_tensor(&Tensor::eye(DIM, DType::F64, &Device::Cpu).unwrap()).unwrap();
        Self { image: identity(), text: identity() }
    }

    /// Encoded pairs as leaves of their own, and the tensors that they were taken from.
    fn encode(&self, world: &World) -> (Domain, [Tensor; 2]) {
        let encoded = |x: &Tensor, map: &Var| l2_normalise(&linear(x, map, None).unwrap()).unwrap();
        let tensors = [encoded(&world.image, &self.image), encoded(&world.text, &self.text)];
        let [image_nd, text_nd] = tensors.each_ref().map(|x| Var::from_tensor(&x.detach()).unwrap());
        let keys: Vec<u64> = (0..ROWS as u64).collect();
        let (image_keys, caption_keys) = (keys.clone(), keys);
        (Domain { image_nd, text_nd, image_keys, caption_keys, valid: vec![true; ROWS] }, tensors)
    }
}

fn optimiser(parameters: BTreeMap<String, Var>) -> AdamW {
    let settings = AdamWSettings { beta2: 0.9, weight_decay: 0.0, max_grad_norm: 0.0, ..AdamWSettings::default() };
    AdamW::new(vec![ParameterGroup { parameters, weight_decay: 0.0, rate_factor: 1.0 }], settings).unwrap()
}

fn learner(discriminator: &Discriminator) -> AdamW {
    optimiser(discriminator.parameters().iter().map(|(name, var)| (name.to_owned(), var.clone())).collect())
}

fn discriminator(seed: u64) -> Discriminator {
    Discriminator::init(DIM, 16, seed, &Device::Cpu, DType::F64).unwrap()
}

/// Runs `use_pair` on both domains as they are encoded now.
fn with_pair<T>(domains: [&Domain; 2], use_pair: impl FnOnce(&DomainPair) -> T) -> T {
    let weights: Vec<f64> = vec![1.0; ROWS];
    let (source_slice, target_slice) = (domains[0].whole(), domains[1].whole());
    let (source, target) = (domains[0].batch(&source_slice), domains[1].batch(&target_slice));
    let weighted = AdversaryWeights::Source;
    use_pair(&DomainPair { source: &source, target: &target, weights_n: &weights, weighted })
}

/// Cost of a discriminator that was trained from scratch on what the encoders give: high = it finds nothing.
fn cost_of_a_fresh_discriminator(encoders: &Encoders) -> f64 {
    let [source, target] = worlds().map(|world| encoders.encode(&world).0);
    let discriminator = discriminator(77);
    let mut learner = learner(&discriminator);
    let cost = || with_pair([&source, &target], |pair| discriminator_loss(&discriminator, pair).unwrap());
    for _ in 0..150 {
        learner.step(&cost().backward().unwrap(), 1e-2).unwrap();
    }
    scalar(&cost())
}

/// Plays in the two-pass form: losses from leaves, then back through the encoders with the leaves' gradients.
fn play(adversary: Adversary, steps: usize) -> Encoders {
    let (encoders, discriminator) = (Encoders::new(), discriminator(5));
    let mut learner = learner(&discriminator);
    let parameters = [("image", &encoders.image), ("text", &encoders.text)];
    let mut encoder_optimiser = optimiser(parameters.map(|(name, var)| (name.to_owned(), var.clone())).into());
    let settings = Settings { adversary, ..Settings::default() };
    for step in 0..steps {
        let [(source, source_graph), (target, target_graph)] = worlds().map(|world| encoders.encode(&world));
        let factor = settings.adversarial_factor(step as f64 / steps as f64);
        let loss = with_pair([&source, &target], |pair| match adversary {
            Adversary::Alternating => {
                let own = discriminator_loss(&discriminator, pair).unwrap();
                learner.step(&own.backward().unwrap(), 1e-2).unwrap();
                encoder_loss(&discriminator, pair, factor).unwrap()
            }
            _ => reversed_loss(&discriminator, pair, factor).unwrap(),
        });
        let gradients = loss.backward().unwrap();
        let leaves = [&source.image_nd, &source.text_nd, &target.image_nd, &target.text_nd];
        let mut through = Tensor::zeros((), DType::F64, &Device::Cpu).unwrap();
        for (leaf, encoded) in leaves.into_iter().zip(source_graph.iter().chain(&target_graph)) {
            through = (through + (encoded * gradient(&gradients, leaf)).unwrap().sum_all().unwrap()).unwrap();
        }
        encoder_optimiser.step(&through.backward().unwrap(), 1e-2).unwrap();
        if adversary == Adversary::Reversal {
            learner.step(&gradients, 1e-2).unwrap();
        }
    }
    encoders
}

#[test]
fn encoders_that_play_leave_a_fresh_discriminator_less_to_find() {
    let before = cost_of_a_fresh_discriminator(&Encoders::new());
    assert!(before < 0.2 * UNDECIDED, "two clouds apart are told apart: {before}");
    for adversary in [Adversary::Reversal, Adversary::Alternating] {
        let after = cost_of_a_fresh_discriminator(&play(adversary, 300));
        assert!(after > 0.6 * UNDECIDED, "{adversary:?}: {before} before, {after} after");
    }
}

/// One small step of each player along its own gradient, from the same point.
#[test]
fn the_discriminator_lowers_its_cost_and_the_encoders_raise_it() {
    let [source, target] = worlds().map(|world| Encoders::new().encode(&world).0);
    let discriminator = discriminator(5);
    let cost = |pair: &DomainPair| scalar(&discriminator_loss(&discriminator, pair).unwrap());
    let (before, gradients) = with_pair([&source, &target], |pair| {
        (cost(pair), reversed_loss(&discriminator, pair, 1.0).unwrap().backward().unwrap())
    });
    let descend = |var: &Var, rate: f64| {
        let moved = (var.as_tensor() - (gradient(&gradients, var) * rate).unwrap()).unwrap().detach();
        var.set(&moved).unwrap();
    };
    let leaves = [&source.image_nd, &source.text_nd, &target.image_nd, &target.text_nd];
    leaves.iter().for_each(|leaf| descend(leaf, 1.0));
    let after_encoders = with_pair([&source, &target], cost);
    assert!(after_encoders > before, "encoders: {before} to {after_encoders}");
    leaves.iter().for_each(|leaf| descend(leaf, -1.0));
    discriminator.parameters().iter().for_each(|(_, parameter)| descend(parameter, 1e-2));
    let after_discriminator = with_pair([&source, &target], cost);
    assert!(after_discriminator < before, "discriminator: {before} to {after_discriminator}");
}
