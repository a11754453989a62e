//! Attention whose keys lie anywhere in a cache.
//!
//! Sequences of different lengths stand in one batch without padding, and beams that share a beginning share its
//! keys: each is a *path*, a list of cache slots. Choosing other beams changes lists of numbers and copies no key.

use super::super::half;
use super::super::real::{softmax, sum_of_pairs, vectorised};
use super::{has_inference_kernel, on_cpu, refuse_gradients};
use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;
use std::cell::OnceCell;

/// Queries in consecutive rows that read one path.
#[derive(Clone, Debug)]
pub struct PathQueries {
    /// Cache slots of the keys, first position first.
    pub slots: Vec<u32>,
    /// Number of queries.
    pub rows: usize,
    /// Which of the keys each query sees.
    pub mask: AttentionMask,
}

/// What the queries of one path see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// All keys.
    Full,
    /// The last query sees all keys, each query before it one key fewer.
    Causal,
}

impl PathQueries {
    /// Number of keys that query `row` sees.
    fn visible(&self, row: usize) -> usize {
        match self.mask {
            AttentionMask::Full => self.slots.len(),
            AttentionMask::Causal => self.slots.len() - (self.rows - 1 - row),
        }
    }

    /// Position of query `row` among the keys.
    fn position(&self, row: usize) -> usize {
        match self.mask {
            AttentionMask::Full => row,
            AttentionMask::Causal => self.visible(row) - 1,
        }
    }
}

/// A bias on scores by the distance from query to key, per head: T5's relative positions.
#[derive(Clone, Debug)]
pub struct DistanceBias {
    /// `[heads, 2 * reach - 1]`: distances (key less query) from `1 - reach` to `reach - 1`.
    pub values_hn: Vec<f32>,
    /// Positions that the table covers.
    pub reach: usize,
}

impl DistanceBias {
    #[inline(always)]
    fn of_head(&self, head: usize, query: usize) -> &[f32] {
        // The bias of key 0 and of those behind it.
        &self.values_hn[head * (2 * self.reach - 1) + self.reach - 1 - query..]
    }
}

/// The paths of a batch, the same for all layers of a pass: what a device without a kernel needs of them goes up once.
#[derive(Debug)]
pub struct AttentionPaths {
    queries: Vec<PathQueries>,
    bias: Option<DistanceBias>,
    side_by_side: OnceCell<SideBySide>,
}

impl AttentionPaths {
    /// Queries in the order of their rows, and what their distances from keys add to scores.
    pub fn new(queries: Vec<PathQueries>, bias: Option<DistanceBias>) -> Self {
        Self { queries, bias, side_by_side: OnceCell::new() }
    }

    /// Paths in the order of their rows.
    pub fn queries(&self) -> &[PathQueries] {
        &self.queries
    }

    fn side_by_side(&self, heads: usize, device: &Device) -> Result<&SideBySide> {
        if self.side_by_side.get().is_none() {
            let _ = self.side_by_side.set(SideBySide::new(&self.queries, self.bias.as_ref(), heads, device)?);
        }
        match self.side_by_side.get() {
            Some(laid_out) => Ok(laid_out),
            None => bail!("attention: its paths were not laid out"),
        }
    }
}

/// softmax(scale q k^T + bias) v for every query and head.
///
/// `q_rx [R, heads * W]`; `keys_sx` and `values_sx` `[S, kv_heads * W]`, where a key head serves `heads / kv_heads`
/// query heads one behind the other (grouped-query attention). The paths cover the R rows in their order. Returns
/// `[R, heads * W]`.
///
/// # Errors
/// Shapes other than these, heads that do not divide, queries that do not add up to R, slots that do not exist, or
/// tensors that want gradients.
pub fn paged_attention(
    q_rx: &Tensor,
    (keys_sx, values_sx): (&Tensor, &Tensor),
    paths: &AttentionPaths,
    heads: usize,
    scale: f64,
) -> Result<Tensor> {
    refuse_gradients("paged_attention", &[q_rx, keys_sx, values_sx])?;
    let (queries, bias) = (&paths.queries, paths.bias.as_ref());
    let shape = Shape::new(q_rx, keys_sx, values_sx, queries, heads, bias)?;
    if !has_inference_kernel(q_rx) {
        return composed(q_rx, keys_sx, values_sx, paths.side_by_side(heads, q_rx.device())?, &shape, scale);
    }
    on_cpu(&[q_rx, keys_sx, values_sx], q_rx.dims(), |args| {
        let mut out = vec![0.0; args[0].len()];
        let located: Vec<(&PathQueries, usize)> =
            queries.iter().flat_map(|path| (0..path.rows).map(move |row| (path, row))).collect();
        let width = shape.width.max(1);
        out.par_chunks_mut(width).zip(args[0].par_chunks(width)).zip(located).for_each(|((out, q), (path, row))| {
            let slots = &path.slots[..path.visible(row)];
            let attend = Attend { q, keys: args[1], values: args[2], slots, shape: &shape, scale: scale as f32 };
            vectorised(
                #[inline(always)]
                || attend.run(bias.map(|bias| (bias, path.position(row))), out),
            );
        });
        out
    })
}

struct Shape {
    heads: usize,
    head_width: usize,
    /// Of a query: `heads * head_width`.
    width: usize,
    /// Of a key: `kv_heads * head_width`.
    kv_width: usize,
    heads_per_key: usize,
}

impl Shape {
    fn new(
        q: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        queries: &[PathQueries],
        heads: usize,
        bias: Option<&DistanceBias>,
    ) -> Result<Self> {
        let ((rows, width), (slots, kv_width)) = (q.dims2()?, keys.dims2()?);
        let head_width = width.checked_div(heads).unwrap_or(0);
        let kv_heads = kv_width.checked_div(head_width).unwrap_or(0);
        let fits = kv_heads > 0
            && heads * head_width == width
            && kv_heads * head_width == kv_width
            && heads.is_multiple_of(kv_heads)
            && values.dims() == keys.dims();
        if !fits {
            bail!("attention of {heads} heads: q {:?}, k {:?}, v {:?}", q.dims(), keys.dims(), values.dims())
        }
        let covered: usize = queries.iter().map(|path| path.rows).sum();
        if covered != rows {
            bail!("attention: {covered} queries described, {rows} given")
        }
        for path in queries {
            if path.mask == AttentionMask::Causal && path.rows > path.slots.len() || path.slots.is_empty() {
                bail!("attention: {} queries of a path of {} keys", path.rows, path.slots.len())
            }
            if let Some(slot) = path.slots.iter().find(|&&slot| slot as usize >= slots) {
                bail!("attention: slot {slot} of a cache of {slots}")
            }
            if let Some(bias) = bias
                && (bias.reach < path.slots.len().max(path.rows)
                    || bias.values_hn.len() != heads * (2 * bias.reach - 1))
            {
                bail!("attention: a bias for {} positions, a path of {}", bias.reach, path.slots.len())
            }
        }
        Ok(Self { heads, head_width, width, kv_width, heads_per_key: heads / kv_heads })
    }
}

/// One query.
struct Attend<'a> {
    q: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    slots: &'a [u32],
    shape: &'a Shape,
    scale: f32,
}

impl Attend<'_> {
    /// Goes through the slots and not through the heads: a slot's heads lie side by side in memory.
    #[inline(always)]
    fn run(&self, bias: Option<(&DistanceBias, usize)>, out: &mut [f32]) {
        let &Shape { heads, head_width, heads_per_key, .. } = self.shape;
        let length = self.slots.len();
        let mut weights = vec![0.0; heads * length];
        for (at, &slot) in self.slots.iter().enumerate() {
            let key = self.line(self.keys, slot);
            for (head, q) in self.q.chunks_exact(head_width).enumerate() {
                let key = &key[head / heads_per_key * head_width..][..head_width];
                weights[head * length + at] = self.scale * sum_of_pairs(q, key, |q, k| q * k);
            }
        }
        for (head, weights) in weights.chunks_exact_mut(length).enumerate() {
            if let Some((bias, query)) = bias {
                let bias = bias.of_head(head, query);
                weights.iter_mut().zip(bias).for_each(|(weight, &bias)| *weight += bias);
            }
            softmax(weights);
        }
        for (at, &slot) in self.slots.iter().enumerate() {
            let value = self.line(self.values, slot);
            for (head, out) in out.chunks_exact_mut(head_width).enumerate() {
                let value = &value[head / heads_per_key * head_width..][..head_width];
                let weight = weights[head * length + at];
                for (out, &value) in out.iter_mut().zip(value) {
                    *out = f32::mul_add(weight, value, *out);
                }
            }
        }
    }

    #[inline(always)]
    fn line<'a>(&self, cache: &'a [f32], slot: u32) -> &'a [f32] {
        &cache[slot as usize * self.shape.kv_width..][..self.shape.kv_width]
    }
}

/// Paths side by side, each as long as the longest.
#[derive(Debug)]
struct SideBySide {
    paths: usize,
    /// R and K: rows and keys of the longest.
    rows: usize,
    keys: usize,
    /// Cache slots, `[paths * K]`.
    slots: Tensor,
    /// The row of each place, `[paths * R]`, and the places of the rows.
    row_of_place: Tensor,
    place_of_row: Tensor,
    /// What takes keys out of sight, for all heads: `[paths, 1, R, K]`; none where each query sees them all.
    hidden: Option<Tensor>,
    /// By distance: `[paths, heads, R, K]`, or `[1, heads, R, K]` where a query's position is its row in every path.
    bias: Option<Tensor>,
}

impl SideBySide {
    fn new(queries: &[PathQueries], bias: Option<&DistanceBias>, heads: usize, device: &Device) -> Result<Self> {
        let paths = queries.len();
        let rows = queries.iter().map(|path| path.rows).max().unwrap_or(0);
        let keys = queries.iter().map(|path| path.slots.len()).max().unwrap_or(0);
        let (mut slots, mut row_of_place, mut place_of_row) = (Vec::new(), Vec::new(), Vec::new());
        // What no query may see: far below every score, and finite, so that rows of padding stay numbers.
        const HIDDEN: f32 = -1e9;
        let mut hidden = vec![HIDDEN; paths * rows * keys];
        let mut first_row = 0;
        for (index, path) in queries.iter().enumerate() {
            slots.extend((0..keys).map(|at| path.slots.get(at).copied().unwrap_or(path.slots[0])));
            row_of_place.extend((0..rows).map(|row| (first_row + row.min(path.rows.saturating_sub(1))) as u32));
            place_of_row.extend((0..path.rows).map(|row| (index * rows + row) as u32));
            for row in 0..path.rows {
                hidden[(index * rows + row) * keys..][..path.visible(row)].fill(0.0);
            }
            first_row += path.rows;
        }
        let hidden = match hidden.contains(&HIDDEN) {
            true => Some(Tensor::from_vec(hidden, (paths, 1, rows, keys), device)?),
            false => None,
        };
        let bias = match bias {
            Some(bias) => Some(Self::distances(queries, bias, (heads, rows, keys))?.to_device(device)?),
            None => None,
        };
        let [slots, row_of_place, place_of_row] =
            [slots, row_of_place, place_of_row].map(|numbers| Tensor::new(numbers, device));
        Ok(Self {
            paths,
            rows,
            keys,
            slots: slots?,
            row_of_place: row_of_place?,
            place_of_row: place_of_row?,
            hidden,
            bias,
        })
    }

    fn distances(
        queries: &[PathQueries],
        bias: &DistanceBias,
        (heads, rows, keys): (usize, usize, usize),
    ) -> Result<Tensor> {
        let alike = queries.iter().all(|path| path.mask == AttentionMask::Full);
        let longest = queries.iter().max_by_key(|path| path.rows).map(std::slice::from_ref).unwrap_or_default();
        let paths = if alike { longest } else { queries };
        let mut values = vec![0.0; paths.len() * heads * rows * keys];
        for (block, values) in values.chunks_exact_mut((rows * keys).max(1)).enumerate() {
            let (path, head) = (&paths[block / heads], block % heads);
            for (row, values) in values.chunks_exact_mut(keys).enumerate().take(path.rows) {
                // of a shorter path only what it sees; its table may end there
                let seen = if alike { keys } else { path.visible(row) };
                values[..seen].copy_from_slice(&bias.of_head(head, path.position(row))[..seen]);
            }
        }
        Tensor::from_vec(values, (paths.len(), heads, rows, keys), &Device::Cpu)
    }
}

/// The same in candle's operations.
fn composed(
    q_rx: &Tensor,
    keys_sx: &Tensor,
    values_sx: &Tensor,
    paths: &SideBySide,
    shape: &Shape,
    scale: f64,
) -> Result<Tensor> {
    let &Shape { heads, head_width, kv_width, heads_per_key, .. } = shape;
    let (dtype, kv_heads) = (q_rx.dtype(), kv_width / head_width);
    let &SideBySide { paths: number, rows, keys: length, .. } = paths;
    if number * rows == 0 {
        return Ok(q_rx.clone());
    }
    let gather = |cache: &Tensor| {
        let gathered = cache.index_select(&paths.slots, 0)?.reshape((number, length, kv_heads, 1, head_width))?;
        let repeated = gathered.broadcast_as((number, length, kv_heads, heads_per_key, head_width))?;
        repeated.reshape((number, length, heads, head_width))?.transpose(1, 2)?.contiguous()
    };
    let (keys, values) = (gather(keys_sx)?, gather(values_sx)?);
    let q = q_rx.contiguous()?.index_select(&paths.row_of_place, 0)?;
    let q = q.reshape((number, rows, heads, head_width))?.transpose(1, 2)?.contiguous()?;
    let mut scores = half::scores(&q, &keys, scale)?.to_dtype(DType::F32)?;
    for shift in paths.bias.iter().chain(&paths.hidden) {
        scores = scores.broadcast_add(shift)?;
    }
    let weights = half::softmax(&scores)?.to_dtype(dtype)?;
    let attended = weights.matmul(&values)?.transpose(1, 2)?.reshape((number * rows, heads * head_width))?;
    attended.index_select(&paths.place_of_row, 0)
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::random;
    use super::*;

    fn f32s(dims: &[usize], seed: u64) -> Tensor {
        random(dims, seed).to_dtype(DType::F32).unwrap()
    }

    fn paths() -> Vec<PathQueries> {
        vec![
            PathQueries { slots: vec![4, 0, 9], rows: 2, mask: AttentionMask::Causal },
            PathQueries { slots: vec![1, 2, 3, 5, 7], rows: 1, mask: AttentionMask::Causal },
            PathQueries { slots: vec![6, 4], rows: 3, mask: AttentionMask::Full },
        ]
    }

    /// The definition, one number at a time, in f64.
    fn defined(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, bias: Option<&DistanceBias>) -> Vec<f64> {
        let rows = |x: &Tensor| x.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
        let (q, k, v) = (rows(q), rows(k), rows(v));
        let head_width = q[0].len() / heads;
        let per_key = q[0].len() / k[0].len();
        let (mut out, mut row) = (Vec::new(), 0);
        for path in paths() {
            for i in 0..path.rows {
                for head in 0..heads {
                    let kv = head / per_key * head_width;
                    let seen = &path.slots[..path.visible(i)];
                    let score = |(j, &slot): (usize, &u32)| {
                        let dot: f64 =
                            (0..head_width).map(|d| q[row][head * head_width + d] * k[slot as usize][kv + d]).sum();
                        let distance = j as isize - path.position(i) as isize;
                        let bias = bias.map_or(0.0, |b| {
                            b.values_hn[head * (2 * b.reach - 1) + (distance + b.reach as isize - 1) as usize] as f64
                        });
                        (0.5 * dot + bias).exp()
                    };
                    let weights: Vec<f64> = seen.iter().enumerate().map(score).collect();
                    let total: f64 = weights.iter().sum();
                    out.extend((0..head_width).map(|d| {
                        let terms = weights.iter().zip(seen).map(|(w, &slot)| w / total * v[slot as usize][kv + d]);
                        terms.sum::<f64>()
                    }));
                }
                row += 1;
            }
        }
        out
    }

    #[test]
    fn kernel_and_composition_are_the_definition() {
        let (heads, head_width) = (4, 5);
        let bias = DistanceBias { values_hn: (0..4 * 11).map(|i| (i as f32).sin()).collect(), reach: 6 };
        let q = f32s(&[6, heads * head_width], 1);
        for kv_heads in [4, 2, 1] {
            let (k, v) = (f32s(&[10, kv_heads * head_width], 2), f32s(&[10, kv_heads * head_width], 3));
            for bias in [None, Some(&bias)] {
                let exact = defined(&q, &k, &v, heads, bias);
                let paths = AttentionPaths::new(paths(), bias.cloned());
                let kernel = paged_attention(&q, (&k, &v), &paths, heads, 0.5).unwrap();
                // f64 takes candle's way.
                let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
                let other = paged_attention(&wide(&q), (&wide(&k), &wide(&v)), &paths, heads, 0.5).unwrap();
                for ours in [kernel, other] {
                    assert_eq!(ours.dims(), q.dims());
                    let ours = wide(&ours).flatten_all().unwrap().to_vec1::<f64>().unwrap();
                    let off = ours.iter().zip(&exact).fold(0.0f64, |off, (a, b)| off.max((a - b).abs()));
                    assert!(off < 1e-5, "{kv_heads} key heads: off by {off}");
                }
            }
        }
    }

    #[test]
    fn one_layout_serves_all_layers_and_holds_what_heads_share_once() {
        let (heads, bias) = (4, DistanceBias { values_hn: vec![0.5; 4 * 11], reach: 6 });
        let laid_out = |queries: Vec<PathQueries>, bias: Option<&DistanceBias>| {
            SideBySide::new(&queries, bias, heads, &Device::Cpu).unwrap()
        };
        let dims = |tensor: &Option<Tensor>| tensor.as_ref().map(|tensor| tensor.dims().to_vec());
        let mixed = laid_out(paths(), Some(&bias));
        assert_eq!(dims(&mixed.hidden), Some(vec![3, 1, 3, 5]));
        assert_eq!(dims(&mixed.bias), Some(vec![3, heads, 3, 5]));
        let full = |slots: usize| PathQueries { slots: vec![0; slots], rows: slots, mask: AttentionMask::Full };
        assert_eq!(dims(&laid_out(vec![full(3), full(5)], Some(&bias)).bias), Some(vec![1, heads, 5, 5]));
        assert_eq!(dims(&laid_out(vec![full(4), full(4)], None).hidden), None, "nothing is hidden");
        let paths = AttentionPaths::new(paths(), None);
        let first: *const SideBySide = paths.side_by_side(heads, &Device::Cpu).unwrap();
        assert!(std::ptr::eq(first, paths.side_by_side(heads, &Device::Cpu).unwrap()));
    }

    #[test]
    fn encoders_paths_of_unlike_lengths_are_the_definition_too() {
        let (heads, width) = (2, 3);
        let bias = DistanceBias { values_hn: (0..2 * 9).map(|i| (i as f32).cos()).collect(), reach: 5 };
        let path = |slots: std::ops::Range<u32>| PathQueries {
            rows: slots.len(),
            slots: slots.collect(),
            mask: AttentionMask::Full,
        };
        let x = f32s(&[8, heads * width], 4);
        let wide = x.to_dtype(DType::F64).unwrap();
        let paths = AttentionPaths::new(vec![path(0..3), path(3..8)], Some(bias));
        let kernel = paged_attention(&x, (&x, &x), &paths, heads, 1.0).unwrap().to_dtype(DType::F64).unwrap();
        let other = paged_attention(&wide, (&wide, &wide), &paths, heads, 1.0).unwrap();
        let off = (kernel - other).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(off < 1e-5, "off by {off}");
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let (q, k) = (f32s(&[6, 8], 1), f32s(&[10, 8], 2));
        let attend = |q: &Tensor, k: &Tensor, paths: &[PathQueries], heads| {
            paged_attention(q, (k, k), &AttentionPaths::new(paths.to_vec(), None), heads, 1.0).is_err()
        };
        assert!(!attend(&q, &k, &paths(), 2));
        assert!(attend(&q, &k, &paths(), 3) && attend(&q, &k, &paths(), 0));
        assert!(attend(&q, &k.narrow(0, 0, 9).unwrap(), &paths(), 2), "a slot beyond the cache");
        assert!(attend(&q, &k, &paths()[..2], 2), "rows without a path");
        let mut long = paths();
        long[2].mask = AttentionMask::Causal;
        assert!(attend(&q, &k, &long, 2), "more queries than keys");
    }
}
