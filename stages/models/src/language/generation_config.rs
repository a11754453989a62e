//! `generation_config.json`: how the authors of a checkpoint decode.

use super::config::end_ids;
use super::generate::{EarlyStopping, GenerationSettings, Nucleus};
use crate::checkpoint::read_json;
use crate::{ModelError, Result};
use serde::Deserialize;
use std::path::Path;

/// Likeliest tokens that are drawn from where a file that samples does not say, as transformers has it.
pub const DEFAULT_TOP_K: usize = 50;

/// What the file says of decoding; what it leaves out stays as it was.
///
/// The ids that end a text are not everywhere taken from here: for InstructBLIP transformers asks the language model's own
/// configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GenerationConfig {
    num_beams: Option<usize>,
    max_new_tokens: Option<usize>,
    min_length: Option<usize>,
    repetition_penalty: Option<f64>,
    length_penalty: Option<f64>,
    early_stopping: Option<serde_json::Value>,
    do_sample: Option<bool>,
    top_p: Option<f64>,
    temperature: Option<f64>,
    top_k: Option<usize>,
    no_repeat_ngram_size: Option<usize>,
    num_beam_groups: Option<usize>,
    #[serde(deserialize_with = "end_ids")]
    eos_token_id: Option<Vec<u32>>,
}

impl GenerationConfig {
    /// Reads `generation_config.json` of a checkpoint's folder; `None` where there is none.
    ///
    /// # Errors
    /// [`ModelError::Malformed`] for a file that is no such configuration, [`ModelError::Config`] for a method of
    /// decoding that is not known here.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("generation_config.json");
        if !path.is_file() {
            return Ok(None);
        }
        let config: Self = read_json(&path)?;
        let refuse = |what: String| Err(ModelError::Config(format!("{}: {what} is not supported", path.display())));
        match config {
            Self { no_repeat_ngram_size: Some(n @ 1..), .. } => refuse(format!("no_repeat_ngram_size = {n}")),
            Self { num_beam_groups: Some(n @ 2..), .. } => refuse(format!("num_beam_groups = {n}")),
            config => Ok(Some(config)),
        }
    }

    /// Ids that end a text, where the file says so.
    pub(crate) fn end_ids(&self) -> Option<&[u32]> {
        self.eos_token_id.as_deref()
    }

    /// `settings` with what the file says in place of their own; `seed` is for its sampling. Sampling and beams exclude
    /// each other: a file that has the one takes nothing of the other from the settings.
    pub fn over(&self, settings: GenerationSettings, seed: u64) -> GenerationSettings {
        let early_stopping = match &self.early_stopping {
            Some(serde_json::Value::Bool(true)) => EarlyStopping::Immediate,
            Some(serde_json::Value::Bool(false)) => EarlyStopping::Heuristic,
            Some(serde_json::Value::String(word)) if word == "never" => EarlyStopping::Never,
            _ => settings.early_stopping,
        };
        let samples = self.do_sample == Some(true);
        let num_beams = self.num_beams.unwrap_or(if samples { 1 } else { settings.num_beams });
        let sampling = match self.do_sample {
            None if num_beams > 1 => None,
            None => settings.sampling,
            Some(false) => None,
            Some(true) => Some(Nucleus {
                top_k: self.top_k.unwrap_or(DEFAULT_TOP_K),
                top_p: self.top_p.unwrap_or(1.0),
                temperature: self.temperature.unwrap_or(1.0),
                seed: settings.sampling.map_or(seed, |nucleus| nucleus.seed),
            }),
        };
        GenerationSettings {
            num_beams,
            max_new_tokens: self.max_new_tokens.unwrap_or(settings.max_new_tokens),
            min_length: self.min_length.unwrap_or(settings.min_length),
            repetition_penalty: self.repetition_penalty.unwrap_or(settings.repetition_penalty),
            length_penalty: self.length_penalty.unwrap_or(settings.length_penalty),
            early_stopping,
            sampling,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> Result<Option<GenerationConfig>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("generation_config.json"), json.to_string()).unwrap();
        GenerationConfig::read(folder.path())
    }

    #[test]
    fn what_the_file_says_replaces_what_was_set() {
        let base = GenerationSettings::model_card();
        assert_eq!(GenerationConfig::read(tempfile::tempdir().unwrap().path()).unwrap(), None);
        let file = serde_json::json!({ "_from_model_config": true, "bos_token_id": 1, "transformers_version": "4.31" });
        assert_eq!(read(file).unwrap().unwrap().over(base.clone(), 3), base);
        let file = serde_json::json!({ "num_beams": 3, "early_stopping": "never", "length_penalty": -1.0 });
        let wanted = GenerationSettings {
            num_beams: 3,
            length_penalty: -1.0,
            early_stopping: EarlyStopping::Never,
            ..base.clone()
        };
        assert_eq!(read(file).unwrap().unwrap().over(base.clone(), 3), wanted);
        let file = serde_json::json!({ "do_sample": true, "num_beams": 1, "temperature": 0.5, "top_k": 0 });
        let all = Nucleus { top_k: 0, top_p: 1.0, temperature: 0.5, seed: 3 };
        let wanted = GenerationSettings { num_beams: 1, sampling: Some(all), ..base.clone() };
        assert_eq!(read(file).unwrap().unwrap().over(base.clone(), 3), wanted);
        // as transformers has it, whether the file says so or nothing
        let sampling = |file| {
            let settings = read(file).unwrap().unwrap().over(base.clone(), 3);
            settings.validate().unwrap();
            settings.sampling
        };
        let fifty = Some(Nucleus { top_k: 50, temperature: 1.0, ..all });
        assert_eq!(sampling(serde_json::json!({ "do_sample": true })), fifty);
        assert_eq!(sampling(serde_json::json!({ "do_sample": true, "top_k": 50 })), fifty);
        assert_eq!(sampling(serde_json::json!({ "do_sample": false, "top_k": 50 })), None);
        // and over a spec that samples
        let drawn = GenerationSettings { num_beams: 1, sampling: fifty, ..base.clone() };
        let over = |file| read(file).unwrap().unwrap().over(drawn.clone(), 3);
        assert_eq!(over(serde_json::json!({ "num_beams": 5 })), base);
        assert_eq!(over(serde_json::json!({ "num_beams": 1 })), drawn);
    }

    #[test]
    fn methods_that_are_not_there_are_refused() {
        for (file, word) in [
            (serde_json::json!({ "no_repeat_ngram_size": 3 }), "no_repeat_ngram_size = 3"),
            (serde_json::json!({ "num_beam_groups": 2 }), "num_beam_groups"),
            (serde_json::json!({ "num_beams": "five" }), "generation_config.json"),
        ] {
            let error = read(file).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
