//! Linear maps with weights in the order in which the kernels read them.
//!
//! Decoding multiplies a handful of rows with every weight of the network and is bound by memory; images and prompts are
//! many rows, bound by arithmetic. Weights lie in panels of [`PANEL`] outputs, input by input, and there are two kernels:
//! vector registers, and the processor's matrix tiles where it has them. They agree as closely as f32 allows, not to the
//! bit. So that no row's result depends on how many others there are, the caller says which kind of row it is
//! ([`Rows`]), and does not change its mind.

mod panels;
mod registers;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;

use self::panels::{Panels, prefetch};
use self::registers::RegisterRows;
use super::{on_cpu, refuse_gradients};
use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Registers of outputs that a block of rows multiplies at once.
const REGISTERS: usize = 2;

/// Elements of the widest register, and of a cache line.
const LANES: usize = 16;

/// Outputs side by side in a panel.
const PANEL: usize = REGISTERS * LANES;

/// The rows of a pass are taken in stripes of this many elements, which stay in a core's own cache while panels pass.
const STRIPE_ELEMENTS: usize = 256 * 1024;

/// The kind of rows that a network multiplies at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All positions of images or prompts.
    Many,
    /// The latest position of each running sequence.
    Few,
}

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
    ///
    /// # Errors
    /// Shapes other than these.
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

    /// I, the width of what it is applied to.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// O, the width of its results.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `x [.., I]` to `[.., O]`.
    ///
    /// # Errors
    /// Another last dimension, or a tensor that wants gradients.
    pub fn forward(&self, x: &Tensor, kind: Rows) -> Result<Tensor> {
        refuse_gradients("packed linear", &[x])?;
        let mut dims = x.dims().to_vec();
        let Some(last) = dims.last_mut() else { bail!("packed linear: a scalar has no last dimension") };
        if std::mem::replace(last, self.outputs) != self.inputs {
            bail!("packed linear: input {:?} does not fit weight [{}, {}]", x.dims(), self.outputs, self.inputs)
        }
        let rows = dims[..dims.len() - 1].iter().product();
        on_cpu(&[x], &dims, |args| self.multiply(args[0], rows, kind))
    }

    fn multiply(&self, x: &[f32], rows: usize, kind: Rows) -> Vec<f32> {
        if rows * self.outputs == 0 || self.inputs == 0 {
            return self.bias.clone().unwrap_or_else(|| vec![0.0; self.outputs]).repeat(rows);
        }
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if kind == Rows::Many && tiles::available() {
            return self.multiply_rows(&tiles::TileRows::pack(x, self.inputs), rows);
        }
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        let _ = kind; // one kernel for all
        self.multiply_rows(&RegisterRows::pack(x, self.inputs), rows)
    }

    fn multiply_rows<R: PackedRows>(&self, x: &R, rows: usize) -> Vec<f32> {
        let count = rows * self.outputs;
        let mut out = Vec::with_capacity(count);
        let length = R::PASS.min(self.inputs);
        let most_blocks = (STRIPE_ELEMENTS / (R::BLOCK * length)).max(1);
        let stripes = x.blocks().len().div_ceil(most_blocks);
        let stripe = x.blocks().len().div_ceil(stripes).next_multiple_of(2);
        let stripes: Vec<&[Block]> = x.blocks().chunks(stripe).collect();
        let panels = self.outputs.div_ceil(PANEL);
        let target = Target(out.spare_capacity_mut().as_mut_ptr().cast());
        // Neighbouring panels go to one thread: they are one stream of memory.
        let per_task = panels.div_ceil(4 * rayon::current_num_threads()).max(1);
        for first in (0..self.inputs).step_by(length) {
            let pass = first..self.inputs.min(first + length);
            (0..stripes.len() * panels).into_par_iter().with_min_len(per_task).for_each_init(
                R::Room::default,
                |room, task| {
                    let (blocks, index) = (stripes[task / panels], task % panels);
                    let panel = Panel { panels: &self.panels, index, inputs: self.inputs, pass: pass.clone() };
                    let (first_column, outputs) = (index * PANEL, self.outputs);
                    let columns = (outputs - first_column).min(PANEL);
                    let mut bias = [0.0; PANEL];
                    if let Some(values) = &self.bias {
                        bias[..columns].copy_from_slice(&values[first_column..][..columns]);
                    }
                    let bias = (first == 0).then_some(bias);
                    x.multiply(
                        blocks,
                        &panel,
                        room,
                        &Results { target: &target, bias, first_column, columns, outputs },
                    );
                },
            );
        }
        // SAFETY: every row is in a stripe and every output in a panel, and the tasks have written them all.
        unsafe { out.set_len(count) };
        out
    }
}

/// Rows in the order in which a kernel reads them.
trait PackedRows: Sync {
    /// The most rows of a block.
    const BLOCK: usize;

    /// Inputs that all rows and panels are multiplied for before the next ones.
    const PASS: usize;

    /// Room that a thread works in.
    type Room: Default;

    /// All rows in their order.
    fn blocks(&self) -> &[Block];

    /// Some of the blocks times a panel.
    fn multiply(&self, blocks: &[Block], panel: &Panel, room: &mut Self::Room, results: &Results);
}

/// Consecutive rows that are multiplied together.
#[derive(Clone, Copy, Debug)]
struct Block {
    first: usize,
    rows: usize,
}

/// One panel of weights.
struct Panel<'a> {
    panels: &'a Panels,
    index: usize,
    inputs: usize,
    /// Inputs of this pass.
    pass: Range<usize>,
}

impl Panel<'_> {
    /// Where the weights of some inputs lie among all panels.
    fn weights(&self, inputs: Range<usize>) -> Range<usize> {
        let first = self.index * self.inputs;
        (first + inputs.start) * PANEL..(first + inputs.end) * PANEL
    }
}

/// The columns of a panel in the output.
struct Results<'a> {
    target: &'a Target,
    /// What the first pass begins with; later ones go on.
    bias: Option<[f32; PANEL]>,
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
            for column in (0..self.columns).step_by(LANES) {
                prefetch(self.row(row).wrapping_add(column).cast());
            }
        }
    }

    /// The sums of a block before this pass.
    fn read(&self, block: &Block, sums: &mut [[f32; PANEL]]) {
        for (row, sums) in sums.iter_mut().enumerate().take(block.rows) {
            match self.bias {
                Some(bias) => *sums = bias,
                // SAFETY: the pass before has written the row, and no other task has this panel and stripe.
                None => unsafe {
                    let written = std::slice::from_raw_parts(self.row(block.first + row), self.columns);
                    sums[..self.columns].copy_from_slice(written);
                },
            }
        }
    }

    fn write(&self, block: &Block, sums: &[[f32; PANEL]]) {
        for (row, sums) in sums.iter().enumerate().take(block.rows) {
            let target = self.row(block.first + row);
            // SAFETY: the row and its columns lie within the output, and no other task has this panel and stripe.
            unsafe {
                if self.columns == PANEL {
                    // registers rather than a call
                    for (register, sums) in sums.as_chunks::<LANES>().0.iter().enumerate() {
                        target.cast::<[f32; LANES]>().add(register).write_unaligned(*sums);
                    }
                } else {
                    std::ptr::copy_nonoverlapping(sums.as_ptr(), target, self.columns);
                }
            }
        }
    }
}

/// The output, of which every task writes its own columns and rows.
struct Target(*mut f32);

// SAFETY: tasks write disjoint elements, see `PackedLinear::multiply_rows`.
unsafe impl Sync for Target {}

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

    /// The kernels that this machine has.
    fn kernels(packed: &PackedLinear, x: &Tensor) -> Vec<(&'static str, Vec<f32>)> {
        let (rows, inputs) = x.dims2().unwrap();
        let x = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        #[allow(unused_mut, reason = "some machines have one kernel")]
        let mut kernels = vec![("registers", packed.multiply_rows(&RegisterRows::pack(&x, inputs), rows))];
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if tiles::available() {
            kernels.push(("tiles", packed.multiply_rows(&tiles::TileRows::pack(&x, inputs), rows)));
        }
        kernels
    }

    #[test]
    fn every_kernel_is_as_exact_as_f32() {
        // More rows than a stripe has, blocks of every size, panels and tiles that are full and not.
        for (rows, inputs, outputs) in
            [(1, 5, 1), (7, 33, 31), (16, 32, 48), (13, 64, 32), (40, 100, 100), (33, 130, 48), (150, 3600, 70)]
        {
            let (x, w, b) = (f32s(&[rows, inputs], 1), f32s(&[outputs, inputs], 2), f32s(&[outputs], 3));
            for bias in [None, Some(&b)] {
                let f64s = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
                let exact = linear(&f64s(&x), &f64s(&w), bias.map(f64s).as_ref()).unwrap();
                let exact = exact.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                // what a sum of so many rounded terms of this size is off by, on average
                let expected = f64::from(f32::EPSILON) * inputs as f64 / 16.0 + 1e-7;
                for (kernel, product) in kernels(&PackedLinear::new(&w, bias).unwrap(), &x) {
                    let off = product.iter().zip(&exact).map(|(&y, exact)| (f64::from(y) - exact).powi(2));
                    let off = (off.sum::<f64>() / exact.len() as f64).sqrt();
                    assert!(off < expected, "{rows} x {inputs} x {outputs}, {kernel}: off by {off}");
                }
            }
        }
    }

    #[test]
    fn weights_of_a_half_type_make_no_difference() {
        for dtype in [DType::F16, DType::BF16] {
            for (rows, kind) in [(1, Rows::Few), (8, Rows::Few), (40, Rows::Many), (150, Rows::Many)] {
                let w = f32s(&[70, 300], 2).to_dtype(dtype).unwrap();
                let x = f32s(&[rows, 300], 1);
                let narrow = PackedLinear::new(&w, None).unwrap();
                assert_eq!(narrow.panels.weight_bytes(), 2);
                // another column whose weights no half type holds: the others stay what they are
                let other = Tensor::full(0.1f32, (1, 300), w.device()).unwrap();
                let wide = Tensor::cat(&[&w.to_dtype(DType::F32).unwrap(), &other], 0).unwrap();
                let wide = PackedLinear::new(&wide, None).unwrap();
                assert_eq!(wide.panels.weight_bytes(), 4);
                let expected = wide.forward(&x, kind).unwrap().narrow(1, 0, 70).unwrap();
                assert_eq!(bits(&narrow.forward(&x, kind).unwrap()), bits(&expected), "{dtype:?}, {rows} rows");
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours_or_on_threads() {
        let (x, w) = (f32s(&[37, 300], 1), f32s(&[130, 300], 2));
        let packed = PackedLinear::new(&w, None).unwrap();
        for kind in [Rows::Many, Rows::Few] {
            let all = packed.forward(&x, kind).unwrap();
            for rows in 1..=37 {
                let some = packed.forward(&x.narrow(0, 37 - rows, rows).unwrap(), kind).unwrap();
                assert_eq!(bits(&some), bits(&all.narrow(0, 37 - rows, rows).unwrap()), "{rows} rows");
            }
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let here = pool.install(|| packed.forward(&x, kind)).unwrap();
                assert_eq!(bits(&here), bits(&all), "{threads} threads");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        for kind in [Rows::Many, Rows::Few] {
            let packed = PackedLinear::new(&f32s(&[4, 3], 1), None).unwrap();
            assert!(packed.forward(&f32s(&[2, 4], 1), kind).is_err());
            assert!(PackedLinear::new(&f32s(&[4, 3], 1), Some(&f32s(&[3], 1))).is_err());
            let empty = PackedLinear::new(&f32s(&[4, 0], 1), None).unwrap();
            assert_eq!(bits(&empty.forward(&f32s(&[13, 0], 1), kind).unwrap()), [0; 52]);
            assert_eq!(packed.forward(&f32s(&[0, 3], 1), kind).unwrap().dims(), [0, 4]);
            let tracked = candle_core::Var::from_tensor(&f32s(&[2, 3], 1)).unwrap();
            assert!(packed.forward(tracked.as_tensor(), kind).is_err());
        }
    }
}
