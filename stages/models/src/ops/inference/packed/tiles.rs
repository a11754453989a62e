//! The product on a processor with matrix tiles (Intel AMX), in numbers of bf16 that add up to those of f32.
//!
//! A tile multiplies bf16 sixteen times as fast as vector registers multiply f32. The 24 bits of an f32 are exactly the
//! sum of three bf16 ([`parts`]), so `x w` is nine products of them. The three smallest are below the last bit of
//! `x w` and left out; the other six ([`products`]) make the sums as exact as those of f32 arithmetic. A weight that
//! f16 holds has two parts, one that bf16 holds is its own: such weights have fewer products, which give the same bits,
//! because the others would add zero.
//!
//! Splitting weights takes as long as multiplying eight rows, so that tiles are for many rows. Loads and products of
//! tiles overlap where the core runs nothing else; beside a busy hyperthread they follow each other, and each costs two to
//! three times as much. The sums of two blocks by two tiles of outputs therefore stay in registers for as many inputs as
//! the caches allow, and each part is loaded as seldom as eight registers permit.

use super::panels::{LINE, Panels, prefetch};
use super::{Block, LANES, PANEL, PackedRows, Panel, REGISTERS, Results};
use half::{bf16, f16};
use rayon::prelude::*;
use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::LazyLock;

/// Rows of a tile.
const TILE_ROWS: usize = 16;

/// Inputs that one instruction sums over: a line of a tile.
const TILE_INPUTS: usize = LINE / size_of::<bf16>();

/// Parts of an f32.
const PARTS: usize = 3;

/// Inputs of a pass: 192 KiB of a panel's parts, which stay in a core's own cache beside those of the rows.
const PASS: usize = 1024;

/// Weights of panels for which memory is asked while others are split: a page of f32 ahead.
const AHEAD: usize = 1024;

/// Whether processor and system let this process use tiles.
pub fn available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        /// `arch_prctl`: a process asks for a state that makes its threads' saved registers larger.
        const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_ulong = 18;
        const AMX_BF16: u32 = 1 << 22;
        const AMX_TILE: u32 = 1 << 24;
        let vectors = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        let needed = AMX_BF16 | AMX_TILE;
        vectors
            && __cpuid(0).eax >= 7
            && __cpuid_count(7, 0).edx & needed == needed
            // SAFETY: the call changes what later instructions may do, and nothing in memory.
            && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0
    });
    *AVAILABLE
}

/// A tile in memory: lines of 32 bf16.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Tile([[u16; TILE_INPUTS]; TILE_ROWS]);

/// The sums of a block, a row after the other.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Sums([[f32; PANEL]; TILE_ROWS]);

/// Rows as tiles of their parts.
pub struct TileRows {
    /// `[blocks, chunks, PARTS]`
    tiles: Vec<Tile>,
    blocks: Vec<Block>,
    /// Tiles that a row's inputs fill.
    chunks: usize,
}

impl TileRows {
    /// Packs `x [R, I]`. Only where tiles are [`available`].
    pub fn pack(x: &[f32], inputs: usize) -> Self {
        assert!(available(), "packing for tiles on a machine without them");
        let (rows, chunks) = (x.len() / inputs, inputs.div_ceil(TILE_INPUTS));
        let blocks: Vec<Block> =
            (0..rows).step_by(TILE_ROWS).map(|first| Block { first, rows: TILE_ROWS.min(rows - first) }).collect();
        let mut tiles = Vec::with_capacity(blocks.len() * chunks * PARTS);
        let room = &mut tiles.spare_capacity_mut()[..blocks.len() * chunks * PARTS];
        room.par_chunks_mut(chunks * PARTS).zip(&blocks).for_each(|(tiles, block)| {
            let rows = &x[block.first * inputs..][..block.rows * inputs];
            // SAFETY: the machine has what the function asks for, as tiles are available.
            unsafe { split_rows(rows, inputs, tiles) };
        });
        // SAFETY: every block has filled its tiles.
        unsafe { tiles.set_len(blocks.len() * chunks * PARTS) };
        Self { tiles, blocks, chunks }
    }

    fn tiles(&self, block: &Block, first_chunk: usize) -> *const Tile {
        self.tiles[(block.first / TILE_ROWS * self.chunks + first_chunk) * PARTS..].as_ptr()
    }
}

impl PackedRows for TileRows {
    const BLOCK: usize = TILE_ROWS;
    const PASS: usize = PASS;
    /// Weights `[chunks, parts, REGISTERS]`.
    type Room = Vec<Tile>;

    fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    fn multiply(&self, blocks: &[Block], panel: &Panel, weights: &mut Vec<Tile>, results: &Results) {
        // SAFETY: the rows are packed, so that tiles are available.
        let registers = unsafe { TileRegisters::new() };
        let chunks = panel.pass.len().div_ceil(TILE_INPUTS);
        weights.resize(chunks * PARTS * REGISTERS, Tile([[0; TILE_INPUTS]; TILE_ROWS]));
        let range = panel.weights(panel.pass.clone());
        // SAFETY: the machine has what the functions ask for, as rows are packed for it.
        let parts = unsafe {
            match panel.panels {
                Panels::F32(pages) => split_weights::<3, f32>(pages.elements(), &range, weights),
                Panels::F16(pages) => split_weights::<2, f16>(pages.elements(), &range, weights),
                Panels::Bf16(pages) => split_weights::<1, bf16>(pages.elements(), &range, weights),
            }
        };
        let mut sums = [Sums([[0.0; PANEL]; TILE_ROWS]); 2];
        for blocks in blocks.chunks(2) {
            blocks.iter().zip(&mut sums).for_each(|(block, sums)| results.read(block, &mut sums.0));
            blocks.iter().for_each(|block| results.prefetch(block));
            let x = |block: &Block| self.tiles(block, panel.pass.start / TILE_INPUTS);
            let product = Product {
                x: [x(&blocks[0]), x(&blocks[blocks.len() - 1])],
                w: weights.as_ptr(),
                parts,
                chunks,
                sums: sums.as_mut_ptr(),
            };
            // SAFETY: rows and weights have tiles for all chunks of the pass.
            unsafe {
                match blocks.len() {
                    2 => product.two(&registers),
                    _ => product.one(&registers),
                }
            }
            blocks.iter().zip(&sums).for_each(|(block, sums)| results.write(block, &sums.0));
        }
    }
}

/// The highest eight bits of each number as bf16 in the upper half of a lane, and what they leave. Three times in a row
/// leaves nothing of a finite number (but what is below 2^-126: tiles take such numbers for zero).
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn part(x: __m512) -> (__m512i, __m512) {
    let top = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0xffff_0000_u32 as i32));
    (top, _mm512_sub_ps(x, _mm512_castsi512_ps(top)))
}

/// The tiles of a block's rows.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn split_rows(rows: &[f32], inputs: usize, tiles: &mut [MaybeUninit<Tile>]) {
    for (chunk, tiles) in tiles.as_chunks_mut::<PARTS>().0.iter_mut().enumerate() {
        let tiles = tiles.each_mut().map(|tile| tile.as_mut_ptr());
        let first = chunk * TILE_INPUTS;
        let width = TILE_INPUTS.min(inputs - first);
        let mut padded = [0.0; TILE_INPUTS];
        for line in 0..TILE_ROWS {
            let source = match rows.get(line * inputs + first..).filter(|_| line * inputs < rows.len()) {
                Some(row) if width == TILE_INPUTS => row.as_ptr(),
                row => {
                    padded.fill(0.0);
                    row.into_iter().for_each(|row| padded[..width].copy_from_slice(&row[..width]));
                    padded.as_ptr()
                }
            };
            // SAFETY: the source is a line long, and so is each tile's line.
            unsafe {
                let (mut left, mut right) = (_mm512_loadu_ps(source), _mm512_loadu_ps(source.add(LANES)));
                for tile in tiles {
                    let target = (&raw mut (*tile).0[line]).cast::<__m256i>();
                    let (top_left, top_right);
                    ((top_left, left), (top_right, right)) = (part(left), part(right));
                    _mm256_store_si256(target, _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(top_left)));
                    _mm256_store_si256(target.add(1), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(top_right)));
                }
            }
        }
    }
}

/// A number that weights lie in.
trait Weight: Copy {
    const ZERO: Self;

    /// Sixteen of them.
    unsafe fn load(from: *const Self) -> __m512;
}

impl Weight for f32 {
    const ZERO: Self = 0.0;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(from: *const Self) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_ps(from) }
    }
}

impl Weight for f16 {
    const ZERO: Self = f16::ZERO;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(from: *const Self) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
}

impl Weight for bf16 {
    const ZERO: Self = bf16::ZERO;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(from: *const Self) -> __m512 {
        // SAFETY: the caller's.
        let bits = unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
    }
}

/// The tiles `[chunks, N, REGISTERS]` of some inputs of a panel, in which two inputs of an output lie side by side; `N`.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn split_weights<const N: usize, W: Weight>(panels: &[W], range: &Range<usize>, tiles: &mut [Tile]) -> usize {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let weights = panels[range.clone()].as_chunks::<PANEL>().0;
    let none = [W::ZERO; PANEL];
    for (chunk, tiles) in weights.chunks(TILE_INPUTS).zip(tiles.chunks_exact_mut(N * REGISTERS)) {
        for line in 0..TILE_ROWS {
            let input = |at: usize| chunk.get(at).unwrap_or(&none);
            let (even, odd) = (input(2 * line), input(2 * line + 1));
            for at in (0..2 * PANEL * size_of::<W>()).step_by(LINE) {
                prefetch(even.as_ptr().wrapping_add(AHEAD).cast::<u8>().wrapping_add(at));
            }
            for column in 0..REGISTERS {
                // SAFETY: an input's weights are as many as all columns have.
                let (mut even, mut odd) =
                    unsafe { (W::load(even.as_ptr().add(column * LANES)), W::load(odd.as_ptr().add(column * LANES))) };
                for tile in tiles[column..].iter_mut().step_by(REGISTERS) {
                    let (top_even, top_odd);
                    ((top_even, even), (top_odd, odd)) = (part(even), part(odd));
                    // a | (b & c)
                    let both = _mm512_ternarylogic_epi32::<0xf8>(_mm512_srli_epi32::<16>(top_even), top_odd, upper);
                    // SAFETY: a tile's line is a register long.
                    unsafe { _mm512_store_si512(tile.0[line].as_mut_ptr().cast(), both) };
                }
            }
        }
    }
    N
}

/// The shape of the eight tile registers, which a thread has while this lives: sixteen lines of 64 bytes each.
struct TileRegisters;

impl TileRegisters {
    /// # Safety
    /// The process may use tiles.
    unsafe fn new() -> Self {
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            line_bytes: [u16; 16],
            lines: [u8; 16],
        }
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], line_bytes: [0; 16], lines: [0; 16] };
        config.line_bytes[..8].fill(LINE as u16);
        config.lines[..8].fill(TILE_ROWS as u8);
        // SAFETY: the configuration is one that every processor with tiles has.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(readonly, nostack)) };
        Self
    }
}

impl Drop for TileRegisters {
    fn drop(&mut self) {
        // SAFETY: frees the registers, whose 8 KiB the system would save with the thread.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}

/// Asks for a quarter of a tile. Loading from the first cache does not hold up a product, from the second it does.
macro_rules! ask {
    ($tile:literal $quarter:literal) => {
        concat!(
            "prefetcht0 [",
            $tile,
            " + 256 * ",
            $quarter,
            "]\n",
            "prefetcht0 [",
            $tile,
            " + 256 * ",
            $quarter,
            " + 64]\n",
            "prefetcht0 [",
            $tile,
            " + 256 * ",
            $quarter,
            " + 128]\n",
            "prefetcht0 [",
            $tile,
            " + 256 * ",
            $quarter,
            " + 192]\n",
        )
    };
}

/// The products of parts of one chunk, from small to large; each brings one part anew, and asks for two tiles of the
/// next chunk.
macro_rules! products {
    ($shape:ident 3) => {
        concat!(
            $shape!(x 0), $shape!(w 2), $shape!(dot "{x0} + 3072" "{w} + 6144"),
            $shape!(w 1), $shape!(dot "{x0} + 4096" "{w} + 7168"),
            $shape!(x 1), $shape!(dot "{x0} + 5120" "{w} + 8192"),
            $shape!(w 0), $shape!(dot "{x1} + 3072" "{w} + 9216"),
            $shape!(x 2), $shape!(dot "{x1} + 4096" "{w} + 10240"),
            $shape!(x 0), $shape!(dot "{x1} + 5120" "{w} + 11264"),
        )
    };
    ($shape:ident 2) => {
        concat!(
            $shape!(x 0), $shape!(w 1), $shape!(dot "{x0} + 3072" "{w} + 4096"),
            $shape!(x 1), $shape!(dot "{x0} + 4096" "{w} + 5120"),
            $shape!(w 0), $shape!(dot "{x0} + 5120" "{w} + 6144"),
            $shape!(x 2), $shape!(dot "{x1} + 3072" "{w} + 7168"),
            $shape!(x 0), $shape!(dot "{x1} + 4096" "{x1} + 5120"),
        )
    };
    ($shape:ident 1) => {
        concat!(
            $shape!(w 0), $shape!(x 1), $shape!(dot "{x0} + 3072" "{x0} + 4096"),
            $shape!(x 2), $shape!(dot "{x0} + 5120" "{x1} + 3072"),
            $shape!(x 0), $shape!(dot "{x1} + 4096" "{x1} + 5120"),
        )
    };
}

/// Two blocks of rows. Sums of the second stand 2,048 bytes behind those of the first.
macro_rules! two_blocks {
    (x $part:literal) => {
        concat!(
            "tileloadd tmm4, [{x0} + {line} + 1024 * ", $part, "]\n",
            "tileloadd tmm5, [{x1} + {line} + 1024 * ", $part, "]\n",
        )
    };
    (w $part:literal) => {
        concat!(
            "tileloadd tmm6, [{w} + {line} + 2048 * ", $part, "]\n",
            "tileloadd tmm7, [{w} + {line} + 2048 * ", $part, " + 1024]\n",
        )
    };
    (dot $a:literal $b:literal) => {
        concat!(
            "tdpbf16ps tmm0, tmm4, tmm6\n", ask!($a 0), ask!($b 0),
            "tdpbf16ps tmm1, tmm4, tmm7\n", ask!($a 1), ask!($b 1),
            "tdpbf16ps tmm2, tmm5, tmm6\n", ask!($a 2), ask!($b 2),
            "tdpbf16ps tmm3, tmm5, tmm7\n", ask!($a 3), ask!($b 3),
        )
    };
    (load) => {
        "tileloadd tmm0, [{sums} + {row}]
         tileloadd tmm1, [{sums} + {row} + 64]
         tileloadd tmm2, [{sums} + {row} + 2048]
         tileloadd tmm3, [{sums} + {row} + 2112]
        "
    };
    (store) => {
        "tilestored [{sums} + {row}], tmm0
         tilestored [{sums} + {row} + 64], tmm1
         tilestored [{sums} + {row} + 2048], tmm2
         tilestored [{sums} + {row} + 2112], tmm3
        "
    };
}

/// The last block of an odd number of them.
macro_rules! one_block {
    (x $part:literal) => {
        concat!("tileloadd tmm4, [{x0} + {line} + 1024 * ", $part, "]\n")
    };
    (w $part:literal) => {
        two_blocks!(w $part)
    };
    (dot $a:literal $b:literal) => {
        "tdpbf16ps tmm0, tmm4, tmm6
         tdpbf16ps tmm1, tmm4, tmm7
        "
    };
    (load) => {
        "tileloadd tmm0, [{sums} + {row}]
         tileloadd tmm1, [{sums} + {row} + 64]
        "
    };
    (store) => {
        "tilestored [{sums} + {row}], tmm0
         tilestored [{sums} + {row} + 64], tmm1
        "
    };
}

/// A shape's sums over the chunks of a pass.
macro_rules! run {
    ($shape:ident, $product:expr) => {
        match $product.parts {
            1 => run!($shape 1, $product),
            2 => run!($shape 2, $product),
            _ => run!($shape 3, $product),
        }
    };
    ($shape:ident $parts:tt, $product:expr) => {
        asm!(
            concat!(
                $shape!(load),
                "2:\n",
                products!($shape $parts),
                "add {x0}, 3072\n",
                "add {x1}, 3072\n",
                "add {w}, 2048 * ", $parts, "\n",
                "dec {chunks}\n",
                "jnz 2b\n",
                $shape!(store),
            ),
            x0 = inout(reg) $product.x[0] => _,
            x1 = inout(reg) $product.x[1] => _,
            w = inout(reg) $product.w => _,
            chunks = inout(reg) $product.chunks => _,
            sums = in(reg) $product.sums,
            line = in(reg) LINE,
            row = in(reg) REGISTERS * LINE,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// One or two blocks and the weights of a pass.
struct Product {
    /// Of each block, from the pass's first chunk: `[chunks, PARTS]`.
    x: [*const Tile; 2],
    /// `[chunks, parts, REGISTERS]`
    w: *const Tile,
    parts: usize,
    chunks: usize,
    /// One, or two behind each other.
    sums: *mut Sums,
}

impl Product {
    /// `sums += x w` for two blocks.
    ///
    /// # Safety
    /// Rows, weights and sums lie where the product says.
    unsafe fn two(&self, _: &TileRegisters) {
        // SAFETY: the caller's.
        unsafe { run!(two_blocks, self) };
    }

    /// `sums += x w` for the first block.
    ///
    /// # Safety
    /// As [`Product::two`].
    unsafe fn one(&self, _: &TileRegisters) {
        // SAFETY: the caller's.
        unsafe { run!(one_block, self) };
    }
}
