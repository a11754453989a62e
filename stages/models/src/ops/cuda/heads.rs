//! Heads apart from each other, as products take them, beside rows that hold them one behind the other.

use candle_core::{Result, Shape, Tensor, bail};

use super::launch::{Arg, Made, address, counted, launch_packed, pointer, unwritten};

/// Products of half precision are slow where rows do not begin at multiples of sixteen bytes, as those of scores of 257
/// positions: sequences are filled up with zeros to a multiple of this many.
pub(super) const MULTIPLE: usize = 8;

/// Positions with those that fill up.
pub(super) fn padded(length: usize) -> usize {
    length.next_multiple_of(MULTIPLE)
}

fn ints<const N: usize>(sizes: [usize; N]) -> [Arg; N] {
    sizes.map(|size| Arg::Int(size as i32))
}

/// Heads `[B, H, padded L, W]` beside rows `[B, L, stride]`, in which they stand from column `offset` on.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) length: usize,
    pub(super) width: usize,
    pub(super) stride: usize,
    pub(super) offset: usize,
    /// Of the elements on their way.
    pub(super) factor: f64,
}

impl Heads {
    fn shape(&self) -> Shape {
        Shape::from((self.batch, self.heads, padded(self.length), self.width))
    }

    fn launch(&self, name: &str, like: &Tensor, arrays: [Arg; 2]) -> Result<()> {
        let count = self.shape().elem_count();
        let ints = ints([self.length, padded(self.length), self.heads, self.width, self.stride, self.offset]);
        let args = [&arrays[..], &[counted(count)?], &ints, &[Arg::Float(self.factor as f32)]].concat();
        launch_packed(name, like, count, &[self.width, self.stride, self.offset], &args)
    }

    /// Takes heads out of rows.
    pub(super) fn out_of(&self, rows: &Tensor) -> Result<Tensor> {
        let heads = unwritten(&self.shape(), rows.dtype(), rows)?;
        self.launch("to_heads", rows, [pointer(rows)?, address(&heads.storage, 0)?])?;
        Ok(heads.tensor())
    }
}

/// Rows `[B, L, stride]` of several heads, which have to fill them.
pub(super) fn rows_of(parts: &[(&Tensor, Heads)]) -> Result<Made> {
    let Some((first, heads)) = parts.first() else { bail!("rows of no heads") };
    let rows = unwritten(&Shape::from((heads.batch, heads.length, heads.stride)), first.dtype(), first)?;
    for (part, heads) in parts {
        heads.launch("from_heads", part, [pointer(part)?, address(&rows.storage, 0)?])?;
    }
    Ok(rows)
}

/// Heads `[B * windows * H, padded side^2, W]` beside images `[B, height, width, stride]`; the last windows of an image are
/// filled up with a vector of the same stride.
#[derive(Clone, Copy)]
pub(super) struct Windows {
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) side: usize,
    pub(super) heads: usize,
    /// W
    pub(super) depth: usize,
}

impl Windows {
    fn count(&self) -> usize {
        self.batch * self.height.div_ceil(self.side) * self.width.div_ceil(self.side)
    }

    /// Takes the heads out of images `[B, height, width, stride]` that begin at column `offset`.
    pub(super) fn out_of(&self, images: &Tensor, fill: &Tensor, offset: usize, factor: f64) -> Result<Tensor> {
        let (length, stride) = (padded(self.side * self.side), fill.elem_count());
        let heads = Shape::from((self.count() * self.heads, length, self.depth));
        let count = heads.elem_count();
        let heads = unwritten(&heads, images.dtype(), images)?;
        let ints = ints([self.height, self.width, self.side, length, self.heads, self.depth, stride, offset]);
        let arrays = [pointer(images)?, pointer(fill)?, address(&heads.storage, 0)?];
        let args = [&arrays[..], &[counted(count)?], &ints, &[Arg::Float(factor as f32)]].concat();
        launch_packed("to_windows", images, count, &[self.depth, stride, offset], &args)?;
        Ok(heads.tensor())
    }

    /// Images `[B, height, width, H W]` of all their heads.
    pub(super) fn images_of(&self, heads: &Tensor) -> Result<Made> {
        let images = Shape::from((self.batch, self.height, self.width, self.heads * self.depth));
        let count = images.elem_count();
        let images = unwritten(&images, heads.dtype(), heads)?;
        let ints = ints([self.height, self.width, self.side, padded(self.side * self.side), self.heads, self.depth]);
        let arrays = [pointer(heads)?, address(&images.storage, 0)?];
        launch_packed("from_windows", heads, count, &[self.depth], &[&arrays[..], &[counted(count)?], &ints].concat())?;
        Ok(images)
    }
}
