//! Panels of weights at rest.
//!
//! A checkpoint that was trained or published in a half type holds nothing but numbers of that type, even where its
//! file says f32. Such weights lie here in half the memory, and no result differs by a bit: vector registers multiply
//! them as f32 again, widened a slice at a time, which costs a little more than the unread bytes save; matrix tiles have
//! fewer products for them.

use super::{LANES, PANEL};
use bytemuck::{Pod, Zeroable};
use candle_core::Result;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::MmapMut;
use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::Range;

/// `[O / PANEL, I, PANEL]`, the last panel filled up with zeros.
#[derive(Debug)]
pub enum Panels {
    F32(Pages<f32>),
    F16(Pages<f16>),
    Bf16(Pages<bf16>),
}

impl Panels {
    /// Packs `w [O, I]` in the narrowest type that holds each weight exactly.
    pub fn pack(w: &[f32], inputs: usize, outputs: usize) -> Result<Self> {
        let count = outputs.div_ceil(PANEL) * inputs * PANEL;
        let all = |exact: fn(f32) -> bool| w.par_iter().all(|&weight| exact(weight));
        if all(|weight| f16::from_f32(weight).to_f32().to_bits() == weight.to_bits()) {
            return Ok(Self::F16(Pages::packed(w, inputs, count, f16::from_f32)?));
        }
        if all(|weight| bf16::from_f32(weight).to_f32().to_bits() == weight.to_bits()) {
            return Ok(Self::Bf16(Pages::packed(w, inputs, count, bf16::from_f32)?));
        }
        Self::wide(w, inputs, count)
    }

    fn wide(w: &[f32], inputs: usize, count: usize) -> Result<Self> {
        Ok(Self::F32(Pages::packed(w, inputs, count, |weight| weight)?))
    }

    /// The weights of a range, where they lie or in `room`.
    pub fn get<'a>(&'a self, range: Range<usize>, room: &'a mut Vec<Line>) -> &'a [f32] {
        let lines = if let Self::F32(_) = self { 0 } else { range.len().div_ceil(LANES) };
        room.resize(lines.max(room.len()), Line::zeroed());
        let room = &mut bytemuck::cast_slice_mut(&mut room[..lines])[..range.len().min(lines * LANES)];
        match self {
            Self::F32(pages) => &pages.elements()[range],
            Self::F16(pages) => {
                widen(&pages.elements()[range], room);
                room
            }
            Self::Bf16(pages) => {
                let weights = &pages.elements()[range];
                pulp::Arch::new().dispatch(
                    #[inline(always)]
                    || room.iter_mut().zip(weights).for_each(|(wide, weight)| *wide = weight.to_f32()),
                );
                room
            }
        }
    }

    /// Where the weight of an index lies, or would lie.
    pub fn address(&self, index: usize) -> *const u8 {
        match self {
            Self::F32(pages) => pages.elements().as_ptr().wrapping_add(index).cast(),
            Self::F16(pages) => pages.elements().as_ptr().wrapping_add(index).cast(),
            Self::Bf16(pages) => pages.elements().as_ptr().wrapping_add(index).cast(),
        }
    }

    /// Bytes of a weight.
    pub fn weight_bytes(&self) -> usize {
        match self {
            Self::F32(_) => size_of::<f32>(),
            Self::F16(_) | Self::Bf16(_) => size_of::<f16>(),
        }
    }
}

/// Half numbers to f32, a register at a time where the machine can: as fast as they come from memory.
fn widen(weights: &[f16], wide: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the machine has what the function asks for.
        return unsafe { widen_registers(weights, wide) };
    }
    weights.convert_to_f32_slice(wide);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn widen_registers(weights: &[f16], wide: &mut [f32]) {
    use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps, _mm512_storeu_ps};
    let ((weights, rest), (wide, wide_rest)) = (weights.as_chunks::<LANES>(), wide.as_chunks_mut::<LANES>());
    for (weights, wide) in weights.iter().zip(wide) {
        // SAFETY: both are a register's worth of elements, and neither access asks for an alignment.
        unsafe { _mm512_storeu_ps(wide.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(weights.as_ptr().cast()))) };
    }
    rest.convert_to_f32_slice(wide_rest);
}

/// Elements in pages of their own. A load of a whole register never straddles two cache lines there, which costs a
/// tenth of the product's rate, and the system may grant large pages.
#[derive(Debug)]
pub struct Pages<T> {
    map: MmapMut,
    count: usize,
    elements: PhantomData<T>,
}

impl<T: Pod + Send + Sync> Pages<T> {
    fn zeroed(count: usize) -> Result<Self> {
        // a mapping of nothing is an error
        let map = MmapMut::map_anon((count * size_of::<T>()).max(1))?;
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage); // only advice: small pages will do
        Ok(Self { map, count, elements: PhantomData })
    }

    /// `w [O, I]` in panels.
    fn packed(w: &[f32], inputs: usize, count: usize, narrow: fn(f32) -> T) -> Result<Self> {
        let mut pages = Self::zeroed(count)?;
        let rows = w.par_chunks((inputs * PANEL).max(1));
        pages.elements_mut().par_chunks_mut((inputs * PANEL).max(1)).zip(rows).for_each(|(panel, rows)| {
            for (column, row) in rows.chunks_exact(inputs).enumerate() {
                for (input, &value) in row.iter().enumerate() {
                    panel[input * PANEL + column] = narrow(value);
                }
            }
        });
        Ok(pages)
    }

    pub fn elements(&self) -> &[T] {
        bytemuck::cast_slice(&self.map[..self.count * size_of::<T>()])
    }

    fn elements_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.map[..self.count * size_of::<T>()])
    }
}

/// Weights of a cache line, where they are widened.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line([f32; LANES]);

/// Bytes of a cache line.
pub const LINE: usize = size_of::<Line>();

/// Asks for a cache line.
#[inline(always)]
pub fn prefetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching is no access; any address is allowed.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights of many magnitudes, with infinities, zeros of both signs and the smallest numbers.
    fn weights(count: usize) -> Vec<f32> {
        let hash = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 8;
        let mut weights: Vec<f32> =
            (0..count).map(|i| (hash(i) as f32 / 2f32.powi(23) - 1.0) * 2f32.powi(i as i32 % 9)).collect();
        weights[..5].copy_from_slice(&[0.0, -0.0, f32::INFINITY, 6e-8, -1.0]);
        weights
    }

    fn unpacked(panels: &Panels, count: usize) -> Vec<u32> {
        // in slices, and not from the first one on
        let (mut room, mut all) = (vec![Line([7.0; LANES]); 3], Vec::new());
        for range in [0..count / 3, count / 3..count] {
            all.extend(panels.get(range, &mut room).iter().map(|weight| weight.to_bits()));
        }
        all
    }

    #[test]
    fn weights_lie_in_the_narrowest_type_that_holds_them() {
        let (inputs, outputs) = (37, 50);
        let (w, count) = (weights(inputs * outputs), 2 * inputs * PANEL);
        let rounded = |round: fn(f32) -> f32| w.iter().copied().map(round).collect::<Vec<f32>>();
        let as_f16 = rounded(|weight| f16::from_f32(weight).to_f32());
        let as_bf16 = rounded(|weight| bf16::from_f32(weight * 2f32.powi(40)).to_f32());
        let packed = |w: &[f32]| Panels::pack(w, inputs, outputs).unwrap();
        for (w, panels, bytes) in [(&as_f16, packed(&as_f16), 2), (&as_bf16, packed(&as_bf16), 2), (&w, packed(&w), 4)]
        {
            assert_eq!(panels.weight_bytes(), bytes);
            assert_eq!(unpacked(&panels, count), unpacked(&Panels::wide(w, inputs, count).unwrap(), count));
        }
        assert!(matches!(packed(&as_f16), Panels::F16(_)) && matches!(packed(&as_bf16), Panels::Bf16(_)));
        // one weight decides
        let mut nearly = as_f16.clone();
        nearly[1000] = 0.1;
        assert!(matches!(packed(&nearly), Panels::F32(_)));
    }
}
