use candle_core::{Result, Tensor, bail};

use super::activation::number;
use super::attention::AttentionOp;
use super::launch::{self, Made};
use super::linear::rows;
use super::node::{GpuOp, Pass};
use crate::ops::LAYER_NORM_EPSILON;
use choices::Activation;

/// A pre-norm Transformer block as one node, with the arguments of [`transformer_block`](crate::ops::transformer_block):
/// gradients between its parts are neither cleared nor added up by candle, and residual sums cost no pass of their own.
pub(crate) struct BlockOp {
    pub(crate) attention: AttentionOp,
    pub(crate) activation: Activation,
    /// One row for each sequence, as places in `[B * L]`.
    pub(crate) rows: Option<Tensor>,
}

/// The weights by name, in the order of the arguments.
struct Weights<'a> {
    ln_1: [&'a Tensor; 2],
    in_proj: [&'a Tensor; 2],
    out_proj: [&'a Tensor; 2],
    ln_2: [&'a Tensor; 2],
    fc: [&'a Tensor; 2],
    proj: [&'a Tensor; 2],
}

fn open(args: &[Tensor]) -> Result<(&Tensor, Weights<'_>)> {
    if args.len() != 13 {
        bail!("transformer_block of {} arguments", args.len())
    }
    let pair = |i: usize| [&args[i], &args[i + 1]];
    let weights =
        Weights { ln_1: pair(1), in_proj: pair(3), out_proj: pair(5), ln_2: pair(7), fc: pair(9), proj: pair(11) };
    Ok((&args[0], weights))
}

fn norm(x: &Tensor, [weight, bias]: [&Tensor; 2]) -> Result<Tensor> {
    Ok(launch::layer_norm(x, weight, bias, LAYER_NORM_EPSILON)?.tensor())
}

/// x w^T + b, and `more`.
fn linear(x: &Tensor, [weight, bias]: [&Tensor; 2], more: Option<&Tensor>) -> Result<Made> {
    launch::add_bias(&x.matmul(&weight.t()?)?, bias, more)
}

impl BlockOp {
    /// Rows `[B * L, D]`, or those that are read.
    fn select(&self, x: &Tensor) -> Result<Tensor> {
        match &self.rows {
            Some(places) => x.index_select(places, 0),
            None => Ok(x.clone()),
        }
    }

    /// The reverse, into zeros.
    fn spread(&self, grad: Tensor, like: &Tensor) -> Result<Tensor> {
        match &self.rows {
            Some(places) => like.zeros_like()?.index_add(places, &grad, 0),
            None => Ok(grad),
        }
    }
}

impl GpuOp for BlockOp {
    const NAME: &'static str = "transformer_block";

    fn forward(&self, args: &[Tensor]) -> Result<(Made, Vec<Tensor>)> {
        let (x_bld, w) = open(args)?;
        let (batch, length, width) = x_bld.dims3()?;
        let x = rows(x_bld)?;
        let qkv = linear(&norm(&x, w.ln_1)?, w.in_proj, None)?.shaped((batch, length, 3 * width))?.tensor();
        let (attended, heads) = self.attention.there(&qkv)?;
        drop(qkv);
        let attended = self.select(&rows(&attended.tensor())?)?;
        let middle = linear(&attended, w.out_proj, Some(&self.select(&x)?))?.tensor();
        let hidden = linear(&norm(&middle, w.ln_2)?, w.fc, None)?.tensor();
        let activated = launch::activation(&hidden, number(self.activation))?.tensor();
        let out = linear(&activated, w.proj, Some(&middle))?;
        let out = if self.rows.is_some() { out } else { out.shaped((batch, length, width))? };
        Ok((out, [&[attended, middle, hidden][..], &heads].concat()))
    }

    fn backward(&self, pass: Pass<'_>) -> Result<Vec<Option<Tensor>>> {
        let (x_bld, w) = open(pass.args)?;
        let [attended, middle, hidden, heads @ ..] = pass.saved else {
            bail!("transformer_block: the forward pass kept nothing")
        };
        let (x, grad) = (rows(x_bld)?, rows(pass.grad)?);
        // of y = x w^T + b
        let of_weight = |x: &Tensor, grad: &Tensor| grad.t()?.matmul(x);

        let activated = launch::activation(hidden, number(self.activation))?.tensor();
        let proj_weight = pass.wanted(11, || of_weight(&activated, &grad))?;
        drop(activated);
        let proj_bias = pass.wanted(12, || launch::column_sums(&grad))?;
        let grad_activated = grad.matmul(w.proj[0])?;
        let grad_hidden = launch::activation_back(hidden, &grad_activated, number(self.activation))?.tensor();
        drop(grad_activated);
        let fc_weight = pass.wanted(9, || of_weight(&norm(middle, w.ln_2)?, &grad_hidden))?;
        let fc_bias = pass.wanted(10, || launch::column_sums(&grad_hidden))?;
        let grad_normed = grad_hidden.matmul(w.fc[0])?;
        drop(grad_hidden);
        let [grad_middle, ln_2_weight, ln_2_bias] =
            launch::layer_norm_back(middle, w.ln_2[0], &grad_normed, Some(&grad), LAYER_NORM_EPSILON)?;
        drop(grad_normed);

        let out_weight = pass.wanted(5, || of_weight(attended, &grad_middle))?;
        let out_bias = pass.wanted(6, || launch::column_sums(&grad_middle))?;
        let grad_attended = self.spread(grad_middle.matmul(w.out_proj[0])?, &x)?.reshape(x_bld.dims())?;
        let (batch, length, width) = x_bld.dims3()?;
        let grad_qkv = self.attention.back((batch, length, 3 * width), heads, &grad_attended)?;
        let grad_qkv = rows(&grad_qkv.tensor())?;
        drop(grad_attended);
        let in_weight = pass.wanted(3, || of_weight(&norm(&x, w.ln_1)?, &grad_qkv))?;
        // a shift of all keys changes no softmax: what is not zero there is rounding
        let keys = x.dim(1)?..2 * x.dim(1)?;
        let in_bias = pass.wanted(4, || launch::column_sums_but(&grad_qkv, keys))?;
        let grad_normed = grad_qkv.matmul(w.in_proj[0])?;
        drop(grad_qkv);
        let grad_middle = self.spread(grad_middle, &x)?;
        let [grad_x, ln_1_weight, ln_1_bias] =
            launch::layer_norm_back(&x, w.ln_1[0], &grad_normed, Some(&grad_middle), LAYER_NORM_EPSILON)?;

        Ok(vec![
            Some(grad_x.reshape(x_bld.dims())?),
            Some(ln_1_weight),
            Some(ln_1_bias),
            in_weight,
            in_bias,
            out_weight,
            out_bias,
            Some(ln_2_weight),
            Some(ln_2_bias),
            fc_weight,
            fc_bias,
            proj_weight,
            proj_bias,
        ])
    }
}
