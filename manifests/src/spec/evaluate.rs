//! How the model is measured.

use choices::Protocol;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Problems;

/// `[evaluate]`: how retrieval is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSpec {
    /// Which answers count as right.
    pub protocol: Protocol,
    /// Image embeddings are the mean over flips and quarter turns: better, and named in the report.
    pub average_over_turns: bool,
    /// Figures by systems that see all queries at once, in columns of their own.
    pub rerank: RerankSpec,
}

impl Default for EvaluateSpec {
    fn default() -> Self {
        Self { protocol: Protocol::Standard, average_over_turns: false, rerank: RerankSpec::default() }
    }
}

/// A way to change scores by looking at all queries together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RerankMethod {
    /// GaLR's: place, share of the column and place seen from the candidate.
    Multivariate,
    /// Each score times its softmax over the row and over the column.
    DualSoftmax,
    /// Neighbours that both sides have in common.
    KReciprocal,
}

/// `[evaluate.rerank]`: which methods, and what they are told. Figures of the validation split stand beside those of the test
/// split: choose values by those.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RerankSpec {
    /// Any of `multivariate`, `dual_softmax` and `k_reciprocal`.
    pub methods: Vec<RerankMethod>,
    /// `multivariate`: answers that change places.
    pub candidates: usize,
    /// `multivariate`: weight of an answer's share of all that is said for it.
    pub share_weight: f64,
    /// `multivariate`: weight of the query's place in the list of the answer.
    pub reverse_weight: f64,
    /// `dual_softmax`: temperature over the captions of an image.
    pub temperature_of_images: f64,
    /// `dual_softmax`: temperature over the images of a caption.
    pub temperature_of_captions: f64,
    /// `k_reciprocal`: answers among which two must find each other.
    pub neighbours: usize,
    /// `k_reciprocal`: share of the score itself.
    pub own_share: f64,
}

impl Default for RerankSpec {
    fn default() -> Self {
        Self {
            methods: Vec::new(),
            candidates: 30,
            share_weight: 0.3,
            reverse_weight: 1.1,
            temperature_of_images: 0.02,
            temperature_of_captions: 0.02,
            neighbours: 20,
            own_share: 0.3,
        }
    }
}

impl EvaluateSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        let (rerank, mut of) = (&self.rerank, problems.section("evaluate.rerank"));
        let mut methods = rerank.methods.clone();
        methods.sort_unstable();
        methods.dedup();
        if methods.len() < rerank.methods.len() {
            let named = serde_json::json!(rerank.methods);
            let named: Vec<&str> = named.as_array().into_iter().flatten().filter_map(|name| name.as_str()).collect();
            of.refuse("methods", named, "name each at most once");
        }
        of.within("candidates", rerank.candidates, 10..=1000, "recall looks at the first 10");
        for (name, weight) in [("share_weight", rerank.share_weight), ("reverse_weight", rerank.reverse_weight)] {
            of.within(name, weight, 0.0..=100.0, "0 leaves it out");
        }
        for (name, temperature) in [
            ("temperature_of_images", rerank.temperature_of_images),
            ("temperature_of_captions", rerank.temperature_of_captions),
        ] {
            of.within(name, temperature, 1e-3..=100.0, "cosines of a trained model suit 0.01 to 0.1");
        }
        of.count("neighbours", rerank.neighbours, 1000);
        of.share("own_share", rerank.own_share);
    }
}
