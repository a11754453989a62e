//! What networks that caption images have in common: requests, a running batch, texts.

use crate::language::generate::{GenerationSettings, Generator, NextLogits};
use crate::language::{BatchLimits, GenerationConfig};
use crate::tokenizer::TextTokenizer;
use crate::{ModelError, Result};
use candle_core::Tensor;
use pixels::Rgb;
use std::collections::HashMap;
use std::path::Path;

/// An instruction as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// In the vocabulary of a Q-Former, with its frame; without padding. Empty where there is none.
    pub qformer_ids: Vec<u32>,
    /// In the language model's vocabulary, with its frame; without padding. Where the image stands among them, it is one
    /// id.
    pub prompt_ids: Vec<u32>,
}

/// An image to be described.
#[derive(Clone, Debug)]
pub struct CaptionRequest {
    /// `[3, S, S]`, normalised by the network's mean and deviation; on any device. Requests that share a tensor and are
    /// taken up together are looked at once.
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
    /// No end token came before the limit of new ones.
    pub is_cut: bool,
}

/// A frozen network that captions images.
pub trait Captioner: Send + Sync {
    /// How the checkpoint's authors decode, where its folder says so.
    fn generation(&self) -> Option<&GenerationConfig>;

    /// An image as the network sees it: `[3, S, S]`, on the host.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if there is no room.
    fn pixel_values(&self, rgb: &Rgb) -> Result<Tensor>;

    /// The ids of an instruction, such as "A short description of the satellite image."
    ///
    /// # Errors
    /// [`ModelError::Input`] if the checkpoint's folder has no tokenizers, or the text has no place in a prompt.
    fn instruction(&self, text: &str) -> Result<Instruction>;

    /// Whether a request can be answered at all: refuses it before any work is done, not in the middle of a batch.
    ///
    /// # Errors
    /// [`ModelError::Input`] with what does not fit.
    fn check(&self, request: &CaptionRequest, settings: &GenerationSettings) -> Result<()>;

    /// Describes images, as many at a time as the limits (or their number alone) allow; half as many when the device
    /// runs out of memory. Whoever is done makes room for the next, and no caption depends on its batch.
    ///
    /// # Errors
    /// [`ModelError::Config`] for settings that cannot be followed, [`ModelError::Input`] with the number of a
    /// request that [`check`](Self::check) refuses, [`ModelError::Tensor`] if the device fails or one request alone
    /// does not fit into its memory.
    fn caption(
        &self,
        requests: &[CaptionRequest],
        settings: &GenerationSettings,
        limits: BatchLimits,
    ) -> Result<Vec<Caption>>;
}

/// `[3, S, S]` of a view of S pixels a side.
pub(crate) fn normalised(view: &Rgb, mean: &[f32; 3], std: &[f32; 3]) -> Result<Tensor> {
    let (height, width) = (view.height as usize, view.width as usize);
    let mut chw = vec![0f32; 3 * height * width];
    pixels::normalise_into(view, mean, std, &mut chw);
    Ok(Tensor::from_vec(chw, (3, height, width), &candle_core::Device::Cpu)?)
}

/// A generator for requests that the network has checked.
pub(crate) fn generator(
    captioner: &dyn Captioner,
    requests: &[CaptionRequest],
    settings: &GenerationSettings,
    end_ids: &[u32],
) -> Result<Generator> {
    let seeds = requests.iter().map(|request| request.seed).collect();
    let generator = Generator::new(settings.clone(), end_ids)?.with_seeds(seeds);
    for (number, request) in requests.iter().enumerate() {
        captioner.check(request, settings).map_err(|error| match error {
            ModelError::Input(message) => ModelError::Input(format!("request {number}: {message}")),
            other => other,
        })?;
    }
    Ok(generator)
}

/// Runs a batch: `prompts` are the embeddings `[L, D]` that requests begin with, `text` is what ids say.
pub(crate) fn write<N: NextLogits<Prompt = Tensor>>(
    requests: &[CaptionRequest],
    generator: &Generator,
    max_batch: usize,
    session: &mut N,
    prompts: impl Fn(&[&CaptionRequest]) -> Result<Vec<Tensor>>,
    text: impl Fn(&[u32]) -> Result<Option<String>>,
) -> Result<Vec<Caption>> {
    let prompts = |numbers: &[usize]| prompts(&numbers.iter().map(|&n| &requests[n]).collect::<Vec<_>>());
    let outputs = generator.run(session, requests.len(), max_batch, prompts)?;
    outputs.into_iter().map(|ids| Ok(Caption { text: text(&ids)?, is_cut: generator.is_cut(&ids), ids })).collect()
}

/// The images of some requests, `[B, 3, S, S]` without repetition, and which of them is each request's.
pub(crate) fn distinct_images(requests: &[&CaptionRequest]) -> Result<(Tensor, Vec<usize>)> {
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
    Ok((Tensor::stack(&images, 0)?, image_of))
}

/// # Errors
/// [`ModelError::Input`] for another shape.
pub(crate) fn check_pixels(pixel_values_chw: &Tensor, side: usize) -> Result<()> {
    match pixel_values_chw.dims() {
        found if found == [3, side, side] => Ok(()),
        found => {
            Err(ModelError::Input(format!("pixel values have shape {found:?}, the network wants [3, {side}, {side}]")))
        }
    }
}

/// # Errors
/// [`ModelError::Input`] for an id that no vocabulary of this size has.
pub(crate) fn check_ids(ids: &[u32], vocab_size: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => {
            Err(ModelError::Input(format!("id {id} is not in the vocabulary of {vocab_size}; check the tokenizers")))
        }
    }
}

/// # Errors
/// [`ModelError::AnotherModel`] for a tokenizer that has far more or fewer entries than the network.
pub(crate) fn check_vocabulary(tokenizer: &TextTokenizer, path: &Path, vocab_size: usize) -> Result<()> {
    let entries = tokenizer.vocab_size();
    // networks are padded to round numbers, and vocabularies get tokens that the network never sees
    match entries.abs_diff(vocab_size) > vocab_size / 10 + 64 {
        false => Ok(()),
        true => {
            let reason =
                format!("{entries} entries, the network's vocabulary has {vocab_size}: they do not belong together");
            Err(ModelError::AnotherModel { path: path.to_owned(), reason })
        }
    }
}
