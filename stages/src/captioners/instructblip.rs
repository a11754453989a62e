//! `instructblip`: the model looks at the image and is told its tags.

use manifests::spec::Captioner;
use models::instructblip;

use super::network::{InProcess, Network};
use crate::clip_scorer::CLIP_FIELD;

const WEIGHTS: &str = "caption.instructblip.weights";
const LANGUAGE: &str = "caption.instructblip.language_gguf";

pub(super) struct InstructBlip;

impl InProcess for InstructBlip {
    const NETWORK: Network = Network {
        captioner: Captioner::Instructblip,
        weights: WEIGHTS,
        language: LANGUAGE,
        models: &[WEIGHTS, LANGUAGE],
        judged_models: &[WEIGHTS, LANGUAGE, CLIP_FIELD],
        variants_an_answer: 1,
        // 2: the Q-Former's attention to the image by candle's products
        version: 2,
        open: |folder, gguf, device, dtype| {
            Ok(Box::new(match gguf {
                None => instructblip::InstructBlip::load(folder, device, dtype)?,
                Some(gguf) => instructblip::InstructBlip::load_with_gguf(folder, gguf, device, dtype)?,
            }))
        },
        settings: |spec| serde_json::json!(spec.caption.instructblip),
    };
}
