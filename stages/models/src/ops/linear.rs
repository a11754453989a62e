#[cfg(feature = "cuda")]
use super::cuda;
use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::matrix::{Matrix, MatrixMut, Threads, Write, column_sums, multiply, product, repeated};
use super::real::Real;
use candle_core::{Result, Tensor, bail};

/// y = x w^T + b, over the last dimension.
///
/// `x [.., I]`, `w_oi [O, I]`, `b [O]`; returns `[.., O]`.
///
/// # Errors
/// Shapes other than these.
pub fn linear(x: &Tensor, w_oi: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if has_kernel(x) {
        let op = Linear { transposed: false };
        return match bias {
            Some(bias) => apply(op, &[x, w_oi, bias]),
            None => apply(op, &[x, w_oi]),
        };
    }
    check(x.dims(), w_oi.dims(), bias.map(Tensor::dims))?;
    #[cfg(feature = "cuda")]
    if let Some(bias) = bias
        && cuda::applies(x)
    {
        return cuda::apply(cuda::LinearOp, &[x, w_oi, bias]);
    }
    composed(x, &w_oi.t()?, bias)
}

fn check(x: &[usize], w_oi: &[usize], bias: Option<&[usize]>) -> Result<()> {
    match (x.last(), w_oi) {
        (Some(&width), &[outputs, inputs]) if width == inputs && bias.is_none_or(|bias| bias == [outputs]) => Ok(()),
        _ => bail!("linear: input {x:?} does not fit weight {w_oi:?} and bias {bias:?}"),
    }
}

/// y = x w, over the last dimension: CLIP stores its two projections this way round.
///
/// `x [.., I]`, `w_io [I, O]`; returns `[.., O]`.
///
/// # Errors
/// Shapes other than these.
pub fn project(x: &Tensor, w_io: &Tensor) -> Result<Tensor> {
    if has_kernel(x) {
        return apply(Linear { transposed: true }, &[x, w_io]);
    }
    composed(x, w_io, None)
}

fn composed(x: &Tensor, w_io: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let Some(last) = dims.last_mut() else { bail!("linear: a scalar has no last dimension") };
    let inputs = std::mem::replace(last, w_io.dim(1)?);
    let y = x.reshape(((), inputs))?.matmul(w_io)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    y.reshape(dims)
}

struct Linear {
    /// The weight is stored as `[I, O]`.
    transposed: bool,
}

struct Sizes {
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    fn sizes<T>(&self, args: &[View<'_, T>]) -> Result<Sizes> {
        let (x, w) = (&args[0], &args[1]);
        let (&[first, second], Some(&inputs)) = (w.dims, x.dims.last()) else {
            bail!("linear: input {:?}, weight {:?}", x.dims, w.dims)
        };
        let (expected, outputs) = if self.transposed { (first, second) } else { (second, first) };
        if expected != inputs {
            bail!("linear: input {:?} does not fit weight {:?}", x.dims, w.dims)
        }
        if let Some(bias) = args.get(2)
            && bias.dims != [outputs]
        {
            bail!("linear: bias {:?} does not fit weight {:?}", bias.dims, w.dims)
        }
        Ok(Sizes { rows: x.dims[..x.dims.len() - 1].iter().product(), inputs, outputs })
    }
}

impl CpuOp for Linear {
    const NAME: &'static str = "linear";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        let Sizes { rows, inputs, outputs } = self.sizes(args)?;
        let bias = args.get(2).map(|bias| bias.data);
        let out = if self.transposed {
            product(Matrix::new(args[0].data, rows, inputs), Matrix::new(args[1].data, inputs, outputs))
        } else {
            linear_forward(args[0].data, args[1].data, bias, rows, inputs, outputs)
        };
        let mut dims = args[0].dims.to_vec();
        *dims.last_mut().expect("checked by sizes()") = outputs;
        Ok(Forward::new(out, &dims))
    }

    fn backward<T: Real>(&self, pass: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        let Sizes { rows, inputs, outputs } = self.sizes(pass.args)?;
        let (x, w, grad) = (pass.args[0].data, pass.args[1].data, pass.grad);
        let grad_x = pass.needed[0].then(|| {
            if !self.transposed {
                return linear_grad_x(grad, w, rows, inputs, outputs);
            }
            product(Matrix::new(grad, rows, outputs), Matrix::new(w, inputs, outputs).t())
        });
        let grad_w = pass.needed[1].then(|| {
            // d(x w) / dw is the same product with the roles of input and output exchanged.
            if self.transposed {
                linear_grad_w(grad, x, rows, outputs, inputs)
            } else {
                linear_grad_w(x, grad, rows, inputs, outputs)
            }
        });
        let mut grads = vec![grad_x, grad_w];
        if let Some(&needed) = pass.needed.get(2) {
            grads.push(needed.then(|| column_sums(grad, outputs)));
        }
        Ok(grads)
    }
}

/// `x [rows, inputs]`, `w [outputs, inputs]`: y = x w^T + b.
pub(crate) fn linear_forward<T: Real>(
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    rows: usize,
    inputs: usize,
    outputs: usize,
) -> Vec<T> {
    let (x, w) = (Matrix::new(x, rows, inputs), Matrix::new(w, outputs, inputs).t());
    let Some(bias) = bias else {
        return product(x, w);
    };
    let mut out = repeated(bias, rows);
    multiply(MatrixMut::new(&mut out, rows, outputs), Write::Add, x, w, 1.0, Threads::All);
    out
}

/// dx = dy w.
pub(super) fn linear_grad_x<T: Real>(grad: &[T], w: &[T], rows: usize, inputs: usize, outputs: usize) -> Vec<T> {
    product(Matrix::new(grad, rows, outputs), Matrix::new(w, outputs, inputs))
}

/// dw = dy^T x.
pub(super) fn linear_grad_w<T: Real>(x: &[T], grad: &[T], rows: usize, inputs: usize, outputs: usize) -> Vec<T> {
    product(Matrix::new(grad, rows, outputs).t(), Matrix::new(x, rows, inputs))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, assert_same_as_composed, random};
    use super::*;

    #[test]
    fn gradients_agree_with_finite_differences() {
        let (x, w, b) = (random(&[2, 3, 5], 1), random(&[4, 5], 2), random(&[4], 3));
        assert_gradients(&[x.clone(), w, b], |a| linear(&a[0], &a[1], Some(&a[2])));
        assert_gradients(&[x, random(&[5, 4], 4)], |a| project(&a[0], &a[1]));
    }

    #[test]
    fn kernel_and_composition_agree() {
        let (x, w, b) = (random(&[7, 5], 1), random(&[4, 5], 2), random(&[4], 3));
        assert_same_as_composed(
            &[x, w, b],
            |a| linear(&a[0], &a[1], Some(&a[2])),
            |a| composed(&a[0], &a[1].t()?, Some(&a[2])),
        );
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let (x, w) = (random(&[2, 3], 1), random(&[4, 5], 2));
        let message = linear(&x, &w, None).unwrap_err().to_string();
        assert!(message.contains("[2, 3]") && message.contains("[4, 5]"), "{message}");
    }
}
