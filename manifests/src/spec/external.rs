//! The fields of a build spec that name external weights.

use super::{BuildSpec, Segmenter};
use crate::weights::WeightsUse;

impl BuildSpec {
    /// The fields that name external weights or vocabularies.
    pub fn weights(&self) -> Vec<WeightsUse> {
        let is_asked = self.uses_segments() || self.pretrain.pairs.is_on();
        let scores = is_asked && !matches!(self.score.clip.as_str(), "none" | "bootstrap");
        let sam = self.segment.segmenter == Segmenter::Sam;
        let (captions, blip) = (self.caption.uses_instructblip(), &self.caption.instructblip);
        let (chats, llava) = (self.caption.uses_llava(), &self.caption.llava);
        let judge = &self.caption.score.clip;
        let given = self.caption.structured && !self.caption.structured_file.is_empty();
        let queries = given && self.text_retrieval.is_on();
        [
            ("caption.instructblip.weights", &blip.weights, captions),
            ("caption.instructblip.language_gguf", &blip.language_gguf, captions && !blip.language_gguf.is_empty()),
            ("caption.llava.weights", &llava.weights, chats),
            ("caption.llava.language_gguf", &llava.language_gguf, chats && !llava.language_gguf.is_empty()),
            ("caption.structured_file", &self.caption.structured_file, given),
            ("caption.score.clip", judge, !judge.is_empty()),
            ("segment.sam.weights", &self.segment.sam.weights, sam),
            ("model.init", &self.model.init, !self.model.init.is_empty()),
            ("model.tokenizer", &self.model.tokenizer, self.model.tokenizer != "train"),
            ("score.clip", &self.score.clip, scores),
            ("text_retrieval.query_file", &self.text_retrieval.query_file, queries),
            ("text_retrieval.encoder", &self.text_retrieval.encoder, self.text_retrieval.is_on()),
        ]
        .into_iter()
        .filter(|(_, _, named)| *named)
        .map(|(field, source, _)| WeightsUse { field, source: source.clone() })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_weights_are_listed() {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
        let fields = |set: &[&str]| -> Vec<&str> {
            let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
            BuildSpec::parse(text, "t", &set).unwrap().weights().iter().map(|w| w.field).collect()
        };
        assert!(fields(&[]).is_empty());
        assert_eq!(fields(&["model.init=a/b", "model.tokenizer=t.json"]), ["model.init", "model.tokenizer"]);
        assert_eq!(fields(&["score.clip=a/b"]), ["score.clip"]);
        assert!(fields(&["score.clip=bootstrap"]).is_empty());
        let pairs = ["score.clip=a/b", "segment.segmenter=none", "pretrain.pairs.drop_least_similar=0.1"];
        assert_eq!(fields(&pairs), ["score.clip"], "pairs are scored without segments, too");
        assert!(fields(&pairs[..2]).is_empty());
        assert_eq!(fields(&["caption.score.clip=a/b"]), ["caption.score.clip"]);
        assert!(fields(&["caption.structured=true"]).is_empty(), "geo-tags need no weights");
        assert_eq!(fields(&["caption.captioner=llava"]), ["caption.llava.weights"]);
    }
}
