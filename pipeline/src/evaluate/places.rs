//! At which place each test image finds the first of its own captions.

use std::collections::BTreeMap;

use choices::Protocol;
use stages::Training;
use stages::evaluate::{self, EvaluatedRow};
use stages::stage::StageError;
use workers::WorkerError;

use super::rows::embedded_rows;
use super::{Pinned, SPLIT, stored_or_why};
use crate::build::Build;
use crate::trainings::{current_record, learnt_and_held_out};

/// Vectors that are compared at most, those of images and those of captions: at 768 numbers each, 120 MB, and twice that
/// while they are.
const MOST_VECTORS: usize = 40_000;

/// What is known of a country's test images.
pub(crate) enum Places {
    /// By id, from 1.
    Measured(BTreeMap<String, u32>),
    /// Nothing, and why.
    Not(String),
}

/// The places of a build's test images by the model with this digest, from the vectors in its tables: over the same images and
/// captions as its evaluation.
///
/// # Errors
/// Tables that cannot be read; a store that does not answer.
pub(crate) async fn places(build: &Build, model_digest: &str) -> Result<Places, WorkerError> {
    let not = |why: &str| Ok(Places::Not(why.to_owned()));
    let record = current_record(build, Training::Pretrain).await?;
    let Some(record) = record.filter(|record| record.trained.model_digest == model_digest) else {
        return not("its tables have no vectors of captions by this model");
    };
    let evaluation = match stored_or_why(build).await? {
        Ok(evaluation) => evaluation,
        Err(why) => return Ok(Places::Not(format!("it is not evaluated ({why}); run its build"))),
    };
    let vectors = evaluation.recall.image_gallery + evaluation.recall.caption_gallery;
    if vectors > MOST_VECTORS {
        return Ok(Places::Not(format!(
            "its test split has {vectors} images and captions; the most that a server compares are {MOST_VECTORS}"
        )));
    }
    let mut rows = embedded_rows(build, &Pinned::of(build).await?.tables, SPLIT).await?;
    evaluate::leave_out(&mut rows, &learnt_and_held_out(build, &record).await?);
    if rows.is_empty() {
        return not("no image of its test split is left to measure");
    }
    let measured = tokio::task::spawn_blocking(move || places_of(&rows)).await;
    Ok(Places::Measured(measured.map_err(|error| WorkerError::Broken(error.to_string()))??))
}

/// Captions of the same words, and those of the same picture, are no errors: no model can tell them apart.
fn places_of(rows: &[EvaluatedRow]) -> Result<BTreeMap<String, u32>, StageError> {
    let ranks = evaluate::recall_of(rows, Protocol::Standard)?.ranks.images;
    let place = |rank: training::recall::Rank| rank.greater + rank.other_ties + 1;
    Ok(ranks.into_iter().map(|(row, rank)| (rows[row as usize].image_id.clone(), place(rank))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, angle: f32, captions: &[(&str, f32)]) -> EvaluatedRow {
        let vector = |angle: f32| vec![angle.cos(), angle.sin()];
        EvaluatedRow {
            image_id: id.into(),
            bytes_digest: manifests::digest::of_bytes(id.as_bytes()),
            embedding: vector(angle),
            captions: captions.iter().map(|(text, angle)| ((*text).to_owned(), vector(*angle))).collect(),
        }
    }

    #[test]
    fn the_first_own_caption_counts_and_equal_words_do_not() {
        let rows = [
            // its second caption is nearest, and worded as that of `c`
            row("a", 0.0, &[("far", 1.0), ("a lake", 0.1)]),
            // the captions of `a` and `c` are nearer: the one that is worded twice is wrong twice
            row("b", 0.2, &[("a road", 0.9)]),
            row("c", 0.3, &[("a lake", 0.1)]),
        ];
        let places = places_of(&rows).unwrap();
        let of = |id: &str| places[id];
        assert_eq!((of("a"), of("b"), of("c"), places.len()), (1, 3, 1, 3));
    }
}
