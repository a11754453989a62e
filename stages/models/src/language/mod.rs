//! Frozen language models and how text is drawn from them.
//!
//! - [`Llama`] (LLaMA, Vicuna) and [`T5`] (Flan-T5): networks that continue sequences of embeddings,
//! - [`generate`]: greedy, nucleus and beam decoding of any network that gives next logits.

pub(crate) mod batch_limits;
mod cache;
pub(crate) mod config;
pub mod generate;
mod generation_config;
mod gguf;
mod llama;
pub(crate) mod post_norm;
pub(crate) mod projection;
#[cfg(test)]
mod stories;
mod t5;
mod t5_positions;
pub(crate) mod weights;

pub use batch_limits::BatchLimits;
pub use config::{LlamaConfig, T5Config};
pub use generation_config::{DEFAULT_TOP_K, GenerationConfig};
pub use llama::{Llama, LlamaSession};
pub use t5::{T5, T5Session};

use crate::ops::inference::PathQueries;
use crate::{ModelError, Result};
use candle_core::{DType, Tensor};

fn check_ids(ids: &[u32], vocab_size: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => Err(ModelError::Input(format!(
            "token id {id} is not in the vocabulary of {vocab_size}; check that tokenizer and checkpoint belong together"
        ))),
    }
}

/// The number of rows of all prompts, each `[L, D]` with L of at least 1.
fn check_prompts(prompts: &[Tensor], width: usize) -> Result<usize> {
    let mut rows = 0;
    for prompt in prompts {
        match prompt.dims() {
            &[length, found] if length > 0 && found == width => rows += length,
            other => {
                return Err(ModelError::Input(format!("a prompt has shape {other:?}, the network wants [L, {width}]")));
            }
        }
    }
    Ok(rows)
}

/// The last row of every path: what the next token is read from.
fn last_rows(x_rd: &Tensor, queries: &[PathQueries]) -> Result<Tensor> {
    let mut end = 0;
    let ends: Vec<u32> = queries
        .iter()
        .map(|path| {
            end += path.rows as u32;
            end - 1
        })
        .collect();
    Ok(x_rd.index_select(&Tensor::new(ends, x_rd.device())?, 0)?)
}

fn to_host(logits_rv: &Tensor) -> Result<Vec<f32>> {
    Ok(logits_rv.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}
