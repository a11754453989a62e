//! Whole networks with random weights: the same weights and inputs on the CPU in f64 or f32.

use std::collections::BTreeSet;

use candle_core::{D, DType, Device, Tensor};
use choices::Preset;
use models::captioning::{CaptionRequest, Captioner, Instruction};
use models::clip::{Clip, ClipConfig};
use models::instructblip::InstructBlip;
use models::language::generate::GenerationSettings;
use models::llava::Llava;
use models::ops::l2_normalise;
use models::sam::generator::PointSegmenter;
use models::sam::{Sam, SamConfig};
use models::sentence::{Reading, SentenceEncoder};

use crate::check::Checks;
use crate::checkpoint::{self, SMALL};
use crate::rates::sam::image;
use crate::{Place, Result};

pub(crate) fn run(place: &Place) -> Result {
    let device = place.device()?;
    let mut checks = Checks::default();
    for (part, done) in [
        ("clip", clip(&device, &mut checks)),
        ("sam", sam(&device, &mut checks)),
        ("instructblip", instructblip(&device, &mut checks)),
        ("llava", llava(&device, &mut checks)),
        ("sentences", sentences(&device, &mut checks)),
    ] {
        if let Err(problem) = done {
            checks.fails(part, problem);
        }
    }
    checks.finish()
}

/// Embeddings, and the gradient of every parameter.
fn clip(device: &Device, checks: &mut Checks) -> Result {
    for (preset, layers) in [(Preset::Tiny, 3), (Preset::VitB32, 3)] {
        let mut config = ClipConfig::preset(preset);
        (config.vision.layers, config.text.layers) = (layers, layers);
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let reference = Differentiated::of(&config, &Device::Cpu, (dtype, DType::F64))?;
            let found = Differentiated::of(&config, device, (dtype, dtype))?;
            let what = |part: &str| format!("clip {preset} {dtype:?} {part}");
            // a few times what was seen on the CPU and on one GPU
            let (bound, of_gradients) = match dtype {
                DType::F32 => (1e-5, 1e-4),
                DType::F16 => (5e-3, 5e-2),
                _ => (3e-2, 0.4),
            };
            checks.close(&what("images"), &found.image_bd, &reference.image_bd, bound);
            checks.close(&what("texts"), &found.text_bd, &reference.text_bd, bound);
            match worst(&found.gradients, &reference.gradients) {
                Ok((name, error)) => checks.at_most(&what(&format!("gradients, worst {name}")), error, of_gradients),
                Err(problem) => checks.fails(&what("gradients"), problem),
            }
        }
    }
    Ok(())
}

/// The gradient that is furthest off, and by how much.
fn worst(found: &[(String, Tensor)], wanted: &[(String, Tensor)]) -> Result<(String, f64)> {
    let [found_names, wanted_names] =
        [found, wanted].map(|of| of.iter().map(|(name, _)| name.as_str()).collect::<BTreeSet<_>>());
    let differ: Vec<&&str> = found_names.symmetric_difference(&wanted_names).collect();
    if !differ.is_empty() {
        return Err(format!("only one of both devices has those of {differ:?}").into());
    }
    let mut worst = (String::new(), 0.0);
    for ((name, found), (_, wanted)) in found.iter().zip(wanted) {
        let error = relative(found, wanted).map_err(|problem| format!("{name}: {problem}"))?;
        // NaN is worst of all, and stays
        if error > worst.1 || error.is_nan() {
            worst = (name.clone(), error);
        }
    }
    Ok(worst)
}

fn relative(found: &Tensor, wanted: &Tensor) -> Result<f64> {
    if found.dims() != wanted.dims() {
        return Err(format!("shape {:?} where {:?} is wanted", found.dims(), wanted.dims()).into());
    }
    let (found, wanted) = (crate::check::values(found)?, crate::check::values(wanted)?);
    let size = wanted.iter().map(|x| x * x).sum::<f64>().sqrt();
    let difference = found.iter().zip(&wanted).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    Ok(difference / size.max(1e-12))
}

struct Differentiated {
    image_bd: Tensor,
    text_bd: Tensor,
    gradients: Vec<(String, Tensor)>,
}

impl Differentiated {
    /// Weights rounded to one type, everything computed in the other.
    fn of(config: &ClipConfig, device: &Device, (rounded, dtype): (DType, DType)) -> Result<Self> {
        let drawn = Clip::init(config, 1, device, rounded)?;
        let clip = Clip::from_parameters(config, drawn.parameters().to_dtype(dtype)?)?;
        let (batch, side, length) = (8, config.vision.image_size, config.text.context_length);
        let pixels: Vec<f32> = (0..batch * 3 * side * side).map(|i| ((i * 7919) % 1013) as f32 / 506.5 - 1.0).collect();
        let vocabulary = config.text.vocab_size as u32;
        let ids: Vec<u32> = (0..batch * length)
            .map(|i| if i % length + 1 == length { vocabulary - 1 } else { (i as u32 * 31) % (vocabulary - 2) })
            .collect();
        let pixels = Tensor::from_vec(pixels, (batch, 3, side, side), device)?;
        let ids = Tensor::from_vec(ids, (batch, length), device)?;
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let image_bd = l2_normalise(&clip.encode_image(&pixels)?.to_dtype(wide)?)?;
        let text_bd = l2_normalise(&clip.encode_text(&ids)?.to_dtype(wide)?)?;
        // a loss whose gradient is well conditioned
        let logits = (image_bd.matmul(&text_bd.t()?)? * 10.0)?;
        let truth = Tensor::eye(batch, wide, device)?;
        let log_sum = logits.exp()?.sum(D::Minus1)?.log()?;
        let loss = (log_sum - (&logits * &truth)?.sum(D::Minus1)?)?.mean_all()?;
        let store = loss.backward()?;
        let gradients =
            clip.parameters().iter().filter_map(|(name, var)| Some((name.to_owned(), store.get(var)?.clone())));
        Ok(Self { gradients: gradients.collect(), image_bd, text_bd })
    }
}

/// Masks of an image.
fn sam(device: &Device, checks: &mut Checks) -> Result {
    for (preset, dtype, bound) in [
        ("mobile", DType::F32, 1e-5),
        ("mobile", DType::BF16, 0.06),
        ("mobile", DType::F16, 0.01),
        ("vit-b", DType::F32, 1e-5),
    ] {
        let config = SamConfig::preset(preset).ok_or("no such preset")?;
        let tensors = Sam::random_tensors(&config, 1)?;
        let points: Vec<[f64; 2]> = (0..4).map(|i| [200.0 + 130.0 * i as f64, 300.0 + 90.0 * i as f64]).collect();
        let masks = |device: &Device, dtype| -> Result<(Tensor, Tensor)> {
            let sam = Sam::from_tensors(&config, &tensors, device, dtype)?;
            let embedding = sam.embed_images(&sam.pixel_values(&[image()])?)?.remove(0);
            let masks = sam.masks_at(&embedding, &points, None)?;
            let (count, side) = (masks.len(), config.mask_side());
            let scores: Vec<f32> = masks.iter().map(|mask| mask.predicted_iou).collect();
            let logits: Vec<f32> = masks.into_iter().flat_map(|mask| mask.logits).collect();
            Ok((
                Tensor::from_vec(logits, (count, side * side), &Device::Cpu)?,
                Tensor::from_vec(scores, count, &Device::Cpu)?,
            ))
        };
        let (found, wanted) = (masks(device, dtype)?, masks(&Device::Cpu, DType::F32)?);
        checks.close(&format!("sam {preset} {dtype:?} masks"), &found.0, &wanted.0, bound);
        checks.close(&format!("sam {preset} {dtype:?} scores"), &found.1, &wanted.1, bound);
    }
    Ok(())
}

/// Captions by way of a Q-Former.
fn instructblip(device: &Device, checks: &mut Checks) -> Result {
    let folder = tempfile::tempdir()?;
    checkpoint::write(folder.path(), &SMALL, DType::F32)?;
    for num_beams in [1, 3] {
        let captions = |device: &Device, dtype| -> Result<Vec<Vec<u32>>> {
            let blip = InstructBlip::load(folder.path(), device, dtype)?;
            written(&blip, (device, blip.config().vision.image_size), num_beams, |row| Instruction {
                qformer_ids: (0..12).map(|i| 1000 + 31 * i).collect(),
                prompt_ids: (0..16 - row).map(|i| 1000 + 37 * i).collect(),
            })
        };
        compare_captions(&format!("instructblip, {num_beams} beams"), device, checks, captions)?;
    }
    Ok(())
}

/// Texts about an image that stands in the midst of the prompt.
fn llava(device: &Device, checks: &mut Checks) -> Result {
    let folder = tempfile::tempdir()?;
    checkpoint::write_llava(folder.path())?;
    for num_beams in [1, 3] {
        let captions = |device: &Device, dtype| -> Result<Vec<Vec<u32>>> {
            let llava = Llava::load(folder.path(), device, dtype)?;
            written(&llava, (device, llava.config().vision.image_size), num_beams, |row| {
                let behind = (0..16 - row).map(|i| 1000 + 37 * i);
                let prompt_ids = [1, 500, checkpoint::IMAGE_ID].into_iter().chain(behind).collect();
                Instruction { qformer_ids: Vec::new(), prompt_ids }
            })
        };
        compare_captions(&format!("llava, {num_beams} beams"), device, checks, captions)?;
    }
    Ok(())
}

/// What a captioner writes about four images, with an instruction for each.
fn written(
    captioner: &dyn Captioner,
    (device, side): (&Device, usize),
    num_beams: usize,
    instruction: impl Fn(u32) -> Instruction,
) -> Result<Vec<Vec<u32>>> {
    let requests = (0..4).map(|row: u32| {
        let first = row as usize * 3 * side * side;
        let pixels = (first..first + 3 * side * side).map(|i| ((i * 7919) % 1013) as f32 / 506.5 - 1.0).collect();
        Ok(CaptionRequest {
            pixel_values_chw: Tensor::from_vec(pixels, (3, side, side), device)?,
            instruction: instruction(row),
            seed: None,
        })
    });
    let settings = GenerationSettings { num_beams, max_new_tokens: 24, ..GenerationSettings::default() };
    let captions = captioner.caption(&requests.collect::<Result<Vec<_>>>()?, &settings, 3.into())?;
    Ok(captions.into_iter().map(|caption| caption.ids).collect())
}

/// The same words in f32; in half precision that there are some.
fn compare_captions(
    what: &str,
    device: &Device,
    checks: &mut Checks,
    captions: impl Fn(&Device, DType) -> Result<Vec<Vec<u32>>>,
) -> Result {
    let wanted = captions(&Device::Cpu, DType::F32)?;
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let found = captions(device, dtype)?;
        let differ = found.iter().zip(&wanted).filter(|(a, b)| a != b).count();
        let what = format!("{what}, {dtype:?}, captions that differ");
        match dtype {
            DType::F32 => checks.at_most(&what, differ as f64, 0.0),
            // of random weights: the likeliest words lie closer together than half precision tells apart
            _ => println!("     {what}: {differ} of {}", wanted.len()),
        }
    }
    Ok(())
}

/// Vectors of texts of many lengths.
fn sentences(device: &Device, checks: &mut Checks) -> Result {
    let folder = tempfile::tempdir()?;
    checkpoint::write_sentence_encoder(folder.path(), (384, 1536, 3, 12))?;
    let texts: Vec<String> = (0..40)
        .map(|text| (0..1 + text % 23).map(|i| format!("w{} ", (text * 31 + i * 7) % checkpoint::WORDS)).collect())
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let vectors = |device: &Device, dtype| -> Result<Tensor> {
        let encoder = SentenceEncoder::load(folder.path(), device, dtype, Reading::default())?;
        let vectors = encoder.encode(&texts)?.concat();
        Ok(Tensor::from_vec(vectors, (texts.len(), encoder.width()), &Device::Cpu)?)
    };
    let wanted = vectors(&Device::Cpu, DType::F32)?;
    for (dtype, bound) in [(DType::F32, 1e-5), (DType::BF16, 3e-2), (DType::F16, 5e-3)] {
        checks.close(&format!("sentences {dtype:?}"), &vectors(device, dtype)?, &wanted, bound);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradients(of: &[(&str, &[f64])]) -> Vec<(String, Tensor)> {
        of.iter().map(|(name, values)| ((*name).to_owned(), Tensor::new(*values, &Device::Cpu).unwrap())).collect()
    }

    #[test]
    fn gradients_are_compared_by_name_and_shape() {
        let wanted = gradients(&[("a", &[1.0, 0.0]), ("b", &[2.0])]);
        assert_eq!(worst(&wanted, &wanted).unwrap(), (String::new(), 0.0));
        assert_eq!(worst(&gradients(&[("a", &[1.0, 0.0]), ("b", &[3.0])]), &wanted).unwrap(), ("b".to_owned(), 0.5));
        assert!(worst(&gradients(&[("a", &[f64::NAN, 0.0]), ("b", &[3.0])]), &wanted).unwrap().1.is_nan());
        let problem = |found: &[(&str, &[f64])]| worst(&gradients(found), &wanted).unwrap_err().to_string();
        let missing = problem(&[("a", &[1.0, 0.0])]);
        assert!(missing.contains("only one of both devices has those of [\"b\"]"), "{missing}");
        let cut = problem(&[("a", &[1.0]), ("b", &[2.0])]);
        assert!(cut.contains("a: shape [1] where [2] is wanted"), "{cut}");
    }
}
