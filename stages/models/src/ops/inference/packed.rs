//! Linear maps with weights in the order in which the kernel reads them.
//!
//! Decoding multiplies a handful of rows with every weight of the network and is bound by memory: each thread shall
//! see one stream of weights, from the first to the last, once. Weights lie in panels of [`PANEL`] outputs, input by
//! input; a panel meets a block of rows whose sums stay in registers. The same kernel is bound by arithmetic where
//! there are many rows: there the panel is taken in slices of [`SLICE`] inputs, which stay in the first cache while
//! all blocks pass. A sum runs over the inputs in their order in either case, so that a row's result does not depend
//! on how many rows there are.

mod panels;

use self::panels::{Line, Panels, Prefetch, prefetch};
use super::{on_cpu, refuse_gradients};
use candle_core::{DType, Result, Tensor, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::sync::Arc;

/// Registers of outputs that a block of rows multiplies at once.
const REGISTERS: usize = 3;

/// Elements of the widest register, and of a cache line.
const LANES: usize = 16;

/// Outputs side by side in a panel.
const PANEL: usize = REGISTERS * LANES;

/// Rows of a block whose sums fit into 32 registers beside the weights and one input.
const MAX_BLOCK: usize = 9;

/// Inputs of a panel that are multiplied with all blocks of a stripe before the next ones: 24 KiB of weights.
const SLICE: usize = 128;

/// Rows are taken in stripes of this many elements, which stay in a core's own cache while panels pass.
const STRIPE_ELEMENTS: usize = 256 * 1024;

/// y = x w^T + b, f32 on the CPU.
#[derive(Clone, Debug)]
pub struct PackedLinear {
    panels: Arc<Panels>,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
}

impl PackedLinear {
    /// Packs `w_oi [O, I]` and `bias_o [O]`.
    pub fn new(w_oi: &Tensor, bias_o: Option<&Tensor>) -> Result<Self> {
        let (outputs, inputs) = w_oi.dims2()?;
        if let Some(bias) = bias_o
            && bias.dims() != [outputs]
        {
            bail!("packed linear: bias {:?} does not fit weight {:?}", bias.dims(), w_oi.dims())
        }
        let weight = [w_oi.to_dtype(DType::F32)?.contiguous()?];
        let panels = super::with_views::<f32, _>(&weight, |views| Panels::pack(views[0].data, inputs, outputs))?;
        let bias = bias_o.map(|bias| bias.to_dtype(DType::F32)?.to_vec1()).transpose()?;
        Ok(Self { panels: Arc::new(panels), bias, inputs, outputs })
    }

    pub fn inputs(&self) -> usize {
        self.inputs
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `x [.., I]` to `[.., O]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        refuse_gradients("packed linear", &[x])?;
        let mut dims = x.dims().to_vec();
        let Some(last) = dims.last_mut() else { bail!("packed linear: a scalar has no last dimension") };
        if std::mem::replace(last, self.outputs) != self.inputs {
            bail!("packed linear: input {:?} does not fit weight [{}, {}]", x.dims(), self.outputs, self.inputs)
        }
        let rows = dims[..dims.len() - 1].iter().product();
        on_cpu(&[x], &dims, |args| self.multiply(args[0], rows))
    }

    fn multiply(&self, x: &[f32], rows: usize) -> Vec<f32> {
        let count = rows * self.outputs;
        if count == 0 || self.inputs == 0 {
            return self.bias.clone().unwrap_or_else(|| vec![0.0; self.outputs]).repeat(rows);
        }
        let mut out = Vec::with_capacity(count);
        let blocks = blocks(rows);
        let x = pack_rows(x, &blocks, self.inputs);
        let stripe = (STRIPE_ELEMENTS / (MAX_BLOCK * self.inputs).max(1)).max(1);
        let stripes: Vec<&[Block]> = blocks.chunks(stripe).collect();
        let panels = self.outputs.div_ceil(PANEL);
        let target = Target(out.spare_capacity_mut().as_mut_ptr().cast());
        // Neighbouring panels go to one thread: they are one stream of memory.
        let per_task = panels.div_ceil(4 * rayon::current_num_threads()).max(1);
        (0..stripes.len() * panels).into_par_iter().with_min_len(per_task).for_each_init(
            Room::default,
            |room, task| {
                let (stripe, panel) = (stripes[task / panels], task % panels);
                self.panel(&x, stripe, panel, room, &target);
            },
        );
        // SAFETY: every row is in a stripe and every output in a panel, and the tasks have written them all.
        unsafe { out.set_len(count) };
        out
    }

    /// One panel for the rows of one stripe.
    fn panel(&self, x: &[f32], stripe: &[Block], panel: usize, room: &mut Room, target: &Target) {
        let Room { sums, weights } = room;
        let columns = (self.outputs - panel * PANEL).min(PANEL);
        let mut bias = [0.0; PANEL];
        if let Some(values) = &self.bias {
            bias[..columns].copy_from_slice(&values[panel * PANEL..][..columns]);
        }
        sums.clear();
        sums.resize(stripe.len(), Sums([bias; MAX_BLOCK]));
        let results = Results { target, first_column: panel * PANEL, columns, outputs: self.outputs };
        for first in (0..self.inputs).step_by(SLICE) {
            let inputs = SLICE.min(self.inputs - first);
            let last = first + inputs == self.inputs;
            let start = (panel * self.inputs + first) * PANEL;
            let slice = start..start + inputs * PANEL;
            let weights = self.panels.get(slice.clone(), weights);
            for (index, (block, sums)) in stripe.iter().zip(sums.iter_mut()).enumerate() {
                if last {
                    results.prefetch(block);
                }
                let x = &x[block.first * self.inputs + first * block.rows..][..inputs * block.rows];
                block.multiply(x, weights, Prefetch::of(&self.panels, &slice, index, stripe.len()), sums);
                if last {
                    results.write(block, sums);
                }
            }
        }
    }
}

/// Room that a thread works in.
#[derive(Default)]
struct Room {
    sums: Vec<Sums>,
    /// A slice of weights that lie in a half type.
    weights: Vec<Line>,
}

/// The columns of a panel in the output.
struct Results<'a> {
    target: &'a Target,
    first_column: usize,
    columns: usize,
    outputs: usize,
}

impl Results<'_> {
    fn row(&self, row: usize) -> *mut f32 {
        self.target.0.wrapping_add(row * self.outputs + self.first_column)
    }

    /// A block's rows are asked for while they are still being summed: the output is larger than the caches.
    fn prefetch(&self, block: &Block) {
        for row in block.first..block.first + block.rows {
            for register in 0..REGISTERS {
                prefetch(self.row(row).wrapping_add(register * LANES).cast());
            }
        }
    }

    fn write(&self, block: &Block, sums: &Sums) {
        for (row, sums) in sums.0.iter().enumerate().take(block.rows) {
            let target = self.row(block.first + row);
            // SAFETY: the row and its columns lie within the output, and no other task has this panel and stripe.
            unsafe {
                match self.columns {
                    // registers rather than a call
                    PANEL => {
                        for (register, sums) in sums.as_chunks::<LANES>().0.iter().enumerate() {
                            target.cast::<[f32; LANES]>().add(register).write_unaligned(*sums);
                        }
                    }
                    _ => std::ptr::copy_nonoverlapping(sums.as_ptr(), target, self.columns),
                }
            }
        }
    }
}

/// The output, of which every task writes its own columns and rows.
struct Target(*mut f32);

// SAFETY: tasks write disjoint elements, see `PackedLinear::panel`.
unsafe impl Sync for Target {}

/// Consecutive rows that are multiplied together.
#[derive(Clone, Copy, Debug)]
struct Block {
    first: usize,
    rows: usize,
}

/// As few blocks as possible, all of about the same size.
fn blocks(rows: usize) -> Vec<Block> {
    let count = rows.div_ceil(pulp::Arch::new().dispatch(BlockRows));
    (0..count)
        .map(|i| (i * rows / count, (i + 1) * rows / count))
        .map(|(a, b)| Block { first: a, rows: b - a })
        .collect()
}

/// Rows whose sums fit into the registers of this machine.
struct BlockRows;

impl WithSimd for BlockRows {
    type Output = usize;
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        if S::REGISTER_COUNT >= 32 { MAX_BLOCK } else { 4 }
    }
}

/// Rows of a block beside each other, input by input.
fn pack_rows(x: &[f32], blocks: &[Block], inputs: usize) -> Vec<f32> {
    let mut packed = Vec::with_capacity(x.len());
    if x.is_empty() {
        return packed;
    }
    let mut chunks = Vec::with_capacity(blocks.len());
    let mut rest = &mut packed.spare_capacity_mut()[..x.len()];
    for block in blocks {
        let (chunk, behind) = rest.split_at_mut(block.rows * inputs);
        chunks.push((chunk, block));
        rest = behind;
    }
    chunks.into_par_iter().with_min_len(8).for_each(|(chunk, block)| {
        let source = &x[block.first * inputs..][..block.rows * inputs];
        match block.rows {
            // the block of long products: its length known, the copy needs no counting
            MAX_BLOCK => interleave::<MAX_BLOCK>(source, inputs, chunk),
            rows => {
                for (row, source) in source.chunks_exact(inputs).enumerate() {
                    chunk.iter_mut().skip(row).step_by(rows).zip(source).for_each(|(packed, &value)| {
                        packed.write(value);
                    });
                }
            }
        }
    });
    // SAFETY: the blocks are all rows, and each has filled its chunk.
    unsafe { packed.set_len(x.len()) };
    packed
}

/// Rows `[R, I]` to columns `[I, R]`.
fn interleave<const ROWS: usize>(rows: &[f32], inputs: usize, columns: &mut [MaybeUninit<f32>]) {
    const TILE: usize = 16;
    for first in (0..inputs).step_by(TILE) {
        let width = TILE.min(inputs - first);
        let mut tile = [[0.0; ROWS]; TILE];
        for (row, values) in rows.chunks_exact(inputs).enumerate() {
            for (column, &value) in tile.iter_mut().zip(&values[first..first + width]) {
                column[row] = value;
            }
        }
        columns[first * ROWS..][..width * ROWS].write_copy_of_slice(tile[..width].as_flattened());
    }
}

/// The sums of a block, a row after the other.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Sums([[f32; PANEL]; MAX_BLOCK]);

impl Block {
    fn multiply(&self, x: &[f32], weights: &[f32], prefetch: Prefetch, sums: &mut Sums) {
        macro_rules! with_rows {
            ($($rows:literal)*) => {
                match self.rows {
                    $($rows => pulp::Arch::new().dispatch(Kernel::<$rows> { x, weights, prefetch, sums }),)*
                    _ => unreachable!("blocks() makes blocks of 1 to 9 rows"),
                }
            };
        }
        with_rows!(1 2 3 4 5 6 7 8 9)
    }
}

/// `sums[row] += sum over inputs of x[input, row] * weights[input]`
struct Kernel<'a, const ROWS: usize> {
    x: &'a [f32],
    weights: &'a [f32],
    prefetch: Prefetch,
    sums: &'a mut Sums,
}

/// The kernel for [`REGISTERS`] of outputs, with a variable for each of a row's sums: an array of sums would go to
/// memory and back with every input.
macro_rules! multiply_rows {
    ($rows:ident, $simd:ident, $kernel:ident, $weights:ident, $x:ident, $column:ident;
     $($row:literal $a:ident $b:ident $c:ident,)*) => {
        $(let (mut $a, mut $b, mut $c) = {
            let sums = S::as_simd_f32s(&$kernel.sums.0[$row]).0;
            (sums[$column], sums[$column + 1], sums[$column + 2])
        };)*
        for (input, (weights, x)) in $weights.chunks_exact(PANEL / S::F32_LANES).zip($x).enumerate() {
            $kernel.prefetch.ask(input);
            let (left, middle, right) = (weights[$column], weights[$column + 1], weights[$column + 2]);
            $(if $rows > $row {
                let factor = $simd.splat_f32s(x[$row]);
                $a = $simd.mul_add_e_f32s(factor, left, $a);
                $b = $simd.mul_add_e_f32s(factor, middle, $b);
                $c = $simd.mul_add_e_f32s(factor, right, $c);
            })*
        }
        $(if $rows > $row {
            let sums = S::as_mut_simd_f32s(&mut $kernel.sums.0[$row]).0;
            (sums[$column], sums[$column + 1], sums[$column + 2]) = ($a, $b, $c);
        })*
    };
}

impl<const ROWS: usize> WithSimd for Kernel<'_, ROWS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (weights, x) = (S::as_simd_f32s(self.weights).0, self.x.as_chunks::<ROWS>().0);
        let kernel = self;
        for column in (0..PANEL / S::F32_LANES).step_by(REGISTERS) {
            multiply_rows!(ROWS, simd, kernel, weights, x, column;
                0 a0 b0 c0, 1 a1 b1 c1, 2 a2 b2 c2, 3 a3 b3 c3, 4 a4 b4 c4, 5 a5 b5 c5,
                6 a6 b6 c6, 7 a7 b7 c7, 8 a8 b8 c8,);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::linear;
    use super::super::super::testing::random;
    use super::*;

    fn f32s(dims: &[usize], seed: u64) -> Tensor {
        random(dims, seed).to_dtype(DType::F32).unwrap()
    }

    fn bits(x: &Tensor) -> Vec<u32> {
        x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn the_product_is_that_of_the_definition() {
        // More rows than a stripe has, blocks of every size, panels that are full and not.
        for (rows, inputs, outputs) in [(1, 5, 1), (7, 33, 31), (13, 64, 32), (40, 100, 100), (150, 1200, 70)] {
            let (x, w, b) = (f32s(&[rows, inputs], 1), f32s(&[outputs, inputs], 2), f32s(&[outputs], 3));
            for bias in [None, Some(&b)] {
                let packed = PackedLinear::new(&w, bias).unwrap().forward(&x).unwrap();
                let exact = linear(&x, &w, bias).unwrap();
                let off = (packed - exact).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(off < 1e-6 * inputs as f32, "{rows} x {inputs} x {outputs}: off by {off}");
            }
        }
    }

    #[test]
    fn weights_of_a_half_type_make_no_difference() {
        for dtype in [DType::F16, DType::BF16] {
            for rows in [1, 8, 40, 150] {
                let w = f32s(&[70, 300], 2).to_dtype(dtype).unwrap();
                let x = f32s(&[rows, 300], 1);
                let narrow = PackedLinear::new(&w, None).unwrap();
                assert_eq!(narrow.panels.weight_bytes(), 2);
                // another column whose weights no half type holds: the others stay what they are
                let other = Tensor::full(0.1f32, (1, 300), w.device()).unwrap();
                let wide = Tensor::cat(&[&w.to_dtype(DType::F32).unwrap(), &other], 0).unwrap();
                let wide = PackedLinear::new(&wide, None).unwrap();
                assert_eq!(wide.panels.weight_bytes(), 4);
                let expected = wide.forward(&x).unwrap().narrow(1, 0, 70).unwrap();
                assert_eq!(bits(&narrow.forward(&x).unwrap()), bits(&expected), "{dtype:?}, {rows} rows");
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours_or_on_threads() {
        let (x, w) = (f32s(&[37, 300], 1), f32s(&[130, 300], 2));
        let packed = PackedLinear::new(&w, None).unwrap();
        let all = packed.forward(&x).unwrap();
        for rows in 1..=37 {
            let some = packed.forward(&x.narrow(0, 37 - rows, rows).unwrap()).unwrap();
            assert_eq!(bits(&some), bits(&all.narrow(0, 37 - rows, rows).unwrap()), "{rows} rows");
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(bits(&pool.install(|| packed.forward(&x)).unwrap()), bits(&all), "{threads} threads");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let packed = PackedLinear::new(&f32s(&[4, 3], 1), None).unwrap();
        assert!(packed.forward(&f32s(&[2, 4], 1)).is_err());
        assert!(PackedLinear::new(&f32s(&[4, 3], 1), Some(&f32s(&[3], 1))).is_err());
        let empty = PackedLinear::new(&f32s(&[4, 0], 1), None).unwrap();
        assert_eq!(bits(&empty.forward(&f32s(&[13, 0], 1)).unwrap()), [0; 52]);
        assert_eq!(packed.forward(&f32s(&[0, 3], 1)).unwrap().dims(), [0, 4]);
        let tracked = candle_core::Var::from_tensor(&f32s(&[2, 3], 1)).unwrap();
        assert!(packed.forward(tracked.as_tensor()).is_err());
    }
}
