#[cfg(feature = "cuda")]
use super::cuda;
use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::half::{self, softmax, widen};
use super::matrix::{Matrix, MatrixMut, Threads, Write, multiply};
use super::real::{Real, add, max_of, sum_of, vectorised};
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// What attention scores know of the places of query and key in their window of K x K positions.
#[derive(Clone, Debug)]
pub enum RelativePositions {
    /// q . (height[y_q - y_k + K - 1] + width[x_q - x_k + K - 1]), both tables `[2K - 1, D / heads]` (Li et al.,
    /// "MViTv2"; the `rel_pos_h` and `rel_pos_w` of Segment Anything).
    Decomposed {
        /// By the difference of rows.
        height: Tensor,
        /// By the difference of columns.
        width: Tensor,
    },
    /// One summand per head, query and key, `[heads, K * K, K * K]` (LeViT's `attention_biases`, looked up).
    Bias(Tensor),
}

/// Multi-head attention within windows of `window` x `window` positions; inference only.
///
/// `qkv_bhwe [B, H, W, 3 D]` holds queries, keys and values behind each other, each with its heads behind each other.
/// Where the image does not fill its last windows, the missing positions have the queries, keys and values `padding_e`
/// `[3 D]`: they are seen by the others. A window as large as the image is global attention. Returns `[B, H, W, D]`.
///
/// On the CPU a few hundred rows of scores exist at a time (Dao et al., "FlashAttention"), with the positions added on
/// the way.
///
/// # Errors
/// Shapes other than these, a width that the heads do not divide, or a window of zero.
pub fn window_attention(
    qkv_bhwe: &Tensor,
    padding_e: &Tensor,
    heads: usize,
    window: usize,
    positions: &RelativePositions,
) -> Result<Tensor> {
    let sizes = Sizes::new(qkv_bhwe.dims(), padding_e.dims(), heads, window)?;
    sizes.check_positions(positions)?;
    #[cfg(feature = "cuda")]
    if cuda::applies(qkv_bhwe) {
        let operation = cuda::WindowAttentionOp { heads, window };
        return match positions {
            RelativePositions::Decomposed { height, width } => {
                cuda::apply(operation, &[qkv_bhwe, padding_e, height, width])
            }
            RelativePositions::Bias(bias) => cuda::apply(operation, &[qkv_bhwe, padding_e, bias]),
        };
    }
    if !has_kernel(qkv_bhwe) {
        return composed(qkv_bhwe, padding_e, &sizes, positions);
    }
    match positions {
        RelativePositions::Decomposed { height, width } => {
            apply(WindowAttention { heads, window }, &[qkv_bhwe, padding_e, height, width])
        }
        RelativePositions::Bias(bias) => apply(WindowAttention { heads, window }, &[qkv_bhwe, padding_e, bias]),
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    height: usize,
    width: usize,
    /// D
    channels: usize,
    heads: usize,
    head_width: usize,
    window: usize,
    windows_down: usize,
    windows_across: usize,
}

impl Sizes {
    fn new(qkv: &[usize], padding: &[usize], heads: usize, window: usize) -> Result<Self> {
        let &[batch, height, width, packed] = qkv else { bail!("window_attention: q, k, v {qkv:?}") };
        if heads == 0 || packed == 0 || !packed.is_multiple_of(3 * heads) {
            bail!("window_attention: {packed} features cannot be split into q, k, v of {heads} heads")
        }
        if padding != [packed] || window == 0 {
            bail!("window_attention: q, k, v {qkv:?}, padding {padding:?}, windows of {window}")
        }
        Ok(Self {
            batch,
            height,
            width,
            channels: packed / 3,
            heads,
            head_width: packed / 3 / heads,
            window,
            windows_down: height.div_ceil(window),
            windows_across: width.div_ceil(window),
        })
    }

    fn check_positions(&self, positions: &RelativePositions) -> Result<()> {
        let (length, table) = (self.length(), [2 * self.window - 1, self.head_width]);
        let fits = match positions {
            RelativePositions::Decomposed { height, width } => height.dims() == table && width.dims() == table,
            RelativePositions::Bias(bias) => bias.dims() == [self.heads, length, length],
        };
        if !fits {
            bail!("window_attention: {positions:?} beside {} heads and windows of {}", self.heads, self.window)
        }
        Ok(())
    }

    /// Positions in a window.
    fn length(&self) -> usize {
        self.window * self.window
    }

    fn windows(&self) -> usize {
        self.windows_down * self.windows_across
    }
}

fn composed(qkv: &Tensor, padding: &Tensor, s: &Sizes, positions: &RelativePositions) -> Result<Tensor> {
    let (k, packed) = (s.window, 3 * s.channels);
    let (down, across) = (s.windows_down * k, s.windows_across * k);
    let pad = |x: Tensor, dim: usize, missing: usize| {
        let mut dims = x.dims().to_vec();
        dims[dim] = missing;
        if missing == 0 { Ok(x) } else { Tensor::cat(&[&x, &padding.broadcast_as(dims)?.contiguous()?], dim) }
    };
    let padded = pad(pad(qkv.clone(), 1, down - s.height)?, 2, across - s.width)?;
    // [B * windows, heads, K * K, D / heads] three times.
    let parts = padded
        .reshape((s.batch, s.windows_down, k, s.windows_across, k, packed))?
        .permute((0, 1, 3, 2, 4, 5))?
        .reshape((s.batch * s.windows(), s.length(), 3, s.heads, s.head_width))?
        .permute((2, 0, 3, 1, 4))?
        .contiguous()?;
    let (q, keys, values) = (parts.get(0)?, parts.get(1)?, parts.get(2)?);
    let scores = half::scores(&q, &keys, (s.head_width as f64).powf(-0.5))?;
    let scores = match positions {
        RelativePositions::Bias(bias) => scores.broadcast_add(&widen(bias)?)?,
        RelativePositions::Decomposed { height, width } => add_decomposed(&scores, &q, height, width, k)?,
    };
    softmax(&scores)?
        .to_dtype(values.dtype())?
        .matmul(&values)?
        .transpose(1, 2)?
        .reshape((s.batch, s.windows_down, s.windows_across, k, k, s.channels))?
        .permute((0, 1, 3, 2, 4, 5))?
        .reshape((s.batch, down, across, s.channels))?
        .narrow(1, 0, s.height)?
        .narrow(2, 0, s.width)?
        .contiguous()
}

/// `scores [N, heads, K * K, K * K]`, `q [N, heads, K * K, d]`.
fn add_decomposed(scores: &Tensor, q: &Tensor, height: &Tensor, width: &Tensor, k: usize) -> Result<Tensor> {
    let (count, heads, length, head_width) = q.dims4()?;
    let rows = count * heads;
    let distances: Vec<u32> = (0..k * k).map(|i| (i / k + k - 1 - i % k) as u32).collect();
    let distances = Tensor::from_vec(distances, k * k, q.device())?;
    // [K, d, K]: for each place of the query, the vectors of all places of the key.
    let table = |t: &Tensor| t.index_select(&distances, 0)?.reshape((k, k, head_width))?.transpose(1, 2)?.contiguous();
    let q = q.reshape((rows, k, k, head_width))?;
    let of_rows = q.transpose(0, 1)?.reshape((k, rows * k, head_width))?.matmul(&table(height)?)?;
    let of_rows = of_rows.reshape((k, rows, k, k))?.transpose(0, 1)?.reshape((rows, length, k, 1))?;
    let of_cols = q.permute((2, 0, 1, 3))?.reshape((k, rows * k, head_width))?.matmul(&table(width)?)?;
    let of_cols = of_cols.reshape((k, rows, k, k))?.permute((1, 2, 0, 3))?.reshape((rows, length, 1, k))?;
    let scores = scores.reshape((rows, length, k, k))?;
    scores.broadcast_add(&widen(&of_rows)?)?.broadcast_add(&widen(&of_cols)?)?.reshape((count, heads, length, length))
}

struct WindowAttention {
    heads: usize,
    window: usize,
}

/// Queries whose scores are computed together, and keys that they are computed for: 512 KiB of f32.
const QUERIES_PER_BLOCK: usize = 256;
const KEYS_PER_BLOCK: usize = 512;

impl CpuOp for WindowAttention {
    const NAME: &'static str = "window_attention";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        let s = Sizes::new(args[0].dims, args[1].dims, self.heads, self.window)?;
        let positions = match args[2..] {
            [height, width] => Positions::decomposed(height.data, width.data, s.head_width),
            _ => Positions::Bias(args[2].data),
        };
        // By window and head first, [B, windows, heads, K * K, d]: every task writes one piece of memory.
        let piece = s.length() * s.head_width;
        let mut attended = vec![T::zero(); s.batch * s.windows() * s.heads * piece];
        attended.par_chunks_mut(piece).enumerate().for_each(|(task, out)| {
            let (window, head) = (task / s.heads, task % s.heads);
            let qkv = Head::gather(&s, args[0].data, args[1].data, window, head);
            out.par_chunks_mut(QUERIES_PER_BLOCK * s.head_width).enumerate().for_each(|(block, out)| {
                qkv.attend(&s, &positions, head, block * QUERIES_PER_BLOCK, out);
            });
        });
        let mut out = vec![T::zero(); s.batch * s.height * s.width * s.channels];
        out.par_chunks_mut(s.width * s.channels).enumerate().for_each(|(row, out)| {
            let (image, y) = (row / s.height, row % s.height);
            for (x, out) in out.chunks_exact_mut(s.channels).enumerate() {
                let window = image * s.windows() + y / s.window * s.windows_across + x / s.window;
                let place = y % s.window * s.window + x % s.window;
                for (head, out) in out.chunks_exact_mut(s.head_width).enumerate() {
                    let start = ((window * s.heads + head) * s.length() + place) * s.head_width;
                    out.copy_from_slice(&attended[start..start + s.head_width]);
                }
            }
        });
        Ok(Forward::new(out, &[s.batch, s.height, s.width, s.channels]))
    }

    fn backward<T: Real>(&self, _: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        bail!("window_attention: there is no backward pass")
    }
}

enum Positions<'a, T> {
    /// Both tables from the last row to the first: the vectors for one query and ascending keys lie side by side.
    Decomposed {
        height: Vec<T>,
        width: Vec<T>,
    },
    Bias(&'a [T]),
}

impl<T: Real> Positions<'_, T> {
    fn decomposed(height: &[T], width: &[T], head_width: usize) -> Self {
        let reversed = |table: &[T]| table.rchunks_exact(head_width).flatten().copied().collect();
        Self::Decomposed { height: reversed(height), width: reversed(width) }
    }
}

/// Queries, keys and values of one head in one window, `[K * K, d]` each.
struct Head<T> {
    parts: [Vec<T>; 3],
}

impl<T: Real> Head<T> {
    fn gather(s: &Sizes, qkv: &[T], padding: &[T], window: usize, head: usize) -> Self {
        let (image, cell) = (window / s.windows(), window % s.windows());
        let top = cell / s.windows_across * s.window;
        let left = cell % s.windows_across * s.window;
        let parts = std::array::from_fn(|part| {
            let channel = part * s.channels + head * s.head_width;
            let mut out = Vec::with_capacity(s.length() * s.head_width);
            for (y, x) in (0..s.length()).map(|i| (top + i / s.window, left + i % s.window)) {
                let values = if y < s.height && x < s.width {
                    &qkv[((image * s.height + y) * s.width + x) * 3 * s.channels..]
                } else {
                    padding
                };
                out.extend_from_slice(&values[channel..channel + s.head_width]);
            }
            out
        });
        Self { parts }
    }

    /// The queries from `first` on into `out [queries, d]`.
    fn attend(&self, s: &Sizes, positions: &Positions<'_, T>, head: usize, first: usize, out: &mut [T]) {
        let (d, length) = (s.head_width, s.length());
        let count = out.len() / d;
        let [q, keys, values] = &self.parts;
        let q = &q[first * d..(first + count) * d];
        let summands = Summands::new(s, positions, head, first, q);
        // Whole rows of keys, so that the summand of a row is one number.
        let step = (KEYS_PER_BLOCK / s.window).max(1) * s.window;
        let mut scores = vec![T::zero(); count * step.min(length)];
        let mut rows = vec![SoftmaxRow::new(); count];
        out.fill(T::zero());
        for start in (0..length).step_by(step) {
            let keys_here = step.min(length - start);
            let scores = &mut scores[..count * keys_here];
            let (k, v) = (&keys[start * d..], &values[start * d..]);
            multiply(
                MatrixMut::new(scores, count, keys_here),
                Write::Overwrite,
                Matrix::new(q, count, d),
                Matrix::new(k, keys_here, d).t(),
                (d as f64).powf(-0.5),
                Threads::One,
            );
            vectorised(
                #[inline(always)]
                || {
                    let scored = scores.chunks_exact_mut(keys_here).zip(&mut rows).zip(out.chunks_exact_mut(d));
                    for (query, ((scores, row), out)) in scored.enumerate() {
                        summands.add_to(scores, query, start);
                        row.exponentiate(scores, out);
                    }
                },
            );
            multiply(
                MatrixMut::new(out, count, d),
                Write::Add,
                Matrix::new(scores, count, keys_here),
                Matrix::new(v, keys_here, d),
                1.0,
                Threads::One,
            );
        }
        vectorised(
            #[inline(always)]
            || {
                for (out, row) in out.chunks_exact_mut(d).zip(&rows) {
                    let factor = T::one() / row.total;
                    out.iter_mut().for_each(|out| *out *= factor);
                }
            },
        );
    }
}

/// What the positions add to the scores of a block of queries.
enum Summands<'a, T> {
    /// `[queries, K]` each, by the row and by the column of the key.
    Decomposed { of_rows: Vec<T>, of_cols: Vec<T>, window: usize },
    /// `[queries, K * K]`
    Bias { bias: &'a [T], length: usize },
}

impl<'a, T: Real> Summands<'a, T> {
    fn new(s: &Sizes, positions: &'a Positions<'_, T>, head: usize, first: usize, q: &[T]) -> Self {
        let (height, width) = match positions {
            Positions::Bias(bias) => {
                let length = s.length();
                return Self::Bias { bias: &bias[(head * length + first) * length..], length };
            }
            Positions::Decomposed { height, width } => (height, width),
        };
        let (d, k) = (s.head_width, s.window);
        let count = q.len() / d;
        let (mut of_rows, mut of_cols) = (vec![T::zero(); count * k], vec![T::zero(); count * k]);
        // Queries of one row share the vectors of the rows; those of one column share the vectors of the columns.
        let mut start = 0;
        while start < count {
            let y = (first + start) / k;
            let end = ((y + 1) * k - first).min(count);
            let table = &height[(k - 1 - y) * d..];
            multiply(
                MatrixMut::new(&mut of_rows[start * k..end * k], end - start, k),
                Write::Overwrite,
                Matrix::new(&q[start * d..end * d], end - start, d),
                Matrix::new(table, k, d).t(),
                1.0,
                Threads::One,
            );
            start = end;
        }
        for start in 0..k.min(count) {
            let x = (first + start) % k;
            let queries = (count - start).div_ceil(k);
            multiply(
                MatrixMut::strided(&mut of_cols[start * k..], queries, k, k * k),
                Write::Overwrite,
                Matrix::strided(&q[start * d..], queries, d, k * d),
                Matrix::new(&width[(k - 1 - x) * d..], k, d).t(),
                1.0,
                Threads::One,
            );
        }
        Self::Decomposed { of_rows, of_cols, window: k }
    }

    /// Adds to the scores of one query for the keys from `start` on.
    #[inline(always)]
    fn add_to(&self, scores: &mut [T], query: usize, start: usize) {
        match self {
            Self::Bias { bias, length } => add(scores, &bias[query * length + start..]),
            Self::Decomposed { of_rows, of_cols, window } => {
                let of_cols = &of_cols[query * window..][..*window];
                let of_rows = &of_rows[query * window + start / window..];
                for (scores, &of_row) in scores.chunks_exact_mut(*window).zip(of_rows) {
                    for (score, &of_col) in scores.iter_mut().zip(of_cols) {
                        *score += of_row + of_col;
                    }
                }
            }
        }
    }
}

/// A softmax whose scores arrive piece by piece (Milakov and Gimelshein, "Online normalizer calculation").
#[derive(Clone)]
pub(crate) struct SoftmaxRow<T> {
    largest: T,
    pub(crate) total: T,
}

impl<T: Real> SoftmaxRow<T> {
    pub(crate) fn new() -> Self {
        Self { largest: T::of(f32::MIN as f64), total: T::zero() }
    }

    /// Turns the next scores into unnormalised weights, and scales `sums`, the weighted sums so far, to match.
    #[inline(always)]
    pub(crate) fn exponentiate(&mut self, scores: &mut [T], sums: &mut [T]) {
        let largest = self.largest.larger(max_of(scores));
        for score in scores.iter_mut() {
            *score = (*score - largest).exp();
        }
        let total = sum_of(scores, |x| x);
        if self.total == T::zero() {
            self.total = total;
        } else if largest > self.largest {
            let factor = (self.largest - largest).exp();
            self.total = self.total * factor + total;
            sums.iter_mut().for_each(|sum| *sum *= factor);
        } else {
            self.total += total;
        }
        self.largest = largest;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_same_values, random};
    use super::*;

    #[test]
    fn kernel_and_composition_agree() {
        // Windows that do and do not divide the image; 30 x 30 needs several blocks of queries and of keys.
        for (height, width, window) in [(4, 6, 2), (5, 7, 3), (3, 3, 3), (30, 30, 30)] {
            let (heads, d) = (2, 4);
            let table = |seed| random(&[2 * window - 1, d], seed);
            let length = window * window;
            let args = [random(&[2, height, width, 3 * heads * d], 1), random(&[3 * heads * d], 2), table(3), table(4)];
            let decomposed = |a: &[Tensor]| RelativePositions::Decomposed { height: a[2].clone(), width: a[3].clone() };
            let sizes = |a: &[Tensor]| Sizes::new(a[0].dims(), a[1].dims(), heads, window).unwrap();
            assert_same_values(
                &args,
                |a| window_attention(&a[0], &a[1], heads, window, &decomposed(a)),
                |a| composed(&a[0], &a[1], &sizes(a), &decomposed(a)),
            );
            let args = [args[0].clone(), args[1].clone(), random(&[heads, length, length], 5)];
            let bias = |a: &[Tensor]| RelativePositions::Bias(a[2].clone());
            assert_same_values(
                &args,
                |a| window_attention(&a[0], &a[1], heads, window, &bias(a)),
                |a| composed(&a[0], &a[1], &sizes(a), &bias(a)),
            );
        }
    }

    #[test]
    fn scores_by_hand() {
        // One head of one channel, a window of two positions side by side; the other two are padding.
        let qkv = Tensor::new(&[2f64, 1.0, 10.0, 2.0, 3.0, 20.0], &candle_core::Device::Cpu).unwrap();
        let padding = Tensor::new(&[0f64, 5.0, 30.0], &candle_core::Device::Cpu).unwrap();
        let table =
            |values: &[f64; 3]| Tensor::new(values, &candle_core::Device::Cpu).unwrap().reshape((3, 1)).unwrap();
        let positions =
            RelativePositions::Decomposed { height: table(&[0.1, 0.2, 0.3]), width: table(&[0.4, 0.5, 0.6]) };
        let qkv = qkv.reshape((1, 1, 2, 3)).unwrap();
        let out = window_attention(&qkv, &padding, 1, 2, &positions).unwrap().flatten_all().unwrap();
        // The left query, 2: q k + q (h[1] or h[0]) + q (w[1] or w[0]).
        let scores = [2.0 + 0.4 + 1.0, 6.0 + 0.4 + 0.8, 10.0 + 0.2 + 1.0, 10.0 + 0.2 + 0.8f64];
        let weights = scores.map(f64::exp);
        let expected = weights.iter().zip([10.0, 20.0, 30.0, 30.0]).map(|(w, v)| w * v).sum::<f64>();
        let expected = expected / weights.iter().sum::<f64>();
        assert!((out.to_vec1::<f64>().unwrap()[0] - expected).abs() < 1e-12);
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let (qkv, padding) = (random(&[1, 4, 4, 12], 1), random(&[12], 2));
        let positions = |window: usize| RelativePositions::Bias(random(&[2, window * window, window * window], 3));
        assert!(window_attention(&qkv, &padding, 2, 2, &positions(2)).is_ok());
        assert!(window_attention(&qkv, &padding, 2, 2, &positions(3)).is_err());
        assert!(window_attention(&qkv, &padding, 5, 2, &positions(2)).is_err());
        assert!(window_attention(&qkv, &random(&[4], 2), 2, 2, &positions(2)).is_err());
        assert!(window_attention(&qkv, &padding, 2, 0, &positions(2)).is_err());
    }
}
