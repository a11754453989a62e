//! Whether the files that a spec names can be what it takes them for: configurations, vocabularies, names and shapes of
//! tensors. No weights are read, so that this comes before anything is computed.

use std::path::Path;

use manifests::BuildSpec;
use manifests::weights::Weights;
use models::clip::{Clip, ClipConfig};
use models::instructblip::{InstructBlip, InstructBlipConfig};
use models::llava::{Llava, LlavaConfig};
use models::sam::{Sam, SamConfig};
use models::sentence::{BertConfig, SentenceEncoder};

use crate::captioners::{QUERY_FIELD, STRUCTURED_FIELD, examine_texts};
use crate::clip_scorer::{CLIP_FIELD, tokenizer_of};
use crate::pretrain::{check_vocabulary, described};
use crate::sentences::ENCODER_FIELD;
use crate::text_embeddings::{TOKENIZER_FILE, folder_of, tokenizer_at};

/// What the files of a field describe.
#[derive(Debug, Clone, PartialEq)]
pub enum Described {
    /// A CLIP.
    Clip(ClipConfig),
    /// A Segment Anything.
    Sam(SamConfig),
    /// An InstructBLIP with its language model.
    InstructBlip(InstructBlipConfig),
    /// A LLaVA with its language model.
    Llava(LlavaConfig),
    /// A sentence encoder.
    Sentences(BertConfig),
    /// A vocabulary, or a file that describes nothing.
    NoNetwork,
}

/// Looks at what a field names. `None`: it is not on this machine.
///
/// # Errors
/// What is wrong, and with which field.
pub fn examine(spec: &BuildSpec, field: &str, weights: &Weights) -> Result<Option<Described>, String> {
    let Some(path) = weights.path(field) else { return Ok(None) };
    let of = |why: String| format!("{field}: {why}");
    let described = match field {
        "model.init" => {
            let network = described(&spec.model, path)?;
            if spec.model.tokenizer == "train" {
                let init = &spec.model.init;
                return Err(format!(
                    "model.tokenizer = \"train\" beside model.init = {init:?}: those weights know the numbers of another \
                     vocabulary; name the one that belongs to them"
                ));
            }
            Described::Clip(network)
        }
        "model.tokenizer" => {
            let tokenizer = tokenizer_at(path).map_err(of)?;
            if let Some(init) = weights.path("model.init") {
                check_vocabulary(&tokenizer, &described(&spec.model, init)?)?;
            }
            Described::NoNetwork
        }
        "score.clip" => {
            let tokenizer = tokenizer_at(&folder_of(path).join(TOKENIZER_FILE)).map_err(of)?;
            Described::Clip(judge(path, tokenizer.vocab_size()).map_err(of)?)
        }
        CLIP_FIELD => {
            let tokenizer = tokenizer_of(folder_of(path)).map_err(of)?;
            Described::Clip(judge(path, tokenizer.vocab_size()).map_err(of)?)
        }
        "segment.sam.weights" => Described::Sam(Sam::examine(path).map_err(|e| of(e.to_string()))?),
        "caption.instructblip.weights" => {
            Described::InstructBlip(InstructBlip::examine(path).map_err(|e| of(e.to_string()))?)
        }
        "caption.llava.weights" => Described::Llava(Llava::examine(path).map_err(|e| of(e.to_string()))?),
        STRUCTURED_FIELD | QUERY_FIELD => {
            examine_texts(field, path).map_err(of)?;
            Described::NoNetwork
        }
        ENCODER_FIELD => Described::Sentences(SentenceEncoder::examine(path).map_err(|e| of(e.to_string()))?),
        _ => Described::NoNetwork,
    };
    Ok(Some(described))
}

/// A CLIP that is not trained here, beside a vocabulary of so many entries.
fn judge(path: &Path, entries: usize) -> Result<ClipConfig, String> {
    let config = Clip::examine(path).map_err(|e| e.to_string())?;
    match config.text.vocab_size {
        knows if entries > knows => Err(format!("its vocabulary has {entries} entries, its text tower {knows}")),
        _ => Ok(config),
    }
}
