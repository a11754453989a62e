//! LLaMA with quantised weights, as llama.cpp's GGUF files hold them.

use super::config::LlamaConfig;
use super::llama::{Layer, Llama};
use super::projection::Projection;
use crate::ops::inference::{RotaryLayout, RotaryTable};
use crate::{ModelError, Result};
use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{DType, Device, Tensor};
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

struct Gguf<'a> {
    path: &'a Path,
    content: Content,
    file: BufReader<File>,
    device: &'a Device,
    dtype: DType,
}

/// Far more than the vocabulary and the names of any network take up; values in memory are many times as large.
const MAX_HEADER_BYTES: u64 = 32 << 20;

/// Reads no more than a header can have, whatever it says of itself.
fn header(file: &mut (impl Read + Seek), bytes: u64) -> Result<Content, String> {
    let mut head = file.take(bytes.min(MAX_HEADER_BYTES));
    // candle divides by the file's alignment, which may be 0
    let read = std::panic::catch_unwind(AssertUnwindSafe(|| Content::read(&mut head)));
    match read {
        Ok(content) => content.map_err(|error| error.to_string()),
        Err(_) => Err("its header contradicts itself".to_owned()),
    }
}

impl Llama {
    /// Reads a GGUF file of the architecture `llama`. Maps stay quantised; norms and embeddings become `dtype`.
    ///
    /// # Errors
    /// [`ModelError::AnotherModel`] for another architecture, [`ModelError::MissingTensor`] and
    /// [`ModelError::WrongShape`] with the name of the tensor.
    pub fn load_gguf(path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let file = File::open(path).map_err(ModelError::io(path))?;
        let bytes = file.metadata().map_err(ModelError::io(path))?.len();
        let mut file = BufReader::new(file);
        let content = header(&mut file, bytes).map_err(|reason| ModelError::malformed(path, reason))?;
        let mut gguf = Gguf { path, content, file, device, dtype };
        let config = gguf.config()?;
        config.validate()?;
        gguf.llama(config)
    }
}

impl Gguf<'_> {
    fn value<T>(&self, key: &str, read: impl Fn(&Value) -> candle_core::Result<T>) -> Result<Option<T>> {
        let value = self.content.metadata.get(key).map(read).transpose();
        value.map_err(|error| ModelError::malformed(self.path, format!("{key}: {error}")))
    }

    fn number(&self, key: &str) -> Result<usize> {
        let number = self.value(key, Value::to_u32)?.map(|value| value as usize);
        number.ok_or_else(|| ModelError::malformed(self.path, format!("no value {key}")))
    }

    /// The kind of rotary scaling by transformers' name, for the configuration to refuse; `None`: nothing is scaled.
    fn rope_scaling(&self) -> Result<Option<String>> {
        if self.content.tensor_infos.contains_key("rope_freqs.weight") {
            return Ok(Some("llama3".to_owned()));
        }
        let kind = self.value("llama.rope.scaling.type", |value| value.to_string().cloned())?;
        let factor = match self.value("llama.rope.scaling.factor", Value::to_f32)? {
            None => self.value("llama.rope.scale_linear", Value::to_f32)?,
            factor => factor,
        };
        // llama.cpp takes a factor without a kind for a linear one, and 0 for none
        let scales = factor.is_some_and(|factor| factor != 0.0 && factor != 1.0);
        Ok(match kind.as_deref().unwrap_or("linear") {
            "none" => None,
            "linear" => scales.then(|| "linear".to_owned()),
            other => Some(other.to_owned()),
        })
    }

    fn config(&self) -> Result<LlamaConfig> {
        let architecture = self.value("general.architecture", |value| value.to_string().cloned())?;
        if architecture.as_deref() != Some("llama") {
            let reason = format!("architecture {architecture:?}, \"llama\" is wanted");
            return Err(ModelError::AnotherModel { path: self.path.to_owned(), reason });
        }
        let table = self.content.tensor_infos.get("token_embd.weight");
        let vocab_size = table.and_then(|info| info.shape.dims().first().copied()).unwrap_or(0);
        let heads = self.number("llama.attention.head_count")?;
        let kv_heads = self.value("llama.attention.head_count_kv", Value::to_u32)?;
        let epsilon = self.value("llama.attention.layer_norm_rms_epsilon", Value::to_f32)?;
        let theta = self.value("llama.rope.freq_base", Value::to_f32)?;
        Ok(LlamaConfig {
            vocab_size,
            hidden_size: self.number("llama.embedding_length")?,
            intermediate_size: self.number("llama.feed_forward_length")?,
            num_hidden_layers: self.number("llama.block_count")?,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads.map(|heads| heads as usize),
            max_position_embeddings: self.number("llama.context_length")?,
            rms_norm_eps: epsilon.map_or(1e-6, f64::from),
            rope_theta: theta.map_or(10_000.0, f64::from),
            tie_word_embeddings: !self.content.tensor_infos.contains_key("output.weight"),
            rope_scaling: self.rope_scaling()?.map(|kind| serde_json::json!({ "rope_type": kind })),
            ..LlamaConfig::default()
        })
    }

    fn quantised(&mut self, name: &str, shape: &[usize]) -> Result<Arc<QTensor>> {
        let path = || self.path.to_owned();
        let Some(info) = self.content.tensor_infos.get(name) else {
            return Err(ModelError::MissingTensor { path: path(), name: name.to_owned(), expected: shape.to_vec() });
        };
        if info.shape.dims() != shape {
            let (expected, found) = (shape.to_vec(), info.shape.dims().to_vec());
            return Err(ModelError::WrongShape { path: path(), name: name.to_owned(), expected, found });
        }
        let tensor = self.content.tensor(&mut self.file, name, self.device);
        Ok(Arc::new(tensor.map_err(|error| ModelError::malformed(self.path, format!("tensor {name}: {error}")))?))
    }

    fn dense(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let device = self.device.clone();
        Ok(self.quantised(name, shape)?.dequantize(&device)?.to_dtype(self.dtype)?)
    }

    fn projection(&mut self, parts: &[(String, usize)], inputs: usize) -> Result<Projection> {
        let parts = parts.iter().map(|(name, outputs)| self.quantised(name, &[*outputs, inputs]));
        Projection::quantised(parts.collect::<Result<_>>()?)
    }

    fn llama(&mut self, config: LlamaConfig) -> Result<Llama> {
        let (width, hidden, vocabulary) = (config.hidden_size, config.intermediate_size, config.vocab_size);
        let q_width = config.num_attention_heads * config.head_width();
        let kv_width = config.kv_heads() * config.head_width();
        let table_vd = self.dense("token_embd.weight", &[vocabulary, width])?;
        let head_name = if config.tie_word_embeddings { "token_embd.weight" } else { "output.weight" };
        let head = self.projection(&[(head_name.to_owned(), vocabulary)], width)?;
        let norm_d = self.dense("output_norm.weight", &[width])?;
        let mut layers = Vec::new();
        for layer in 0..config.num_hidden_layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let qkv = [(name("attn_q"), q_width), (name("attn_k"), kv_width), (name("attn_v"), kv_width)];
            layers.push(Layer {
                input_norm_d: self.dense(&name("attn_norm"), &[width])?,
                qkv: self.projection(&qkv, width)?,
                out: self.projection(&[(name("attn_output"), width)], q_width)?,
                post_norm_d: self.dense(&name("ffn_norm"), &[width])?,
                gate_up: self.projection(&[(name("ffn_gate"), hidden), (name("ffn_up"), hidden)], width)?,
                down: self.projection(&[(name("ffn_down"), width)], hidden)?,
            });
        }
        let (positions, theta) = (config.max_position_embeddings, config.rope_theta);
        // llama.cpp permutes queries and keys back to the paper's layout.
        let rotary = RotaryTable::new(positions, config.head_width(), theta, RotaryLayout::Pairs, self.device)?;
        Ok(Llama { config, table_vd, layers, norm_d, head, rotary })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::{GgmlDType, gguf_file};

    /// What is wrong with a file of a head, some more of it, and two tensors.
    fn refused(more: &[(&str, Value)], tensor: &str) -> ModelError {
        let numbers = [
            ("llama.attention.head_count", 2),
            ("llama.embedding_length", 4),
            ("llama.feed_forward_length", 4),
            ("llama.block_count", 1),
            ("llama.context_length", 16),
        ];
        let numbers = numbers.map(|(key, value)| (key, Value::U32(value)));
        let architecture = [("general.architecture", Value::String("llama".to_owned()))];
        let metadata: Vec<(&str, &Value)> =
            numbers.iter().chain(&architecture).chain(more).map(|(key, value)| (*key, value)).collect();
        let table = Tensor::zeros((6, 4), DType::F32, &Device::Cpu).unwrap();
        let table = QTensor::quantize(&table, GgmlDType::F32).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let tensors = [("token_embd.weight", &table), (tensor, &table)];
        gguf_file::write(&mut File::create(file.path()).unwrap(), &metadata, &tensors).unwrap();
        Llama::load_gguf(file.path(), &Device::Cpu, DType::F32).unwrap_err()
    }

    #[test]
    fn scaled_rotary_angles_are_refused_as_those_of_a_folder() {
        let kind = |kind: &str| ("llama.rope.scaling.type", Value::String(kind.to_owned()));
        let (new, old) = ("llama.rope.scaling.factor", "llama.rope.scale_linear");
        let plain: [&[(&str, Value)]; 5] = [
            &[],
            &[kind("none"), (new, Value::F32(4.0))],
            &[kind("linear")],
            &[(old, Value::F32(1.0))],
            &[(new, Value::F32(0.0))],
        ];
        for more in plain {
            let why = refused(more, "other");
            assert!(matches!(&why, ModelError::MissingTensor { name, .. } if name == "output_norm.weight"), "{why}");
        }
        type More<'a> = &'a [(&'a str, Value)];
        let scaled: [(More<'_>, &str, &str); 5] = [
            (&[kind("yarn"), (new, Value::F32(4.0))], "other", "yarn"),
            (&[kind("linear"), (new, Value::F32(4.0))], "other", "linear"),
            (&[(new, Value::F32(4.0))], "other", "linear"),
            (&[(old, Value::F32(2.0))], "other", "linear"),
            (&[], "rope_freqs.weight", "llama3"),
        ];
        for (more, tensor, kind) in scaled {
            let why = refused(more, tensor);
            let words = format!("rope_scaling of kind {kind:?}");
            assert!(matches!(&why, ModelError::Config(said) if said.contains(&words)), "{why}");
        }
    }
}
