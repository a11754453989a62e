//! Figures after reranking: all queries are looked at together, so they stand beside the others and never for them.

use manifests::spec::{EvaluateSpec, RerankMethod};
use serde::{Deserialize, Serialize};
use training::recall::rerank::{DualSoftmax, Multivariate, MultivariateSettings, Reciprocal, ReciprocalSettings};
use training::recall::{Cosines, Directions, Queries, RecallReport, Room, Scores, evaluate_scores, ranked};

use super::{BLOCK_ROWS, EvaluatedRow, Gathered, compute};
use crate::stage::StageError;

/// Raised when the same vectors would give other figures.
pub const VERSION: u32 = 2;

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
    // what the protocol merges a method sees once
    let (image_of_n, images) = ranked(gallery.image_keys_n, spec.protocol);
    let (caption_of_m, captions) = ranked(gallery.caption_keys_m, spec.protocol);
    let merged = Renumbered { scores: &cosines, images: &images, captions: &captions };
    methods
        .iter()
        .map(|&method| {
            let made = [Queries::Images, Queries::Captions].map(|queries| by(method, &merged, queries, spec));
            let [of_images, of_captions] = made.each_ref().map(|scores| Renumbered {
                scores: scores.as_ref(),
                images: &image_of_n,
                captions: &caption_of_m,
            });
            let both = Directions { text_to_image: &of_captions, image_to_text: &of_images };
            let outcome = evaluate_scores(both, gallery.pairs(), spec.protocol, BLOCK_ROWS);
            Ok(outcome.map_err(|e| compute(e.to_string()))?.report)
        })
        .collect()
}

/// Scores of images and captions that have other numbers there.
struct Renumbered<'a> {
    scores: &'a dyn Scores,
    images: &'a [u32],
    captions: &'a [u32],
}

impl Scores for Renumbered<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.images.len(), self.captions.len())
    }

    fn fill(&self, images: &[u32], captions: &[u32], room: &mut Room, scores: &mut [f32]) {
        let there = |numbers: &[u32], all: &[u32]| numbers.iter().map(|&of| all[of as usize]).collect::<Vec<u32>>();
        self.scores.fill(&there(images, self.images), &there(captions, self.captions), room, scores);
    }
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

    /// All methods, with few candidates.
    fn all_methods(protocol: choices::Protocol) -> EvaluateSpec {
        let methods = vec![RerankMethod::Multivariate, RerankMethod::DualSoftmax, RerankMethod::KReciprocal];
        let rerank = manifests::spec::RerankSpec { methods, candidates: 10, neighbours: 5, ..Default::default() };
        EvaluateSpec { protocol, rerank, ..EvaluateSpec::default() }
    }

    #[test]
    fn equal_captions_tie_as_they_did_before() {
        // as many as are candidates at most, and more
        for images in [5, 20, 40] {
            let rows: Vec<EvaluatedRow> = (0..images)
                .map(|i| EvaluatedRow {
                    image_id: format!("i{i}"),
                    bytes_digest: manifests::digest::of_bytes(&[i]),
                    embedding: vec![(f32::from(i) * 0.03).cos(), (f32::from(i) * 0.03).sin()],
                    captions: vec![("a lake".into(), vec![1.0, 0.0])],
                })
                .collect();
            let spec = all_methods(choices::Protocol::Standard);
            let plain = super::super::recall_of(&rows, spec.protocol).unwrap().report;
            assert_eq!(plain.exact.pessimistic.i2t.at_1, 0.0);
            for found in reranked(&[], &rows, &spec).unwrap() {
                let (ours, plain) = (found.recall.exact.pessimistic, plain.exact.pessimistic);
                assert_eq!(ours, plain, "{:?} of {images}", found.method);
            }
        }
    }

    #[test]
    fn copies_that_the_protocol_merges_are_seen_once() {
        let unit = |vector: Vec<f32>| -> Vec<f32> {
            let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
            vector.into_iter().map(|v| v / norm).collect()
        };
        let noise = |seed: usize| -> Vec<f32> {
            (0..6).map(|at| ((seed * 13 + at * at * 7 + seed * at) as f32).sin()).collect()
        };
        let row = |image: usize, copies: std::ops::Range<usize>| {
            let caption = |copy: usize| {
                let wrong = noise(100 + image * 10 + copy);
                let vector = noise(image + 1).iter().zip(wrong).map(|(own, wrong)| own + 1.5 * wrong).collect();
                (format!("caption {copy} of {image}"), unit(vector))
            };
            EvaluatedRow {
                image_id: format!("i{image} {copies:?}"),
                bytes_digest: manifests::digest::of_bytes(&[image as u8]),
                embedding: unit(noise(image + 1)),
                captions: copies.map(caption).collect(),
            }
        };
        // three pictures are there six times, with a caption each time
        let copies = |image: usize| if image < 3 { 6 } else { 1 };
        let merged: Vec<EvaluatedRow> = (0..24).map(|image| row(image, 0..copies(image))).collect();
        let apart: Vec<EvaluatedRow> = (0..24)
            .flat_map(|image| (0..copies(image)).map(move |copy| (image, copy)))
            .map(|(image, copy)| row(image, copy..copy + 1))
            .collect();
        let spec = all_methods(choices::Protocol::Dedup);
        let of = |rows: &[EvaluatedRow]| -> Vec<RecallReport> {
            reranked(&[], rows, &spec).unwrap().into_iter().map(|found| found.recall).collect()
        };
        assert_eq!(of(&apart), of(&merged));
        assert_eq!(of(&apart)[0].image_gallery, 24);
    }
}
