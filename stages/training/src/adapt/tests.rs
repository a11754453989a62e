//! Tests of the pieces together: against a transcription, over ranks, and as a game.

mod game;
mod goldens;
mod properties;
mod segments;

use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use super::DomainBatch;
use crate::loss::{Features, PairKeys};

/// Features of a domain as leaves, with its keys.
struct Domain {
    image_nd: Var,
    text_nd: Var,
    image_keys: Vec<u64>,
    caption_keys: Vec<u64>,
    valid: Vec<bool>,
}

/// What a loss function sees of a domain: slices of the leaves.
struct Slice {
    image_bd: Tensor,
    text_bd: Tensor,
    rows: Range<usize>,
}

impl Domain {
    fn slice(&self, rows: Range<usize>) -> Slice {
        let narrow = |leaf: &Var| leaf.narrow(0, rows.start, rows.len()).unwrap();
        Slice { image_bd: narrow(&self.image_nd), text_bd: narrow(&self.text_nd), rows }
    }

    /// This rank's rows of `world_size` equal slices.
    fn rank(&self, rank: usize, world_size: usize) -> Slice {
        let rows = self.valid.len() / world_size;
        self.slice(rank * rows..(rank + 1) * rows)
    }

    fn whole(&self) -> Slice {
        self.rank(0, 1)
    }

    fn batch<'a>(&'a self, slice: &'a Slice) -> DomainBatch<'a> {
        DomainBatch {
            features: Features {
                image_bd: &slice.image_bd,
                text_bd: &slice.text_bd,
                image_nd: &self.image_nd,
                text_nd: &self.text_nd,
            },
            keys: PairKeys { image_n: &self.image_keys, caption_n: &self.caption_keys, valid_n: &self.valid },
            rows: slice.rows.clone(),
        }
    }

    /// Gradients of images and captions; zero where there is none.
    fn gradients(&self, gradients: &GradStore) -> [Vec<Vec<f64>>; 2] {
        [&self.image_nd, &self.text_nd].map(|leaf| gradient(gradients, leaf).to_vec2().unwrap())
    }
}

fn gradient(gradients: &GradStore, leaf: &Var) -> Tensor {
    gradients.get(leaf).cloned().unwrap_or_else(|| leaf.zeros_like().unwrap())
}

fn scalar(tensor: &Tensor) -> f64 {
    tensor.to_scalar().unwrap()
}

fn tensor(rows: &[Vec<f64>]) -> Tensor {
    let flat: Vec<f64> = rows.iter().flatten().copied().collect();
    Tensor::from_vec(flat, (rows.len(), rows[0].len()), &Device::Cpu).unwrap()
}

#[track_caller]
fn assert_near(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "{what}: {found:?}\nis not\n{expected:?}");
    }
}
