#[cfg(feature = "cuda")]
use super::cuda;
use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::matrix::column_sums;
use super::real::{Real, vectorised};
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// Puts a class token before each sequence, if there is one, and adds position embeddings.
///
/// `tokens_bld [B, L, D]`, `positions_ld [P, D]` with P at least the resulting length (the first rows are used),
/// `class_d [D]`; returns `[B, L, D]`, or `[B, L + 1, D]` with a class token.
///
/// # Errors
/// Shapes other than these, or fewer positions than tokens.
pub fn add_positions(tokens_bld: &Tensor, positions_ld: &Tensor, class_d: Option<&Tensor>) -> Result<Tensor> {
    let sizes = Sizes::new(tokens_bld.dims(), positions_ld.dims(), class_d.map(Tensor::dims))?;
    let args: Vec<&Tensor> = [tokens_bld, positions_ld].into_iter().chain(class_d).collect();
    if has_kernel(tokens_bld) {
        return apply(AddPositions, &args);
    }
    #[cfg(feature = "cuda")]
    if cuda::applies(tokens_bld) {
        return cuda::apply(cuda::PositionsOp, &args);
    }
    let Sizes { batch, length, width, .. } = sizes;
    let Some(class) = class_d else {
        return tokens_bld.broadcast_add(&positions_ld.narrow(0, 0, length)?);
    };
    let class = class.reshape((1, 1, width))?.broadcast_as((batch, 1, width))?;
    Tensor::cat(&[&class, tokens_bld], 1)?.broadcast_add(&positions_ld.narrow(0, 0, length + 1)?)
}

struct AddPositions;

struct Sizes {
    batch: usize,
    /// Length without the class token.
    length: usize,
    width: usize,
    /// 1 with a class token, 0 without.
    class: usize,
}

impl Sizes {
    fn new(tokens: &[usize], positions: &[usize], class: Option<&[usize]>) -> Result<Self> {
        let (&[batch, length, width], &[count, depth]) = (tokens, positions) else {
            bail!("add_positions: tokens {tokens:?}, positions {positions:?}")
        };
        if depth != width || count < length + usize::from(class.is_some()) || width == 0 {
            bail!("add_positions: tokens {tokens:?} do not fit positions {positions:?}")
        }
        if class.is_some_and(|class| class != [width]) {
            bail!("add_positions: tokens {tokens:?}, class token {class:?}")
        }
        Ok(Self { batch, length, width, class: usize::from(class.is_some()) })
    }

    fn of<T>(args: &[View<'_, T>]) -> Result<Self> {
        Self::new(args[0].dims, args[1].dims, args.get(2).map(|class| class.dims))
    }
}

impl CpuOp for AddPositions {
    const NAME: &'static str = "add_positions";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        let Sizes { batch, length, width, class } = Sizes::of(args)?;
        let total = length + class;
        let mut out = vec![T::zero(); batch * total * width];
        out.par_chunks_mut((total * width).max(1)).enumerate().for_each(|(sample, out)| {
            let tokens = &args[0].data[sample * length * width..][..length * width];
            if let Some(class) = args.get(2) {
                out[..width].copy_from_slice(class.data);
            }
            out[class * width..].copy_from_slice(tokens);
            vectorised(
                #[inline(always)]
                || out.iter_mut().zip(args[1].data).for_each(|(x, &position)| *x += position),
            );
        });
        Ok(Forward::new(out, &[batch, total, width]))
    }

    fn backward<T: Real>(&self, pass: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        let Sizes { batch, length, width, class } = Sizes::of(pass.args)?;
        let total = length + class;
        let mut positions = column_sums(pass.grad, total * width);
        let class_token = (class == 1).then(|| positions[..width].to_vec());
        positions.resize(pass.args[1].data.len(), T::zero());
        let tokens = if class == 0 {
            pass.grad.to_vec()
        } else {
            let mut tokens = Vec::with_capacity(batch * length * width);
            for sample in pass.grad.chunks_exact(total * width) {
                tokens.extend_from_slice(&sample[width..]);
            }
            tokens
        };
        let mut grads = vec![Some(tokens), Some(positions)];
        if class == 1 {
            grads.push(class_token);
        }
        Ok(grads)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, random};
    use super::*;
    use candle_core::DType;

    #[test]
    fn gradients_agree_with_finite_differences() {
        let (tokens, positions, class) = (random(&[3, 2, 4], 1), random(&[5, 4], 2), random(&[4], 3));
        assert_gradients(&[tokens.clone(), positions.clone()], |a| add_positions(&a[0], &a[1], None));
        assert_gradients(&[tokens, positions, class], |a| add_positions(&a[0], &a[1], Some(&a[2])));
    }

    #[test]
    fn kernel_and_composition_agree() {
        let args = [random(&[3, 2, 4], 1), random(&[5, 4], 2), random(&[4], 3)];
        let kernel = add_positions(&args[0], &args[1], Some(&args[2])).unwrap();
        let half = args.map(|x| x.to_dtype(DType::BF16).unwrap());
        let composed = add_positions(&half[0], &half[1], Some(&half[2])).unwrap();
        let difference = (kernel - composed.to_dtype(DType::F64).unwrap()).unwrap().abs().unwrap();
        assert!(difference.max_all().unwrap().to_scalar::<f64>().unwrap() < 0.05);
    }

    #[test]
    fn too_few_positions_are_an_error() {
        assert!(add_positions(&random(&[1, 3, 4], 1), &random(&[2, 4], 2), None).is_err());
    }
}
