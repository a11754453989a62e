//! Pixels as an image tower wants them.

use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::checkpoint::read_json;
use crate::upload::Upload;
use crate::{ModelError, Result};

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

/// Pillow's number of the bicubic filter, by which [`pixels::clip_view`] resizes.
const BICUBIC: u64 = 3;

impl Preprocessing {
    /// Mean and deviation of the image processor beside a configuration of Hugging Face; OpenAI's where there is none.
    /// The view of an image must be CLIP's ([`pixels::clip_view`]).
    ///
    /// # Errors
    /// [`ModelError::Config`] for a processor with another view, [`ModelError::Malformed`] for values that are no such.
    pub(crate) fn beside(config: &Path, side_px: usize) -> Result<Self> {
        let openai = Self { side_px, mean: pixels::CLIP_MEAN, std: pixels::CLIP_STD };
        let Some((path, processor)) = image_processor(config)? else { return Ok(openai) };
        let said = |key: &str| processor.get(key).filter(|value| !value.is_null());
        let is_side = |value: &Value| value.as_u64() == Some(side_px as u64);
        let of_view = ["do_resize", "resample", "size", "do_center_crop", "crop_size", "do_pad"];
        for key in of_view.into_iter().chain(["do_rescale", "do_normalize"]) {
            let Some(value) = said(key) else { continue };
            let fits = match key {
                "resample" => value.as_u64() == Some(BICUBIC),
                // the first configurations have a number alone
                "size" => is_side(value) || is_side(&value["shortest_edge"]),
                "crop_size" => is_side(value) || (is_side(&value["height"]) && is_side(&value["width"])),
                "do_pad" => *value == Value::Bool(false),
                _ => *value == Value::Bool(true),
            };
            if !fits {
                return Err(ModelError::Config(format!(
                    "{}: {key} = {value} is not supported: images are resized to a shorter side of {side_px} pixels by \
                     a bicubic filter, and of their middle a square of that side is cropped and normalised",
                    path.display()
                )));
            }
        }
        let channels = |key: &str, default: [f32; 3]| match said(key) {
            None => Ok(default),
            Some(value) => serde_json::from_value(value.clone())
                .map_err(|error| ModelError::malformed(&path, format!("{key} = {value}: {error}"))),
        };
        let (mean, std) = (channels("image_mean", openai.mean)?, channels("image_std", openai.std)?);
        match std.iter().all(|std| std.is_normal()) && mean.iter().all(|mean| mean.is_finite()) {
            true => Ok(Self { side_px, mean, std }),
            false => Err(ModelError::malformed(&path, "image_mean and image_std must be numbers, and image_std not 0")),
        }
    }

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

/// The settings of the image processor beside a configuration, and their file. Where two files have some, those within
/// the whole processor's count, as for transformers 5.
fn image_processor(config: &Path) -> Result<Option<(PathBuf, Map<String, Value>)>> {
    let nested = config.with_file_name("processor_config.json");
    if nested.is_file()
        && let Some(Value::Object(processor)) = read_json::<Map<String, Value>>(&nested)?.remove("image_processor")
    {
        return Ok(Some((nested, processor)));
    }
    let path = config.with_file_name("preprocessor_config.json");
    match path.is_file() {
        true => read_json(&path).map(|processor| Some((path, processor))),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use serde_json::json;

    use super::*;

    /// As transformers writes it for CLIP and LLaVA.
    fn clip_processor(mean: f32) -> Value {
        json!({
            "crop_size": { "height": 224, "width": 224 }, "do_center_crop": true, "do_convert_rgb": true,
            "do_normalize": true, "do_pad": null, "do_rescale": true, "do_resize": true,
            "image_mean": [mean, mean, mean], "image_processor_type": "CLIPImageProcessor",
            "image_std": [0.25, 0.25, 0.25], "resample": 3, "rescale_factor": 1.0 / 255.0,
            "size": { "shortest_edge": 224 },
        })
    }

    #[test]
    fn an_image_processor_is_found_where_any_version_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let mean = || Preprocessing::beside(&folder.path().join("config.json"), 224).unwrap().mean;
        let write = |name: &str, json: Value| std::fs::write(folder.path().join(name), json.to_string()).unwrap();
        assert_eq!(mean(), pixels::CLIP_MEAN);
        // LLaVA's, beside which version 4 put the processor's own
        write("processor_config.json", json!({ "processor_class": "LlavaProcessor", "patch_size": 14 }));
        assert_eq!(mean(), pixels::CLIP_MEAN);
        write("preprocessor_config.json", clip_processor(0.25));
        assert_eq!(mean(), [0.25; 3]);
        write("processor_config.json", json!({ "image_processor": clip_processor(0.5) }));
        assert_eq!(mean(), [0.5; 3]);
        std::fs::remove_file(folder.path().join("preprocessor_config.json")).unwrap();
        assert_eq!(mean(), [0.5; 3]);
    }

    #[test]
    fn another_view_than_clips_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let with = |key: &str, value: Value| {
            let mut processor = clip_processor(0.5);
            processor[key] = value;
            std::fs::write(folder.path().join("preprocessor_config.json"), processor.to_string()).unwrap();
            Preprocessing::beside(&folder.path().join("config.json"), 224).map_err(|error| error.to_string())
        };
        for (key, value) in [("size", json!(224)), ("crop_size", json!(224)), ("resample", Value::Null)] {
            assert_eq!(with(key, value).unwrap().std, [0.25; 3]);
        }
        for (key, value) in [
            ("resample", json!(2)),
            ("size", json!({ "shortest_edge": 256 })),
            ("size", json!({ "height": 224, "width": 224 })),
            ("crop_size", json!({ "height": 224, "width": 336 })),
            ("do_resize", json!(false)),
            ("do_center_crop", json!(false)),
            ("do_pad", json!(true)),
            ("do_rescale", json!(false)),
            ("do_normalize", json!(false)),
            ("image_mean", json!([0.5])),
            ("image_std", json!([1, 0, 1])),
        ] {
            let why = with(key, value).unwrap_err();
            assert!(why.contains("preprocessor_config.json") && why.contains(key), "{why}");
        }
    }

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
