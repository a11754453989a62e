//! Segment Anything's mask decoder, with every kind of prompt: a network so small that all of it is quick anywhere.

use candle_core::{DType, Device, Tensor};
use models::sam::{EncoderConfig, LowResMask, MaskOutputs, PointLabel, Prompt, Sam, SamConfig};

use crate::check::Checks;
use crate::{Place, Result};

pub(crate) fn run(place: &Place) -> Result {
    let mut checks = Checks::default();
    decoder(&place.device()?, &mut checks)?;
    checks.finish()
}

/// Masks and their predicted quality beside those of the CPU in f64, of the same weights.
pub(crate) fn decoder(device: &Device, checks: &mut Checks) -> Result {
    let config = config()?;
    let tensors = Sam::random_tensors(&config, 3)?;
    let reference = Network::new(&config, &tensors, &Device::Cpu, DType::F64)?;
    for (dtype, bound) in [(DType::F32, 1e-4), (DType::BF16, 0.1), (DType::F16, 0.02)] {
        let network = Network::new(&config, &tensors, device, dtype)?;
        for (kind, prompts) in prompts(&config) {
            for outputs in [MaskOutputs::Multi, MaskOutputs::Single] {
                let what = format!("masks of {kind}, {outputs:?}, {dtype:?}");
                let wanted = reference.masks(&prompts, outputs, None)?;
                let found = network.masks(&prompts, outputs, None)?;
                checks.close(&what, &logits(&found)?, &logits(&wanted)?, bound);
                let [found_iou, wanted_iou] = [&found, &wanted]
                    .map(|masks| Tensor::from_iter(masks.iter().map(|mask| mask.predicted_iou), &Device::Cpu));
                // a handful of numbers, of which one may be next to nothing
                checks.close(&format!("{what}, quality"), &found_iou?, &wanted_iou?, 3.0 * bound);
                // those above a quality are the same ones, computed alone
                let mut qualities: Vec<f32> = found.iter().map(|mask| mask.predicted_iou).collect();
                qualities.sort_by(f32::total_cmp);
                let middle = qualities[qualities.len() / 2];
                let some = network.masks(&prompts, outputs, Some(middle))?;
                let of_all: Vec<LowResMask> = found.into_iter().filter(|mask| mask.predicted_iou > middle).collect();
                match of_all.is_empty() {
                    true => checks.at_most(&format!("{what}, none kept"), some.len() as f64, 0.0),
                    false => checks.close(&format!("{what}, some"), &logits(&some)?, &logits(&of_all)?, bound / 10.0),
                }
            }
        }
    }
    Ok(())
}

struct Network {
    sam: Sam,
    image: models::sam::ImageEmbedding,
}

impl Network {
    fn new(
        config: &SamConfig,
        tensors: &std::collections::BTreeMap<String, Tensor>,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let sam = Sam::from_tensors(config, tensors, device, dtype)?;
        let side = config.image_size;
        let values: Vec<f32> = (0..3 * side * side).map(|i| ((i * 7919) % 1013) as f32 / 506.5 - 1.0).collect();
        let image = sam.embed_images(&Tensor::from_vec(values, (1, 3, side, side), &Device::Cpu)?)?.remove(0);
        Ok(Self { sam, image })
    }

    fn masks(&self, prompts: &[Prompt], outputs: MaskOutputs, above_iou: Option<f32>) -> Result<Vec<LowResMask>> {
        Ok(self.sam.predict(&self.image, prompts, outputs, above_iou)?)
    }
}

/// All logits of masks, which come first by prompt and output.
fn logits(masks: &[LowResMask]) -> Result<Tensor> {
    let values: Vec<f32> = masks.iter().flat_map(|mask| &mask.logits).copied().collect();
    Ok(Tensor::from_vec(values, (masks.len(), masks.first().map_or(0, |mask| mask.logits.len())), &Device::Cpu)?)
}

/// An image of 400 places.
fn config() -> Result<SamConfig> {
    let mut config = SamConfig::preset("vit-b").ok_or("no such preset")?;
    config.image_size = 160;
    let EncoderConfig::Vit(vit) = &mut config.encoder else { return Err("the preset is no ViT".into()) };
    (vit.patch_size, vit.width, vit.depth, vit.heads, vit.mlp_width) = (8, 8, 2, 2, 16);
    (vit.window, vit.global_blocks) = (7, vec![1]);
    let d = &mut config.decoder;
    (d.width, d.depth, d.heads, d.mlp_width, d.iou_head_width) = (64, 2, 4, 24, 20);
    Ok(config)
}

fn prompts(config: &SamConfig) -> Vec<(&'static str, Vec<Prompt>)> {
    let points = (0..18).map(|i| Prompt::point([(i * 37 % 160) as f32, (i * 61 % 160) as f32])).collect();
    let mask: Vec<f32> = (0..config.mask_side().pow(2)).map(|i| (i % 23) as f32 - 11.0).collect();
    let corners = Prompt { box_xyxy: Some([10.0, 20.0, 90.0, 140.0]), ..Prompt::default() };
    let both = Prompt {
        points_xy: vec![([30.0, 40.0], PointLabel::Foreground), ([90.0, 4.0], PointLabel::Background)],
        ..corners.clone()
    };
    let masked = Prompt { mask_logits: Some(mask), ..corners.clone() };
    vec![
        ("points", points),
        ("a box", vec![corners]),
        ("box and points", vec![both.clone(), both]),
        ("masks", vec![masked.clone(), masked]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The CPU passes, by its kernel in f32 and by compositions in half precision.
    #[test]
    fn the_cpu_passes() {
        let mut checks = Checks::default();
        decoder(&Device::Cpu, &mut checks).unwrap();
        checks.finish().unwrap();
    }
}
