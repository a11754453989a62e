//! The pixels under a convolution's kernel, by slices alone.
//!
//! candle's own convolution cannot be differentiated for images that are not square, knows no bf16 on the CPU, and its way
//! back is slow on GPUs. Slices have an exact way back on every device and in every type.

use candle_core::{Result, Tensor};

/// Places of a square kernel on an image.
#[derive(Clone, Copy)]
pub(super) struct Unfold {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl Unfold {
    /// For each place of the kernel, row by row, the pixels that it sees: K * K tensors `[B, H', W', C]` of an image
    /// `x_bhwc [B, H, W, C]`, with zeros around it.
    pub(super) fn places(self, x_bhwc: &Tensor) -> Result<Vec<Tensor>> {
        let (batch, height, width, channels) = x_bhwc.dims4()?;
        let (x, down) = self.in_strides(x_bhwc, 1, height)?;
        let (x, across) = self.in_strides(&x, 2, width)?;
        let (stride, out) = (self.stride, [height, width].map(|side| self.out(side)));
        let x = x.reshape((batch, down, stride, across, stride, channels))?;
        let place = |i: usize, j: usize| {
            x.narrow(1, i / stride, out[0])?
                .narrow(2, i % stride, 1)?
                .narrow(3, j / stride, out[1])?
                .narrow(4, j % stride, 1)?
                .reshape((batch, out[0], out[1], channels))
        };
        (0..self.kernel * self.kernel).map(|at| place(at / self.kernel, at % self.kernel)).collect()
    }

    /// Side of the output.
    fn out(self, side: usize) -> usize {
        (side + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Padded, and at its end made longer or shorter, so that dimension `dim` is a whole number of strides: returns it.
    fn in_strides(self, x: &Tensor, dim: usize, side: usize) -> Result<(Tensor, usize)> {
        let strides = (self.kernel - 1) / self.stride + self.out(side);
        let (wanted, found) = (strides * self.stride, side + self.padding);
        let x = match wanted.checked_sub(found) {
            Some(missing) => x.pad_with_zeros(dim, self.padding, missing)?,
            None => x.pad_with_zeros(dim, self.padding, 0)?.narrow(dim, 0, wanted)?,
        };
        Ok((x.contiguous()?, strides))
    }
}
