use candle_core::{Result, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::RefCell;

/// Dropout (Srivastava et al. 2014) of one training step: a share of the values becomes zero, the others grow by
/// 1 / (1 - share), so that the mean stays.
///
/// candle draws from the thread's generator; this one has a seed of its own, so that a step can be repeated.
#[derive(Debug)]
pub struct Dropout {
    share: f32,
    rng: RefCell<ChaCha8Rng>,
}

impl Dropout {
    /// `share` is in [0, 1). The same seed drops the same values in the same sequence of calls.
    pub fn new(share: f64, seed: u64) -> Self {
        Self { share: share as f32, rng: RefCell::new(ChaCha8Rng::seed_from_u64(seed)) }
    }

    /// Drops values of `x`, of any shape.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (kept, threshold) = (1.0 / (1.0 - self.share), (f64::from(self.share) * 65536.0) as u32);
        let mut rng = self.rng.borrow_mut();
        // sixteen random bits decide about a value: two values of each draw
        let mut mask = Vec::with_capacity(x.elem_count() + 1);
        while mask.len() < x.elem_count() {
            let bits: u32 = rng.random();
            mask.extend([bits & 0xffff, bits >> 16].map(|b| if b < threshold { 0f32 } else { kept }));
        }
        mask.truncate(x.elem_count());
        x * Tensor::from_vec(mask, x.dims(), x.device())?.to_dtype(x.dtype())?
    }

    /// `after` with dropout of what was added to `before`: dropout of residual branches, seen from outside.
    pub(crate) fn of_difference(dropout: Option<&Self>, before: &Tensor, after: Tensor) -> Result<Tensor> {
        match dropout {
            Some(dropout) => before + dropout.apply(&(after - before)?)?,
            None => Ok(after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};

    #[test]
    fn the_share_is_dropped_the_mean_stays_and_the_seed_decides() {
        let x = Tensor::ones((100, 100), DType::F32, &Device::Cpu).unwrap();
        let values =
            |seed| Dropout::new(0.25, seed).apply(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let dropped = values(1);
        let zeros = dropped.iter().filter(|v| **v == 0.0).count();
        assert!((2300..2700).contains(&zeros), "{zeros}");
        assert!(dropped.iter().all(|v| *v == 0.0 || (*v - 4.0 / 3.0).abs() < 1e-6));
        assert_eq!(dropped, values(1));
        assert_ne!(dropped, values(2));
    }

    #[test]
    fn gradients_flow_through_what_is_kept() {
        let x = Var::from_tensor(&Tensor::ones(64, DType::F32, &Device::Cpu).unwrap()).unwrap();
        let y = Dropout::new(0.5, 3).apply(&x).unwrap();
        let gradient = y.sum_all().unwrap().backward().unwrap().get(&x).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(gradient, y.to_vec1::<f32>().unwrap());
    }
}
