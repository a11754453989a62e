//! Queries with what they find: the best and the worst of a split, both ways.

use std::collections::BTreeSet;

use training::recall;

use super::{EvaluatedRow, Found, Item, PANELS, Panel, SHOWN, WORST, captions_of};
use crate::train_rows::caption_key;

/// The captions of all rows, as queries and as answers.
pub(super) struct Captions<'a> {
    /// Row of the image, text, vector.
    pub(super) all: Vec<(u32, &'a str, &'a [f32])>,
    pub(super) keys: Vec<u64>,
}

impl<'a> Captions<'a> {
    pub(super) fn of(rows: &'a [EvaluatedRow]) -> Self {
        let all = captions_of(rows);
        let keys = all.iter().map(|(_, text, _)| caption_key(text)).collect();
        Self { all, keys }
    }
}

/// Best and worst text queries, then best and worst image queries.
pub(super) fn panels(rows: &[EvaluatedRow], ranks: &recall::QueryRanks) -> Vec<Panel> {
    let captions = Captions::of(rows);
    let (mut images, mut texts) = (BTreeSet::new(), BTreeSet::new());
    // annotators repeat themselves: an image and a text fail once
    let is_new =
        |caption: u32| texts.insert(captions.keys[caption as usize]) && images.insert(captions.all[caption as usize].0);
    let of_texts = extremes(&ranks.captions, is_new).into_iter();
    let of_texts = of_texts.map(|(caption, rank)| text_panel(rows, captions.all[caption as usize], rank));
    let mut pictures = BTreeSet::new();
    let is_new = |image: u32| pictures.insert(rows[image as usize].bytes_digest.as_str());
    let of_images = extremes(&ranks.images, is_new).into_iter();
    of_texts.chain(of_images.map(|(image, rank)| image_panel(rows, &captions, image, rank))).collect()
}

/// What a caption finds.
pub(super) fn text_panel(rows: &[EvaluatedRow], (own, text, vector): (u32, &str, &[f32]), rank: u64) -> Panel {
    let key = caption_key(text);
    let found = |row: usize, score: f32, correct: bool| Found {
        item: Item::Image(rows[row].image_id.clone()),
        score,
        correct,
        of: rows[row].captions.first().map(|(text, _)| Item::Caption(text.clone())),
    };
    let nearest = nearest(vector, rows.iter().map(|r| r.embedding.as_slice())).into_iter().map(|(row, score)| {
        let correct = row as u32 == own || caption_keys_of(&rows[row]).contains(&key);
        found(row, score, correct)
    });
    let truth = rows.get(own as usize).map(|row| found(own as usize, product(vector, &row.embedding), true));
    Panel::new(rank, Item::Caption(text.to_owned()), nearest.collect(), truth)
}

/// What an image finds.
pub(super) fn image_panel(rows: &[EvaluatedRow], captions: &Captions<'_>, image: u32, rank: u64) -> Panel {
    let row = &rows[image as usize];
    let own_keys = caption_keys_of(row);
    let written_for = |image: u32| rows.get(image as usize).map(|row| Item::Image(row.image_id.clone()));
    let nearest = nearest(&row.embedding, captions.all.iter().map(|(.., v)| *v)).into_iter().map(|(caption, score)| {
        let (of, text, _) = captions.all[caption];
        let correct = own_keys.contains(&captions.keys[caption]);
        Found { item: Item::Caption(text.to_owned()), score, correct, of: written_for(of) }
    });
    let best = row.captions.iter().map(|(text, vector)| (text, product(&row.embedding, vector)));
    let truth = best.max_by(|one, other| one.1.total_cmp(&other.1)).map(|(text, score)| Found {
        item: Item::Caption(text.clone()),
        score,
        correct: true,
        of: written_for(image),
    });
    Panel::new(rank, Item::Image(row.image_id.clone()), nearest.collect(), truth)
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

/// The best and the worst queries. Among equals the earlier rows, spread over the split so that the best are not all of one
/// kind. Of the worst, only those that miss, and that `is_new` lets pass.
fn extremes(ranks: &[(u32, recall::Rank)], mut is_new: impl FnMut(u32) -> bool) -> Vec<(u32, u64)> {
    let mut sorted: Vec<(u64, u32)> = ranks.iter().map(|(row, rank)| (u64::from(rank.pessimistic()), *row)).collect();
    sorted.sort_unstable();
    let equal_best = sorted.iter().take_while(|(rank, _)| Some(*rank) == sorted.first().map(|s| s.0)).count();
    let stride = (equal_best / PANELS).max(1);
    let best: Vec<_> = sorted.iter().step_by(stride).take(PANELS.min(sorted.len())).copied().collect();
    let missing = sorted.iter().rev().take_while(|(rank, _)| *rank > 0).filter(|w| !best.contains(w));
    let worst: Vec<_> = missing.filter(|(_, row)| is_new(*row)).take(WORST).copied().collect();
    best.into_iter().chain(worst).map(|(rank, row)| (row, rank)).collect()
}

/// The rows with the largest inner product, best first.
fn nearest<'a>(query: &[f32], rows: impl Iterator<Item = &'a [f32]>) -> Vec<(usize, f32)> {
    let mut scored: Vec<(usize, f32)> = rows.map(|row| product(query, row)).enumerate().collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scored.truncate(SHOWN);
    scored
}
