//! Captions of many images in a running batch.

use super::{InstructBlip, Language, no_tokenizers};
use crate::language::BatchLimits;
use crate::language::batch_limits::Room;
use crate::language::generate::{GenerationSettings, Generator, NextLogits};
use crate::ops::inference::Rows;
use crate::{ModelError, Result};
use candle_core::{DType, Tensor};
use std::collections::{BTreeMap, HashMap};

/// An instruction as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// In BERT's vocabulary, with its frame; without padding.
    pub qformer_ids: Vec<u32>,
    /// In the language model's vocabulary, with its frame; without padding.
    pub prompt_ids: Vec<u32>,
}

/// An image to be described.
#[derive(Clone, Debug)]
pub struct CaptionRequest {
    /// `[3, S, S]`, normalised by CLIP's mean and deviation; on any device. Requests that share a tensor and are taken
    /// up together are looked at once.
    pub pixel_values_chw: Tensor,
    /// What to write about it.
    pub instruction: Instruction,
    /// Of this request's draws; `None`: the settings' seed and the request's number.
    pub seed: Option<u64>,
}

/// What the language model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caption {
    /// New ids, with the end token if it came.
    pub ids: Vec<u32>,
    /// Without special tokens; `None` if the checkpoint's folder has no tokenizer.
    pub text: Option<String>,
}

impl InstructBlip {
    /// The ids of an instruction, such as "A short description of the satellite image."
    ///
    /// # Errors
    /// [`ModelError::Input`] if the checkpoint's folder has no tokenizers.
    pub fn instruction(&self, text: &str) -> Result<Instruction> {
        let tokenizers = self.tokenizers.as_ref().ok_or_else(no_tokenizers)?;
        let instruction = Instruction {
            qformer_ids: tokenizers.qformer.encode(text)?,
            prompt_ids: tokenizers.language.encode(text)?,
        };
        self.check_ids(&instruction)?;
        Ok(instruction)
    }

    /// Whether the networks know the ids.
    fn check_ids(&self, Instruction { qformer_ids, prompt_ids }: &Instruction) -> Result<()> {
        let c = &self.config;
        for (ids, size) in [(qformer_ids, c.qformer.vocab_size), (prompt_ids, c.language.vocab_size())] {
            if let Some(id) = ids.iter().find(|&&id| id as usize >= size) {
                return Err(ModelError::Input(format!(
                    "id {id} is not in the vocabulary of {size}; check the tokenizers"
                )));
            }
        }
        Ok(())
    }

    /// Describes images, as many at a time as the limits (or their number alone) allow; half as many when the device
    /// runs out of memory. Whoever is done makes room for the next, and no caption depends on its batch.
    ///
    /// # Errors
    /// [`ModelError::Config`] for settings that cannot be followed, [`ModelError::Input`] with the number of a
    /// request that [`check`](Self::check) refuses, [`ModelError::Tensor`] if the device fails or one request alone
    /// does not fit into its memory.
    pub fn caption(
        &self,
        requests: &[CaptionRequest],
        settings: &GenerationSettings,
        limits: impl Into<BatchLimits>,
    ) -> Result<Vec<Caption>> {
        let seeds = requests.iter().map(|request| request.seed).collect();
        let generator = Generator::new(settings.clone(), &self.config.end_ids)?.with_seeds(seeds);
        for (number, request) in requests.iter().enumerate() {
            self.check(request, settings).map_err(|error| match error {
                ModelError::Input(message) => ModelError::Input(format!("request {number}: {message}")),
                other => other,
            })?;
        }
        let room = self.room(requests, settings, limits.into());
        // On a thread of the pool: one that waits outside would be woken for every operation.
        rayon::scope(|_| match &self.language {
            Language::Llama(llama) => self.write(requests, &generator, room.rows, &mut llama.session_within(room)?),
            Language::T5(t5) => self.write(requests, &generator, room.rows, &mut t5.session_within(room)?),
        })
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

    /// Whether a request can be answered at all: refuses it before any work is done, not in the middle of a batch.
    ///
    /// # Errors
    /// [`ModelError::Input`] with what does not fit.
    pub fn check(&self, request: &CaptionRequest, settings: &GenerationSettings) -> Result<()> {
        let refuse = |message: String| Err(ModelError::Input(message));
        let (c, Instruction { qformer_ids, prompt_ids }) = (&self.config, &request.instruction);
        let side = c.vision.image_size;
        if request.pixel_values_chw.dims() != [3, side, side] {
            let found = request.pixel_values_chw.dims();
            return refuse(format!("pixel values have shape {found:?}, the network wants [3, {side}, {side}]"));
        }
        let most = c.qformer.max_position_embeddings;
        if qformer_ids.len() > most {
            return refuse(format!("an instruction of {} ids, the Q-Former reads {most}", qformer_ids.len()));
        }
        self.check_ids(&request.instruction)?;
        if let Language::Llama(llama) = &self.language {
            let wanted = c.num_query_tokens + prompt_ids.len() + settings.max_new_tokens;
            let most = llama.config().max_position_embeddings;
            if wanted > most {
                return refuse(format!(
                    "{} queries, {} ids and {} new tokens are more than the network's {most} positions; lower \
                     max_new_tokens",
                    c.num_query_tokens,
                    prompt_ids.len(),
                    settings.max_new_tokens
                ));
            }
        }
        Ok(())
    }

    fn write<N: NextLogits<Prompt = Tensor>>(
        &self,
        requests: &[CaptionRequest],
        generator: &Generator,
        max_batch: usize,
        session: &mut N,
    ) -> Result<Vec<Caption>> {
        let prompts = |numbers: &[usize]| self.prompts(&numbers.iter().map(|&n| &requests[n]).collect::<Vec<_>>());
        let outputs = generator.run(session, requests.len(), max_batch, prompts)?;
        let captions = outputs.into_iter().map(|ids| {
            let text = self.tokenizers.as_ref().map(|tokenizers| tokenizers.language.decode(&ids)).transpose()?;
            Ok(Caption { ids, text })
        });
        captions.collect()
    }

    /// Query embeddings and the instruction's embeddings behind each other, `[Q + L, D]` for each request.
    fn prompts(&self, requests: &[&CaptionRequest]) -> Result<Vec<Tensor>> {
        let (mut images, mut seen) = (Vec::new(), HashMap::new());
        let image_of: Vec<usize> = requests
            .iter()
            .map(|request| {
                let pixels = &request.pixel_values_chw;
                *seen.entry(pixels.id()).or_insert_with(|| {
                    images.push(pixels);
                    images.len() - 1
                })
            })
            .collect();
        let image_bkd = self.encode_image(&Tensor::stack(&images, 0)?)?;
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
