//! Sentence encoders of the BERT family: a text to one vector of length one.
//!
//! - [`config`]: which network it is,
//! - [`network`]: the Transformer, on texts that lie behind each other,
//! - [`pooling`]: one vector from those of the tokens,
//! - [`folder`]: the layout of sentence-transformers.

mod config;
mod folder;
#[cfg(test)]
mod goldens;
mod network;
mod pooling;

pub use config::BertConfig;
pub use pooling::Pooling;

use crate::checkpoint::{Checkpoint, read_json};
use crate::language::projection::Projection;
use crate::language::weights::{FILES, Weights};
use crate::ops::inference::Rows;
use crate::tokenizer::TextTokenizer;
use crate::{ModelError, Result};
use candle_core::{DType, Device, Tensor};
use folder::Folder;
use network::{Bert, runs};
use rayon::prelude::*;
use serde::Deserialize;
use std::path::Path;

/// Tokens that go through the network together: what its layers hand on stays in the caches.
const TOKENS_OF_A_CORE: usize = 512;

/// The same on a GPU, which wants much at once.
const TOKENS_OF_A_GPU: usize = 16 * 1024;

/// Widest vector behind a linear map: a bound against hostile files.
const MAX_WIDTH: usize = 1 << 15;

/// How texts are read, where it shall not be as the checkpoint says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// `None`: the checkpoint's own.
    pub pooling: Option<Pooling>,
    /// Tokens of a text at most, frame included; `None`: the checkpoint's own bound, which is never exceeded.
    pub max_tokens: Option<usize>,
}

/// A frozen network that puts sentences of like meaning close together (Reimers and Gurevych, "Sentence-BERT", 2019).
#[derive(Clone, Debug)]
pub struct SentenceEncoder {
    config: BertConfig,
    network: Bert,
    tokenizer: TextTokenizer,
    pooling: Pooling,
    dense: Vec<Dense>,
    max_tokens: usize,
    lower_case: bool,
}

/// A linear map behind the pooling, with its activation.
#[derive(Clone, Debug)]
struct Dense {
    map: Projection,
    tanh: bool,
    outputs: usize,
}

impl SentenceEncoder {
    /// Reads the folder of a sentence-transformers model, or of a plain BERT, which is pooled by the mean.
    ///
    /// # Errors
    /// [`ModelError::Io`], [`ModelError::Malformed`], [`ModelError::AnotherModel`], [`ModelError::Config`], or that of a
    /// tensor that is missing or has another shape.
    pub fn load(folder: &Path, device: &Device, dtype: DType, reading: Reading) -> Result<Self> {
        let opened = Folder::open(folder)?;
        let checkpoint = opened.checkpoint()?;
        let mut width = opened.config.hidden_size;
        let dense = opened.dense.iter().map(|path| {
            let dense = Dense::load(path, width)?;
            width = dense.outputs;
            Ok(dense)
        });
        let dense = dense.collect::<Result<_>>()?;
        Ok(Self {
            network: Bert::new(&opened.config, &Weights::new(&checkpoint, device, dtype))?,
            tokenizer: opened.tokenizer,
            pooling: reading.pooling.unwrap_or(opened.pooling),
            dense,
            max_tokens: reading.max_tokens.map_or(opened.max_tokens, |most| most.clamp(3, opened.max_tokens)),
            lower_case: opened.lower_case,
            config: opened.config,
        })
    }

    /// The configuration of what [`load`](Self::load) would read, if weights and a vocabulary lie beside it. No weights
    /// are read.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn examine(folder: &Path) -> Result<BertConfig> {
        let opened = Folder::open(folder)?;
        let checkpoint = opened.checkpoint()?;
        let (rows, width) = (opened.config.vocab_size, opened.config.hidden_size);
        checkpoint.check("embeddings.word_embeddings.weight", &[rows, width])?;
        opened.dense.iter().try_for_each(|path| DenseConfig::read(path).map(|_| ()))?;
        Ok(opened.config)
    }

    /// The network's configuration.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// Width of its vectors.
    pub fn width(&self) -> usize {
        self.dense.last().map_or(self.config.hidden_size, |dense| dense.outputs)
    }

    /// Vectors of length one, in the order of the texts. A vector does not depend on the other texts.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`]; [`ModelError::Input`] with the number of a text whose vector is not finite;
    /// [`ModelError::Tensor`] if the device fails.
    pub fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let ids: Vec<Vec<u32>> = texts.par_iter().map(|text| self.ids(text)).collect::<Result<_>>()?;
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&text| ids[text].len());
        let tokens = |text: usize| ids[text].len();
        let encoded: Vec<_> = if self.network.is_on_cpu() {
            // one batch a core: no layer waits for the others
            let batches = batches(&order, tokens, TOKENS_OF_A_CORE);
            batches.into_par_iter().map(|batch| self.batch(&ids, batch)).collect::<Result<_>>()?
        } else {
            let batches = batches(&order, tokens, TOKENS_OF_A_GPU);
            batches.into_iter().map(|batch| self.batch(&ids, batch)).collect::<Result<_>>()?
        };
        let mut vectors = vec![Vec::new(); texts.len()];
        for (text, vector) in encoded.into_iter().flatten() {
            vectors[text] = vector;
        }
        Ok(vectors)
    }

    /// Numbers of texts with their vectors.
    fn batch(&self, ids: &[Vec<u32>], batch: &[usize]) -> Result<Vec<(usize, Vec<f32>)>> {
        let joined: Vec<u32> = batch.iter().flat_map(|&text| &ids[text]).copied().collect();
        let lengths = batch.iter().map(|&text| ids[text].len());
        let tokens_td = self.network.encode(&joined, &runs(lengths))?.flatten_all()?.to_vec1::<f32>()?;
        let width = self.config.hidden_size;
        let mut start = 0;
        let mut pooled = Vec::with_capacity(batch.len() * width);
        for &text in batch {
            let end = start + ids[text].len() * width;
            pooled.extend(self.pooling.pool(&tokens_td[start..end], width));
            start = end;
        }
        let pooled = self.mapped(pooled, batch.len())?;
        let vectors = batch.iter().zip(pooled.chunks_exact(self.width())).map(|(&text, vector)| {
            let undirected =
                || ModelError::Input(format!("text {text}: its vector is not finite, or zero; check the weights"));
            Ok((text, unit(vector).ok_or_else(undirected)?))
        });
        vectors.collect()
    }

    /// Longest text in tokens, its frame included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Tokens of a text, without its frame.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] with the library's words.
    pub fn count(&self, text: &str) -> Result<usize> {
        Ok(self.framed(text)?.len().saturating_sub(2))
    }

    fn framed(&self, text: &str) -> Result<Vec<u32>> {
        match self.lower_case {
            true => self.tokenizer.encode(&text.to_lowercase()),
            false => self.tokenizer.encode(text),
        }
    }

    /// With the vocabulary's frame, cut to what the network reads.
    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.framed(text)?;
        if ids.len() > self.max_tokens
            && let Some(end) = ids.last().copied()
        {
            ids.truncate(self.max_tokens - 1);
            ids.push(end);
        }
        match ids.is_empty() {
            true => Err(ModelError::Tokenizer("a text became no token, not even a frame".to_owned())),
            false => Ok(ids),
        }
    }

    /// The linear maps behind the pooling, of `[N, D]`.
    fn mapped(&self, pooled: Vec<f32>, count: usize) -> Result<Vec<f32>> {
        if self.dense.is_empty() {
            return Ok(pooled);
        }
        let mut x = Tensor::from_vec(pooled, (count, self.config.hidden_size), &Device::Cpu)?;
        for dense in &self.dense {
            x = dense.map.forward(&x, Rows::Many)?;
            if dense.tanh {
                x = x.tanh()?;
            }
        }
        Ok(x.flatten_all()?.to_vec1()?)
    }
}

/// Consecutive texts of at most so many tokens together, or one that is longer.
fn batches(order: &[usize], tokens: impl Fn(usize) -> usize, most: usize) -> Vec<&[usize]> {
    let mut batches = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (end, &text) in order.iter().enumerate() {
        if end > start && sum + tokens(text) > most {
            batches.push(&order[start..end]);
            (start, sum) = (end, 0);
        }
        sum += tokens(text);
    }
    if start < order.len() {
        batches.push(&order[start..]);
    }
    batches
}

/// `None`: it has no direction.
fn unit(vector: &[f32]) -> Option<Vec<f32>> {
    let norm = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    (norm.is_finite() && norm > 0.0).then(|| vector.iter().map(|value| (f64::from(*value) / norm) as f32).collect())
}

#[derive(Deserialize)]
struct DenseConfig {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    #[serde(default)]
    activation_function: String,
}

fn yes() -> bool {
    true
}

impl DenseConfig {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let config: Self = read_json(&path)?;
        match config.activation() {
            "Tanh" | "Identity" | "" => {}
            other => return Err(ModelError::malformed(&path, format!("activation {other}; known: Tanh, Identity"))),
        }
        match (1..=MAX_WIDTH).contains(&config.out_features) {
            true => Ok(config),
            false => Err(ModelError::malformed(&path, format!("out_features = {}", config.out_features))),
        }
    }

    /// Python's name of the class.
    fn activation(&self) -> &str {
        self.activation_function.rsplit('.').next().unwrap_or_default()
    }
}

impl Dense {
    fn load(folder: &Path, inputs: usize) -> Result<Self> {
        let config = DenseConfig::read(folder)?;
        if config.in_features != inputs {
            let reason = format!("takes {} values, what stands before it has {inputs}", config.in_features);
            return Err(ModelError::malformed(folder, reason));
        }
        let checkpoint = Checkpoint::open_folder(folder, FILES)?;
        // a few rows: the CPU has them already
        let weights = Weights::new(&checkpoint, &Device::Cpu, DType::F32);
        Ok(Self {
            map: weights.linear("linear", inputs, config.out_features, config.bias)?,
            tanh: matches!(config.activation(), "Tanh" | ""),
            outputs: config.out_features,
        })
    }
}
