use candle_core::{DType, Result, Tensor, bail};

use super::heads::{MULTIPLE, Windows};
use super::launch::Made;
use super::node::{GpuOp, Pass};
use super::softmax::{Places, window_softmax};

/// [`window_attention`](crate::ops::window_attention) with its arguments: a fifth one where positions are decomposed.
pub(crate) struct WindowAttentionOp {
    pub(crate) heads: usize,
    pub(crate) window: usize,
}

impl GpuOp for WindowAttentionOp {
    const NAME: &'static str = "window_attention";

    fn forward(&self, args: &[Tensor]) -> Result<(Made, Vec<Tensor>)> {
        let (qkv, fill) = (&args[0], &args[1]);
        let (batch, height, width, packed) = qkv.dims4()?;
        let (channels, depth, side) = (packed / 3, packed / 3 / self.heads, self.window);
        let windows = Windows { batch, height, width, side, heads: self.heads, depth };
        let scale = (depth as f64).powf(-0.5);
        let q = windows.out_of(qkv, fill, 0, 1.0)?;
        let scores = {
            let k = windows.out_of(qkv, fill, channels, 1.0)?;
            // in f16 the products of large queries and keys would overflow on their way to scores that do not
            match qkv.dtype() {
                DType::F16 => windows.out_of(qkv, fill, 0, scale)?.matmul(&k.t()?)?,
                _ => q.matmul(&k.t()?)?,
            }
        };
        let scale = if qkv.dtype() == DType::F16 { 1.0 } else { scale };
        let p = match &args[2..] {
            [bias] => window_softmax(&scores, Places::Bias(bias), side, self.heads, scale)?,
            [down, right] => {
                // of every query with the vectors of all distances
                let rest = (2 * down.dim(0)?).next_multiple_of(MULTIPLE) - 2 * down.dim(0)?;
                let mut vectors = vec![down.clone(), right.clone()];
                if rest > 0 {
                    vectors.push(Tensor::zeros((rest, depth), q.dtype(), q.device())?);
                }
                let distances = q.reshape(((), depth))?.matmul(&Tensor::cat(&vectors, 0)?.t()?)?;
                window_softmax(&scores, Places::Distances(&distances), side, self.heads, scale)?
            }
            more => bail!("window_attention of {} arguments", more.len() + 2),
        };
        drop(scores);
        let attended = p.tensor().matmul(&windows.out_of(qkv, fill, 2 * channels, 1.0)?)?;
        Ok((windows.images_of(&attended)?, Vec::new()))
    }

    fn backward(&self, _: Pass<'_>) -> Result<Vec<Option<Tensor>>> {
        bail!("window_attention: there is no backward pass")
    }
}
