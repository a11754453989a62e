use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::real::Real;
use candle_core::{Result, Tensor, bail};

/// Takes one row of each sequence.
///
/// `x_bld [B, L, D]`, `rows` with B entries below L; returns `[B, D]`.
///
/// # Errors
/// Not three dimensions, another number of rows than B, or a row that a sequence has not.
pub fn select_rows(x_bld: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let (batch, length, width) = x_bld.dims3()?;
    if rows.len() != batch || rows.iter().any(|&row| row as usize >= length) {
        bail!("select_rows: {} rows {rows:?} of sequences {:?}", rows.len(), x_bld.dims())
    }
    if has_kernel(x_bld) {
        return apply(SelectRows { rows: rows.to_vec() }, &[x_bld]);
    }
    let flat: Vec<u32> = (0..).zip(rows).map(|(sample, row)| sample * length as u32 + row).collect();
    let flat = Tensor::from_vec(flat, batch, x_bld.device())?;
    x_bld.reshape((batch * length, width))?.index_select(&flat, 0)
}

struct SelectRows {
    rows: Vec<u32>,
}

impl CpuOp for SelectRows {
    const NAME: &'static str = "select_rows";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        let (length, width) = (args[0].dims[1], args[0].dims[2]);
        let out = gather(args[0].data, &self.rows, length, width);
        Ok(Forward::new(out, &[self.rows.len(), width]))
    }

    fn backward<T: Real>(&self, pass: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        let (length, width) = (pass.args[0].dims[1], pass.args[0].dims[2]);
        let mut out = vec![T::zero(); pass.args[0].data.len()];
        scatter_add(&mut out, pass.grad, &self.rows, length, width);
        Ok(vec![Some(out)])
    }
}

/// `x [B, L, D]`, one row of each sequence to `[B, D]`.
pub(super) fn gather<T: Real>(x: &[T], rows: &[u32], length: usize, width: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(rows.len() * width);
    for (sample, &row) in rows.iter().enumerate() {
        out.extend_from_slice(&x[(sample * length + row as usize) * width..][..width]);
    }
    out
}

/// The reverse: adds `[B, D]` to one row of each sequence of `out [B, L, D]`.
pub(super) fn scatter_add<T: Real>(out: &mut [T], grad: &[T], rows: &[u32], length: usize, width: usize) {
    for (sample, &row) in rows.iter().enumerate() {
        let to = &mut out[(sample * length + row as usize) * width..][..width];
        for (to, &grad) in to.iter_mut().zip(&grad[sample * width..]) {
            *to += grad;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, random};
    use super::*;
    use candle_core::DType;

    #[test]
    fn gradients_agree_with_finite_differences() {
        assert_gradients(&[random(&[3, 4, 5], 1)], |a| select_rows(&a[0], &[3, 0, 2]));
    }

    #[test]
    fn kernel_and_composition_agree() {
        let x = random(&[3, 4, 5], 1).to_dtype(DType::BF16).unwrap();
        let composed = select_rows(&x, &[3, 0, 2]).unwrap().to_dtype(DType::F32).unwrap();
        let kernel = select_rows(&x.to_dtype(DType::F32).unwrap(), &[3, 0, 2]).unwrap();
        assert_eq!(composed.to_vec2::<f32>().unwrap(), kernel.to_vec2::<f32>().unwrap());
    }

    #[test]
    fn rows_beyond_the_sequence_are_errors() {
        assert!(select_rows(&random(&[1, 4, 5], 1), &[4]).is_err());
        assert!(select_rows(&random(&[2, 4, 5], 1), &[0]).is_err());
    }
}
