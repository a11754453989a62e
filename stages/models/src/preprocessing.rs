//! Pixels as an image tower wants them.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::Result;
use crate::upload::Upload;

/// Square images of one size, each channel normalised by mean and standard deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preprocessing {
    /// Side S of the images in pixels.
    pub side_px: usize,
    /// Mean of each channel, of values in [0, 1].
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
}

impl Preprocessing {
    /// Takes images `[B, S, S, 3]`, interleaved, to where an upload goes: as they are to a GPU, where the network
    /// normalises them itself ([`Preprocessing::normalise`]), and normalised `[B, 3, S, S]` into host memory.
    ///
    /// # Errors
    /// The device's.
    pub fn load(&self, pixels_bhwc: &[u8], upload: &mut Upload) -> Result<Tensor> {
        let side = self.side_px;
        let image = 3 * side * side;
        let images = pixels_bhwc.len() / image.max(1);
        if !upload.device().is_cpu() {
            return Ok(upload.send(pixels_bhwc, (images, side, side, 3))?);
        }
        let mut values_bchw = vec![0f32; images * image];
        values_bchw.par_chunks_exact_mut(image).zip(pixels_bhwc.par_chunks_exact(image)).for_each(
            |(values, pixels)| {
                pixels::normalise_bytes_into(pixels, &self.mean, &self.std, values);
            },
        );
        Ok(Tensor::from_vec(values_bchw, (images, 3, side, side), upload.device())?)
    }

    /// Interleaved bytes `[B, S, S, 3]` to normalised planes in f32 `[B, 3, S, S]`, on their device: the operations of
    /// [`pixels::normalise_into`] in its order, each rounded by itself, so that no bit differs.
    ///
    /// # Errors
    /// A tensor operation's.
    pub fn normalise(&self, pixels_bhwc: &Tensor) -> Result<Tensor> {
        let device = pixels_bhwc.device();
        let values_bchw = pixels_bhwc.permute((0, 3, 1, 2))?.contiguous()?.to_dtype(DType::F32)?;
        let of_channel = |values: &[f32; 3]| Tensor::new(values, device)?.reshape((1, 3, 1, 1));
        let values_bchw = values_bchw.broadcast_div(&of_channel(&[255.0; 3])?)?;
        let values_bchw = values_bchw.broadcast_sub(&of_channel(&self.mean)?)?;
        Ok(values_bchw.broadcast_div(&of_channel(&self.std)?)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// What a GPU does with bytes, every value in every channel, beside what the host does.
    #[test]
    fn a_device_normalises_to_the_bit_as_the_host() {
        let pixels: Vec<u8> = (0..2 * 3 * 16 * 16).map(|at| (at / 3 + 7 * (at % 3)) as u8).collect();
        let values = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (mean, std) in [([0.5; 3], [0.5; 3]), (pixels::CLIP_MEAN, pixels::CLIP_STD)] {
            let preprocessing = Preprocessing { side_px: 16, mean, std };
            let host = preprocessing.load(&pixels, &mut Upload::new(&Device::Cpu)).unwrap();
            assert_eq!(host.dims(), [2, 3, 16, 16]);
            let sent = Upload::new(&Device::Cpu).send(&pixels, (2, 16, 16, 3)).unwrap();
            let device = preprocessing.normalise(&sent).unwrap();
            assert_eq!(device.dims(), host.dims());
            let bits = |tensor| values(tensor).into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(device), bits(host));
        }
    }
}
