//! Bytes of pixels as the image tower wants them.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::ClipConfig;
use crate::Result;
use crate::upload::Upload;

/// Takes images `[B, S, S, 3]`, interleaved, to where an upload goes, for [`image_chain`](super::Clip::image_chain): as
/// they are to a GPU, which normalises them itself, and normalised into host memory.
pub fn load_pixels(config: &ClipConfig, pixels_bhwc: &[u8], upload: &mut Upload) -> Result<Tensor> {
    let side = config.vision.image_size;
    let image = 3 * side * side;
    let images = pixels_bhwc.len() / image.max(1);
    if !upload.device().is_cpu() {
        return Ok(upload.send(pixels_bhwc, (images, side, side, 3))?);
    }
    let mut values_bchw = vec![0f32; images * image];
    values_bchw.par_chunks_exact_mut(image).zip(pixels_bhwc.par_chunks_exact(image)).for_each(|(values, pixels)| {
        pixels::normalise_bytes_into(pixels, &config.image_mean, &config.image_std, values);
    });
    Ok(Tensor::from_vec(values_bchw, (images, 3, side, side), upload.device())?)
}

/// Interleaved bytes `[B, S, S, 3]` to normalised planes in f32 `[B, 3, S, S]`, on their device: the operations of
/// [`pixels::normalise_into`] in its order, each rounded by itself, so that no bit differs.
pub(super) fn normalise(pixels_bhwc: &Tensor, config: &ClipConfig) -> Result<Tensor> {
    let device = pixels_bhwc.device();
    let values_bchw = pixels_bhwc.permute((0, 3, 1, 2))?.contiguous()?.to_dtype(DType::F32)?;
    let of_channel = |values: &[f32; 3]| Tensor::new(values, device)?.reshape((1, 3, 1, 1));
    let values_bchw = values_bchw.broadcast_div(&of_channel(&[255.0; 3])?)?;
    let values_bchw = values_bchw.broadcast_sub(&of_channel(&config.image_mean)?)?;
    Ok(values_bchw.broadcast_div(&of_channel(&config.image_std)?)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// What a GPU does with bytes, every value in every channel, beside what the host does.
    #[test]
    fn a_device_normalises_to_the_bit_as_the_host() {
        let mut config = ClipConfig::preset("tiny").unwrap();
        config.vision.image_size = 16;
        let pixels: Vec<u8> = (0..2 * 3 * 16 * 16).map(|at| (at / 3 + 7 * (at % 3)) as u8).collect();
        let values = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (mean, std) in [(config.image_mean, config.image_std), (pixels::CLIP_MEAN, pixels::CLIP_STD)] {
            (config.image_mean, config.image_std) = (mean, std);
            let host = load_pixels(&config, &pixels, &mut Upload::new(&Device::Cpu)).unwrap();
            assert_eq!(host.dims(), [2, 3, 16, 16]);
            let sent = Upload::new(&Device::Cpu).send(&pixels, (2, 16, 16, 3)).unwrap();
            let device = normalise(&sent, &config).unwrap();
            assert_eq!(device.dims(), host.dims());
            let bits = |tensor| values(tensor).into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(device), bits(host));
        }
    }
}
