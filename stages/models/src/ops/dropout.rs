use candle_core::{Result, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Dropout (Srivastava et al. 2014) of one training step: a share of the values becomes zero, the others grow by
/// 1 / (1 - share), so that the mean stays.
///
/// candle draws from the thread's generator. Here a value's fate follows from the seed, the layer and the row's own
/// number alone: a step can be repeated, and it is the same step however its rows are spread over ranks and batches.
#[derive(Clone, Debug)]
pub struct Dropout {
    share: f32,
    seed: u64,
    rows: Vec<u64>,
}

impl Dropout {
    /// `share` is in [0, 1). `rows` number the rows of the batch `[B]`.
    pub fn new(share: f64, seed: u64, rows: Vec<u64>) -> Self {
        Self { share: share as f32, seed, rows }
    }

    /// Drops values of `x [B, ...]` in layer `layer`.
    ///
    /// # Errors
    /// `x` has another number of rows.
    pub fn apply(&self, layer: usize, x: &Tensor) -> Result<Tensor> {
        if x.dims().first() != Some(&self.rows.len()) {
            candle_core::bail!("dropout of {} rows for values of shape {:?}", self.rows.len(), x.dims());
        }
        let per_row = x.elem_count() / self.rows.len().max(1);
        let mut mask = vec![0f32; x.elem_count()];
        mask.par_chunks_mut(per_row.max(1)).zip(&self.rows).for_each(|(mask, &row)| self.fill(layer, row, mask));
        x * Tensor::from_vec(mask, x.dims(), x.device())?.to_dtype(x.dtype())?
    }

    /// `after` with dropout of what was added to `before`: dropout of residual branches, seen from outside.
    pub(crate) fn of_difference(
        dropout: Option<&Self>,
        layer: usize,
        before: &Tensor,
        after: Tensor,
    ) -> Result<Tensor> {
        match dropout {
            Some(dropout) => before + dropout.apply(layer, &(after - before)?)?,
            None => Ok(after),
        }
    }

    fn fill(&self, layer: usize, row: u64, mask: &mut [f32]) {
        let (kept, threshold) = (1.0 / (1.0 - self.share), (f64::from(self.share) * 65536.0) as u32);
        let mut key = [0; 32];
        for (slot, word) in key.chunks_exact_mut(8).zip([self.seed, layer as u64, row]) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let mut rng = ChaCha8Rng::from_seed(key);
        let fate = |bits: u32| if bits < threshold { 0.0 } else { kept };
        // sixteen random bits decide about a value: two values of each draw
        for pair in mask.chunks_mut(2) {
            let bits: u32 = rng.random();
            pair[0] = fate(bits & 0xffff);
            if let Some(second) = pair.get_mut(1) {
                *second = fate(bits >> 16);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};

    fn dropped(dropout: &Dropout, x: &Tensor) -> Vec<f32> {
        dropout.apply(0, x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    }

    #[test]
    fn the_share_is_dropped_the_mean_stays_and_the_seed_decides() {
        let x = Tensor::ones((100, 100), DType::F32, &Device::Cpu).unwrap();
        let values = |seed| dropped(&Dropout::new(0.25, seed, (0..100).collect()), &x);
        let zeros = values(1).iter().filter(|v| **v == 0.0).count();
        assert!((2300..2700).contains(&zeros), "{zeros}");
        assert!(values(1).iter().all(|v| *v == 0.0 || (*v - 4.0 / 3.0).abs() < 1e-6));
        assert_eq!(values(1), values(1));
        assert_ne!(values(1), values(2));
    }

    #[test]
    fn a_row_is_dropped_alike_in_every_batch_and_length() {
        let ones = |shape: (usize, usize, usize)| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let together = dropped(&Dropout::new(0.5, 1, vec![7, 3, 9]), &ones((3, 5, 8)));
        let alone = dropped(&Dropout::new(0.5, 1, vec![3]), &ones((1, 5, 8)));
        let shorter = dropped(&Dropout::new(0.5, 1, vec![3]), &ones((1, 2, 8)));
        assert_eq!(together[40..80], alone);
        assert_eq!(shorter, alone[..16]);
        assert_ne!(together[..40], alone);
        assert!(Dropout::new(0.5, 1, vec![3]).apply(0, &ones((2, 2, 8))).is_err());
    }

    #[test]
    fn gradients_flow_through_what_is_kept() {
        let x = Var::from_tensor(&Tensor::ones((1, 64), DType::F32, &Device::Cpu).unwrap()).unwrap();
        let y = Dropout::new(0.5, 3, vec![0]).apply(0, &x).unwrap();
        let gradient = y.sum_all().unwrap().backward().unwrap().get(&x).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(gradient, y.to_vec2::<f32>().unwrap());
    }
}
