//! `instructblip`: the model looks at the image and is told its tags.

mod captions;
mod queries;
mod session;
mod variants;

use manifests::BuildSpec;

use super::{Caption, Captions, QueryText, StructuredCaption, Way, told};
use crate::clip_scorer::CLIP_FIELD;
use crate::device::arithmetic;
use crate::stage::ModelUse;
use captions::CaptionWriter;
use queries::QueryWriter;
use session::{LANGUAGE_FIELD, WEIGHTS_FIELD};
use variants::VariantWriter;

pub(super) struct InstructBlip;

impl Captions for InstructBlip {
    fn looks(&self) -> bool {
        true
    }

    fn drops_tags(&self) -> bool {
        true
    }

    fn captions(&self) -> Way<Caption> {
        let model = |spec: &BuildSpec| match spec.caption.writes_by_clip_score() {
            true => ModelUse::Named(&[WEIGHTS_FIELD, LANGUAGE_FIELD, CLIP_FIELD]),
            false => ModelUse::Named(&[WEIGHTS_FIELD, LANGUAGE_FIELD]),
        };
        Way {
            model,
            settings: caption_settings,
            told: told::scene,
            open: |context| Ok(Box::new(CaptionWriter::open(context)?)),
        }
    }

    fn structured(&self) -> Option<Way<StructuredCaption>> {
        Some(Way {
            model: |_| ModelUse::Named(&[WEIGHTS_FIELD, LANGUAGE_FIELD]),
            settings: structured_settings,
            told: told::scene,
            open: |context| Ok(Box::new(VariantWriter::open(context)?)),
        })
    }

    fn query_text(&self) -> Option<Way<QueryText>> {
        Some(Way {
            model: |_| ModelUse::Named(&[WEIGHTS_FIELD, LANGUAGE_FIELD]),
            settings: query_settings,
            told: |_| None,
            open: |context| Ok(Box::new(QueryWriter::open(context)?)),
        })
    }
}

/// Raised when the network rounds otherwise than before, so that sentences can differ. 2: the Q-Former's attention to the
/// image by candle's products.
const NETWORK: u32 = 2;

fn caption_settings(spec: &BuildSpec) -> Option<serde_json::Value> {
    let mut settings = serde_json::json!(spec.caption.instructblip);
    if let Some(map) = settings.as_object_mut() {
        for field in ["weights", "language_gguf", "images_per_batch", "cache_mib", "structured"] {
            map.remove(field);
        }
        if spec.caption.writes_by_clip_score() {
            map.insert("min_clip_score".into(), spec.caption.score.min_clip_score.into());
        }
    }
    Some(serde_json::json!({ "settings": settings, "precision": arithmetic(spec), "network": NETWORK }))
}

fn structured_settings(spec: &BuildSpec) -> Option<serde_json::Value> {
    let blip = &spec.caption.instructblip;
    Some(serde_json::json!({
        "settings": blip.structured,
        "min_length": blip.min_length,
        "seed": blip.seed,
        "precision": arithmetic(spec),
        "network": NETWORK,
    }))
}

/// Decoding as captions have it, another prompt, and no tags.
fn query_settings(spec: &BuildSpec) -> Option<serde_json::Value> {
    let mut settings = serde_json::json!(spec.caption.instructblip);
    if let Some(map) = settings.as_object_mut() {
        for other in [
            "weights",
            "language_gguf",
            "images_per_batch",
            "cache_mib",
            "structured",
            "prompt",
            "prompt_without_tags",
            "quality",
        ] {
            map.remove(other);
        }
        map.insert("query_prompt".into(), spec.text_retrieval.query_prompt.clone().into());
    }
    Some(serde_json::json!({ "settings": settings, "precision": arithmetic(spec), "network": NETWORK }))
}
