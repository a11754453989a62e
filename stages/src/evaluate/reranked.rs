//! Figures after reranking: all queries are looked at together, so they stand beside the others and never for them.

use manifests::spec::{EvaluateSpec, RerankMethod};
use serde::{Deserialize, Serialize};
use training::recall::rerank::{DualSoftmax, Multivariate, MultivariateSettings, Reciprocal, ReciprocalSettings};
use training::recall::{Cosines, Directions, Queries, RecallReport, Scores, evaluate_scores};

use super::{BLOCK_ROWS, EvaluatedRow, Gathered, compute};
use crate::stage::StageError;

/// Raised when the same vectors would give other figures.
pub const VERSION: u32 = 1;

/// Figures of one method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reranked {
    /// What changed the scores.
    pub method: RerankMethod,
    /// Transductive: of a system that sees all queries at once.
    pub recall: RecallReport,
    /// Mean recall of the validation split, ties lost, to choose settings by; `None`: there is no such split.
    pub validation_mean_recall: Option<f64>,
}

/// Recall of the test split by each method that the spec names, with that of the validation split beside.
///
/// # Errors
/// As [`recall_of`](super::recall_of).
pub fn reranked(
    validation: &[EvaluatedRow],
    test: &[EvaluatedRow],
    spec: &EvaluateSpec,
) -> Result<Vec<Reranked>, StageError> {
    let mut of_validation = if validation.is_empty() { Vec::new() } else { figures(validation, spec)? }.into_iter();
    let methods = spec.rerank.methods.iter().zip(figures(test, spec)?);
    let made = methods.map(|(&method, recall)| {
        let validation_mean_recall = of_validation.next().map(|recall| recall.exact.pessimistic.mean_recall);
        Reranked { method, recall, validation_mean_recall }
    });
    Ok(made.collect())
}

/// By method.
fn figures(rows: &[EvaluatedRow], spec: &EvaluateSpec) -> Result<Vec<RecallReport>, StageError> {
    let methods = &spec.rerank.methods;
    if methods.is_empty() {
        return Ok(Vec::new());
    }
    let gathered = Gathered::new(rows)?;
    let gallery = gathered.gallery();
    let cosines = Cosines::new(gallery.image_nd, gallery.text_md, gallery.dim).map_err(|e| compute(e.to_string()))?;
    methods
        .iter()
        .map(|&method| {
            let (of_images, of_captions) =
                (by(method, &cosines, Queries::Images, spec), by(method, &cosines, Queries::Captions, spec));
            let both = Directions { text_to_image: of_captions.as_ref(), image_to_text: of_images.as_ref() };
            let outcome = evaluate_scores(both, gallery.pairs(), spec.protocol, BLOCK_ROWS);
            Ok(outcome.map_err(|e| compute(e.to_string()))?.report)
        })
        .collect()
}

fn by<'a>(method: RerankMethod, scores: &'a dyn Scores, by: Queries, spec: &EvaluateSpec) -> Box<dyn Scores + 'a> {
    let of = &spec.rerank;
    match method {
        RerankMethod::Multivariate => {
            let (candidates, share, reverse) = (of.candidates, of.share_weight, of.reverse_weight);
            Box::new(Multivariate::new(scores, by, MultivariateSettings { candidates, share, reverse }))
        }
        RerankMethod::DualSoftmax => {
            Box::new(DualSoftmax::new(scores, by, (of.temperature_of_images, of.temperature_of_captions)))
        }
        RerankMethod::KReciprocal => {
            Box::new(Reciprocal::new(scores, by, ReciprocalSettings { neighbours: of.neighbours, own: of.own_share }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captions that all look at image 0 first, and at their own next: what one-sided scores never see.
    #[test]
    fn a_hub_that_everything_finds_is_seen_through() {
        let rows: Vec<EvaluatedRow> = (0..12)
            .map(|i| {
                let mut image = vec![0.0f32; 13];
                let mut caption = image.clone();
                image[i + 1] = 1.0;
                if i == 0 {
                    image = vec![0.0; 13];
                    image[0] = 1.0;
                }
                let (hub, own) = (0.51f32.sqrt(), 0.7f32);
                caption[0] = if i == 0 { 1.0 } else { hub };
                caption[i + 1] = if i == 0 { 0.0 } else { own };
                EvaluatedRow {
                    image_id: format!("i{i}"),
                    bytes_digest: manifests::digest::of_bytes(&[i as u8]),
                    embedding: image,
                    captions: vec![(format!("caption {i}"), caption)],
                }
            })
            .collect();
        let spec = EvaluateSpec {
            rerank: manifests::spec::RerankSpec {
                methods: vec![RerankMethod::Multivariate, RerankMethod::DualSoftmax, RerankMethod::KReciprocal],
                ..Default::default()
            },
            ..EvaluateSpec::default()
        };
        let plain = super::super::recall_of(&rows, spec.protocol).unwrap().report;
        assert!(plain.exact.pessimistic.t2i.at_1 < 10.0, "{:?}", plain.exact.pessimistic);
        let found = reranked(&rows[..10], &rows, &spec).unwrap();
        assert_eq!(found.len(), 3);
        let validated = found.iter().map(|found| found.validation_mean_recall.unwrap());
        assert!(validated.zip(&found).any(|(mr, found)| mr != found.recall.exact.pessimistic.mean_recall));
        let at_1 = |method: usize| found[method].recall.exact.pessimistic.t2i.at_1;
        assert!(at_1(1) > 90.0, "{:?}", found[1].recall.exact.pessimistic);
        assert!(at_1(0) > 10.0, "{:?}", found[0].recall.exact.pessimistic);
        assert!(reranked(&[], &rows, &EvaluateSpec::default()).unwrap().is_empty());
        assert_eq!(reranked(&[], &rows, &spec).unwrap()[0].validation_mean_recall, None);
    }
}
