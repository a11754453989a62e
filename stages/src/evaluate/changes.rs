//! The same queries before and after a change of the model, both ways (the paper's Figure 6).

use std::collections::{BTreeMap, BTreeSet};

use choices::Protocol;
use serde::{Deserialize, Serialize};
use training::recall::{QueryRanks, Rank};

use super::panels::Ranked;
use super::{EvaluatedRow, Gathered, PANELS, Panel};
use crate::stage::StageError;

/// A query before and after a change of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The query with what the first model found.
    pub before: Panel,
    /// The same query with what the second model found.
    pub after: Panel,
}

/// How many queries have their right answer at a better or a worse place than before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// Their right answer is nearer to the first place.
    pub rose: u64,
    /// It is further away.
    pub fell: u64,
    /// It is where it was.
    pub stayed: u64,
}

/// What a change of the model does to queries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Of all text queries.
    pub text_moves: Moves,
    /// Of all image queries.
    pub image_moves: Moves,
    /// Text queries whose right answer rose most, then those where it fell most.
    pub texts: Vec<Change>,
    /// The same of image queries.
    pub images: Vec<Change>,
}

/// Compares two models. `before` and `after` hold the same rows by each; ties count as lost.
///
/// # Errors
/// Vectors of different widths within one model.
pub fn changes(before: &[EvaluatedRow], after: &[EvaluatedRow], protocol: Protocol) -> Result<Changes, StageError> {
    let (gathered, gathered_after) = (Gathered::new(before)?, Gathered::new(after)?);
    let (ranks_before, ranks_after) = (gathered.recall(protocol)?.ranks, gathered_after.recall(protocol)?.ranks);
    let ranked_before = Ranked::new(before, &gathered, protocol);
    let ranked_after = Ranked::new(after, &gathered_after, protocol);
    let moved = |of: fn(&QueryRanks) -> &Vec<(u32, Rank)>| moved(of(&ranks_before), of(&ranks_after));
    let (texts, images) = (moved(|ranks| &ranks.captions), moved(|ranks| &ranks.images));
    // annotators repeat themselves: an image and a text are shown once
    let (mut seen_images, mut seen_texts) = (BTreeSet::new(), BTreeSet::new());
    let new_text = |text: u32| {
        seen_texts.insert(gathered.caption_keys_m[text as usize])
            && seen_images.insert(gathered.own_image_m[text as usize])
    };
    let shown_texts = most_moved(&texts, new_text).into_iter().map(|of| Change {
        before: ranked_before.text_panel(of.query, of.before),
        after: ranked_after.text_panel(of.query, of.after),
    });
    let mut pictures = BTreeSet::new();
    let new_image = |image: u32| pictures.insert(gathered.image_keys_n[image as usize]);
    let shown_images = most_moved(&images, new_image).into_iter().map(|of| Change {
        before: ranked_before.image_panel(of.query, of.before),
        after: ranked_after.image_panel(of.query, of.after),
    });
    Ok(Changes {
        text_moves: Moves::of(&texts),
        image_moves: Moves::of(&images),
        texts: shown_texts.collect(),
        images: shown_images.collect(),
    })
}

/// Places of one query's right answer, from 0.
#[derive(Debug, Clone, Copy)]
struct Moved {
    query: u32,
    before: u64,
    after: u64,
}

impl Moved {
    /// A step from place 100 to 10 counts as much as one from 10 to 1.
    fn rise(&self) -> f64 {
        let place = |rank: u64| ((rank + 1) as f64).ln();
        place(self.before) - place(self.after)
    }
}

fn moved(before: &[(u32, Rank)], after: &[(u32, Rank)]) -> Vec<Moved> {
    let after: BTreeMap<u32, &Rank> = after.iter().map(|(query, rank)| (*query, rank)).collect();
    let both = before.iter().filter_map(|(query, rank)| Some((*query, rank, *after.get(query)?)));
    let place = |rank: &Rank| u64::from(rank.pessimistic());
    both.map(|(query, before, after)| Moved { query, before: place(before), after: place(after) }).collect()
}

/// Those that rose most, then those that fell most.
fn most_moved(moved: &[Moved], mut is_new: impl FnMut(u32) -> bool) -> Vec<Moved> {
    let mut sorted: Vec<&Moved> = moved.iter().collect();
    sorted.sort_by(|a, b| b.rise().total_cmp(&a.rise()).then(a.query.cmp(&b.query)));
    let rose = sorted.iter().take_while(|of| of.rise() > 0.0);
    let mut shown: Vec<Moved> = rose.filter(|of| is_new(of.query)).take(PANELS).map(|of| **of).collect();
    let fell = sorted.iter().rev().take_while(|of| of.rise() < 0.0);
    shown.extend(fell.filter(|of| is_new(of.query)).take(PANELS).map(|of| **of));
    shown
}

impl Moves {
    fn of(moved: &[Moved]) -> Moves {
        let count = |is: fn(&Moved) -> bool| moved.iter().filter(|of| is(of)).count() as u64;
        Moves {
            rose: count(|of| of.after < of.before),
            fell: count(|of| of.after > of.before),
            stayed: count(|of| of.after == of.before),
        }
    }
}
