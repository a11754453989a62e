//! Evaluation of a split: recall by the standard protocol, and panels of what was found.

use std::collections::{BTreeMap, BTreeSet};

use choices::Protocol;
use serde::{Deserialize, Serialize};
use training::recall::{self, Gallery};

use crate::stage::StageError;
use crate::text_retrieval::TextEvaluation;
use crate::train_rows::{caption_key, key_of_digest};

/// Raised when the same embeddings would give other figures.
pub const VERSION: u32 = 3;
const STAGE: &str = "evaluate";
/// Images that are one unit of parallel work in the recall.
const BLOCK_ROWS: usize = 256;
/// Best and worst queries shown of each kind.
pub const PANELS: usize = 4;
/// Results shown of each query.
const SHOWN: usize = 5;

/// One image of the split, with its captions.
#[derive(Debug, Clone)]
pub struct EvaluatedRow {
    /// Stem of the image's name.
    pub image_id: String,
    /// Digest of its bytes: images with one digest are one picture.
    pub bytes_digest: String,
    /// Of length one, as those of the captions.
    pub embedding: Vec<f32>,
    /// Texts with their embeddings.
    pub captions: Vec<(String, Vec<f32>)>,
}

/// A query with the first of what it found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Panel {
    /// Rank of the right answer, from 0.
    pub rank: u64,
    /// What was searched with.
    pub query: Item,
    /// The best answers, best first.
    pub found: Vec<Found>,
    /// The right answer where it is not among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<Found>,
}

/// An image or a caption.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// By its id.
    Image(String),
    /// By its text.
    Caption(String),
}

/// One answer to a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// What was found.
    pub item: Item,
    /// Cosine similarity to the query.
    pub score: f32,
    /// Whether the protocol counts it as right.
    pub correct: bool,
}

/// Figures of one model on one split of one country.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Whose model, and whose images.
    pub model_of: String,
    /// Country of the images.
    pub country: String,
    /// Split of the images.
    pub split: String,
    /// Digest of the model's weights, configuration and vocabulary.
    pub model_digest: String,
    /// Image embeddings were averaged over flips and turns.
    pub average_over_turns: bool,
    /// What the model had seen of these images when it learnt, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    /// Recall both ways, with what guessing would reach.
    pub recall: recall::RecallReport,
    /// Best and worst text queries, then best and worst image queries.
    pub panels: Vec<Panel>,
    /// Retrieval of text by text on the same rows, where there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextEvaluation>,
}

impl Evaluation {
    /// Mean recall in percent, exact pairs, ties lost: the figure to quote.
    pub fn mean_recall(&self) -> f64 {
        self.quoted().mean_recall
    }

    /// Exact pairs, ties lost: the figures to quote.
    pub fn quoted(&self) -> &recall::BothWays {
        &self.recall.exact.pessimistic
    }
}

/// The captions of all rows: row of the image, text, vector.
fn captions_of(rows: &[EvaluatedRow]) -> Vec<(u32, &str, &[f32])> {
    rows.iter()
        .enumerate()
        .flat_map(|(image, r)| r.captions.iter().map(move |(text, v)| (image as u32, text.as_str(), v.as_slice())))
        .collect()
}

/// Recall of a split. Rows in any order; the figures do not depend on it.
///
/// # Errors
/// [`StageError::Compute`] for vectors of different lengths, or not of length one.
pub fn recall_of(rows: &[EvaluatedRow], protocol: Protocol) -> Result<recall::Outcome, StageError> {
    let compute = |why: String| StageError::Compute { stage: STAGE, why };
    let dim = rows.first().map_or(0, |r| r.embedding.len());
    if let Some(row) = rows.iter().find(|r| r.embedding.len() != dim || r.captions.iter().any(|(_, v)| v.len() != dim))
    {
        return Err(compute(format!("image {}: its vectors have another width than {dim}; embed again", row.image_id)));
    }
    let captions = captions_of(rows);
    let image_nd: Vec<f32> = rows.iter().flat_map(|r| &r.embedding).copied().collect();
    let text_md: Vec<f32> = captions.iter().flat_map(|(.., v)| *v).copied().collect();
    let own_image_m: Vec<u32> = captions.iter().map(|(image, ..)| *image).collect();
    let image_keys_n: Vec<u64> = rows.iter().map(|r| key_of_digest(&r.bytes_digest)).collect();
    let caption_keys_m: Vec<u64> = captions.iter().map(|(_, text, _)| caption_key(text)).collect();
    let gallery = Gallery {
        image_nd: &image_nd,
        text_md: &text_md,
        dim,
        own_image_m: &own_image_m,
        image_keys_n: &image_keys_n,
        caption_keys_m: &caption_keys_m,
    };
    recall::evaluate(&gallery, protocol, BLOCK_ROWS).map_err(|e| compute(e.to_string()))
}

/// Recall of a split with panels of its best and worst queries.
///
/// # Errors
/// As [`recall_of`].
pub fn evaluate(rows: &[EvaluatedRow], protocol: Protocol) -> Result<(recall::RecallReport, Vec<Panel>), StageError> {
    let outcome = recall_of(rows, protocol)?;
    let captions = captions_of(rows);
    let caption_keys_m: Vec<u64> = captions.iter().map(|(_, text, _)| caption_key(text)).collect();
    let mut panels = Vec::new();
    let rank_of = |rank: &recall::Rank| u64::from(rank.pessimistic());
    for (caption, rank) in extremes(&outcome.ranks.captions, rank_of) {
        panels.push(text_panel(rows, captions[caption as usize], rank));
    }
    for (image, rank) in extremes(&outcome.ranks.images, rank_of) {
        let row = &rows[image as usize];
        let own_keys = caption_keys_of(row);
        let found = nearest(&row.embedding, captions.iter().map(|(.., v)| *v)).into_iter().map(|(caption, score)| {
            let correct = own_keys.contains(&caption_keys_m[caption]);
            Found { item: Item::Caption(captions[caption].1.to_owned()), score, correct }
        });
        let best = row.captions.iter().map(|(text, vector)| (text, product(&row.embedding, vector)));
        let truth = best.max_by(|one, other| one.1.total_cmp(&other.1)).map(|(text, score)| Found {
            item: Item::Caption(text.clone()),
            score,
            correct: true,
        });
        panels.push(Panel::new(rank, Item::Image(row.image_id.clone()), found.collect(), truth));
    }
    Ok((outcome.report, panels))
}

/// A text query before and after a change of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The query with what the first model found.
    pub before: Panel,
    /// The same query with what the second model found.
    pub after: Panel,
}

/// The text queries whose right answer rose most, then those where it fell most. `before` and `after` hold the same
/// rows by two models.
///
/// # Errors
/// Vectors of different widths within one model.
pub fn changes(before: &[EvaluatedRow], after: &[EvaluatedRow], protocol: Protocol) -> Result<Vec<Change>, StageError> {
    let ranks = |rows: &[EvaluatedRow]| -> Result<BTreeMap<u32, u32>, StageError> {
        let outcome = recall_of(rows, protocol)?;
        Ok(outcome.ranks.captions.iter().map(|(caption, rank)| (*caption, rank.pessimistic())).collect())
    };
    let (ranks_before, ranks_after) = (ranks(before)?, ranks(after)?);
    let mut moves: Vec<(f64, u32)> = ranks_before
        .iter()
        .filter_map(|(caption, was)| {
            // a step from place 100 to 10 counts as much as one from 10 to 1
            let rise = f64::from(was + 1).ln() - f64::from(ranks_after.get(caption)? + 1).ln();
            Some((rise, *caption))
        })
        .collect();
    moves.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let (captions_before, captions_after) = (captions_of(before), captions_of(after));
    // annotators repeat themselves: an image and a text are shown once
    let (mut images, mut texts) = (BTreeSet::new(), BTreeSet::new());
    let mut is_new = |(_, caption): &&(f64, u32)| {
        let (own, text, _) = captions_before[*caption as usize];
        texts.insert(caption_key(text)) && images.insert(own)
    };
    let rose: Vec<_> = moves.iter().take_while(|(rise, _)| *rise > 0.0).filter(&mut is_new).take(PANELS).collect();
    let fell: Vec<_> =
        moves.iter().rev().take_while(|(rise, _)| *rise < 0.0).filter(&mut is_new).take(PANELS).collect();
    let changes = rose.into_iter().chain(fell).map(|(_, caption)| Change {
        before: text_panel(before, captions_before[*caption as usize], u64::from(ranks_before[caption])),
        after: text_panel(after, captions_after[*caption as usize], u64::from(ranks_after[caption])),
    });
    Ok(changes.collect())
}

/// What a caption finds.
fn text_panel(rows: &[EvaluatedRow], (own, text, vector): (u32, &str, &[f32]), rank: u64) -> Panel {
    let key = caption_key(text);
    let found = nearest(vector, rows.iter().map(|r| r.embedding.as_slice())).into_iter().map(|(row, score)| {
        let correct = row as u32 == own || caption_keys_of(&rows[row]).contains(&key);
        Found { item: Item::Image(rows[row].image_id.clone()), score, correct }
    });
    let truth = rows.get(own as usize).map(|row| Found {
        item: Item::Image(row.image_id.clone()),
        score: product(vector, &row.embedding),
        correct: true,
    });
    Panel::new(rank, Item::Caption(text.to_owned()), found.collect(), truth)
}

impl Panel {
    fn new(rank: u64, query: Item, found: Vec<Found>, truth: Option<Found>) -> Self {
        let missed = truth.filter(|_| !found.iter().any(|found| found.correct));
        Self { rank, query, found, missed }
    }
}

fn product(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn caption_keys_of(row: &EvaluatedRow) -> Vec<u64> {
    row.captions.iter().map(|(text, _)| caption_key(text)).collect()
}

/// The best and the worst queries. Among equals the earlier rows, spread over the split so that
/// the best are not all of one kind.
fn extremes<R>(ranks: &[(u32, R)], rank_of: impl Fn(&R) -> u64) -> Vec<(u32, u64)> {
    let mut sorted: Vec<(u64, u32)> = ranks.iter().map(|(row, rank)| (rank_of(rank), *row)).collect();
    sorted.sort_unstable();
    let equal_best = sorted.iter().take_while(|(rank, _)| Some(*rank) == sorted.first().map(|s| s.0)).count();
    let stride = (equal_best / PANELS).max(1);
    let best: Vec<_> = sorted.iter().step_by(stride).take(PANELS.min(sorted.len())).copied().collect();
    let worst: Vec<_> = sorted.iter().rev().take(PANELS).filter(|w| !best.contains(w)).copied().collect();
    best.into_iter().chain(worst).map(|(rank, row)| (row, rank)).collect()
}

/// The rows with the largest inner product, best first.
fn nearest<'a>(query: &[f32], rows: impl Iterator<Item = &'a [f32]>) -> Vec<(usize, f32)> {
    let mut scored: Vec<(usize, f32)> = rows.map(|row| product(query, row)).enumerate().collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scored.truncate(SHOWN);
    scored
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, angle: f32, caption: &str) -> EvaluatedRow {
        let vector = vec![angle.cos(), angle.sin()];
        EvaluatedRow {
            image_id: id.into(),
            bytes_digest: manifests::digest::of_bytes(id.as_bytes()),
            embedding: vector.clone(),
            captions: vec![(caption.to_owned(), vector)],
        }
    }

    #[test]
    fn perfect_embeddings_find_everything() {
        let rows: Vec<_> = (0..12).map(|i| row(&format!("i{i}"), i as f32 * 0.2, &format!("caption {i}"))).collect();
        let (report, panels) = evaluate(&rows, Protocol::Standard).unwrap();
        assert_eq!(report.exact.pessimistic.mean_recall, 100.0);
        assert!(panels.iter().all(|p| p.rank == 0 && p.found[0].correct));
        assert!(panels.iter().any(|p| matches!(p.query, Item::Image(_))));
    }

    #[test]
    fn a_right_answer_that_is_not_found_is_shown_all_the_same() {
        let mut rows: Vec<_> =
            (0..12).map(|i| row(&format!("i{i}"), i as f32 * 0.2, &format!("caption {i}"))).collect();
        // image 0 and its caption are as far apart as can be
        rows[0].captions[0].1 = vec![(11.0f32 * 0.2).cos(), (11.0f32 * 0.2).sin()];
        let (_, panels) = evaluate(&rows, Protocol::Standard).unwrap();
        let of = |query: Item| panels.iter().find(|panel| panel.query == query).unwrap().missed.clone().unwrap();
        let of_text = of(Item::Caption("caption 0".into()));
        assert_eq!((of_text.item, of_text.correct), (Item::Image("i0".into()), true));
        let of_image = of(Item::Image("i0".into()));
        assert_eq!((of_image.item, of_image.correct), (Item::Caption("caption 0".into()), true));
        assert!(panels.iter().all(|panel| panel.missed.is_none() == panel.found.iter().any(|found| found.correct)));
    }

    #[test]
    fn the_queries_that_changed_most_are_shown_before_and_after() {
        let at = |angles: &[f32]| -> Vec<EvaluatedRow> {
            let named = angles.iter().enumerate();
            named.map(|(i, angle)| row(&format!("i{i}"), *angle, &format!("caption {i}"))).collect()
        };
        let mut after = at(&[0.0, 0.5, 1.0, 1.5]);
        // given twice, shown once
        let again = after[0].captions[0].clone();
        after[0].captions.push(again);
        let mut before = after.clone();
        // caption 0 looks for image 3 before, and for its own after
        before[0].captions.iter_mut().for_each(|caption| caption.1 = vec![1.5f32.cos(), 1.5f32.sin()]);
        let found = changes(&before, &after, Protocol::Standard).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].before.rank, found[0].after.rank), (3, 0));
        assert_eq!(found[0].before.query, Item::Caption("caption 0".into()));
        assert_eq!(changes(&after, &before, Protocol::Standard).unwrap()[0].after.rank, 3, "losses are shown, too");
    }

    #[test]
    fn vectors_of_another_model_are_refused() {
        let mut rows = vec![row("a", 0.0, "x"), row("b", 1.0, "y")];
        rows[1].embedding.push(0.0);
        assert!(evaluate(&rows, Protocol::Standard).unwrap_err().to_string().contains("image b"));
    }
}
