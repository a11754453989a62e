use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::real::Real;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// Looks up rows of a table.
///
/// `table_vd [V, D]`, `ids_bl` (`u32 [B, L]`, all below V); returns `[B, L, D]`. The gradient adds up rows that were
/// looked up more than once, in the order of their positions.
///
/// # Errors
/// Shapes or types other than these, or an id that the table has not.
pub fn embedding(table_vd: &Tensor, ids_bl: &Tensor) -> Result<Tensor> {
    let (batch, length) = ids_bl.dims2()?;
    let (vocabulary, width) = table_vd.dims2()?;
    let flat = ids_bl.flatten_all()?;
    let ids = flat.to_vec1::<u32>()?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
        bail!("embedding: id {id} is not in a vocabulary of {vocabulary}")
    }
    if has_kernel(table_vd) {
        return apply(Embedding { ids, dims: [batch, length] }, &[table_vd]);
    }
    table_vd.index_select(&flat, 0)?.reshape((batch, length, width))
}

struct Embedding {
    ids: Vec<u32>,
    dims: [usize; 2],
}

impl CpuOp for Embedding {
    const NAME: &'static str = "embedding";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        let width = args[0].dims[1];
        let mut out = vec![T::zero(); self.ids.len() * width];
        out.par_chunks_mut(width.max(1)).zip(&self.ids).for_each(|(out, &id)| {
            out.copy_from_slice(&args[0].data[id as usize * width..][..width]);
        });
        Ok(Forward::new(out, &[self.dims[0], self.dims[1], width]))
    }

    fn backward<T: Real>(&self, pass: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        let table = &pass.args[0];
        let width = table.dims[1];
        let mut out = vec![T::zero(); table.data.len()];
        for (&id, grad) in self.ids.iter().zip(pass.grad.chunks_exact(width.max(1))) {
            let row = &mut out[id as usize * width..][..width];
            for (sum, &grad) in row.iter_mut().zip(grad) {
                *sum += grad;
            }
        }
        Ok(vec![Some(out)])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, random};
    use super::*;
    use candle_core::Device;

    #[test]
    fn gradients_agree_with_finite_differences() {
        let ids = Tensor::new(&[[0u32, 2, 2], [1, 2, 0]], &Device::Cpu).unwrap();
        assert_gradients(&[random(&[4, 3], 1)], |a| embedding(&a[0], &ids));
    }

    #[test]
    fn an_id_beyond_the_vocabulary_is_an_error() {
        let ids = Tensor::new(&[[0u32, 4]], &Device::Cpu).unwrap();
        let message = embedding(&random(&[4, 3], 1), &ids).unwrap_err().to_string();
        assert!(message.contains("id 4") && message.contains("vocabulary of 4"), "{message}");
    }
}
