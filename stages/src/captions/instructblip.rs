//! InstructBLIP as a captioner: it sees the image and is told the geo-tags.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Tensor};
use manifests::build::InstructBlipSpec;
use manifests::digest;
use models::ModelError;
use models::instructblip::{CaptionRequest, InstructBlip};
use models::language::generate::{GenerationSettings, Nucleus};
use pixels::DecodeLimits;
use rayon::prelude::*;

use super::{BLIP_LANGUAGE, BLIP_WEIGHTS, Known, NAME, Quality, TagWords, Written};
use crate::device::dtype;
use crate::images::limits;
use crate::pretrain::key_of_digest;
use crate::stage::{Opening, StageError};

pub(super) struct Describer {
    blip: InstructBlip,
    spec: InstructBlipSpec,
    limits: DecodeLimits,
    device: Device,
    stop: Arc<AtomicBool>,
}

/// An image made ready: what it shows and what is said about it.
struct Question {
    row: usize,
    request: CaptionRequest,
    prompt: String,
    /// The tags as they were prompted.
    tags: Option<String>,
    dropped_tags: Vec<String>,
}

impl Describer {
    pub(super) fn open(opening: &Opening<'_>) -> Result<Self, StageError> {
        let configuration =
            |e: ModelError| StageError::Configuration { stage: NAME, why: format!("caption.instructblip: {e}") };
        let spec = opening.spec.caption.instructblip.clone();
        let folder = opening.weights(NAME, BLIP_WEIGHTS)?;
        decoding(&spec).validate().map_err(configuration)?;
        let (device, dtype) = (opening.device(NAME)?, dtype(opening.spec));
        let blip = match opening.weights.path(BLIP_LANGUAGE) {
            Some(gguf) => InstructBlip::load_with_gguf(folder, gguf, &device, dtype),
            None => InstructBlip::load(folder, &device, dtype),
        }
        .map_err(configuration)?;
        // a folder without tokenizers is known before any image is looked at
        blip.instruction(&spec.prompt_without_tags).map_err(configuration)?;
        Ok(Self { blip, spec, limits: limits(opening.spec), device, stop: opening.stop.clone() })
    }

    /// A caption for each image. One that fails its checks is written once more by sampling, then kept and flagged.
    pub(super) fn describe(
        &self,
        known: &[Known<'_>],
        images: &[&[u8]],
    ) -> Result<Vec<Result<Written, String>>, StageError> {
        let mut written: Vec<Result<Written, String>> =
            known.iter().map(|_| Err("the captioner gave no answer".to_owned())).collect();
        // a few batches at a time: places in the running batch stay filled, pixels in memory stay few
        let at_once = 4 * self.spec.images_per_batch;
        for start in (0..known.len()).step_by(at_once) {
            if self.stop.load(Ordering::Relaxed) {
                return Err(StageError::Stopped);
            }
            let end = (start + at_once).min(known.len());
            let questions: Vec<Result<Question, String>> =
                (start..end).into_par_iter().map(|row| self.question(row, &known[row], images[row])).collect();
            let mut asked = Vec::new();
            for (row, question) in (start..end).zip(questions) {
                match question {
                    Ok(question) => asked.push(question),
                    Err(why) => written[row] = Err(why),
                }
            }
            for (question, answer) in asked.iter().zip(self.answers(&asked, known)) {
                written[question.row] = answer.map(|caption| self.checked(question, &known[question.row], caption));
            }
        }
        Ok(written)
    }

    fn question(&self, row: usize, known: &Known<'_>, image: &[u8]) -> Result<Question, String> {
        let rgb = pixels::decode(image, &self.limits).map_err(|e| e.to_string())?;
        let side = self.blip.config().vision.image_size;
        let view = pixels::resize(&rgb, side as u32, side as u32, pixels::Filter::Bicubic);
        let mut chw = vec![0f32; 3 * side * side];
        pixels::normalise_into(&view, &pixels::CLIP_MEAN, &pixels::CLIP_STD, &mut chw);
        let pixel_values_chw = Tensor::from_vec(chw, (3, side, side), &self.device).map_err(|e| e.to_string())?;
        let words = TagWords::of(known)?;
        let tags = words.sentence.as_deref().map(|s| s.trim_start_matches("a satellite image of ").to_owned());
        let prompt = prompt(&self.spec, tags.as_deref());
        let instruction = self.blip.instruction(&prompt).map_err(|e| e.to_string())?;
        let request = CaptionRequest { pixel_values_chw, instruction };
        Ok(Question { row, request, prompt, tags, dropped_tags: words.dropped_tags })
    }

    /// First answers, in order. A failure of a batch is tried again image by image, so that it stays with its image.
    fn answers(&self, asked: &[Question], known: &[Known<'_>]) -> Vec<Result<String, String>> {
        let settings = decoding(&self.spec);
        if settings.sampling.is_none() {
            let requests: Vec<CaptionRequest> = asked.iter().map(|q| q.request.clone()).collect();
            if let Ok(captions) = self.blip.caption(&requests, &settings, self.spec.images_per_batch) {
                return captions.into_iter().map(|c| Ok(c.text.unwrap_or_default())).collect();
            }
        }
        // draws depend on the image alone, whatever else is in the batch
        asked.iter().map(|q| self.alone(q, &seeded(&settings, known[q.row].image_id))).collect()
    }

    fn alone(&self, question: &Question, settings: &GenerationSettings) -> Result<String, String> {
        let caption = self.blip.caption(std::slice::from_ref(&question.request), settings, 1);
        let caption = caption.map_err(|e| e.to_string())?.pop().ok_or("no caption came back")?;
        Ok(caption.text.unwrap_or_default())
    }

    fn checked(&self, question: &Question, known: &Known<'_>, first: String) -> Written {
        let judged = |caption: String, attempts: usize| {
            let caption = one_line(&caption);
            let quality = Quality::of(&caption, question.tags.as_deref(), attempts);
            let problem = quality.problem(&caption, &question.prompt, &self.spec.quality);
            (caption, quality, problem)
        };
        let mut best = judged(first, 1);
        if best.2.is_some() {
            let again = seeded(&retry(&self.spec), known.image_id);
            // the first caption stands where the second try fails
            if let Ok(second) = self.alone(question, &again) {
                let second = judged(second, 2);
                let keeps_first = second.2.is_some() && second.0.is_empty();
                best = if keeps_first { (best.0, Quality { attempts: 2, ..best.1 }, best.2) } else { second };
            }
        }
        let (caption, quality, flagged) = best;
        Written {
            captions: vec![caption],
            dropped_tags: question.dropped_tags.clone(),
            quality: vec![quality],
            flagged,
        }
    }
}

fn prompt(spec: &InstructBlipSpec, tags: Option<&str>) -> String {
    match tags {
        Some(tags) => spec.prompt.replace("{tags}", tags),
        None => spec.prompt_without_tags.clone(),
    }
}

fn decoding(spec: &InstructBlipSpec) -> GenerationSettings {
    let samples = spec.top_p < 1.0;
    GenerationSettings {
        num_beams: if samples { 1 } else { spec.num_beams },
        max_new_tokens: spec.max_new_tokens,
        min_length: spec.min_length,
        repetition_penalty: spec.repetition_penalty,
        length_penalty: spec.length_penalty,
        sampling: samples.then_some(Nucleus { top_p: spec.top_p, temperature: spec.temperature, seed: spec.seed }),
        ..GenerationSettings::default()
    }
}

/// The second try: sampling, with a stronger penalty for what was said.
fn retry(spec: &InstructBlipSpec) -> GenerationSettings {
    GenerationSettings {
        num_beams: 1,
        repetition_penalty: spec.repetition_penalty.max(1.0) * 1.2,
        sampling: Some(Nucleus { top_p: 0.9, temperature: 1.0, seed: spec.seed.wrapping_add(1) }),
        ..decoding(spec)
    }
}

fn seeded(settings: &GenerationSettings, image_id: &str) -> GenerationSettings {
    let sampling = settings.sampling.map(|nucleus| {
        let digest = digest::of_parts([&nucleus.seed.to_le_bytes()[..], image_id.as_bytes()]);
        Nucleus { seed: key_of_digest(&digest), ..nucleus }
    });
    GenerationSettings { sampling, ..settings.clone() }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_decoding_is_the_model_cards_and_the_prompt_the_papers() {
        let spec = InstructBlipSpec::default();
        assert_eq!(decoding(&spec), GenerationSettings::model_card());
        let prompt = prompt(&spec, Some("a school, surrounded by a service road"));
        assert_eq!(
            prompt,
            "Please give a comprehensive and detailed description of the satellite image and its geographical tags: a \
             school, surrounded by a service road."
        );
        assert!(!super::prompt(&spec, None).contains("tags"));
    }

    #[test]
    fn sampling_is_seeded_by_the_image() {
        let spec = InstructBlipSpec { top_p: 0.9, ..InstructBlipSpec::default() };
        let seed = |id: &str| seeded(&decoding(&spec), id).sampling.unwrap().seed;
        assert_eq!(seed("a"), seed("a"));
        assert_ne!(seed("a"), seed("b"));
        assert!(retry(&InstructBlipSpec::default()).validate().is_ok());
        assert!(decoding(&spec).validate().is_ok());
    }
}
