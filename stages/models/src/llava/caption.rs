//! Captions of many images in a running batch.

use super::{IMAGE, Llava, no_tokenizer};
use crate::captioning::{
    self, Caption, CaptionRequest, Captioner, Instruction, check_ids, check_pixels, distinct_images, normalised,
};
use crate::language::batch_limits::Room;
use crate::language::generate::GenerationSettings;
use crate::language::{BatchLimits, GenerationConfig};
use crate::{ModelError, Result};
use candle_core::Tensor;
use pixels::Rgb;

impl Captioner for Llava {
    fn generation(&self) -> Option<&GenerationConfig> {
        self.generation.as_ref()
    }

    /// The middle of the image, as CLIP sees it.
    fn pixel_values(&self, rgb: &Rgb) -> Result<Tensor> {
        let view = pixels::clip_view(rgb, self.config.vision.image_size as u32);
        normalised(&view, &self.preprocessing.mean, &self.preprocessing.std)
    }

    /// The text as a user's words to the assistant that Vicuna was trained to be.
    fn instruction(&self, text: &str) -> Result<Instruction> {
        let tokenizer = self.tokenizer.as_ref().ok_or_else(no_tokenizer)?;
        let prompt_ids = tokenizer.encode(&format!("USER: {IMAGE}\n{text} ASSISTANT:"))?;
        let instruction = Instruction { qformer_ids: Vec::new(), prompt_ids };
        self.image_place(&instruction)?;
        Ok(instruction)
    }

    fn check(&self, request: &CaptionRequest, settings: &GenerationSettings) -> Result<()> {
        check_pixels(&request.pixel_values_chw, self.config.vision.image_size)?;
        self.image_place(&request.instruction)?;
        let (wanted, most) = (
            self.positions(&request.instruction) + settings.max_new_tokens,
            self.language.config().max_position_embeddings,
        );
        match wanted <= most {
            true => Ok(()),
            false => Err(ModelError::Input(format!(
                "{} tokens of the image, {} ids and {} new tokens are more than the network's {most} positions; \
                 shorten the prompt, or lower max_new_tokens",
                self.config.image_tokens(),
                request.instruction.prompt_ids.len(),
                settings.max_new_tokens
            ))),
        }
    }

    fn caption(
        &self,
        requests: &[CaptionRequest],
        settings: &GenerationSettings,
        limits: BatchLimits,
    ) -> Result<Vec<Caption>> {
        let named = self.generation.as_ref().and_then(GenerationConfig::end_ids);
        let end_ids = named.unwrap_or(&self.config.end_ids);
        // transformers counts the prompt's words as said before
        let said = requests.iter().map(|request| request.instruction.prompt_ids.clone()).collect();
        let generator = captioning::generator(self, requests, settings, end_ids)?.with_histories(said);
        let longest = requests.iter().map(|request| self.positions(&request.instruction)).max().unwrap_or(0);
        let need = self.language.cache_need(longest, settings.num_beams * settings.max_new_tokens);
        let room = Room::of(limits, need, &self.device);
        let prompts = |requests: &[&CaptionRequest]| self.prompts(requests);
        // On a thread of the pool: one that waits outside would be woken for every operation.
        rayon::scope(|_| {
            let mut session = self.language.session_within(room)?;
            captioning::write(requests, &generator, room.rows, &mut session, prompts, |ids| self.text(ids))
        })
    }
}

impl Llava {
    /// Where in the prompt the image stands.
    fn image_place(&self, Instruction { prompt_ids, .. }: &Instruction) -> Result<usize> {
        let mut places = (0..prompt_ids.len()).filter(|&place| prompt_ids[place] == self.config.image_id);
        match (places.next(), places.next()) {
            (Some(place), None) => {
                let (before, behind) = (&prompt_ids[..place], &prompt_ids[place + 1..]);
                [before, behind].into_iter().try_for_each(|ids| check_ids(ids, self.language.config().vocab_size))?;
                Ok(place)
            }
            (None, _) => Err(ModelError::Input(format!(
                "the prompt has no id {} for the image; check that the tokenizer knows {IMAGE}",
                self.config.image_id
            ))),
            (Some(_), Some(_)) => Err(ModelError::Input(format!("the prompt's words hold {IMAGE}: take it out"))),
        }
    }

    /// Positions of a prompt, the image's among them.
    fn positions(&self, instruction: &Instruction) -> usize {
        instruction.prompt_ids.len().saturating_sub(1) + self.config.image_tokens()
    }

    fn text(&self, ids: &[u32]) -> Result<Option<String>> {
        let words: Vec<u32> = ids.iter().copied().filter(|&id| id != self.config.image_id).collect();
        self.tokenizer.as_ref().map(|tokenizer| tokenizer.decode(&words)).transpose()
    }

    /// The instruction's embeddings with the image's in their midst, `[L, D]` for each request.
    pub(super) fn prompts(&self, requests: &[&CaptionRequest]) -> Result<Vec<Tensor>> {
        let (images_bchw, image_of) = distinct_images(requests)?;
        let images_btd = self.encode_images(&images_bchw)?;
        let prompt = |(request, image): (&&CaptionRequest, usize)| {
            let (ids, place) = (&request.instruction.prompt_ids, self.image_place(&request.instruction)?);
            let mut parts = Vec::with_capacity(3);
            if place > 0 {
                parts.push(self.language.embed(&ids[..place])?);
            }
            parts.push(images_btd.get(image)?);
            if place + 1 < ids.len() {
                parts.push(self.language.embed(&ids[place + 1..])?);
            }
            Ok(Tensor::cat(&parts, 0)?)
        };
        requests.iter().zip(image_of).map(prompt).collect()
    }
}
