//! A network, opened by a stage: images and prompts in, answers out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use manifests::spec::{Decoding, InstructBlipSpec};
use models::captioning::{self, Caption, CaptionRequest};
use models::language::BatchLimits;
use models::language::generate::{GenerationSettings, Nucleus};
use pixels::{DecodeLimits, Rgb};

use super::super::prompt;
use super::Network;
use crate::device::{dtype, opening_error};
use crate::images::limits;
use crate::stage::{StageContext, StageError};

/// A frozen network, and what it takes to show it images.
pub(super) struct Session {
    stage: &'static str,
    /// The section of the spec, for messages.
    section: String,
    network: Box<dyn captioning::Captioner>,
    device: Device,
    spec: InstructBlipSpec,
    limits: DecodeLimits,
    batch: BatchLimits,
    stop: Arc<AtomicBool>,
}

impl Session {
    pub(super) fn open(network: &Network, stage: &'static str, context: &StageContext<'_>) -> Result<Self, StageError> {
        let section = format!("caption.{}", network.captioner.name());
        let configuration = |why: String| StageError::Configuration { stage, why: format!("{section}: {why}") };
        let spec =
            context.spec.caption.in_process(network.captioner).ok_or_else(|| configuration("no network".into()))?;
        let folder = context.weights(stage, network.weights)?;
        let (device, dtype) = (context.device(stage)?, dtype(context.spec));
        let gguf = context.weights.path(network.language);
        let opened = (network.open)(folder, gguf, &device, dtype)
            .map_err(|e| opening_error(stage, &device, format!("{section}: {e}"), &e))?;
        // a folder without tokenizers is known before any image is looked at
        opened.instruction(&spec.prompt_without_tags).map_err(|e| configuration(e.to_string()))?;
        let cache_bytes = (spec.cache_mib > 0).then(|| spec.cache_mib.saturating_mul(1 << 20));
        Ok(Self {
            stage,
            network: opened,
            device,
            limits: limits(context.spec),
            batch: BatchLimits { rows: spec.images_per_batch, cache_bytes },
            stop: context.stop.clone(),
            section,
            spec,
        })
    }

    /// Its settings.
    pub(super) fn spec(&self) -> &InstructBlipSpec {
        &self.spec
    }

    /// Decoding as the spec, or the checkpoint, has it.
    pub(super) fn decoding(&self) -> Result<GenerationSettings, StageError> {
        let spec = &self.spec;
        let settings = match (spec.decoding, self.network.generation()) {
            (Decoding::Checkpoint, Some(file)) => file.over(decoding(spec), spec.seed),
            (Decoding::Checkpoint | Decoding::Spec, _) => decoding(spec),
        };
        self.valid(settings)
    }

    /// # Errors
    /// [`StageError::Configuration`] for settings that make no sense.
    pub(super) fn valid(&self, settings: GenerationSettings) -> Result<GenerationSettings, StageError> {
        match settings.validate() {
            Ok(()) => Ok(settings),
            Err(e) => Err(StageError::Configuration { stage: self.stage, why: format!("{}: {e}", self.section) }),
        }
    }

    /// Images to have ready: a few batches, so that places in the running one stay filled while pixels in memory stay
    /// few.
    pub(super) fn images_at_once(&self) -> usize {
        4 * self.batch.rows
    }

    /// Captioning takes long: whoever runs a loop asks between its rounds.
    pub(super) fn check_stop(&self) -> Result<(), StageError> {
        if self.stop.load(Ordering::Relaxed) { Err(StageError::Stopped) } else { Ok(()) }
    }

    pub(super) fn decode(&self, image: &[u8]) -> Result<Rgb, String> {
        pixels::decode(image, &self.limits).map_err(|e| e.to_string())
    }

    /// A question about an image. What cannot be asked is known here, not in the middle of a batch.
    pub(super) fn request(
        &self,
        rgb: &Rgb,
        prompt: &str,
        settings: &GenerationSettings,
    ) -> Result<CaptionRequest, String> {
        // on the host: another thread makes requests while the device works on the batch before
        let pixel_values_chw = self.network.pixel_values(rgb).map_err(|e| e.to_string())?;
        let instruction = self.network.instruction(prompt).map_err(|e| e.to_string())?;
        let request = CaptionRequest { pixel_values_chw, instruction, seed: None };
        self.network.check(&request, settings).map_err(|e| e.to_string())?;
        Ok(request)
    }

    /// Answers in order. A failure of a batch is tried again request by request, so that it stays with its image.
    pub(super) fn ask(
        &self,
        requests: &[CaptionRequest],
        settings: &GenerationSettings,
    ) -> Result<Vec<Result<Caption, String>>, StageError> {
        match self.network.caption(requests, settings, self.batch) {
            Ok(captions) => return Ok(captions.into_iter().map(Ok).collect()),
            Err(error) => {
                crate::device::check_alive(self.stage, &self.device)?;
                tracing::debug!(%error, "a batch failed and is tried again one by one");
            }
        }
        requests
            .iter()
            .map(|request| {
                self.check_stop()?;
                let alone = self.network.caption(std::slice::from_ref(request), settings, self.batch);
                if alone.is_err() {
                    crate::device::check_alive(self.stage, &self.device)?;
                }
                let said = alone.map_err(|e| e.to_string());
                Ok(said.and_then(|mut captions| captions.pop().ok_or_else(|| "no answer came".to_owned())))
            })
            .collect()
    }
}

/// Decoding as the spec has it: the model card's unless told.
fn decoding(spec: &InstructBlipSpec) -> GenerationSettings {
    let samples = spec.top_p < 1.0;
    GenerationSettings {
        num_beams: if samples { 1 } else { spec.num_beams },
        max_new_tokens: spec.max_new_tokens,
        min_length: spec.min_length,
        repetition_penalty: spec.repetition_penalty,
        length_penalty: spec.length_penalty,
        sampling: samples.then_some(Nucleus {
            top_k: 0,
            top_p: spec.top_p,
            temperature: spec.temperature,
            seed: spec.seed,
        }),
        ..GenerationSettings::default()
    }
}

/// Draws depend on the image and the try alone, whatever else is in the batch.
pub(super) fn seed_of(settings: &GenerationSettings, image_id: &str, attempt: Option<usize>) -> Option<u64> {
    Some(prompt::seed_of(settings.sampling?.seed, image_id, attempt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_decoding_is_the_model_cards() {
        let spec = InstructBlipSpec::default();
        assert_eq!(decoding(&spec), GenerationSettings::model_card());
    }

    #[test]
    fn sampling_is_seeded_by_the_image_and_the_attempt() {
        let spec = InstructBlipSpec { top_p: 0.9, ..InstructBlipSpec::default() };
        let settings = decoding(&spec);
        assert!(settings.validate().is_ok());
        let seed = |id: &str, attempt| seed_of(&settings, id, attempt).unwrap();
        assert_eq!(seed("a", None), seed("a", None));
        let all = [seed("a", None), seed("b", None), seed("a", Some(0)), seed("a", Some(1)), seed("b", Some(1))];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
        assert_eq!(seed_of(&GenerationSettings::model_card(), "a", None), None, "beams draw nothing");
    }
}
