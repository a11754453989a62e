//! Heads apart from each other, as products take them, beside rows that hold them one behind the other.

use candle_core::{Result, Shape, Tensor, bail};

use super::launch::{Arg, Made, NOTHING, address, counted, launch_packed, pointer, unwritten};

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

/// Heads `[parts, B, H, padded L, W]` beside rows `[B, L, parts H W]`.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) length: usize,
    pub(super) width: usize,
    /// Of the first part's elements on their way.
    pub(super) factor: f64,
}

impl Heads {
    /// Of one part.
    fn shape(&self) -> [usize; 4] {
        [self.batch, self.heads, padded(self.length), self.width]
    }

    fn launch(&self, name: &str, like: &Tensor, arrays: &[Arg], parts: usize) -> Result<()> {
        let count = parts * Shape::from(&self.shape()[..]).elem_count();
        let ints = ints([parts, self.batch, self.length, padded(self.length), self.heads, self.width]);
        let args = [arrays, &[counted(count)?], &ints, &[Arg::Float(self.factor as f32)]].concat();
        launch_packed(name, like, count, &[self.width], &args)
    }

    /// Takes the heads of each part out of rows.
    pub(super) fn out_of<const PARTS: usize>(&self, rows: &Tensor) -> Result<[Tensor; PARTS]> {
        let shape = [&[PARTS], &self.shape()[..]].concat();
        let heads = unwritten(&Shape::from(shape), rows.dtype(), rows)?;
        self.launch("to_heads", rows, &[pointer(rows)?, address(&heads.storage, 0)?], PARTS)?;
        let heads = heads.tensor();
        let parts = (0..PARTS).map(|part| heads.get(part)).collect::<Result<Vec<_>>>()?;
        parts.try_into().map_err(|_| candle_core::Error::Msg(format!("heads of other than {PARTS} parts")))
    }

    /// Rows of the heads of one to three parts.
    pub(super) fn rows_of(&self, parts: &[&Tensor]) -> Result<Made> {
        let (Some(first), 1..=3) = (parts.first(), parts.len()) else { bail!("rows of {} parts", parts.len()) };
        let shape = (self.batch, self.length, parts.len() * self.heads * self.width);
        let rows = unwritten(&Shape::from(shape), first.dtype(), first)?;
        let mut arrays = [NOTHING; 4];
        for (array, part) in arrays.iter_mut().zip(parts) {
            *array = pointer(part)?;
        }
        arrays[3] = address(&rows.storage, 0)?;
        self.launch("from_heads", first, &arrays, parts.len())?;
        Ok(rows)
    }
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
