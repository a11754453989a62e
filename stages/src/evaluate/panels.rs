//! Queries with what they find: the best and the worst of a split, both ways.

use std::collections::{BTreeSet, HashSet};

use choices::Protocol;
use training::recall;

use super::{EvaluatedRow, Found, Gathered, Item, PANELS, Panel, SHOWN, WORST, captions_of};

/// What a protocol ranks, and which answers it counts as right.
pub(super) struct Ranked<'a> {
    rows: &'a [EvaluatedRow],
    gathered: &'a Gathered,
    /// Texts of all captions.
    texts: Vec<&'a str>,
    /// The images and captions that are found.
    images: Vec<u32>,
    captions: Vec<u32>,
    /// For all images and captions the place of the one that stands for it.
    image_of_n: Vec<u32>,
    caption_of_m: Vec<u32>,
    /// Places of images and of captions that are right for each other.
    right: HashSet<(u32, u32)>,
}

impl<'a> Ranked<'a> {
    pub(super) fn new(rows: &'a [EvaluatedRow], gathered: &'a Gathered, protocol: Protocol) -> Self {
        let (image_of_n, images) = recall::ranked(&gathered.image_keys_n, protocol);
        let (caption_of_m, captions) = recall::ranked(&gathered.caption_keys_m, protocol);
        let own = gathered.own_image_m.iter().zip(&caption_of_m);
        let right = own.map(|(&image, &caption)| (image_of_n[image as usize], caption)).collect();
        let texts = captions_of(rows).into_iter().map(|(_, text, _)| text).collect();
        Self { rows, gathered, texts, images, captions, image_of_n, caption_of_m, right }
    }

    fn is_right(&self, image: u32, caption: u32) -> bool {
        self.right.contains(&(self.image_of_n[image as usize], self.caption_of_m[caption as usize]))
    }

    fn image(&self, image: u32) -> Item {
        Item::Image(self.rows[image as usize].image_id.clone())
    }

    fn caption(&self, caption: u32) -> Item {
        Item::Caption(self.texts[caption as usize].to_owned())
    }

    /// What a caption finds.
    pub(super) fn text_panel(&self, caption: u32, rank: u64) -> Panel {
        let vector = self.gathered.caption(caption);
        let scored = |&image: &u32| Scored {
            answer: image,
            score: product(vector, self.gathered.image(image)),
            correct: self.is_right(image, caption),
        };
        let first_of = |image: u32| self.rows[image as usize].captions.first();
        Panel::new(rank, self.caption(caption), self.images.iter().map(scored).collect(), |image| {
            (self.image(image), first_of(image).map(|(text, _)| Item::Caption(text.clone())))
        })
    }

    /// What an image finds.
    pub(super) fn image_panel(&self, image: u32, rank: u64) -> Panel {
        let vector = self.gathered.image(image);
        let scored = |&caption: &u32| Scored {
            answer: caption,
            score: product(vector, self.gathered.caption(caption)),
            correct: self.is_right(image, caption),
        };
        Panel::new(rank, self.image(image), self.captions.iter().map(scored).collect(), |caption| {
            (self.caption(caption), Some(self.image(self.gathered.own_image_m[caption as usize])))
        })
    }
}

/// Best and worst text queries, then best and worst image queries.
pub(super) fn panels(ranked: &Ranked<'_>, ranks: &recall::QueryRanks) -> Vec<Panel> {
    let gathered = ranked.gathered;
    let (mut images, mut texts) = (BTreeSet::new(), BTreeSet::new());
    // annotators repeat themselves: an image and a text fail once
    let is_new = |caption: u32| {
        texts.insert(gathered.caption_keys_m[caption as usize]) && images.insert(gathered.own_image_m[caption as usize])
    };
    let of_texts = extremes(&ranks.captions, is_new).into_iter();
    let of_texts = of_texts.map(|(caption, rank)| ranked.text_panel(caption, rank));
    let mut pictures = BTreeSet::new();
    let is_new = |image: u32| pictures.insert(gathered.image_keys_n[image as usize]);
    let of_images = extremes(&ranks.images, is_new).into_iter();
    of_texts.chain(of_images.map(|(image, rank)| ranked.image_panel(image, rank))).collect()
}

/// An answer to a query.
struct Scored {
    answer: u32,
    score: f32,
    correct: bool,
}

impl Panel {
    /// `shown` makes of an answer what is shown, and what it belongs to.
    fn new(rank: u64, query: Item, mut answers: Vec<Scored>, shown: impl Fn(u32) -> (Item, Option<Item>)) -> Self {
        // of equal ones the wrong come first, as the rank counts them
        answers
            .sort_by(|a, b| b.score.total_cmp(&a.score).then(a.correct.cmp(&b.correct)).then(a.answer.cmp(&b.answer)));
        let found = |of: &Scored| {
            let (item, belongs_to) = shown(of.answer);
            Found { item, score: of.score, correct: of.correct, of: belongs_to }
        };
        let right = answers.iter().position(|of| of.correct);
        let missed = right.filter(|&at| at >= SHOWN).map(|at| found(&answers[at]));
        Self { rank, query, found: answers.iter().take(SHOWN).map(found).collect(), missed }
    }
}

fn product(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
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
