//! The product in vector registers, a block of rows at a time.
//!
//! A block's sums stay in registers while a panel's weights pass. With few rows memory decides: each thread sees one
//! stream of weights, once. With many rows arithmetic decides: the panel is taken in slices of [`SLICE`] inputs, which
//! stay in the first cache while all blocks pass. A sum runs over the inputs in their order in either case.

use super::panels::{LINE, Line, Panels, prefetch};
use super::{Block, LANES, PANEL, PackedRows, Panel, REGISTERS, Results};
use half::f16;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows of a block whose sums fit into 32 registers beside the weights and one input.
const MAX_BLOCK: usize = 13;

/// Inputs of a panel that are multiplied with all blocks before the next ones: 24 KiB of weights.
const SLICE: usize = 192;

/// Rows of a block beside each other, input by input.
pub struct RegisterRows {
    x: Vec<f32>,
    inputs: usize,
    blocks: Vec<Block>,
}

impl RegisterRows {
    /// Packs `x [R, I]`.
    pub fn pack(x: &[f32], inputs: usize) -> Self {
        let blocks = blocks(x.len() / inputs);
        Self { x: pack_rows(x, &blocks, inputs), inputs, blocks }
    }
}

/// Room that a thread works in.
#[derive(Default)]
pub struct Room {
    sums: Vec<Sums>,
    /// A slice of weights that lie in a half type.
    weights: Vec<Line>,
}

impl PackedRows for RegisterRows {
    const BLOCK: usize = MAX_BLOCK;
    const PASS: usize = usize::MAX;
    type Room = Room;

    fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    fn multiply(&self, blocks: &[Block], panel: &Panel, room: &mut Room, results: &Results) {
        let Room { sums, weights } = room;
        sums.resize(blocks.len(), Sums([[0.0; PANEL]; MAX_BLOCK]));
        blocks.iter().zip(sums.iter_mut()).for_each(|(block, sums)| results.read(block, &mut sums.0));
        for first in panel.pass.clone().step_by(SLICE) {
            let slice = first..panel.pass.end.min(first + SLICE);
            let (inputs, is_last) = (slice.len(), slice.end == panel.pass.end);
            let range = panel.weights(slice);
            let weights = panel.panels.get(range.clone(), weights);
            for (index, (block, sums)) in blocks.iter().zip(sums.iter_mut()).enumerate() {
                if is_last {
                    results.prefetch(block);
                }
                let x = &self.x[block.first * self.inputs + first * block.rows..][..inputs * block.rows];
                let prefetch = Prefetch::of(panel.panels, &range, index, blocks.len());
                multiply_block(block.rows, x, weights, prefetch, sums);
                if is_last {
                    results.write(block, &sums.0);
                }
            }
        }
    }
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
        if S::REGISTER_COUNT >= 32 { MAX_BLOCK } else { 6 }
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

fn multiply_block(rows: usize, x: &[f32], weights: &[f32], prefetch: Prefetch, sums: &mut Sums) {
    macro_rules! with_rows {
        ($($rows:literal)*) => {
            match rows {
                $($rows => pulp::Arch::new().dispatch(Kernel::<$rows> { x, weights, prefetch, sums }),)*
                _ => unreachable!("blocks() makes blocks of 1 to 13 rows"),
            }
        };
    }
    with_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13)
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
     $($row:literal $a:ident $b:ident,)*) => {
        $(let (mut $a, mut $b) = {
            let sums = S::as_simd_f32s(&$kernel.sums.0[$row]).0;
            (sums[$column], sums[$column + 1])
        };)*
        for (input, (weights, x)) in $weights.chunks_exact(PANEL / S::F32_LANES).zip($x).enumerate() {
            $kernel.prefetch.ask(input);
            let (left, right) = (weights[$column], weights[$column + 1]);
            $(if $rows > $row {
                let factor = $simd.splat_f32s(x[$row]);
                $a = $simd.mul_add_e_f32s(factor, left, $a);
                $b = $simd.mul_add_e_f32s(factor, right, $b);
            })*
        }
        $(if $rows > $row {
            let sums = S::as_mut_simd_f32s(&mut $kernel.sums.0[$row]).0;
            (sums[$column], sums[$column + 1]) = ($a, $b);
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
                0 a0 b0, 1 a1 b1, 2 a2 b2, 3 a3 b3, 4 a4 b4, 5 a5 b5, 6 a6 b6, 7 a7 b7, 8 a8 b8, 9 a9 b9,
                10 a10 b10, 11 a11 b11, 12 a12 b12,);
        }
    }
}

/// What a block asks memory for while it multiplies.
#[derive(Clone, Copy)]
enum Prefetch {
    Nothing,
    /// One cache line for each input, from here.
    Line(*const u8),
    /// All lines of an input's half weights, from here.
    HalfInput(*const u8),
    /// All lines of an input, from here.
    Input(*const u8),
}

impl Prefetch {
    /// How many weights ahead a single block asks for: a page, where the processor's own foresight ends.
    const AHEAD: usize = 1024;

    /// The weights are one stream. With few rows each is used once, and what comes soon is asked for as fast as
    /// memory can; otherwise the first blocks bring the next slice, each a part of it, at the pace of their sums.
    fn of(panels: &Panels, slice: &Range<usize>, block: usize, blocks: usize) -> Self {
        let lines_of_an_input = (PANEL * panels.weight_bytes()).div_ceil(LINE);
        match (panels, block) {
            (Panels::F32(_), _) if blocks < lines_of_an_input => {
                Prefetch::Input(panels.address(slice.start + Self::AHEAD))
            }
            // the slice itself has been read to be widened
            (_, _) if blocks < lines_of_an_input => Prefetch::HalfInput(panels.address(slice.end)),
            (_, block) if block < lines_of_an_input => {
                Prefetch::Line(panels.address(slice.end).wrapping_add(block * LINE * (slice.len() / PANEL)))
            }
            _ => Prefetch::Nothing,
        }
    }

    #[inline(always)]
    fn ask(self, input: usize) {
        match self {
            Prefetch::Nothing => {}
            Prefetch::Line(first) => prefetch(first.wrapping_add(input * LINE)),
            Prefetch::HalfInput(first) => {
                let bytes = PANEL * size_of::<f16>();
                prefetch(first.wrapping_add(input * bytes));
                prefetch(first.wrapping_add(input * bytes + LINE));
            }
            Prefetch::Input(first) => {
                for line in 0..PANEL / LANES {
                    prefetch(first.wrapping_add(input * PANEL * size_of::<f32>() + line * LINE));
                }
            }
        }
    }
}
