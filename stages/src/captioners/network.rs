//! Captions by a network on this machine, whichever it is: it looks at the image and is told its tags.

mod captions;
mod queries;
mod session;
mod variants;

use std::path::Path;

use candle_core::{DType, Device};
use manifests::{BuildSpec, spec};
use models::ModelError;
use models::captioning::Captioner;
use models::language::DEFAULT_TOP_K;

use super::{Caption, QueryText, StructuredCaption, Way, told};
use crate::device::arithmetic;
use crate::stage::ModelUse;
use captions::CaptionWriter;
use queries::QueryWriter;
use variants::{LEAST_TOKENS, VariantWriter};

type Open = fn(&Path, Option<&Path>, &Device, DType) -> Result<Box<dyn Captioner>, ModelError>;

/// What tells one network from another here.
pub(super) struct Network {
    /// How specs call it.
    pub(super) captioner: spec::Captioner,
    /// Field of its weights, and of those that may stand for its language model's.
    pub(super) weights: &'static str,
    pub(super) language: &'static str,
    /// Both, and then with what judges captions.
    pub(super) models: &'static [&'static str],
    pub(super) judged_models: &'static [&'static str],
    /// Structured captions that are asked for in one answer: fewer than all where answers are short.
    pub(super) variants_an_answer: usize,
    /// Raised when it rounds otherwise than before, so that sentences can differ.
    pub(super) version: u32,
    /// Reads its folder, perhaps with another file for its language model.
    pub(super) open: Open,
    /// Its settings as a spec has them.
    pub(super) settings: fn(&BuildSpec) -> serde_json::Value,
}

impl Network {
    pub(super) fn models(&self, spec: &BuildSpec) -> ModelUse {
        let judged = spec.caption.captioner == self.captioner && spec.caption.writes_by_clip_score();
        ModelUse::Named(if judged { self.judged_models } else { self.models })
    }

    /// Settings without those that change no word, and without `others`.
    fn settings_but(&self, spec: &BuildSpec, others: &[&str], with: &[(&str, serde_json::Value)]) -> serde_json::Value {
        let mut settings = (self.settings)(spec);
        if let Some(map) = settings.as_object_mut() {
            for field in ["weights", "language_gguf", "images_per_batch", "cache_mib"].iter().chain(others) {
                map.remove(*field);
            }
            // what the file of a checkpoint that samples means where it does not say
            if map.get("decoding").is_some_and(|decoding| decoding == "checkpoint") {
                map.insert("default_top_k".to_owned(), DEFAULT_TOP_K.into());
            }
            map.extend(with.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        }
        serde_json::json!({ "settings": settings, "precision": arithmetic(spec), "network": self.version })
    }

    pub(super) fn caption_settings(&self, spec: &BuildSpec) -> Option<serde_json::Value> {
        let judged = spec.caption.writes_by_clip_score();
        let score = judged.then(|| ("min_clip_score", spec.caption.score.min_clip_score.into()));
        Some(self.settings_but(spec, &["structured"], score.as_slice()))
    }

    pub(super) fn structured_settings(&self, spec: &BuildSpec) -> Option<serde_json::Value> {
        let all = (self.settings)(spec);
        let mut kept = serde_json::json!({
            "settings": all["structured"],
            "seed": all["seed"],
            "precision": arithmetic(spec),
            "network": self.version,
        });
        if let Some(length) = all["min_length"].as_u64() {
            kept["min_length"] = length.min(LEAST_TOKENS as u64).into();
        }
        if let Some(residuals) = all.get("residuals") {
            kept["residuals"] = residuals.clone();
        }
        Some(kept)
    }

    /// Decoding as captions have it, another prompt, and no tags.
    pub(super) fn query_settings(&self, spec: &BuildSpec) -> Option<serde_json::Value> {
        let prompt = ("query_prompt", spec.text_retrieval.query_prompt.clone().into());
        Some(self.settings_but(spec, &["structured", "prompt", "prompt_without_tags", "quality"], &[prompt]))
    }
}

/// A network as a captioner: what it is, and whatever follows from that.
pub(super) trait InProcess: Sync {
    const NETWORK: Network;
}

impl<N: InProcess> super::Captions for N {
    fn looks(&self) -> bool {
        true
    }

    fn drops_tags(&self) -> bool {
        true
    }

    fn captions(&self) -> Way<Caption> {
        Way {
            model: |spec| N::NETWORK.models(spec),
            settings: |spec| N::NETWORK.caption_settings(spec),
            told: told::scene,
            open: |context| Ok(Box::new(CaptionWriter::open(&N::NETWORK, context)?)),
        }
    }

    fn structured(&self) -> Option<Way<StructuredCaption>> {
        Some(Way {
            model: |_| ModelUse::Named(N::NETWORK.models),
            settings: |spec| N::NETWORK.structured_settings(spec),
            told: told::scene,
            open: |context| Ok(Box::new(VariantWriter::open(&N::NETWORK, context)?)),
        })
    }

    fn query_text(&self) -> Option<Way<QueryText>> {
        Some(Way {
            model: |_| ModelUse::Named(N::NETWORK.models),
            settings: |spec| N::NETWORK.query_settings(spec),
            told: |_| None,
            open: |context| Ok(Box::new(QueryWriter::open(&N::NETWORK, context)?)),
        })
    }
}
