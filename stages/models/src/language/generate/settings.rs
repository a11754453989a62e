use crate::{ModelError, Result};
use serde::{Deserialize, Serialize};

/// How text is drawn; names and meanings are those of transformers' `generate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationSettings {
    /// 1 for greedy or nucleus decoding.
    pub num_beams: usize,
    /// Most tokens of a text, its end included.
    pub max_new_tokens: usize,
    /// No end token before a sequence has this many ids; T5's start token counts, a prompt of embeddings does not.
    pub min_length: usize,
    /// Above 1: ids that the sequence holds already become less likely (Keskar et al., "CTRL"). 1 changes nothing.
    pub repetition_penalty: f64,
    /// A finished beam's score is its log-probability divided by its length to this power.
    pub length_penalty: f64,
    /// When beam search is done with a request.
    pub early_stopping: EarlyStopping,
    /// Draws tokens at random; excludes beams.
    pub sampling: Option<Nucleus>,
}

/// When a beam search with as many finished beams as it has beams ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EarlyStopping {
    /// When the best running beam, were it to end now, would not beat the worst finished one (`False`).
    #[default]
    Heuristic,
    /// At once (`True`).
    Immediate,
    /// When no running beam can beat the worst finished one at any length (`"never"`).
    Never,
}

/// Draws from the smallest set of tokens whose probabilities sum to `top_p` (Holtzman et al., 2020), or of the `top_k`
/// likeliest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nucleus {
    /// Tokens at most; 0: as many as there are.
    #[serde(default)]
    pub top_k: usize,
    /// In (0, 1]; 1 draws from all of these.
    pub top_p: f64,
    /// Divides the logits first; below 1 likely tokens become likelier.
    pub temperature: f64,
    /// With the number of the request it determines every draw, whatever else is in the batch.
    pub seed: u64,
}

impl Default for GenerationSettings {
    /// Greedy, at most 20 tokens.
    fn default() -> Self {
        Self {
            num_beams: 1,
            max_new_tokens: 20,
            min_length: 0,
            repetition_penalty: 1.0,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::default(),
            sampling: None,
        }
    }
}

/// Bounds that keep a batch's memory within reason.
const MAX_BEAMS: usize = 256;
const MAX_NEW_TOKENS: usize = 1 << 16;

impl GenerationSettings {
    /// InstructBLIP's model card: five beams, up to 256 tokens.
    pub fn model_card() -> Self {
        Self { num_beams: 5, max_new_tokens: 256, min_length: 1, repetition_penalty: 1.5, ..Self::default() }
    }

    /// # Errors
    /// [`ModelError::Config`] with the value that does not fit.
    pub fn validate(&self) -> Result<()> {
        let refuse = |message: String| Err(ModelError::Config(message));
        if !(1..=MAX_BEAMS).contains(&self.num_beams) {
            return refuse(format!("num_beams = {} is not within 1..={MAX_BEAMS}", self.num_beams));
        }
        if !(1..=MAX_NEW_TOKENS).contains(&self.max_new_tokens) {
            return refuse(format!("max_new_tokens = {} is not within 1..={MAX_NEW_TOKENS}", self.max_new_tokens));
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return refuse(format!("repetition_penalty = {} must be positive", self.repetition_penalty));
        }
        if !self.length_penalty.is_finite() {
            return refuse(format!("length_penalty = {} must be finite", self.length_penalty));
        }
        let Some(nucleus) = self.sampling else {
            return Ok(());
        };
        if self.num_beams > 1 {
            return refuse(format!("num_beams = {} and sampling exclude each other", self.num_beams));
        }
        if !(nucleus.top_p > 0.0 && nucleus.top_p <= 1.0) {
            return refuse(format!("top_p = {} is not within (0, 1]", nucleus.top_p));
        }
        if !(nucleus.temperature > 0.0 && nucleus.temperature.is_finite()) {
            return refuse(format!("temperature = {} must be positive", nucleus.temperature));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_make_no_sense_are_named() {
        let nucleus = Nucleus { top_k: 0, top_p: 0.9, temperature: 1.0, seed: 0 };
        let broken = |change: &dyn Fn(&mut GenerationSettings), expected: &str| {
            let mut settings = GenerationSettings::default();
            change(&mut settings);
            let message = settings.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        broken(&|s| s.num_beams = 0, "num_beams = 0");
        broken(&|s| s.max_new_tokens = usize::MAX, "max_new_tokens");
        broken(&|s| s.repetition_penalty = 0.0, "repetition_penalty = 0");
        broken(&|s| s.length_penalty = f64::NAN, "length_penalty");
        broken(&|s| s.sampling = Some(Nucleus { top_p: 0.0, ..nucleus }), "top_p = 0");
        broken(&|s| s.sampling = Some(Nucleus { temperature: -1.0, ..nucleus }), "temperature = -1");
        broken(&|s| (s.num_beams, s.sampling) = (2, Some(nucleus)), "exclude");
        GenerationSettings::model_card().validate().unwrap();
    }
}
