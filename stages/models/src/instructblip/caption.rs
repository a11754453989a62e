//! Captions of many images in a running batch.

use super::{InstructBlip, Language, no_tokenizers};
use crate::captioning::{
    self, Caption, CaptionRequest, Captioner, Instruction, check_ids, check_pixels, distinct_images, normalised,
};
use crate::language::batch_limits::Room;
use crate::language::generate::GenerationSettings;
use crate::language::{BatchLimits, GenerationConfig};
use crate::ops::inference::Rows;
use crate::{ModelError, Result};
use candle_core::{DType, Tensor};
use pixels::Rgb;
use std::collections::BTreeMap;

impl Captioner for InstructBlip {
    fn generation(&self) -> Option<&GenerationConfig> {
        self.generation.as_ref()
    }

    /// The whole image, whatever becomes of its proportions.
    fn pixel_values(&self, rgb: &Rgb) -> Result<Tensor> {
        let side = self.config.vision.image_size as u32;
        let view = pixels::resize(rgb, side, side, pixels::Filter::Bicubic);
        normalised(&view, &pixels::CLIP_MEAN, &pixels::CLIP_STD)
    }

    fn instruction(&self, text: &str) -> Result<Instruction> {
        let tokenizers = self.tokenizers.as_ref().ok_or_else(no_tokenizers)?;
        let instruction = Instruction {
            qformer_ids: tokenizers.qformer.encode(text)?,
            prompt_ids: tokenizers.language.encode(text)?,
        };
        self.check_words(&instruction)?;
        Ok(instruction)
    }

    fn check(&self, request: &CaptionRequest, settings: &GenerationSettings) -> Result<()> {
        let refuse = |message: String| Err(ModelError::Input(message));
        let (c, Instruction { qformer_ids, prompt_ids }) = (&self.config, &request.instruction);
        check_pixels(&request.pixel_values_chw, c.vision.image_size)?;
        let most = c.qformer.max_position_embeddings;
        if qformer_ids.len() > most {
            return refuse(format!("an instruction of {} ids, the Q-Former reads {most}", qformer_ids.len()));
        }
        self.check_words(&request.instruction)?;
        if let Language::Llama(llama) = &self.language {
            let wanted = c.num_query_tokens + prompt_ids.len() + settings.max_new_tokens;
            let most = llama.config().max_position_embeddings;
            if wanted > most {
                return refuse(format!(
                    "{} queries, {} ids and {} new tokens are more than the network's {most} positions; \
                 shorten the prompt, or lower max_new_tokens",
                    c.num_query_tokens,
                    prompt_ids.len(),
                    settings.max_new_tokens
                ));
            }
        }
        Ok(())
    }

    fn caption(
        &self,
        requests: &[CaptionRequest],
        settings: &GenerationSettings,
        limits: BatchLimits,
    ) -> Result<Vec<Caption>> {
        let generator = captioning::generator(self, requests, settings, &self.config.end_ids)?;
        let room = self.room(requests, settings, limits);
        let prompts = |requests: &[&CaptionRequest]| self.prompts(requests);
        let text = |ids: &[u32]| self.tokenizers.as_ref().map(|tokenizers| tokenizers.language.decode(ids)).transpose();
        // On a thread of the pool: one that waits outside would be woken for every operation.
        rayon::scope(|_| match &self.language {
            Language::Llama(llama) => {
                let mut session = llama.session_within(room)?;
                captioning::write(requests, &generator, room.rows, &mut session, prompts, text)
            }
            Language::T5(t5) => {
                captioning::write(requests, &generator, room.rows, &mut t5.session_within(room)?, prompts, text)
            }
        })
    }
}

impl InstructBlip {
    /// Whether the networks know the ids.
    fn check_words(&self, Instruction { qformer_ids, prompt_ids }: &Instruction) -> Result<()> {
        check_ids(qformer_ids, self.config.qformer.vocab_size)?;
        check_ids(prompt_ids, self.config.language.vocab_size())
    }

    /// Places for the requests, sized for the longest.
    fn room(&self, requests: &[CaptionRequest], settings: &GenerationSettings, limits: BatchLimits) -> Room {
        let longest = requests.iter().map(|request| request.instruction.prompt_ids.len()).max().unwrap_or(0);
        let prompt = self.config.num_query_tokens + longest;
        let written = settings.num_beams * settings.max_new_tokens;
        let need = match &self.language {
            Language::Llama(llama) => llama.cache_need(prompt, written),
            Language::T5(t5) => t5.cache_need(prompt, written),
        };
        Room::of(limits, need, &self.device)
    }

    /// Query embeddings and the instruction's embeddings behind each other, `[Q + L, D]` for each request.
    fn prompts(&self, requests: &[&CaptionRequest]) -> Result<Vec<Tensor>> {
        let (images_bchw, image_of) = distinct_images(requests)?;
        let image_bkd = self.encode_image(&images_bchw)?;
        // Instructions of one length together: without padding, nothing about a row depends on the others.
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (row, request) in requests.iter().enumerate() {
            by_length.entry(request.instruction.qformer_ids.len()).or_default().push(row);
        }
        let mut prompts: Vec<Option<Tensor>> = vec![None; requests.len()];
        for (length, rows) in by_length {
            let index: Vec<u32> = rows.iter().map(|&row| image_of[row] as u32).collect();
            let image_bkd = image_bkd.index_select(&Tensor::new(index, &self.device)?, 0)?;
            let ids = rows.iter().flat_map(|&row| requests[row].instruction.qformer_ids.iter().copied());
            let shape = (rows.len(), length);
            let ids_bl = Tensor::from_vec(ids.collect::<Vec<_>>(), shape, &self.device)?;
            let mask_bl = Tensor::ones(shape, DType::U8, &self.device)?;
            let hidden = self.query(&image_bkd, &ids_bl, &mask_bl)?;
            let queries = hidden.narrow(1, 0, self.config.num_query_tokens)?.contiguous()?;
            let queries_bqd = self.projection.forward(&queries, Rows::Many)?;
            for (index, &row) in rows.iter().enumerate() {
                let (queries_qd, ids) = (queries_bqd.get(index)?, &requests[row].instruction.prompt_ids);
                prompts[row] = Some(match ids.is_empty() {
                    true => queries_qd,
                    false => Tensor::cat(&[queries_qd, self.language.embed(ids)?], 0)?,
                });
            }
        }
        Ok(prompts.into_iter().flatten().collect())
    }
}
