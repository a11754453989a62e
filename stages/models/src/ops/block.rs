use super::LAYER_NORM_EPSILON;
use super::activation::{Activation, activation, activation_backward, activation_forward};
use super::attention::{Attention, attention};
#[cfg(feature = "cuda")]
use super::cuda;
use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::layer_norm::{layer_norm, layer_norm_backward, layer_norm_forward};
use super::linear::{linear, linear_forward, linear_grad_w, linear_grad_x};
use super::matrix::column_sums;
use super::real::{Real, add, vectorised};
use super::select::{gather, scatter_add, select_rows};
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// The weights of one pre-norm Transformer block.
#[derive(Clone, Debug)]
pub struct Block {
    /// `[D]`, of the norm before attention.
    pub ln_1_weight_d: Tensor,
    /// `[D]`
    pub ln_1_bias_d: Tensor,
    /// Queries, keys and values behind each other: `[3 D, D]`.
    pub in_proj_weight: Tensor,
    /// `[3 D]`
    pub in_proj_bias: Tensor,
    /// `[D, D]`, applied to the heads' outputs.
    pub out_proj_weight: Tensor,
    /// `[D]`
    pub out_proj_bias_d: Tensor,
    /// `[D]`, of the norm before the MLP.
    pub ln_2_weight_d: Tensor,
    /// `[D]`
    pub ln_2_bias_d: Tensor,
    /// `[M, D]`
    pub fc_weight: Tensor,
    /// `[M]`
    pub fc_bias_m: Tensor,
    /// `[D, M]`
    pub proj_weight: Tensor,
    /// `[D]`
    pub proj_bias_d: Tensor,
    /// Attention heads; they divide D.
    pub heads: usize,
    /// Whether a position sees only itself and what comes before it.
    pub causal: bool,
    /// Of the hidden layer of the MLP.
    pub activation: Activation,
}

impl Block {
    fn weights(&self) -> [&Tensor; WEIGHTS] {
        [
            &self.ln_1_weight_d,
            &self.ln_1_bias_d,
            &self.in_proj_weight,
            &self.in_proj_bias,
            &self.out_proj_weight,
            &self.out_proj_bias_d,
            &self.ln_2_weight_d,
            &self.ln_2_bias_d,
            &self.fc_weight,
            &self.fc_bias_m,
            &self.proj_weight,
            &self.proj_bias_d,
        ]
    }
}

const WEIGHTS: usize = 12;

/// x + attention(norm(x)), then x + mlp(norm(x)).
///
/// `x_bld [B, L, D]`; returns `[B, L, D]`. With `rows`, one below L per sequence, everything behind the attention is
/// computed for these rows alone and `[B, D]` is returned: the last block of a network whose output is read at one
/// position needs no more.
///
/// On the CPU the whole block is one node of the graph: intermediate gradients stay inside it instead of being
/// allocated, cleared and added by candle's backward pass, and only four intermediate results are kept.
///
/// # Errors
/// Shapes other than these, heads that do not divide the width, or a row that a sequence has not.
pub fn transformer_block(x_bld: &Tensor, block: &Block, rows: Option<&[u32]>) -> Result<Tensor> {
    let (batch, length, width) = x_bld.dims3()?;
    if block.heads == 0 || width == 0 || width % block.heads != 0 {
        bail!("transformer_block: width {width} cannot be split into {} heads", block.heads)
    }
    if let Some(rows) = rows
        && (rows.len() != batch || rows.iter().any(|&row| row as usize >= length))
    {
        bail!("transformer_block: {} rows {rows:?} of sequences {:?}", rows.len(), x_bld.dims())
    }
    check_weights(width, block)?;
    #[cfg(feature = "cuda")]
    if cuda::applies(x_bld) {
        let places = |rows: &[u32]| {
            let places: Vec<u32> = (0u32..).zip(rows).map(|(sample, row)| sample * length as u32 + row).collect();
            Tensor::from_vec(places, batch, x_bld.device())
        };
        let op = cuda::BlockOp {
            attention: cuda::AttentionOp { heads: block.heads, causal: block.causal, key_valid: None },
            activation: block.activation,
            rows: rows.map(places).transpose()?,
        };
        let mut args = vec![x_bld];
        args.extend(block.weights());
        return cuda::apply(op, &args);
    }
    if !has_kernel(x_bld) {
        return composed(x_bld, block, rows);
    }
    let op = BlockOp {
        attention: Attention { heads: block.heads, causal: block.causal, key_valid: None },
        activation: block.activation,
        rows: rows.map(<[u32]>::to_vec),
    };
    let mut args = vec![x_bld];
    args.extend(block.weights());
    apply(op, &args)
}

fn check_weights(width: usize, block: &Block) -> Result<()> {
    let mlp_width = block.fc_bias_m.dims().first().copied().unwrap_or(0);
    let expected: [&[usize]; WEIGHTS] = [
        &[width],
        &[width],
        &[3 * width, width],
        &[3 * width],
        &[width, width],
        &[width],
        &[width],
        &[width],
        &[mlp_width, width],
        &[mlp_width],
        &[width, mlp_width],
        &[width],
    ];
    for (weight, expected) in block.weights().into_iter().zip(expected) {
        if weight.dims() != expected {
            bail!("transformer_block: width {width} wants a weight {expected:?}, found {:?}", weight.dims())
        }
    }
    Ok(())
}

fn composed(x: &Tensor, block: &Block, rows: Option<&[u32]>) -> Result<Tensor> {
    let b = block;
    let normed = layer_norm(x, &b.ln_1_weight_d, &b.ln_1_bias_d, LAYER_NORM_EPSILON)?;
    let qkv = linear(&normed, &b.in_proj_weight, Some(&without_key_gradient(&b.in_proj_bias)?))?;
    let attended = attention(&qkv, b.heads, b.causal, None)?;
    let (x, attended) = match rows {
        Some(rows) => (select_rows(x, rows)?, select_rows(&attended, rows)?),
        None => (x.clone(), attended),
    };
    let x = (x + linear(&attended, &b.out_proj_weight, Some(&b.out_proj_bias_d))?)?;
    let normed = layer_norm(&x, &b.ln_2_weight_d, &b.ln_2_bias_d, LAYER_NORM_EPSILON)?;
    let hidden = activation(&linear(&normed, &b.fc_weight, Some(&b.fc_bias_m))?, b.activation)?;
    x + linear(&hidden, &b.proj_weight, Some(&b.proj_bias_d))?
}

/// A shift of all keys changes no softmax: the gradient of the key bias is zero, and only rounding says otherwise. Adam
/// would blow that noise up to full steps.
fn without_key_gradient(in_proj_bias: &Tensor) -> Result<Tensor> {
    let width = in_proj_bias.dim(0)? / 3;
    let [queries, keys, values] = [0, 1, 2].map(|part| in_proj_bias.narrow(0, part * width, width));
    Tensor::cat(&[queries?, keys?.detach(), values?], 0)
}

struct BlockOp {
    attention: Attention,
    activation: Activation,
    rows: Option<Vec<u32>>,
}

/// The arguments by name.
struct Weights<'a, T> {
    ln_1: (&'a [T], &'a [T]),
    in_proj: (&'a [T], &'a [T]),
    out_proj: (&'a [T], &'a [T]),
    ln_2: (&'a [T], &'a [T]),
    fc: (&'a [T], &'a [T]),
    proj: (&'a [T], &'a [T]),
}

struct Sizes {
    batch: usize,
    length: usize,
    width: usize,
    mlp_width: usize,
    /// Rows behind the attention: all of them, or one per sequence.
    late_rows: usize,
}

impl BlockOp {
    fn open<'a, T>(&self, args: &[View<'a, T>]) -> Result<(Sizes, &'a [T], Weights<'a, T>)> {
        let &[batch, length, width] = args[0].dims else { bail!("transformer_block: input {:?}", args[0].dims) };
        let mlp_width = args[10].dims.first().copied().unwrap_or(0);
        let pair = |i: usize| (args[i].data, args[i + 1].data);
        let weights =
            Weights { ln_1: pair(1), in_proj: pair(3), out_proj: pair(5), ln_2: pair(7), fc: pair(9), proj: pair(11) };
        let late_rows = if self.rows.is_some() { batch } else { batch * length };
        let sizes = Sizes { batch, length, width, mlp_width, late_rows };
        Ok((sizes, args[0].data, weights))
    }

    fn select<T: Real>(&self, x: Vec<T>, s: &Sizes) -> Vec<T> {
        match &self.rows {
            Some(rows) => gather(&x, rows, s.length, s.width),
            None => x,
        }
    }

    /// The reverse of `select`, into zeros.
    fn spread<T: Real>(&self, grad: Vec<T>, s: &Sizes) -> Vec<T> {
        match &self.rows {
            Some(rows) => {
                let mut out = vec![T::zero(); s.batch * s.length * s.width];
                scatter_add(&mut out, &grad, rows, s.length, s.width);
                out
            }
            None => grad,
        }
    }
}

impl CpuOp for BlockOp {
    const NAME: &'static str = "transformer_block";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        let (s, x, w) = self.open(args)?;
        let all_rows = s.batch * s.length;
        let normed = layer_norm_forward(x, w.ln_1.0, w.ln_1.1, LAYER_NORM_EPSILON);
        let qkv = linear_forward(&normed, w.in_proj.0, Some(w.in_proj.1), all_rows, s.width, 3 * s.width);
        drop(normed);
        let attended = self.select(self.attention.forward_slices(&qkv, s.length, s.width), &s);

        let mut middle = linear_forward(&attended, w.out_proj.0, Some(w.out_proj.1), s.late_rows, s.width, s.width);
        match &self.rows {
            Some(rows) => add_to(&mut middle, &gather(x, rows, s.length, s.width)),
            None => add_to(&mut middle, x),
        }

        let normed = layer_norm_forward(&middle, w.ln_2.0, w.ln_2.1, LAYER_NORM_EPSILON);
        let hidden = linear_forward(&normed, w.fc.0, Some(w.fc.1), s.late_rows, s.width, s.mlp_width);
        drop(normed);
        let activated = activation_forward(&hidden, self.activation);
        let mut out = linear_forward(&activated, w.proj.0, Some(w.proj.1), s.late_rows, s.mlp_width, s.width);
        add_to(&mut out, &middle);

        let dims: &[usize] = match self.rows {
            Some(_) => &[s.batch, s.width],
            None => &[s.batch, s.length, s.width],
        };
        Ok(Forward { out, dims: dims.to_vec(), saved: vec![qkv, attended, middle, hidden] })
    }

    fn backward<T: Real>(&self, pass: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        let (s, x, w) = self.open(pass.args)?;
        let [qkv, attended, middle, hidden] = pass.saved else {
            bail!("transformer_block: the forward pass kept nothing")
        };
        let grad = pass.grad;
        let (all_rows, rows) = (s.batch * s.length, s.late_rows);
        let wants = |index: usize| pass.needed[index];

        let grad_proj_weight = wants(11).then(|| {
            let activated = activation_forward(hidden, self.activation);
            linear_grad_w(&activated, grad, rows, s.mlp_width, s.width)
        });
        let grad_proj_bias = wants(12).then(|| column_sums(grad, s.width));
        let mut grad_hidden = linear_grad_x(grad, w.proj.0, rows, s.mlp_width, s.width);
        activation_backward(hidden, &mut grad_hidden, self.activation);
        let grad_fc_weight = wants(9).then(|| {
            let normed = layer_norm_forward(middle, w.ln_2.0, w.ln_2.1, LAYER_NORM_EPSILON);
            linear_grad_w(&normed, &grad_hidden, rows, s.width, s.mlp_width)
        });
        let grad_fc_bias = wants(10).then(|| column_sums(&grad_hidden, s.mlp_width));
        let grad_normed = linear_grad_x(&grad_hidden, w.fc.0, rows, s.width, s.mlp_width);
        drop(grad_hidden);
        let ln_2 = layer_norm_backward(middle, w.ln_2.0, &grad_normed, Some(grad), LAYER_NORM_EPSILON);
        drop(grad_normed);
        let grad_middle = ln_2.x;

        let grad_out_weight = wants(5).then(|| linear_grad_w(attended, &grad_middle, rows, s.width, s.width));
        let grad_out_bias = wants(6).then(|| column_sums(&grad_middle, s.width));
        let grad_attended = linear_grad_x(&grad_middle, w.out_proj.0, rows, s.width, s.width);
        let grad_attended = self.spread(grad_attended, &s);
        let grad_qkv = self.attention.backward_slices(qkv, &grad_attended, s.length, s.width);
        drop(grad_attended);

        let grad_in_weight = wants(3).then(|| {
            let normed = layer_norm_forward(x, w.ln_1.0, w.ln_1.1, LAYER_NORM_EPSILON);
            linear_grad_w(&normed, &grad_qkv, all_rows, s.width, 3 * s.width)
        });
        let grad_in_bias = wants(4).then(|| {
            let mut sums = column_sums(&grad_qkv, 3 * s.width);
            // as `without_key_gradient` says
            sums[s.width..2 * s.width].fill(T::zero());
            sums
        });
        let grad_normed = linear_grad_x(&grad_qkv, w.in_proj.0, all_rows, s.width, 3 * s.width);
        drop(grad_qkv);
        let grad_middle = self.spread(grad_middle, &s);
        let ln_1 = layer_norm_backward(x, w.ln_1.0, &grad_normed, Some(&grad_middle), LAYER_NORM_EPSILON);

        Ok(vec![
            Some(ln_1.x),
            Some(ln_1.weight),
            Some(ln_1.bias),
            grad_in_weight,
            grad_in_bias,
            grad_out_weight,
            grad_out_bias,
            Some(ln_2.weight),
            Some(ln_2.bias),
            grad_fc_weight,
            grad_fc_bias,
            grad_proj_weight,
            grad_proj_bias,
        ])
    }
}

fn add_to<T: Real>(sum: &mut [T], x: &[T]) {
    const ELEMENTS_PER_TASK: usize = 16 * 1024;
    sum.par_chunks_mut(ELEMENTS_PER_TASK).zip(x.par_chunks(ELEMENTS_PER_TASK)).for_each(|(sum, x)| {
        vectorised(
            #[inline(always)]
            || add(sum, x),
        )
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, assert_same_as_composed, random};
    use super::*;

    fn args() -> Vec<Tensor> {
        let (width, mlp) = (4, 6);
        let dims: [&[usize]; 13] = [
            &[2, 3, width],
            &[width],
            &[width],
            &[3 * width, width],
            &[3 * width],
            &[width, width],
            &[width],
            &[width],
            &[width],
            &[mlp, width],
            &[mlp],
            &[width, mlp],
            &[width],
        ];
        (0..).zip(dims).map(|(seed, dims)| random(dims, seed)).collect()
    }

    fn block(a: &[Tensor], causal: bool) -> Block {
        Block {
            ln_1_weight_d: a[1].clone(),
            ln_1_bias_d: a[2].clone(),
            in_proj_weight: a[3].clone(),
            in_proj_bias: a[4].clone(),
            out_proj_weight: a[5].clone(),
            out_proj_bias_d: a[6].clone(),
            ln_2_weight_d: a[7].clone(),
            ln_2_bias_d: a[8].clone(),
            fc_weight: a[9].clone(),
            fc_bias_m: a[10].clone(),
            proj_weight: a[11].clone(),
            proj_bias_d: a[12].clone(),
            heads: 2,
            causal,
            activation: Activation::QuickGelu,
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        for rows in [None, Some(&[2u32, 1][..])] {
            assert_gradients(&args(), |a| transformer_block(&a[0], &block(a, true), rows));
        }
    }

    #[test]
    fn kernel_and_composition_agree() {
        for (rows, causal) in [(None, false), (None, true), (Some(&[2u32, 1][..]), false)] {
            assert_same_as_composed(
                &args(),
                |a| transformer_block(&a[0], &block(a, causal), rows),
                |a| composed(&a[0], &block(a, causal), rows),
            );
        }
    }

    #[test]
    fn the_gradient_of_key_biases_is_exactly_zero() {
        let args = args();
        let bias = candle_core::Var::from_tensor(&args[4]).unwrap();
        let mut block = block(&args, false);
        block.in_proj_bias = bias.as_tensor().clone();
        let out = transformer_block(&args[0], &block, None).unwrap().sqr().unwrap();
        let grads = out.sum_all().unwrap().backward().unwrap();
        let grad = grads.get(&bias).unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(grad[4..8], [0.0; 4]);
        assert!(grad[..4].iter().chain(&grad[8..]).all(|g| *g != 0.0), "{grad:?}");
    }

    #[test]
    fn rows_are_those_of_the_whole_result() {
        let a = args();
        let whole = transformer_block(&a[0], &block(&a, false), None).unwrap();
        let rows = transformer_block(&a[0], &block(&a, false), Some(&[2, 1])).unwrap();
        let difference = (select_rows(&whole, &[2, 1]).unwrap() - rows).unwrap().abs().unwrap();
        assert!(difference.max_all().unwrap().to_scalar::<f64>().unwrap() < 1e-14);
    }

    #[test]
    fn a_weight_of_another_shape_is_an_error() {
        let mut a = args();
        a[5] = random(&[4, 5], 1);
        let message = transformer_block(&a[0], &block(&a, false), None).unwrap_err().to_string();
        assert!(message.contains("[4, 4]") && message.contains("[4, 5]"), "{message}");
    }
}
