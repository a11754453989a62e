use candle_core::{DType, Device, Tensor, Var};
use models::ops::l2_normalise;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::*;
use super::{Domain, assert_near, gradient, scalar};

const ROWS: usize = 8;
const DIM: usize = 5;

fn random(rng: &mut ChaCha8Rng, rows: usize) -> Var {
    let values = (0..rows * DIM).map(|_| rng.random::<f64>() - 0.4).collect();
    let x = Tensor::from_vec(values, (rows, DIM), &Device::Cpu).unwrap();
    Var::from_tensor(&l2_normalise(&x).unwrap()).unwrap()
}

/// Rows 0 and 3 share an image, 1 and 6 a caption; row 5 is not valid.
fn domain(seed: u64) -> Domain {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Domain {
        image_nd: random(&mut rng, ROWS),
        text_nd: random(&mut rng, ROWS),
        image_keys: vec![7, 1, 2, 7, 4, 5, 6, 8],
        caption_keys: vec![0, 9, 2, 3, 4, 5, 9, 7],
        valid: (0..ROWS).map(|row| row != 5).collect(),
    }
}

fn discriminator(seed: u64) -> Discriminator {
    Discriminator::init(DIM, 6, seed, &Device::Cpu, DType::F64).unwrap()
}

fn weights() -> Vec<f64> {
    (0..ROWS).map(|row| row as f64 / 3.5).collect()
}

/// Every selectable combination that changes the objective.
fn all_settings() -> Vec<Settings> {
    let mut all = Vec::new();
    for distance in [Distance::Cosine, Distance::Euclidean] {
        for directions in [Directions::Both, Directions::ImageToText] {
            for adversary in [Adversary::Reversal, Adversary::Alternating, Adversary::Joint, Adversary::Off] {
                for adversary_weights in [AdversaryWeights::Source, AdversaryWeights::Both, AdversaryWeights::None] {
                    for switched in [true, false] {
                        let (target_triplet, triplet_weighted) = (switched, switched);
                        let (source_weight, hardest_from) = if switched { (1.0, 0.0) } else { (0.3, 1.0) };
                        all.push(Settings {
                            distance,
                            directions,
                            adversary,
                            adversary_weights,
                            target_triplet,
                            triplet_weighted,
                            source_weight,
                            hardest_from,
                            ..Settings::default()
                        });
                    }
                }
            }
        }
    }
    all
}

/// Total loss and all gradients, added up over ranks.
fn summed(world_size: usize, settings: &Settings) -> (f64, Vec<f64>) {
    let (source, target, discriminator) = (domain(1), domain(2), discriminator(3));
    let mut loss = 0.0;
    let mut sums = Vec::new();
    for rank in 0..world_size {
        let (source_slice, target_slice) = (source.rank(rank, world_size), target.rank(rank, world_size));
        let (source_batch, target_batch) = (source.batch(&source_slice), target.batch(&target_slice));
        let found = objective(&source_batch, &target_batch, &weights(), Some(&discriminator), settings, 0.7).unwrap();
        let mut gradients = vec![found.total.backward().unwrap()];
        let mut share = scalar(&found.total) + scalar(&found.source_triplet);
        share += found.target_triplet.map_or(0.0, |loss| scalar(&loss));
        share += found.adversarial.map_or(0.0, |loss| scalar(&loss));
        if settings.adversary == Adversary::Alternating {
            let (weights_n, weighted) = (&weights()[..], settings.adversary_weights);
            let pair = DomainPair { source: &source_batch, target: &target_batch, weights_n, weighted };
            let own = discriminator_loss(&discriminator, &pair).unwrap();
            share += scalar(&own);
            gradients.push(own.backward().unwrap());
        }
        loss += share;
        let leaves = [&source.image_nd, &source.text_nd, &target.image_nd, &target.text_nd];
        let parameters = discriminator.parameters().iter().map(|(_, parameter)| parameter);
        let mut flat = Vec::new();
        for leaf in leaves.into_iter().chain(parameters) {
            for gradients in &gradients {
                let gradient = gradient(gradients, leaf).flatten_all().unwrap();
                flat.extend(gradient.to_vec1::<f64>().unwrap());
            }
        }
        sums.resize(flat.len(), 0.0);
        sums.iter_mut().zip(flat).for_each(|(sum, x)| *sum += x);
    }
    (loss, sums)
}

#[test]
fn ranks_add_up_to_one() {
    for settings in all_settings() {
        let (loss, gradients) = summed(1, &settings);
        assert!(gradients.iter().any(|x| x.abs() > 1e-3));
        for world_size in [2, 4] {
            let (found, found_gradients) = summed(world_size, &settings);
            assert_near("loss", &[found], &[loss], 1e-12);
            assert_near("gradients", &found_gradients, &gradients, 1e-12);
        }
    }
}

#[test]
fn the_order_of_rows_does_not_matter() {
    let order = [3usize, 0, 7, 5, 1, 6, 2, 4];
    let (source, target) = (domain(1), domain(2));
    let permuted = |leaf: &Var| {
        let order = Tensor::new(&order.map(|row| row as u32), &Device::Cpu).unwrap();
        Var::from_tensor(&leaf.index_select(&order, 0).unwrap()).unwrap()
    };
    let moved = Domain {
        image_nd: permuted(&source.image_nd),
        text_nd: permuted(&source.text_nd),
        image_keys: order.iter().map(|&row| source.image_keys[row]).collect(),
        caption_keys: order.iter().map(|&row| source.caption_keys[row]).collect(),
        valid: order.iter().map(|&row| source.valid[row]).collect(),
    };
    let moved_weights: Vec<f64> = order.iter().map(|&row| weights()[row]).collect();
    // Where targets are weighted by position, another order of sources is another loss.
    for settings in all_settings().iter().filter(|s| s.adversary_weights != AdversaryWeights::Both) {
        let discriminator = discriminator(3);
        let run = |source: &Domain, weights: &[f64]| {
            let (slice, target_slice) = (source.whole(), target.whole());
            let (batch, target_batch) = (source.batch(&slice), target.batch(&target_slice));
            let found = objective(&batch, &target_batch, weights, Some(&discriminator), settings, 0.7).unwrap();
            (scalar(&found.total), source.gradients(&found.total.backward().unwrap()))
        };
        let (loss, gradients) = run(&source, &weights());
        let (moved_loss, moved_gradients) = run(&moved, &moved_weights);
        assert_near("loss", &[moved_loss], &[loss], 1e-12);
        for (gradient, moved_gradient) in gradients.iter().zip(&moved_gradients) {
            for (place, &row) in order.iter().enumerate() {
                assert_near("gradient", &moved_gradient[place], &gradient[row], 1e-12);
            }
        }
    }
}

/// Two rows, the second of which says the opposite of the first one's pair: a perfect negative unless it is a duplicate.
#[test]
fn duplicates_and_invalid_rows_are_never_negatives() {
    let image = Tensor::new(&[[1f64, 0.0], [1.0, 0.0]], &Device::Cpu).unwrap();
    let text = Tensor::new(&[[1f64, 0.0], [1.0, 0.0]], &Device::Cpu).unwrap();
    let loss = |image_keys: [u64; 2], caption_keys: [u64; 2], valid: [bool; 2]| {
        let domain = Domain {
            image_nd: Var::from_tensor(&image).unwrap(),
            text_nd: Var::from_tensor(&text).unwrap(),
            image_keys: image_keys.to_vec(),
            caption_keys: caption_keys.to_vec(),
            valid: valid.to_vec(),
        };
        let settings = Triplet::at(&Settings::default(), 0.0);
        let loss = triplet(&domain.batch(&domain.whole()), None, &settings).unwrap();
        let gradients = domain.gradients(&loss.backward().unwrap());
        assert!(gradients.iter().flatten().flatten().all(|x| x.is_finite()));
        scalar(&loss)
    };
    // As near as the own one: the whole margin is lost, in two directions.
    assert!((loss([1, 2], [1, 2], [true; 2]) - 0.4).abs() < 1e-15);
    assert_eq!(loss([1, 1], [1, 2], [true; 2]), 0.0, "equal images");
    assert_eq!(loss([1, 2], [3, 3], [true; 2]), 0.0, "equal captions");
    assert_eq!(loss([1, 2], [1, 2], [true, false]), 0.0, "the other is not valid");
    assert_eq!(loss([1, 2], [1, 2], [false; 2]), 0.0, "nobody is valid");
}

#[test]
fn equal_points_have_finite_euclidean_gradients() {
    let mut source = domain(1);
    source.text_nd = Var::from_tensor(&source.image_nd).unwrap();
    for negatives in [Negatives::Hardest, Negatives::Mean] {
        let (distance, directions) = (Distance::Euclidean, Directions::Both);
        let settings = Triplet { margin: 2.0, distance, directions, negatives };
        let loss = triplet(&source.batch(&source.whole()), Some(&weights()), &settings).unwrap();
        let gradients = source.gradients(&loss.backward().unwrap());
        assert!(gradients.iter().flatten().flatten().all(|x| x.is_finite()));
        assert!(gradients.iter().flatten().flatten().any(|x| *x != 0.0));
    }
}

#[test]
fn contradictions_are_named() {
    let (source, target) = (domain(1), domain(2));
    let (source_slice, target_slice) = (source.whole(), target.whole());
    let (source_batch, target_batch) = (source.batch(&source_slice), target.batch(&target_slice));
    let discriminator = discriminator(1);
    let run = |weights: &[f64], discriminator: Option<&Discriminator>, settings: Settings| {
        objective(&source_batch, &target_batch, weights, discriminator, &settings, 1.0).unwrap_err().to_string()
    };
    let message = run(&weights(), None, Settings::default());
    assert!(message.contains("adversary: is Reversal but there is no discriminator"), "{message}");
    let message = run(&[1.0; 3], Some(&discriminator), Settings::default());
    assert!(message.contains("3 weights for 8 rows"), "{message}");
    let message = run(&[f64::NAN; ROWS], Some(&discriminator), Settings::default());
    assert!(message.contains("needs a finite one"), "{message}");
    let unweighted = Settings { triplet_weighted: false, ..Settings::default() };
    let message = run(&[1.0; 3], Some(&discriminator), unweighted);
    assert!(message.contains("3 weights for 8 sources and 8 targets"), "{message}");
    let half = source.slice(0..4);
    let wrong = DomainBatch { rows: 0..3, ..source.batch(&half) };
    let message = triplet(&wrong, None, &Triplet::at(&Settings::default(), 0.0)).unwrap_err().to_string();
    assert!(message.contains("[4, 5]") && message.contains("3 of 8 rows"), "{message}");
    let beyond = DomainBatch { rows: 6..10, ..source.batch(&half) };
    let message = triplet(&beyond, None, &Triplet::at(&Settings::default(), 0.0)).unwrap_err().to_string();
    assert!(message.contains("rows 6..10"), "{message}");
}

/// The released code's adversary is none: what a game's encoders would flee, they seek; the discriminator learns alike.
#[test]
fn joint_encoders_get_the_opposite_gradient_and_the_discriminator_the_same() {
    let (source, target, discriminator) = (domain(1), domain(2), discriminator(3));
    let of = |adversary| {
        let settings = Settings { adversary, source_weight: 0.0, target_triplet: false, ..Settings::default() };
        let (source_slice, target_slice) = (source.rank(0, 1), target.rank(0, 1));
        let (source, target) = (source.batch(&source_slice), target.batch(&target_slice));
        let found = objective(&source, &target, &weights(), Some(&discriminator), &settings, 0.7).unwrap();
        found.total.backward().unwrap()
    };
    let (game, joint) = (of(Adversary::Reversal), of(Adversary::Joint));
    let flat = |store: &candle_core::backprop::GradStore, var: &Var, factor: f64| {
        (gradient(store, var) * factor).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    for leaf in [&source.image_nd, &source.text_nd, &target.image_nd, &target.text_nd] {
        let fled = flat(&game, leaf, -1.0);
        assert!(fled.iter().any(|x| x.abs() > 1e-4));
        assert_near("encoders", &flat(&joint, leaf, 1.0), &fled, 1e-15);
    }
    for (name, parameter) in discriminator.parameters().iter() {
        assert_near(name, &flat(&joint, parameter, 1.0), &flat(&game, parameter, 1.0), 0.0);
    }
}
