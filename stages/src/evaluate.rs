//! Evaluation of a split: recall by the standard protocol, and panels of what was found.

mod changes;
mod panels;
mod reranked;
pub(crate) mod row;

use std::collections::BTreeMap;

use choices::Protocol;
use serde::{Deserialize, Serialize};
use training::recall::{self, Gallery};

use crate::stage::StageError;
use crate::text_retrieval::TextEvaluation;
use crate::train_rows::{caption_key, key_of_digest};
pub use changes::{Change, Changes, Moves, changes};
use panels::Ranked;
pub use reranked::{Reranked, VERSION as RERANKED_VERSION, reranked};
pub use row::EvaluatedRow;
use row::{as_read, one_of_each};

/// Raised when the same embeddings would give other figures.
pub const VERSION: u32 = 4;
const STAGE: &str = "evaluate";
/// Images that are one unit of parallel work in the recall.
const BLOCK_ROWS: usize = 256;
/// Raised when other queries or answers are shown of the same embeddings.
pub const PANELS_VERSION: u32 = 2;
/// Best queries shown of each kind.
pub const PANELS: usize = 4;
/// Worst queries shown of each kind.
pub const WORST: usize = 8;
/// Results shown of each query.
const SHOWN: usize = 5;

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
    /// The image that a caption was written for, or the first caption of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Item>,
}

/// Images of the split that are neither searched with nor found: the model, or one that it descends from, had learnt from
/// what they show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// How many.
    pub images: u64,
    /// One of them.
    pub image_id: String,
    /// By what it was recognised, in words.
    pub how: String,
}

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (images, image_id, how) = (self.images, &self.image_id, &self.how);
        let plural = if images == 1 { "image is" } else { "images are" };
        write!(
            f,
            "{images} {plural} left out, since the model was trained on what they show: such as {image_id} ({how})"
        )
    }
}

/// Takes out the rows that a model had learnt from: `learnt` says of each image how it was recognised.
pub fn leave_out(rows: &mut Vec<EvaluatedRow>, learnt: &BTreeMap<String, &'static str>) -> Option<LeftOut> {
    let before = rows.len();
    let known = |row: &EvaluatedRow| learnt.get(&row.image_id).map(|how| (row.image_id.clone(), (*how).to_owned()));
    let (image_id, how) = rows.iter().filter_map(known).min()?;
    rows.retain(|row| !learnt.contains_key(&row.image_id));
    Some(LeftOut { images: (before - rows.len()) as u64, image_id, how })
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
    /// That it is not known what the model saw, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    /// Images that no figure is taken over, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
    /// Recall both ways, with what guessing would reach.
    pub recall: recall::RecallReport,
    /// Best and worst text queries, then best and worst image queries.
    pub panels: Vec<Panel>,
    /// Retrieval of text by text on the same rows, where there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextEvaluation>,
    /// Recall after reranking, where the spec asks for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reranked: Vec<Reranked>,
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

fn compute(why: String) -> StageError {
    StageError::Compute { stage: STAGE, why }
}

/// The vectors of a split behind each other, and who belongs to whom.
struct Gathered {
    dim: usize,
    image_nd: Vec<f32>,
    text_md: Vec<f32>,
    own_image_m: Vec<u32>,
    image_keys_n: Vec<u64>,
    caption_keys_m: Vec<u64>,
}

impl Gathered {
    fn new(rows: &[EvaluatedRow]) -> Result<Self, StageError> {
        let dim = rows.first().map_or(0, |r| r.embedding.len());
        let is_other = |r: &&EvaluatedRow| r.embedding.len() != dim || r.captions.iter().any(|(_, v)| v.len() != dim);
        if let Some(row) = rows.iter().find(is_other) {
            return Err(compute(format!(
                "image {}: its vectors have another width than {dim}; embed again",
                row.image_id
            )));
        }
        let captions = captions_of(rows);
        let pictures: Vec<_> = rows.iter().map(|r| (r.bytes_digest.as_str(), r.embedding.as_slice())).collect();
        let read: Vec<String> = captions.iter().map(|(_, text, _)| as_read(text)).collect();
        let texts: Vec<_> = read.iter().zip(&captions).map(|(text, (.., v))| (text.as_str(), *v)).collect();
        Ok(Self {
            dim,
            image_nd: one_of_each(&pictures).concat(),
            text_md: one_of_each(&texts).concat(),
            own_image_m: captions.iter().map(|(image, ..)| *image).collect(),
            image_keys_n: rows.iter().map(|r| key_of_digest(&r.bytes_digest)).collect(),
            caption_keys_m: captions.iter().map(|(_, text, _)| caption_key(text)).collect(),
        })
    }

    fn gallery(&self) -> Gallery<'_> {
        Gallery {
            image_nd: &self.image_nd,
            text_md: &self.text_md,
            dim: self.dim,
            own_image_m: &self.own_image_m,
            image_keys_n: &self.image_keys_n,
            caption_keys_m: &self.caption_keys_m,
        }
    }

    /// Vector of an image.
    fn image(&self, row: u32) -> &[f32] {
        &self.image_nd[row as usize * self.dim..][..self.dim]
    }

    /// Vector of a caption.
    fn caption(&self, caption: u32) -> &[f32] {
        &self.text_md[caption as usize * self.dim..][..self.dim]
    }

    fn recall(&self, protocol: Protocol) -> Result<recall::Outcome, StageError> {
        recall::evaluate(&self.gallery(), protocol, BLOCK_ROWS).map_err(|e| compute(e.to_string()))
    }
}

/// Recall of a split. Rows in any order; the figures do not depend on it.
///
/// # Errors
/// [`StageError::Compute`] for vectors of different lengths, or not of length one.
pub fn recall_of(rows: &[EvaluatedRow], protocol: Protocol) -> Result<recall::Outcome, StageError> {
    Gathered::new(rows)?.recall(protocol)
}

/// Recall of a split with panels of its best and worst queries.
///
/// # Errors
/// As [`recall_of`].
pub fn evaluate(rows: &[EvaluatedRow], protocol: Protocol) -> Result<(recall::RecallReport, Vec<Panel>), StageError> {
    let gathered = Gathered::new(rows)?;
    let outcome = gathered.recall(protocol)?;
    Ok((outcome.report, panels::panels(&Ranked::new(rows, &gathered, protocol), &outcome.ranks)))
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

    /// The next number towards 0.
    fn nudged(vector: &[f32]) -> Vec<f32> {
        vector.iter().map(|value| f32::from_bits(value.to_bits().saturating_sub(1))).collect()
    }

    #[test]
    fn equal_captions_and_pictures_tie_though_they_were_embedded_apart() {
        let mut captions = vec![row("a", 0.0, "a lake"), row("b", 0.7, "A  lake")];
        captions[1].captions[0].1 = nudged(&captions[0].embedding);
        let (report, _) = evaluate(&captions, Protocol::Standard).unwrap();
        assert_eq!((report.exact.pessimistic.i2t.at_1, report.i2t_ties.twin_percent), (0.0, 100.0));
        // as a vocabulary that knows capitals has them
        let apart = [row("a", 0.0, "a lake"), row("b", 0.7, "A lake")];
        assert_eq!(evaluate(&apart, Protocol::Standard).unwrap().0.exact.pessimistic.i2t.at_1, 100.0);
        let mut images = vec![row("a", 0.0, "a lake"), row("b", 0.7, "a pond")];
        images[1].embedding = nudged(&images[0].embedding);
        images[1].bytes_digest = images[0].bytes_digest.clone();
        let (report, _) = evaluate(&images, Protocol::Standard).unwrap();
        assert_eq!((report.exact.pessimistic.t2i.at_1, report.t2i_ties.twin_percent), (0.0, 100.0));
        for mut rows in [captions, images] {
            let one = recall_of(&rows, Protocol::Standard).unwrap().report;
            rows.reverse();
            assert_eq!(recall_of(&rows, Protocol::Standard).unwrap().report, one);
        }
    }

    /// One picture with two captions, and another picture with one of them.
    #[test]
    fn panels_show_what_was_ranked_and_mark_as_right_what_the_protocol_counts() {
        let mut rows = vec![row("a", 0.0, "a lake"), row("a2", 0.0, "a pond"), row("b", 0.9, "a lake")];
        rows[1].bytes_digest = rows[0].bytes_digest.clone();
        let lake = vec![0.3f32.cos(), 0.3f32.sin()];
        [0, 2].into_iter().for_each(|of| rows[of].captions[0].1 = lake.clone());
        let shown = |protocol: Protocol, query: Item| {
            let (_, panels) = evaluate(&rows, protocol).unwrap();
            let panel = panels.into_iter().find(|panel| panel.query == query).unwrap();
            let name = |item: &Item| match item {
                Item::Image(name) | Item::Caption(name) => name.clone(),
            };
            let found = panel.found.iter().map(|found| (name(&found.item), found.correct)).collect::<Vec<_>>();
            (panel.rank, found)
        };
        let answers =
            |of: &[(&str, bool)]| of.iter().map(|(name, right)| ((*name).to_owned(), *right)).collect::<Vec<_>>();
        let (a, pond) = (Item::Image("a".into()), Item::Caption("a pond".into()));
        let found = answers(&[("a pond", false), ("a lake", false), ("a lake", true)]);
        assert_eq!(shown(Protocol::Standard, a.clone()), (2, found), "the other picture's caption is wrong, and ties");
        let found = answers(&[("a", false), ("a2", true), ("b", false)]);
        assert_eq!(shown(Protocol::Standard, pond.clone()), (1, found));
        assert_eq!(shown(Protocol::Dedup, a), (0, answers(&[("a pond", true), ("a lake", true)])));
        assert_eq!(shown(Protocol::Dedup, pond), (0, answers(&[("a", true), ("b", false)])));
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
        let changed = changes(&before, &after, Protocol::Standard).unwrap();
        let found = &changed.texts;
        assert_eq!(found.len(), 1, "{found:?}");
        // both of its texts moved, and the others stayed
        assert_eq!(changed.text_moves, Moves { rose: 2, fell: 0, stayed: 3 });
        assert_eq!((found[0].before.rank, found[0].after.rank), (3, 0));
        assert_eq!(found[0].before.query, Item::Caption("caption 0".into()));
        let back = changes(&after, &before, Protocol::Standard).unwrap();
        assert_eq!(back.texts[0].after.rank, 3, "losses are shown, too");
        assert_eq!(back.text_moves, Moves { rose: 0, fell: 2, stayed: 3 });
        let [rose, fell] =
            [&changed, &back].map(|of| (of.image_moves, of.images[0].before.rank, of.images[0].after.rank));
        // image 3 too: the texts of image 0 were as good as its own
        assert_eq!((rose.0.rose, fell.0.fell, rose.1, rose.2), (2, 2, fell.2, fell.1), "image queries, too");
        assert_eq!(changed.images[0].before.query, Item::Image("i0".into()));
    }

    #[test]
    fn failures_are_shown_once_each_with_what_was_found_instead() {
        // every caption looks for the image at the other end
        let mut rows: Vec<_> =
            (0..30).map(|i| row(&format!("i{i}"), i as f32 * 0.05, &format!("caption {i}"))).collect();
        for (i, row) in rows.iter_mut().enumerate() {
            let angle = (29 - i) as f32 * 0.05;
            row.captions[0].1 = vec![angle.cos(), angle.sin()];
        }
        let again = rows[0].captions[0].clone();
        rows[0].captions.push(again);
        let (_, panels) = evaluate(&rows, Protocol::Standard).unwrap();
        let texts: Vec<&Panel> = panels.iter().filter(|p| matches!(p.query, Item::Caption(_))).collect();
        assert_eq!((texts.len(), panels.len()), (PANELS + WORST, 2 * (PANELS + WORST)));
        let queries: std::collections::BTreeSet<String> =
            texts[PANELS..].iter().map(|p| format!("{:?}", p.query)).collect();
        assert_eq!(queries.len(), WORST, "{queries:?}");
        let first = texts.iter().find(|p| p.query == Item::Caption("caption 0".into())).unwrap();
        assert_eq!(first.found[0].of, Some(Item::Caption("caption 29".into())), "what the wrong image shows");
        let missed = first.missed.as_ref().unwrap();
        assert!(!first.found[0].correct && missed.score < first.found[0].score);
        let image = panels.iter().find(|p| p.query == Item::Image("i0".into())).unwrap();
        assert_eq!(image.found[0].of, Some(Item::Image("i29".into())), "whose caption was found");
        // where all is found there is no failure
        let good: Vec<_> = (0..12).map(|i| row(&format!("i{i}"), i as f32 * 0.2, &format!("caption {i}"))).collect();
        assert_eq!(evaluate(&good, Protocol::Standard).unwrap().1.len(), 2 * PANELS);
    }

    #[test]
    fn what_was_learnt_from_is_neither_asked_nor_found() {
        let mut rows: Vec<_> = (0..6).map(|i| row(&format!("i{i}"), i as f32 * 0.2, &format!("caption {i}"))).collect();
        assert_eq!(leave_out(&mut rows, &BTreeMap::from([("other".to_owned(), "the same image")])), None);
        let learnt = ["i4", "i1", "other"].map(|id| (id.to_owned(), "the same image"));
        let left_out = leave_out(&mut rows, &learnt.into()).unwrap();
        assert_eq!((left_out.images, left_out.image_id.as_str(), rows.len()), (2, "i1", 4));
        assert!(left_out.to_string().starts_with("2 images are left out, since"), "{left_out}");
        let (report, panels) = evaluate(&rows, Protocol::Standard).unwrap();
        assert_eq!((report.image_gallery, report.caption_gallery), (4, 4));
        let shown = format!("{panels:?}");
        assert!(!shown.contains("caption 1") && !shown.contains("\"i4\""), "{shown}");
    }

    #[test]
    fn vectors_of_another_model_are_refused() {
        let mut rows = vec![row("a", 0.0, "x"), row("b", 1.0, "y")];
        rows[1].embedding.push(0.0);
        assert!(evaluate(&rows, Protocol::Standard).unwrap_err().to_string().contains("image b"));
    }
}
