//! Retrieval of text by text, without training.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CaptionSpec;
use super::check::Problems;

/// Which vectors of tokens stand for a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextPooling {
    /// As the encoder's folder says.
    Checkpoint,
    /// The mean of all.
    Mean,
    /// That of the first token.
    Cls,
    /// The largest value in each dimension.
    Max,
}

/// What stands for an image with several texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VariantRule {
    /// The text that fits the query best.
    Max,
    /// The mean of all.
    Mean,
    /// The first text alone.
    First,
}

/// A field of a structured caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StructuredField {
    /// What the image shows, in one sentence.
    OneSentence,
    /// What stands out.
    Feature,
    /// All of it.
    Caption,
}

/// `[text_retrieval]`: images found through what was written about them, by a frozen sentence encoder (TRSLLaVA).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TextRetrievalSpec {
    /// Sentence encoder, such as `sentence-transformers/all-MiniLM-L6-v2`: a folder here, in a store or on the hub;
    /// empty: no retrieval of text by text.
    pub encoder: String,
    /// Which vectors of tokens stand for a text.
    pub pooling: TextPooling,
    /// Put before each query: `query: ` for e5.
    pub query_prefix: String,
    /// Put before each text that is searched: `passage: ` for e5.
    pub document_prefix: String,
    /// Tokens of a text at most; never more than the encoder reads.
    pub max_tokens: usize,
    /// What stands for an image with several texts.
    pub variants: VariantRule,
    /// Fields of a structured caption that are searched.
    pub fields: Vec<StructuredField>,
    /// Shares of the texts' scores in a sum with those of the trained model; the best on the validation split is
    /// reported on the test split.
    pub fusion_alpha: Vec<f64>,
    /// File with a caption that each image is asked with, beside `caption.structured_file`: a JSON list or JSON lines of
    /// `image` and `caption`.
    pub query_file: String,
    /// What InstructBLIP, LLaVA or the server is asked for, where an image is the query. It is not told the tags.
    pub query_prompt: String,
}

impl Default for TextRetrievalSpec {
    fn default() -> Self {
        Self {
            encoder: String::new(),
            pooling: TextPooling::Checkpoint,
            query_prefix: String::new(),
            document_prefix: String::new(),
            max_tokens: 256,
            variants: VariantRule::Max,
            fields: vec![StructuredField::OneSentence, StructuredField::Feature, StructuredField::Caption],
            fusion_alpha: vec![0.0, 0.25, 0.5, 0.75, 1.0],
            query_file: String::new(),
            query_prompt: "Describe this satellite image in one sentence.".into(),
        }
    }
}

/// Longest prefix that makes sense, in bytes.
const MOST_PREFIX: usize = 1000;

impl TextRetrievalSpec {
    /// Is there any?
    pub fn is_on(&self) -> bool {
        !self.encoder.is_empty()
    }

    pub(super) fn check(&self, caption: &CaptionSpec, problems: &mut Problems) {
        let mut of = problems.section("text_retrieval");
        if self.is_on() && caption.structured_by().is_none() {
            of.refuse(
                "encoder",
                &self.encoder,
                "it searches structured captions, and nobody writes them: set caption.structured = true",
            );
        }
        match (caption.structured_file.is_empty(), self.query_file.is_empty()) {
            (false, true) if self.is_on() => of.refuse(
                "query_file",
                &self.query_file,
                "caption.structured_file brings what is searched, and nobody says what images search with: name a file \
                 of query captions",
            ),
            (true, false) => of.refuse(
                "query_file",
                &self.query_file,
                "whoever writes structured captions writes what images search with, too: it is read beside \
                 caption.structured_file alone",
            ),
            _ => {}
        }
        of.within("max_tokens", self.max_tokens, 3..=1 << 20, "a start, an end and something in between");
        for (name, prefix) in [("query_prefix", &self.query_prefix), ("document_prefix", &self.document_prefix)] {
            if prefix.len() > MOST_PREFIX {
                of.refuse(name, prefix.len(), &format!("a prefix has at most {MOST_PREFIX} bytes"));
            }
        }
        let mut fields = self.fields.clone();
        fields.sort_unstable();
        fields.dedup();
        if fields.is_empty() || fields.len() < self.fields.len() {
            of.refuse("fields", &self.fields, "name one_sentence, feature or caption, each at most once");
        }
        if self.fusion_alpha.is_empty() || self.fusion_alpha.len() > 1000 {
            of.refuse("fusion_alpha", self.fusion_alpha.len(), "name between 1 and 1000 shares, such as [0.5]");
        }
        self.fusion_alpha.iter().for_each(|alpha| of.within("fusion_alpha", *alpha, 0.0..=1.0, "each is a share"));
    }
}
