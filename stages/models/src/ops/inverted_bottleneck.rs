use super::activation::{Activation, activation, gelu};
use super::depthwise::{self, KERNEL, depthwise_row, out_side};
use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::linear::linear;
use super::matrix::{Matrix, MatrixMut, Threads, Write, multiply};
use super::real::{Real, add, vectorised};
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// Weights of an inverted bottleneck (Sandler et al., "MobileNetV2"): every batch norm is folded into its convolution.
#[derive(Clone, Debug)]
pub struct InvertedBottleneck {
    /// `[M, I]`
    pub expand_weight: Tensor,
    /// `[M]`
    pub expand_bias_m: Tensor,
    /// `[3, 3, M]`
    pub depthwise_weight_hwm: Tensor,
    /// `[M]`
    pub depthwise_bias_m: Tensor,
    /// `[O, M]`
    pub project_weight: Tensor,
    /// `[O]`
    pub project_bias_o: Tensor,
    /// Of the depthwise convolution.
    pub stride: usize,
    /// The input is added to the output, and the sum goes through the activation once more.
    pub residual: bool,
}

/// Output rows that one task computes one after the other. Each task repeats two expanded rows of its neighbours.
const ROWS_PER_TASK: usize = 32;

/// 1 x 1 convolution, GELU, depthwise 3 x 3 convolution, GELU, 1 x 1 convolution; inference only.
///
/// `x_bhwi [B, H, W, I]`; returns `[B, H', W', O]`. The expanded image, several times as large as input and output, is
/// never whole in memory on the CPU: three of its rows are, and they stay in the cache.
///
/// # Errors
/// Shapes other than these, a stride of zero, or a residual between different shapes.
pub fn inverted_bottleneck(x_bhwi: &Tensor, weights: &InvertedBottleneck) -> Result<Tensor> {
    let w = weights;
    let op = Op { stride: w.stride, residual: w.residual };
    let args = [
        x_bhwi,
        &w.expand_weight,
        &w.expand_bias_m,
        &w.depthwise_weight_hwm,
        &w.depthwise_bias_m,
        &w.project_weight,
        &w.project_bias_o,
    ];
    if has_kernel(x_bhwi) {
        return apply(op, &args);
    }
    op.sizes(&args.map(Tensor::dims))?;
    composed(x_bhwi, weights)
}

fn composed(x: &Tensor, w: &InvertedBottleneck) -> Result<Tensor> {
    let expanded = activation(&linear(x, &w.expand_weight, Some(&w.expand_bias_m))?, Activation::Gelu)?;
    let mixed = depthwise::composed(&expanded, &w.depthwise_weight_hwm, &w.depthwise_bias_m, w.stride)?;
    let y = linear(&activation(&mixed, Activation::Gelu)?, &w.project_weight, Some(&w.project_bias_o))?;
    if w.residual { activation(&(y + x)?, Activation::Gelu) } else { Ok(y) }
}

struct Op {
    stride: usize,
    residual: bool,
}

struct Sizes {
    height: usize,
    width: usize,
    inputs: usize,
    expanded: usize,
    outputs: usize,
    out_height: usize,
    out_width: usize,
}

impl Op {
    fn sizes(&self, dims: &[&[usize]]) -> Result<Sizes> {
        let (&[_, height, width, inputs], &[expanded, _], &[outputs, _]) = (dims[0], dims[1], dims[5]) else {
            bail!("inverted_bottleneck: input {:?}, weights {:?} and {:?}", dims[0], dims[1], dims[5])
        };
        let expected: [&[usize]; 6] = [
            &[expanded, inputs],
            &[expanded],
            &[KERNEL, KERNEL, expanded],
            &[expanded],
            &[outputs, expanded],
            &[outputs],
        ];
        for (found, expected) in dims[1..].iter().zip(expected) {
            if *found != expected {
                bail!("inverted_bottleneck: input {:?} wants a weight {expected:?}, found {found:?}", dims[0])
            }
        }
        if [height, width, inputs, expanded, outputs, self.stride].contains(&0) {
            bail!("inverted_bottleneck: input {:?}, stride {}", dims[0], self.stride)
        }
        let [out_height, out_width] = [height, width].map(|side| out_side(side, self.stride));
        if self.residual && (outputs, out_height, out_width) != (inputs, height, width) {
            bail!("inverted_bottleneck: input {:?} cannot be added to {outputs} channels", dims[0])
        }
        Ok(Sizes { height, width, inputs, expanded, outputs, out_height, out_width })
    }
}

impl CpuOp for Op {
    const NAME: &'static str = "inverted_bottleneck";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        let s = self.sizes(&args.iter().map(|arg| arg.dims).collect::<Vec<_>>())?;
        let batch = args[0].dims[0];
        let out_row = s.out_width * s.outputs;
        let mut out = vec![T::zero(); batch * s.out_height * out_row];
        let images = args[0].data.par_chunks(s.height * s.width * s.inputs);
        out.par_chunks_mut(s.out_height * out_row).zip(images).for_each(|(out, image)| {
            out.par_chunks_mut(ROWS_PER_TASK * out_row).enumerate().for_each(|(task, out)| {
                let mut strip = Strip::new(&s, image, args);
                for (i, out) in out.chunks_exact_mut(out_row).enumerate() {
                    self.row(&mut strip, task * ROWS_PER_TASK + i, out);
                }
            });
        });
        Ok(Forward::new(out, &[batch, s.out_height, s.out_width, s.outputs]))
    }

    fn backward<T: Real>(&self, _: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        bail!("inverted_bottleneck: there is no backward pass")
    }
}

impl Op {
    fn row<T: Real>(&self, strip: &mut Strip<'_, T>, y: usize, out: &mut [T]) {
        let centre = y * self.stride;
        let around = [centre.checked_sub(1), Some(centre), Some(centre + 1)];
        let around = around.map(|y| y.filter(|&y| y < strip.sizes.height));
        around.into_iter().flatten().for_each(|y| strip.expand(y));
        let Strip { sizes: s, image, args, rows, mixed, .. } = strip;
        let rows = around.map(|y| y.map(|y| rows[y % KERNEL].as_slice()));
        depthwise_row(rows, args[3].data, args[4].data, self.stride, mixed);
        gelu_in_place(mixed);
        let x = &image[centre * s.width * s.inputs..];
        project(mixed, (args[5].data, args[6].data), self.residual.then_some(x), out);
    }
}

/// One task's view of an image: its last three expanded rows.
struct Strip<'a, T> {
    sizes: &'a Sizes,
    image: &'a [T],
    args: &'a [View<'a, T>],
    /// Expanded row y is at y modulo 3.
    rows: [Vec<T>; KERNEL],
    held: [Option<usize>; KERNEL],
    mixed: Vec<T>,
}

impl<'a, T: Real> Strip<'a, T> {
    fn new(sizes: &'a Sizes, image: &'a [T], args: &'a [View<'a, T>]) -> Self {
        let row = || vec![T::zero(); sizes.width * sizes.expanded];
        let mixed = vec![T::zero(); sizes.out_width * sizes.expanded];
        Self { sizes, image, args, rows: [row(), row(), row()], held: [None; KERNEL], mixed }
    }

    fn expand(&mut self, y: usize) {
        if self.held[y % KERNEL] == Some(y) {
            return;
        }
        let s = self.sizes;
        let x = &self.image[y * s.width * s.inputs..][..s.width * s.inputs];
        let row = &mut self.rows[y % KERNEL];
        linear_into(x, self.args[1].data, self.args[2].data, row);
        gelu_in_place(row);
        self.held[y % KERNEL] = Some(y);
    }
}

/// `x [rows, I]`, `weight [O, I]`: out = x weight^T + bias, on this thread.
fn linear_into<T: Real>(x: &[T], weight: &[T], bias: &[T], out: &mut [T]) {
    let outputs = bias.len();
    let inputs = weight.len() / outputs;
    let rows = out.len() / outputs;
    out.chunks_exact_mut(outputs).for_each(|out| out.copy_from_slice(bias));
    let (x, weight) = (Matrix::new(x, rows, inputs), Matrix::new(weight, outputs, inputs).t());
    multiply(MatrixMut::new(out, rows, outputs), Write::Add, x, weight, 1.0, Threads::One);
}

fn project<T: Real>(mixed: &[T], (weight, bias): (&[T], &[T]), residual: Option<&[T]>, out: &mut [T]) {
    linear_into(mixed, weight, bias, out);
    if let Some(x) = residual {
        vectorised(
            #[inline(always)]
            || add(out, x),
        );
        gelu_in_place(out);
    }
}

pub(crate) fn gelu_in_place<T: Real>(x: &mut [T]) {
    vectorised(
        #[inline(always)]
        || {
            for x in x.iter_mut() {
                *x = gelu(*x);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_same_values, random};
    use super::*;

    fn weights(a: &[Tensor], stride: usize, residual: bool) -> InvertedBottleneck {
        InvertedBottleneck {
            expand_weight: a[1].clone(),
            expand_bias_m: a[2].clone(),
            depthwise_weight_hwm: a[3].clone(),
            depthwise_bias_m: a[4].clone(),
            project_weight: a[5].clone(),
            project_bias_o: a[6].clone(),
            stride,
            residual,
        }
    }

    fn args(height: usize, width: usize, inputs: usize, outputs: usize) -> Vec<Tensor> {
        let dims: [&[usize]; 7] =
            [&[2, height, width, inputs], &[7, inputs], &[7], &[3, 3, 7], &[7], &[outputs, 7], &[outputs]];
        (0..).zip(dims).map(|(seed, dims)| random(dims, seed)).collect()
    }

    #[test]
    fn kernel_and_composition_agree() {
        // 70 rows are more than two tasks.
        for (height, width, outputs, stride, residual) in
            [(70, 5, 3, 1, true), (70, 5, 4, 1, false), (69, 6, 4, 2, false), (1, 1, 3, 1, true)]
        {
            assert_same_values(
                &args(height, width, 3, outputs),
                |a| inverted_bottleneck(&a[0], &weights(a, stride, residual)),
                |a| composed(&a[0], &weights(a, stride, residual)),
            );
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let a = args(4, 4, 3, 4);
        let message = inverted_bottleneck(&a[0], &weights(&a, 1, true)).unwrap_err().to_string();
        assert!(message.contains("cannot be added"), "{message}");
        let mut a = args(4, 4, 3, 3);
        a[4] = random(&[6], 1);
        let message = inverted_bottleneck(&a[0], &weights(&a, 1, true)).unwrap_err().to_string();
        assert!(message.contains("[7]") && message.contains("[6]"), "{message}");
    }
}
