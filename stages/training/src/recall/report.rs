//! Ranks turned into the figures that are printed.

use choices::Protocol;
use serde::{Deserialize, Serialize};

use super::QueryRanks;
use super::chance::Chance;
use super::positives::Layout;
use super::tally::Rank;

/// Ties other than those of equal captions and byte-equal images may move no figure by more than this, in points.
pub const OTHER_TIES_BOUND_POINTS: f64 = 0.05;

/// One direction, one reading of ties. Recalls in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// Share of queries whose best positive comes first.
    pub at_1: f64,
    /// ... among the first five.
    pub at_5: f64,
    /// ... among the first ten.
    pub at_10: f64,
    /// Median place of the best positive, counted from 1.
    pub median_rank: f64,
}

/// Both directions, one reading of ties.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BothWays {
    /// Images query captions.
    pub i2t: Recall,
    /// Captions query images.
    pub t2i: Recall,
    /// Mean of the six recalls (mR).
    pub mean_recall: f64,
    /// The mR to expect of a model that guesses, over the same queries and by the same reading of ties.
    pub chance_mean_recall: f64,
}

/// Whether a mean recall is above that of guessing. Both are quoted to hundredths: a lead that does not show is none.
pub fn exceeds_chance(mean_recall: f64, chance: f64) -> bool {
    mean_recall - chance >= 0.005
}

/// A mean recall as it is quoted: `mR 54.00 (chance 63.70)`. Training records made before chance was known have none.
pub fn beside_chance(mean_recall: f64, chance: Option<f64>) -> String {
    let chance = chance.map_or(String::new(), |chance| format!(" (chance {chance:.2})"));
    format!("mR {mean_recall:.2}{chance}")
}

impl BothWays {
    /// The seven figures of a result table: R@1, 5, 10 of images querying captions, of captions querying images, mR.
    pub fn figures(&self) -> [f64; 7] {
        let Self { i2t, t2i, mean_recall, .. } = self;
        [i2t.at_1, i2t.at_5, i2t.at_10, t2i.at_1, t2i.at_5, t2i.at_10, *mean_recall]
    }

    /// mR beside chance, in words.
    pub fn in_words(&self) -> String {
        beside_chance(self.mean_recall, Some(self.chance_mean_recall))
    }

    /// Whether the mR is above that of guessing.
    pub fn exceeds_chance(&self) -> bool {
        exceeds_chance(self.mean_recall, self.chance_mean_recall)
    }
}

/// Both readings of ties.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// t = 0: ties are won. Never to be reported alone.
    pub optimistic: BothWays,
    /// t = 1: ties are lost.
    pub pessimistic: BothWays,
}

/// How common ties are in one direction, and what they are worth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TieShares {
    /// Queries, in percent, whose best positive ties with an equal caption or a byte-equal image.
    pub twin_percent: f64,
    /// The most that those ties lower any recall, in points.
    pub twin_moves_points: f64,
    /// Queries, in percent, whose best positive ties with anything else.
    pub other_percent: f64,
    /// The most that the other ties lower any recall, in points.
    pub other_moves_points: f64,
}

/// All figures of one evaluation. Recall depends on the size of the gallery: print it beside every figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecallReport {
    /// Which galleries were searched and what counted as a hit.
    pub protocol: Protocol,
    /// Images that a caption is searched in.
    pub image_gallery: usize,
    /// Captions that an image is searched in.
    pub caption_gallery: usize,
    /// Images with at least one caption.
    pub image_queries: usize,
    /// Captions.
    pub caption_queries: usize,
    /// Images with different bytes.
    pub distinct_images: usize,
    /// Captions with different normalised text.
    pub distinct_captions: usize,
    /// Own pairs are right (under [`Protocol::Dedup`]: any positive of the merged galleries).
    pub exact: Figures,
    /// Also right: a caption equal to one of the image's, or of a byte-equal image's.
    pub group: Figures,
    /// Ties of image queries in `exact`.
    pub i2t_ties: TieShares,
    /// Ties of caption queries in `exact`.
    pub t2i_ties: TieShares,
}

impl RecallReport {
    /// `exact` and `group`: the ranks under each relation, and what guessing scores there.
    pub(super) fn new(
        protocol: Protocol,
        layout: &Layout,
        (exact, exact_chance): &(QueryRanks, Chance),
        (group, group_chance): &(QueryRanks, Chance),
    ) -> Self {
        Self {
            protocol,
            image_gallery: layout.rows.len(),
            caption_gallery: layout.columns.len(),
            image_queries: exact.images.len(),
            caption_queries: exact.captions.len(),
            distinct_images: layout.distinct_images,
            distinct_captions: layout.distinct_captions,
            exact: Figures::new(exact, *exact_chance),
            group: Figures::new(group, *group_chance),
            i2t_ties: TieShares::new(&exact.images),
            t2i_ties: TieShares::new(&exact.captions),
        }
    }

    /// Whether ties that a better model could break leave every figure within [`OTHER_TIES_BOUND_POINTS`].
    pub fn other_ties_are_harmless(&self) -> bool {
        self.i2t_ties.other_moves_points.max(self.t2i_ties.other_moves_points) <= OTHER_TIES_BOUND_POINTS
    }
}

impl Figures {
    fn new(ranks: &QueryRanks, chance: Chance) -> Self {
        Self {
            optimistic: BothWays::new(ranks, Rank::optimistic, chance.optimistic),
            pessimistic: BothWays::new(ranks, Rank::pessimistic, chance.pessimistic),
        }
    }
}

impl BothWays {
    fn new(ranks: &QueryRanks, reading: fn(Rank) -> u32, chance_mean_recall: f64) -> Self {
        let (i2t, t2i) = (Recall::new(&ranks.images, reading), Recall::new(&ranks.captions, reading));
        let mean_recall = [i2t, t2i].iter().map(|r| r.at_1 + r.at_5 + r.at_10).sum::<f64>() / 6.0;
        Self { i2t, t2i, mean_recall, chance_mean_recall }
    }
}

impl Recall {
    fn new(ranks: &[(u32, Rank)], reading: impl Fn(Rank) -> u32) -> Self {
        let mut places: Vec<u32> = ranks.iter().map(|&(_, rank)| reading(rank)).collect();
        places.sort_unstable();
        let at = |k: u32| percent(places.partition_point(|&place| place < k), places.len());
        let middle = |index: usize| places.get(index).map_or(f64::NAN, |&place| f64::from(place) + 1.0);
        let median_rank = (middle(places.len() / 2) + middle(places.len().saturating_sub(1) / 2)) / 2.0;
        Self { at_1: at(1), at_5: at(5), at_10: at(10), median_rank }
    }

    /// The most that any recall of `self` exceeds the same recall of `other`.
    fn largest_drop_to(&self, other: &Self) -> f64 {
        (self.at_1 - other.at_1).max(self.at_5 - other.at_5).max(self.at_10 - other.at_10)
    }
}

impl TieShares {
    fn new(ranks: &[(u32, Rank)]) -> Self {
        let share = |tied: fn(&Rank) -> u32| percent(ranks.iter().filter(|(_, r)| tied(r) > 0).count(), ranks.len());
        let optimistic = Recall::new(ranks, Rank::optimistic);
        let moves = |reading: fn(Rank) -> u32| optimistic.largest_drop_to(&Recall::new(ranks, reading));
        Self {
            twin_percent: share(|rank| rank.twin_ties),
            twin_moves_points: moves(|rank| rank.greater + rank.twin_ties),
            other_percent: share(|rank| rank.other_ties),
            other_moves_points: moves(|rank| rank.greater + rank.other_ties),
        }
    }
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole as f64
}
