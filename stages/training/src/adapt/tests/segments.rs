//! Segments beside images in the triplets of both domains.

use candle_core::{Device, Tensor, Var};
use models::ops::l2_normalise;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::{Adaptation, Adversary, Settings};
use super::{assert_near, gradient, scalar};
use crate::communicator::Solo;
use crate::objective::{Differentiated, Objective, StepInfo};
use crate::objective::{Gathered, GatheredSegments};

const ROWS: usize = 8;
const DIM: usize = 4;

/// Two sources and six targets, of which one is not valid. `present_n` says which rows have segments; their embedding is
/// that of the image.
fn gathered(present_n: Option<[bool; ROWS]>) -> Gathered {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let mut leaf = || {
        let values: Vec<f64> = (0..ROWS * DIM).map(|_| rng.random_range(-1.0..1.0)).collect();
        let raw = Tensor::from_vec(values, (ROWS, DIM), &Device::Cpu).unwrap();
        Var::from_tensor(&l2_normalise(&raw).unwrap()).unwrap()
    };
    let (image_nd, text_nd) = (leaf(), leaf());
    let segment_nd = Var::from_tensor(&image_nd.copy().unwrap()).unwrap();
    Gathered {
        segments: present_n.map(|present_n| GatheredSegments { segment_nd, present_n: present_n.to_vec() }),
        image_nd,
        text_nd,
        tokens: None,
        logit_scale: Tensor::new(0f64, &Device::Cpu).unwrap(),
        rows: 0..ROWS,
        image_keys_n: (0..ROWS as u64).collect(),
        caption_keys_n: (0..ROWS as u64).collect(),
        valid_n: (0..ROWS).map(|row| row != 7).collect(),
        target_n: (0..ROWS).map(|row| row >= 2).collect(),
        weight_n: (0..ROWS).map(|row| if row == 0 { 0.4 } else { 1.0 }).collect(),
    }
}

fn differentiated(gathered: &Gathered, settings: Settings) -> Differentiated {
    let settings = Settings { adversary: Adversary::Off, source_weight: 0.5, ..settings };
    let mut objective = Adaptation::new(settings, DIM, &Device::Cpu).unwrap();
    let info = StepInfo { epoch: 0, global_step: 0, progress: 0.5, rate_factor: 1.0 };
    objective.differentiate(gathered, info, &mut Solo).unwrap()
}

fn parts(differentiated: &Differentiated) -> Vec<(&'static str, f64)> {
    differentiated.parts.iter().map(|(name, part)| (*name, scalar(part))).collect()
}

#[test]
fn segments_like_their_images_cost_what_the_images_cost() {
    let with = gathered(Some([true; ROWS]));
    let found = differentiated(&with, Settings::default());
    let parts = parts(&found);
    let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["source_triplet", "target_triplet", "source_segment_triplet", "target_segment_triplet"]);
    assert!(parts[0].1 > 0.0 && parts[1].1 > 0.0);
    assert_eq!((parts[0].1, parts[1].1), (parts[2].1, parts[3].1));
    let flat = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let of_segments = flat(gradient(&found.gradients, &with.segments.as_ref().unwrap().segment_nd));
    assert_near("segments", &of_segments, &flat(gradient(&found.gradients, &with.image_nd)), 1e-15);
    // captions are pulled twice as hard
    let without = gathered(None);
    let plain = differentiated(&without, Settings::default());
    let twice: Vec<f64> = flat(gradient(&plain.gradients, &without.text_nd)).iter().map(|g| 2.0 * g).collect();
    assert_near("captions", &flat(gradient(&found.gradients, &with.text_nd)), &twice, 1e-15);
}

#[test]
fn a_row_without_segments_is_neither_row_nor_negative() {
    let with = gathered(Some([true, true, false, true, true, true, true, true]));
    let found = differentiated(&with, Settings::default());
    let of_segments: Vec<Vec<f64>> =
        gradient(&found.gradients, &with.segments.as_ref().unwrap().segment_nd).to_vec2().unwrap();
    assert!(of_segments[2].iter().all(|&g| g == 0.0), "no segments");
    assert!(of_segments[7].iter().all(|&g| g == 0.0), "not valid");
    assert!(of_segments.iter().flatten().any(|&g| g != 0.0));
    // a domain without any has no such part
    let sources_only = gathered(Some([true, true, false, false, false, false, false, true]));
    let names: Vec<&str> =
        parts(&differentiated(&sources_only, Settings::default())).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["source_triplet", "target_triplet", "source_segment_triplet"]);
}

#[test]
fn fine_tuning_learns_from_the_targets_segments_alone() {
    let with = gathered(Some([true; ROWS]));
    let settings = Settings { source_pairs: false, ..Settings::default() };
    let found = parts(&differentiated(&with, settings));
    assert_eq!((found.len(), found[0].1), (2, found[1].1));
    assert_eq!([found[0].0, found[1].0], ["target_triplet", "target_segment_triplet"]);
}
