//! The networks that a build asks, and what they cost: as their files describe them, or as they are published under the
//! names that the spec has, where they are not here yet.

use choices::Preset;
use manifests::BuildSpec;
use manifests::spec::Captioner;
use manifests::weights::{Weights, hub_name};
use models::clip::ClipConfig;
use models::instructblip::InstructBlipConfig;
use models::language::{LlamaConfig, T5Config};
use models::llava::LlavaConfig;
use models::sam::SamConfig;
use models::sentence::BertConfig;

use crate::cost::{CaptionerCost, ClipCost, SamCost, SentenceCost};
use crate::examine::{Described, examine};
use crate::sentences::ENCODER_FIELD;

/// Costs of a build's networks; `None`: the build asks none, or nothing is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Networks {
    /// The one that is trained.
    pub retrieval: ClipCost,
    /// Compares segments with captions.
    pub scoring: Option<ClipCost>,
    /// Compares captions with images.
    pub judge: Option<ClipCost>,
    /// Writes captions, where the spec asks it.
    instructblip: Option<CaptionerCost>,
    llava: Option<CaptionerCost>,
    /// Cuts images into segments.
    pub segmenter: Option<SamCost>,
    /// Turns texts into vectors.
    pub sentences: Option<SentenceCost>,
}

impl Networks {
    /// Those of a spec, with what is on this machine of its weights.
    pub fn of(spec: &BuildSpec, weights: &Weights) -> Self {
        let describe = |field: &str, source: &str| match examine(spec, field, weights) {
            Ok(Some(described)) => Some(described),
            Ok(None) | Err(_) => published(source),
        };
        let clip = |field: &str, source: &str| match describe(field, source)? {
            Described::Clip(config) => Some(ClipCost::of(&config)),
            _ => None,
        };
        let retrieval = clip("model.init", &spec.model.init).unwrap_or_else(|| ClipCost::of(&preset(spec)));
        let scoring = match spec.score.clip.as_str() {
            "none" => None,
            "bootstrap" => Some(retrieval),
            named => clip("score.clip", named),
        };
        let instructblip = match describe("caption.instructblip.weights", &spec.caption.instructblip.weights) {
            Some(Described::InstructBlip(config)) => Some(CaptionerCost::of_instructblip(&config)),
            _ => None,
        };
        let llava = match describe("caption.llava.weights", &spec.caption.llava.weights) {
            Some(Described::Llava(config)) => Some(CaptionerCost::of_llava(&config)),
            _ => None,
        };
        let segmenter = match describe("segment.sam.weights", &spec.segment.sam.weights) {
            Some(Described::Sam(config)) => Some(SamCost::of(&config)),
            _ => None,
        };
        let judge = clip("caption.score.clip", &spec.caption.score.clip);
        let sentences = match describe(ENCODER_FIELD, &spec.text_retrieval.encoder) {
            Some(Described::Sentences(config)) => Some(SentenceCost::of(&config)),
            _ => None,
        };
        Self { retrieval, scoring, judge, instructblip, llava, segmenter, sentences }
    }

    /// The one that a captioner asks; `None` too where it asks none.
    pub fn captioner(&self, captioner: Captioner) -> Option<CaptionerCost> {
        match captioner {
            Captioner::Instructblip => self.instructblip,
            Captioner::Llava => self.llava,
            Captioner::Geotags | Captioner::Given | Captioner::Server => None,
        }
    }
}

/// What a training from scratch starts with.
fn preset(spec: &BuildSpec) -> ClipConfig {
    let mut config = crate::pretrain::preset(&spec.model);
    if spec.model.tokenizer == "train" {
        config.text.vocab_size = spec.model.vocabulary;
    }
    config
}

/// A network by its name on the hub.
fn published(source: &str) -> Option<Described> {
    let (repository, _) = hub_name(source)?;
    let clip = |preset| Some(Described::Clip(ClipConfig::preset(preset)));
    let sam = |preset: &str| SamConfig::preset(preset).map(Described::Sam);
    let llama = |change: fn(&mut LlamaConfig)| {
        let mut config = LlamaConfig::default();
        change(&mut config);
        instructblip("llama", serde_json::to_value(config).ok()?)
    };
    let t5 = |d_model: usize, d_ff: usize, num_heads: usize| {
        let feed_forward_proj = "gated-gelu".to_owned();
        let sizes = T5Config { d_model, d_ff, num_layers: 24, num_heads, feed_forward_proj, ..T5Config::default() };
        instructblip("t5", serde_json::to_value(T5Config { tie_word_embeddings: false, ..sizes }).ok()?)
    };
    match repository {
        "openai/clip-vit-base-patch32" => clip(Preset::VitB32),
        "openai/clip-vit-base-patch16" => clip(Preset::VitB16),
        "openai/clip-vit-large-patch14" => clip(Preset::VitL14),
        "sentence-transformers/all-MiniLM-L6-v2" => sentences(384, 6, 12),
        "sentence-transformers/all-MiniLM-L12-v2" => sentences(384, 12, 12),
        "intfloat/e5-base-v2" | "BAAI/bge-base-en-v1.5" => sentences(768, 12, 12),
        "intfloat/e5-large-v2" | "BAAI/bge-large-en-v1.5" => sentences(1024, 24, 16),
        "facebook/sam-vit-base" => sam("vit-b"),
        "facebook/sam-vit-large" => sam("vit-l"),
        "facebook/sam-vit-huge" => sam("vit-h"),
        "Salesforce/instructblip-vicuna-7b" => llama(|_| {}),
        "Salesforce/instructblip-vicuna-13b" => llama(|c| {
            (c.hidden_size, c.intermediate_size) = (5120, 13_824);
            (c.num_hidden_layers, c.num_attention_heads) = (40, 40);
        }),
        "llava-hf/llava-1.5-7b-hf" => llava(&LlamaConfig::default()),
        "llava-hf/llava-1.5-13b-hf" => llava(&LlamaConfig {
            hidden_size: 5120,
            intermediate_size: 13_824,
            num_hidden_layers: 40,
            num_attention_heads: 40,
            ..LlamaConfig::default()
        }),
        "Salesforce/instructblip-flan-t5-xl" => t5(2048, 5120, 32),
        "Salesforce/instructblip-flan-t5-xxl" => t5(4096, 10_240, 64),
        _ => None,
    }
}

/// A BERT whose MLPs are four times as wide.
fn sentences(hidden_size: usize, num_hidden_layers: usize, num_attention_heads: usize) -> Option<Described> {
    let json = serde_json::json!({
        "model_type": "bert", "hidden_size": hidden_size, "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads, "intermediate_size": 4 * hidden_size,
    });
    BertConfig::from_json(std::path::Path::new("config.json"), json).ok().map(Described::Sentences)
}

/// The published image tower and Q-Former before a language model.
fn instructblip(kind: &str, mut text: serde_json::Value) -> Option<Described> {
    text["model_type"] = kind.into();
    let json = serde_json::json!({ "model_type": "instructblip", "text_config": text });
    InstructBlipConfig::from_json(std::path::Path::new("config.json"), json).ok().map(Described::InstructBlip)
}

/// The published image tower before a language model, whose vocabulary is padded.
fn llava(text: &LlamaConfig) -> Option<Described> {
    let text = LlamaConfig { vocab_size: 32_064, max_position_embeddings: 4096, ..text.clone() };
    let json = serde_json::json!({ "model_type": "llava", "text_config": text });
    LlavaConfig::from_json(std::path::Path::new("config.json"), json).ok().map(Described::Llava)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(set: &[&str]) -> Networks {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        Networks::of(&BuildSpec::parse(text, "t", &set).unwrap(), &Weights::default())
    }

    #[test]
    fn what_is_yet_to_be_fetched_is_known_by_its_name() {
        let named = |weights: &str| {
            let set = ["caption.captioner=instructblip".to_owned(), format!("caption.instructblip.weights={weights}")];
            let set: Vec<&str> = set.iter().map(String::as_str).collect();
            networks(&set).captioner(Captioner::Instructblip).map(|cost| cost.parameters / 100_000_000)
        };
        // 7.9, 14.2, 4.0 and 12.3 billion
        assert_eq!(named("Salesforce/instructblip-vicuna-7b"), Some(79));
        assert_eq!(named("Salesforce/instructblip-vicuna-13b@main"), Some(141));
        assert_eq!(named("Salesforce/instructblip-flan-t5-xl"), Some(40));
        assert_eq!(named("acme/instructblip"), None);
        let chats = |weights: &str| {
            let weights = format!("caption.llava.weights={weights}");
            let cost = networks(&["caption.captioner=llava", &weights]).captioner(Captioner::Llava);
            cost.map(|cost| (cost.parameters / 100_000_000, cost.prompt()))
        };
        // 7.06 and 13.35 billion
        assert_eq!(chats("llava-hf/llava-1.5-7b-hf"), Some((70, 640)));
        assert_eq!(chats("llava-hf/llava-1.5-13b-hf"), Some((133, 640)));
        let minilm = ["caption.structured=true", "text_retrieval.encoder=sentence-transformers/all-MiniLM-L6-v2"];
        // 22.7 million with the layer that pooled for BERT's own task, which is not read
        assert_eq!(networks(&minilm).sentences.map(|cost| cost.parameters), Some(22_565_376));
        let large = networks(&["model.init=openai/clip-vit-large-patch14", "model.tokenizer=x.json"]);
        assert_eq!(large.retrieval.parameters(), 427_616_513);
        let small = networks(&["score.clip=bootstrap", "model.vocabulary=1000"]);
        assert_eq!(small.scoring, Some(small.retrieval));
        assert!(
            small.captioner(Captioner::Instructblip).is_none() && small.segmenter.is_none() && small.judge.is_none()
        );
    }
}
