//! The game played to its end, on two clouds of points that a linear map can bring together.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use models::ops::{l2_normalise, linear};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::*;
use super::{Domain, gradient, scalar};
use crate::gradients::Gradients;
use crate::optimiser::{AdamW, AdamWSettings, ParameterGroup};

const ROWS: usize = 128;
const DIM: usize = 4;
const RATE: f64 = 1e-2;
/// Slower than the discriminator, which then knows what it should when it is asked.
const ENCODER_RATE: f64 = 2e-3;
/// Cost of a discriminator that cannot tell the domains apart.
const UNDECIDED: f64 = 2.0 * std::f64::consts::LN_2;

/// A step with what a backward pass left.
fn descend(optimiser: &mut AdamW, store: &GradStore, rate: f64) -> crate::Result<f64> {
    let mut gradients = Gradients::default();
    gradients.collect(store, "", optimiser.parameters())?;
    optimiser.step(&gradients, rate)
}

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

/// Source and target; another seed draws other points of the same two.
fn worlds(seed: u64) -> [World; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
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

fn optimiser<'a>(parameters: impl Iterator<Item = (&'a str, &'a Var)>, weight_decay: f64) -> AdamW {
    // Without momentum the players do not overshoot one another.
    let settings = AdamWSettings { beta1: 0.0, beta2: 0.9, max_grad_norm: 0.0, ..AdamWSettings::default() };
    let parameters = parameters.map(|(name, var)| (name.to_owned(), var.clone())).collect();
    AdamW::new(vec![ParameterGroup { parameters, weight_decay, rate_factor: 1.0 }], settings).unwrap()
}

fn discriminator(seed: u64) -> Discriminator {
    Discriminator::init(DIM, 8, seed, &Device::Cpu, DType::F64).unwrap()
}

/// Runs `use_pair` on both domains as they are encoded now.
fn with_pair<T>(domains: [&Domain; 2], use_pair: impl FnOnce(&DomainPair) -> T) -> T {
    let weights: Vec<f64> = vec![1.0; ROWS];
    let (source_slice, target_slice) = (domains[0].whole(), domains[1].whole());
    let (source, target) = (domains[0].batch(&source_slice), domains[1].batch(&target_slice));
    let weighted = AdversaryWeights::Source;
    use_pair(&DomainPair { source: &source, target: &target, weights_n: &weights, weighted })
}

/// Cost, on points it has not seen, of a discriminator that was trained from scratch on what the encoders give: high =
/// they leave nothing to find.
fn cost_of_a_fresh_discriminator(encoders: &Encoders) -> f64 {
    let discriminator = discriminator(77);
    let mut learner = optimiser(discriminator.parameters().iter(), 0.0);
    let cost = |seed| {
        let [source, target] = worlds(seed).map(|world| encoders.encode(&world).0);
        with_pair([&source, &target], |pair| discriminator_loss(&discriminator, pair).unwrap())
    };
    for _ in 0..150 {
        descend(&mut learner, &cost(21).backward().unwrap(), RATE).unwrap();
    }
    scalar(&cost(22))
}

/// Plays in the two-pass form: losses from leaves, then back through the encoders with the leaves' gradients.
fn play(adversary: Adversary, steps: usize) -> Encoders {
    let (encoders, discriminator) = (Encoders::new(), discriminator(5));
    // Decay of the discriminator makes the game converge instead of circling (Mescheder et al. 2018).
    let mut learner = optimiser(discriminator.parameters().iter(), 1.0);
    let parameters = [("image", &encoders.image), ("text", &encoders.text)];
    let mut encoder_optimiser = optimiser(parameters.into_iter(), 0.0);
    let worlds = worlds(21);
    let settings = Settings { adversary, ..Settings::default() };
    for step in 0..steps {
        let [(source, source_graph), (target, target_graph)] = worlds.each_ref().map(|world| encoders.encode(world));
        let factor = settings.adversarial_factor(step as f64 / steps as f64);
        let loss = with_pair([&source, &target], |pair| match adversary {
            Adversary::Alternating => {
                let own = discriminator_loss(&discriminator, pair).unwrap();
                descend(&mut learner, &own.backward().unwrap(), RATE).unwrap();
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
        descend(&mut encoder_optimiser, &through.backward().unwrap(), ENCODER_RATE).unwrap();
        if adversary == Adversary::Reversal {
            descend(&mut learner, &gradients, RATE).unwrap();
        }
    }
    encoders
}

#[test]
fn encoders_that_play_leave_a_fresh_discriminator_less_to_find() {
    let before = cost_of_a_fresh_discriminator(&Encoders::new());
    assert!(before < 0.2 * UNDECIDED, "two clouds apart are told apart: {before}");
    for adversary in [Adversary::Reversal, Adversary::Alternating] {
        let after = cost_of_a_fresh_discriminator(&play(adversary, 400));
        assert!(after > 0.7 * UNDECIDED, "{adversary:?}: {before} before, {after} after");
    }
}

/// One small step of each player along its own gradient, from the same point.
#[test]
fn the_discriminator_lowers_its_cost_and_the_encoders_raise_it() {
    let [source, target] = worlds(21).map(|world| Encoders::new().encode(&world).0);
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
