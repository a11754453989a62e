use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::half::widen;
use super::real::{Real, vectorised};
use super::unfold::Unfold;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// Side of every depthwise kernel here.
pub(super) const KERNEL: usize = 3;

/// Depthwise 3 x 3 convolution with channels last and one pixel of zeros around the image; inference only.
///
/// `x_bhwc [B, H, W, C]`, `weight_hwc [3, 3, C]`, `bias_c [C]`; returns `[B, H', W', C]` with H' = (H - 1) / stride + 1.
///
/// # Errors
/// Shapes other than these, or a stride of zero.
pub fn depthwise_conv(x_bhwc: &Tensor, weight_hwc: &Tensor, bias_c: &Tensor, stride: usize) -> Result<Tensor> {
    let op = Depthwise { stride };
    if has_kernel(x_bhwc) {
        return apply(op, &[x_bhwc, weight_hwc, bias_c]);
    }
    composed(x_bhwc, weight_hwc, bias_c, stride)
}

pub(super) fn composed(x_bhwc: &Tensor, weight_hwc: &Tensor, bias_c: &Tensor, stride: usize) -> Result<Tensor> {
    let channels = x_bhwc.dim(3)?;
    if weight_hwc.dims() != [KERNEL, KERNEL, channels]
        || bias_c.dims() != [channels]
        || stride == 0
        || x_bhwc.elem_count() == 0
    {
        bail!("depthwise_conv: input {:?}, weight {:?}, bias {:?}", x_bhwc.dims(), weight_hwc.dims(), bias_c.dims())
    }
    let weight = widen(&weight_hwc.reshape((KERNEL * KERNEL, channels))?)?;
    let places = Unfold { kernel: KERNEL, stride, padding: 1 }.places(x_bhwc)?;
    let mut sum = places[0].zeros_like()?.to_dtype(weight.dtype())?.broadcast_add(&widen(bias_c)?)?;
    for (at, pixels) in places.iter().enumerate() {
        sum = (sum + widen(pixels)?.broadcast_mul(&weight.get(at)?)?)?;
    }
    sum.to_dtype(x_bhwc.dtype())
}

struct Depthwise {
    stride: usize,
}

impl CpuOp for Depthwise {
    const NAME: &'static str = "depthwise_conv";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        let (x, weight, bias) = (args[0], args[1], args[2]);
        let &[batch, height, width, channels] = x.dims else { bail!("depthwise_conv: input {:?}", x.dims) };
        if weight.dims != [KERNEL, KERNEL, channels] || bias.dims != [channels] {
            bail!("depthwise_conv: input {:?}, weight {:?}, bias {:?}", x.dims, weight.dims, bias.dims)
        }
        if [height, width, channels, self.stride].contains(&0) {
            bail!("depthwise_conv: input {:?} with stride {}", x.dims, self.stride)
        }
        let [out_height, out_width] = [height, width].map(|side| out_side(side, self.stride));
        let mut out = vec![T::zero(); batch * out_height * out_width * channels];
        out.par_chunks_mut(out_width * channels).enumerate().for_each(|(row, out)| {
            let image = &x.data[row / out_height * height * width * channels..][..height * width * channels];
            let centre = row % out_height * self.stride;
            let rows = std::array::from_fn(|i| {
                let y = (centre + i).checked_sub(1).filter(|&y| y < height)?;
                Some(&image[y * width * channels..][..width * channels])
            });
            depthwise_row(rows, weight.data, bias.data, self.stride, out);
        });
        Ok(Forward::new(out, &[batch, out_height, out_width, channels]))
    }

    fn backward<T: Real>(&self, _: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        bail!("depthwise_conv: there is no backward pass")
    }
}

/// Length of an image side after a convolution with one pixel of padding.
pub(super) fn out_side(side: usize, stride: usize) -> usize {
    (side - 1) / stride + 1
}

/// One output row `[W', C]` from the three input rows `[W, C]` around it; `None` is a row of padding.
pub(super) fn depthwise_row<T: Real>(
    rows: [Option<&[T]>; KERNEL],
    weight: &[T],
    bias: &[T],
    stride: usize,
    out: &mut [T],
) {
    vectorised(
        #[inline(always)]
        || {
            let channels = bias.len();
            for (x, out) in out.chunks_exact_mut(channels).enumerate() {
                out.copy_from_slice(bias);
                for (row, weight) in rows.iter().zip(weight.chunks_exact(KERNEL * channels)) {
                    let Some(row) = row else { continue };
                    add_taps(row, weight, x * stride, out);
                }
            }
        },
    );
}

/// Adds what the kernel's row sees around column `centre`.
#[inline(always)]
fn add_taps<T: Real>(row: &[T], weight: &[T], centre: usize, out: &mut [T]) {
    let channels = out.len();
    let width = row.len() / channels;
    let (left, rest) = weight.split_at(channels);
    let (middle, right) = rest.split_at(channels);
    if centre > 0 && centre + 1 < width {
        let pixels = &row[(centre - 1) * channels..][..KERNEL * channels];
        let (a, rest) = pixels.split_at(channels);
        let (b, c) = rest.split_at(channels);
        let taps = a.iter().zip(left).zip(b.iter().zip(middle)).zip(c.iter().zip(right));
        for (out, (((&a, &l), (&b, &m)), (&c, &r))) in out.iter_mut().zip(taps) {
            *out = a.mul_add(l, b.mul_add(m, c.mul_add(r, *out)));
        }
        return;
    }
    for (tap, weight) in [left, middle, right].into_iter().enumerate() {
        if let Some(x) = (centre + tap).checked_sub(1).filter(|&x| x < width) {
            for ((out, &x), &w) in out.iter_mut().zip(&row[x * channels..]).zip(weight) {
                *out = x.mul_add(w, *out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_same_values, random};
    use super::*;

    #[test]
    fn kernel_and_composition_agree() {
        for (height, width, stride) in [(5, 6, 1), (5, 6, 2), (8, 7, 2), (1, 1, 1), (1, 3, 2)] {
            let args = [random(&[2, height, width, 5], 1), random(&[3, 3, 5], 2), random(&[5], 3)];
            assert_same_values(
                &args,
                |a| depthwise_conv(&a[0], &a[1], &a[2], stride),
                |a| composed(&a[0], &a[1], &a[2], stride),
            );
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let x = random(&[1, 4, 4, 2], 1);
        let message = depthwise_conv(&x, &random(&[3, 3, 4], 2), &random(&[2], 3), 1).unwrap_err().to_string();
        assert!(message.contains("[3, 3, 4]"), "{message}");
        assert!(depthwise_conv(&x, &random(&[3, 3, 2], 2), &random(&[2], 3), 0).is_err());
    }
}
