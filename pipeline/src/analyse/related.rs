//! Tags that belong to what somebody means (the paper's appendix A.3.2: "recreational areas" finds leisure, park and natural),
//! by the text encoder of the build's model.

use serde::Serialize;
use stages::search::{QueryEncoder, similarity};
use stages::stage::StageContext;
use workers::WorkerError;

use crate::search::SearchModel;

/// Tags that are named.
const SHOWN: usize = 15;

/// Tags that are close to a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Related {
    /// The text.
    pub text: String,
    /// Tags with the cosine between their words and the text, the closest first.
    pub tags: Vec<(String, f64)>,
}

/// For each text the tags that are closest to it. Loads the model, and computes on the calling thread.
///
/// # Errors
/// [`WorkerError::Configuration`] for a text that the model does not read whole, or a device that is not there.
pub fn related(model: &SearchModel, tags: &[(String, u64)], texts: &[String]) -> Result<Vec<Related>, WorkerError> {
    let encoder = QueryEncoder::open(&StageContext {
        spec: &model.spec,
        device: stages::device::devices("analyse", &model.spec)?[0],
        model_folder: Some(model.folder.clone()),
        weights: &Default::default(),
        server: None,
        stop: Default::default(),
    })?;
    let vectors = tags.iter().map(|(tag, _)| encoder.text(&words(tag))).collect::<Result<Vec<_>, _>>()?;
    let near = |text: &String| {
        let of_text = encoder.text(text)?;
        let scores = tags.iter().zip(&vectors).map(|((tag, _), vector)| (tag.clone(), similarity(&of_text, vector)));
        let mut scores: Vec<(String, f64)> = scores.collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        scores.truncate(SHOWN);
        Ok(Related { text: text.clone(), tags: scores })
    };
    texts.iter().map(near).collect()
}

/// A tag as words: `leisure=swimming_pool` is a swimming pool, of the leisure kind.
fn words(tag: &str) -> String {
    let (key, value) = tag.split_once('=').unwrap_or((tag, ""));
    let value = if value == "yes" { "" } else { value };
    format!("{value} {key}").replace(['_', ':'], " ").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_words() {
        assert_eq!(words("leisure=swimming_pool"), "swimming pool leisure");
        assert_eq!(words("building=yes"), "building");
        assert_eq!(words("tower:type=cooling"), "cooling tower type");
    }
}
