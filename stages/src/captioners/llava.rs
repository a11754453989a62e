//! `llava`: the model looks at the image and is told its tags, in a chat.

use manifests::spec::Captioner;
use models::llava;
use wording::VARIANTS;

use super::network::{InProcess, Network};
use crate::clip_scorer::CLIP_FIELD;

const WEIGHTS: &str = "caption.llava.weights";
const LANGUAGE: &str = "caption.llava.language_gguf";

pub(super) struct Llava;

impl InProcess for Llava {
    const NETWORK: Network = Network {
        captioner: Captioner::Llava,
        weights: WEIGHTS,
        language: LANGUAGE,
        models: &[WEIGHTS, LANGUAGE],
        judged_models: &[WEIGHTS, LANGUAGE, CLIP_FIELD],
        variants_an_answer: VARIANTS,
        version: 1,
        open: |folder, gguf, device, dtype| {
            Ok(Box::new(match gguf {
                None => llava::Llava::load(folder, device, dtype)?,
                Some(gguf) => llava::Llava::load_with_gguf(folder, gguf, device, dtype)?,
            }))
        },
        settings: |spec| serde_json::json!(spec.caption.llava),
    };
}
