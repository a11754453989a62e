//! Which pairs a training leaves out: a pure function of what is known of all of them.

use std::collections::{BTreeMap, HashMap};

use manifests::spec::PairsSpec;

use super::alike::Alike;

/// What is known of one image and its captions.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Stem of the image's name.
    pub image_id: String,
    /// [`pixels::perceptual_hash`].
    pub hash: u64,
    /// Cosine of the image with the caption that fits it best.
    pub similarity: f32,
    /// [`caption_key`](crate::train_rows::caption_key) of its captions.
    pub caption_keys: Vec<u64>,
    /// Least share of the tags' words that one of its generated captions mentions.
    pub tag_coverage: Option<f32>,
    /// Of the caption that names most beside the tags; `None`: there is nothing to hold captions against.
    pub untagged: Option<Untagged>,
}

/// What a caption names and no tag of its image does.
#[derive(Debug, Clone, PartialEq)]
pub struct Untagged {
    /// Their share of the things that the caption names.
    pub share: f32,
    /// As the caption has them, with commas between.
    pub things: String,
}

/// Why a pair is left out. The first that holds counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its captions are among those that fit their images least.
    LeastSimilar,
    /// Its caption mentions too little of its tags.
    TagCoverage,
    /// Its caption names too much that no tag does.
    Untagged,
    /// Another image that looks alike stays.
    NearDuplicate,
    /// Another image that looks alike to a CLIP stays.
    Alike,
    /// Enough images with its caption stay.
    SameCaption,
}

impl Why {
    /// As messages have it.
    pub fn words(self) -> &'static str {
        match self {
            Why::LeastSimilar => "its caption fits least",
            Why::TagCoverage => "its caption mentions too few tags",
            Why::Untagged => "its caption names what is not tagged",
            Why::NearDuplicate => "an image that looks alike stays",
            Why::Alike => "an image with a like vector stays",
            Why::SameCaption => "enough images with its caption stay",
        }
    }
}

/// A pair that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// By which rule.
    pub why: Why,
    /// What the rule went by, in words.
    pub figure: String,
}

impl LeftOut {
    /// Reason and figure.
    pub fn in_words(&self) -> String {
        format!("{}: {}", self.why.words(), self.figure)
    }
}

/// Pairs that are left out, by image id. Depends neither on the order of the pairs nor on how they are stored.
pub struct Sieve<'a> {
    spec: &'a PairsSpec,
    /// Those that stay, the best first; of equal ones by id.
    order: Vec<&'a Pair>,
    out: BTreeMap<String, LeftOut>,
}

impl<'a> Sieve<'a> {
    /// All rules that come before vectors are compared.
    pub fn new(pairs: &'a [Pair], spec: &'a PairsSpec) -> Self {
        let mut order: Vec<&Pair> = pairs.iter().collect();
        order.sort_by(|a, b| b.similarity.total_cmp(&a.similarity).then_with(|| a.image_id.cmp(&b.image_id)));
        let mut sieve = Self { spec, order, out: BTreeMap::new() };
        sieve.least_similar();
        let least = spec.min_tag_coverage as f32;
        sieve.leave_out(Why::TagCoverage, |_, pair| {
            let coverage = pair.tag_coverage.filter(|coverage| least > 0.0 && *coverage < least)?;
            Some(format!("{coverage:.2} of their words, less than {least}"))
        });
        let most = spec.max_untagged_share as f32;
        sieve.leave_out(Why::Untagged, |_, pair| {
            let untagged = pair.untagged.as_ref().filter(|untagged| untagged.share > most)?;
            Some(format!("{}; {:.2} of the things that it names, more than {most}", untagged.things, untagged.share))
        });
        if spec.drop_near_duplicates {
            let mut seen = Seen::new(spec.near_duplicate_bits);
            let mut kept: Vec<&str> = Vec::new();
            sieve.leave_out(Why::NearDuplicate, |_, pair| {
                let Some((place, bits)) = seen.like(pair.hash) else {
                    seen.insert(pair.hash, kept.len());
                    kept.push(&pair.image_id);
                    return None;
                };
                Some(format!("{}, whose hash differs in {bits} of 64 bits", kept[place]))
            });
        }
        sieve
    }

    /// Takes out those for which `figure` finds something to say. It is asked with the place among those that stayed until now.
    fn leave_out(&mut self, why: Why, mut figure: impl FnMut(usize, &'a Pair) -> Option<String>) {
        let mut place = 0;
        self.order.retain(|pair| {
            let found = figure(place, pair);
            place += 1;
            let stays = found.is_none();
            self.out.extend(found.map(|figure| (pair.image_id.clone(), LeftOut { why, figure })));
            stays
        });
    }

    fn least_similar(&mut self) {
        let kept = self.order.len() - (self.order.len() as f64 * self.spec.drop_least_similar).floor() as usize;
        let stays = kept.checked_sub(1).and_then(|last| self.order.get(last)).map(|pair| pair.similarity);
        let bound = stays.map_or("none stays".to_owned(), |least| format!("{least:.4} or more stays"));
        self.leave_out(Why::LeastSimilar, |place, pair| {
            (place >= kept).then(|| format!("a cosine of {:.4}, where {bound}", pair.similarity))
        });
    }

    /// Ids of the images that stay until now, the best first: their places are those of [`Alike`].
    pub fn order(&self) -> impl Iterator<Item = &'a str> + use<'a, '_> {
        self.order.iter().map(|pair| pair.image_id.as_str())
    }

    /// Takes out images whose vectors are like that of a better one.
    pub fn leave_out_alike(&mut self, found: &BTreeMap<usize, Alike>) {
        let ids: Vec<&str> = self.order().collect();
        self.leave_out(Why::Alike, |place, _| {
            let alike = found.get(&place)?;
            Some(format!("{}, at a cosine of {:.4}", ids.get(alike.to)?, alike.cosine))
        });
    }

    /// The last rule, and all that is left out.
    pub fn finish(mut self) -> BTreeMap<String, LeftOut> {
        let most = self.spec.max_images_per_caption;
        if most > 0 {
            let mut images = HashMap::<u64, usize>::new();
            self.leave_out(Why::SameCaption, |_, pair| {
                // an image stays for any caption that still wants one
                let is_wanted = |key: &u64| images.get(key).copied().unwrap_or(0) < most;
                if !pair.caption_keys.is_empty() && !pair.caption_keys.iter().any(is_wanted) {
                    return Some(format!("{most} that it fits better"));
                }
                let mut keys = pair.caption_keys.clone();
                keys.sort_unstable();
                keys.dedup();
                keys.into_iter().for_each(|key| *images.entry(key).or_default() += 1);
                None
            });
        }
        self.out
    }
}

/// Hashes of which no two differ in few bits. A hash within `bits` of another agrees with it in one of `bits + 1` bands
/// (pigeonhole), so only hashes that share a band are compared.
struct Seen {
    bits: u32,
    /// By band and its bits.
    bands: HashMap<(u32, u64), Vec<(u64, usize)>>,
}

impl Seen {
    fn new(bits: u32) -> Self {
        Self { bits, bands: HashMap::new() }
    }

    fn bands(&self, hash: u64) -> impl Iterator<Item = (u32, u64)> + use<> {
        let count = self.bits + 1;
        (0..count).map(move |band| {
            let (from, to) = (64 * band / count, 64 * (band + 1) / count);
            let mask = if to - from == 64 { u64::MAX } else { (1 << (to - from)) - 1 };
            (band, hash >> from & mask)
        })
    }

    /// Place of the first hash that is like this one, and the bits in which they differ.
    fn like(&self, hash: u64) -> Option<(usize, u32)> {
        let others = self.bands(hash).filter_map(|band| self.bands.get(&band)).flatten();
        let alike = others.map(|(other, place)| (*place, (hash ^ other).count_ones()));
        alike.filter(|(_, bits)| *bits <= self.bits).min()
    }

    fn insert(&mut self, hash: u64, place: usize) {
        for band in self.bands(hash) {
            self.bands.entry(band).or_default().push((hash, place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(i: usize, hash: u64, similarity: f32, caption: u64) -> Pair {
        Pair {
            image_id: format!("i{i:03}"),
            hash,
            similarity,
            caption_keys: vec![caption],
            tag_coverage: None,
            untagged: None,
        }
    }

    fn left_out(pairs: &[Pair], spec: &PairsSpec) -> Vec<(String, Why)> {
        let out = Sieve::new(pairs, spec).finish();
        let mut turned = pairs.to_vec();
        turned.reverse();
        assert_eq!(Sieve::new(&turned, spec).finish(), out, "whatever their order");
        out.into_iter().map(|(image_id, out)| (image_id, out.why)).collect()
    }

    fn figure(pairs: &[Pair], spec: &PairsSpec) -> String {
        Sieve::new(pairs, spec).finish().into_values().next().unwrap().in_words()
    }

    #[test]
    fn nothing_is_left_out_unless_asked_for() {
        let pairs: Vec<Pair> = (0..9).map(|i| pair(i, 1, 0.5, 1)).collect();
        assert!(left_out(&pairs, &PairsSpec::default()).is_empty() && left_out(&[], &PairsSpec::default()).is_empty());
    }

    #[test]
    fn the_least_similar_share_goes_first() {
        let pairs: Vec<Pair> = (0..10).map(|i| pair(i, i as u64, (i * 7 % 10) as f32, i as u64)).collect();
        let spec = PairsSpec { drop_least_similar: 0.25, ..PairsSpec::default() };
        let out = left_out(&pairs, &spec);
        assert_eq!(out, [("i000".to_owned(), Why::LeastSimilar), ("i003".to_owned(), Why::LeastSimilar)]);
    }

    #[test]
    fn of_images_that_look_alike_the_best_stays() {
        let spec = PairsSpec { drop_near_duplicates: true, near_duplicate_bits: 3, ..PairsSpec::default() };
        let pairs =
            [pair(0, 0, 0.1, 0), pair(1, 0b111, 0.9, 1), pair(2, u64::MAX, 0.5, 2), pair(3, 0b1111_0000, 0.2, 3)];
        assert_eq!(left_out(&pairs, &spec), [("i000".to_owned(), Why::NearDuplicate)]);
    }

    #[test]
    fn bands_find_what_all_comparisons_find() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state
        };
        for bits in [0, 1, 4, 7, 16] {
            let mut hashes: Vec<u64> = Vec::new();
            for _ in 0..300 {
                let base = if hashes.is_empty() || random() % 2 == 0 {
                    random()
                } else {
                    hashes[random() as usize % hashes.len()]
                };
                let flips = random() % 20;
                hashes.push((0..flips).fold(base, |hash, _| hash ^ 1 << (random() >> 58)));
            }
            let (mut seen, mut kept) = (Seen::new(bits), Vec::<u64>::new());
            for hash in hashes {
                let like = |other: &u64| (hash ^ other).count_ones() <= bits;
                let first = kept.iter().position(like);
                assert_eq!(seen.like(hash).map(|(place, _)| place), first, "{bits} bits");
                if first.is_none() {
                    seen.insert(hash, kept.len());
                    kept.push(hash);
                }
            }
        }
    }

    #[test]
    fn a_caption_keeps_its_best_images_and_coverage_counts_where_it_is_known() {
        let spec = PairsSpec { max_images_per_caption: 2, min_tag_coverage: 0.5, ..PairsSpec::default() };
        let mut pairs: Vec<Pair> = (0..4).map(|i| pair(i, i as u64, i as f32, 7)).collect();
        pairs[3].tag_coverage = Some(0.4);
        pairs[2].tag_coverage = Some(0.5);
        let out = left_out(&pairs, &spec);
        assert_eq!(out, [("i000".to_owned(), Why::SameCaption), ("i003".to_owned(), Why::TagCoverage)]);
    }

    #[test]
    fn what_is_named_and_not_tagged_counts_where_there_are_tags() {
        let spec = PairsSpec { max_untagged_share: 0.5, ..PairsSpec::default() };
        let mut pairs: Vec<Pair> = (0..3).map(|i| pair(i, i as u64, 0.5, i as u64)).collect();
        pairs[1].untagged = Some(Untagged { share: 0.5, things: "a lake".into() });
        pairs[2].untagged = Some(Untagged { share: 0.75, things: "a lake, a tower".into() });
        assert_eq!(left_out(&pairs, &spec), [("i002".to_owned(), Why::Untagged)]);
        assert_eq!(
            figure(&pairs, &spec),
            "its caption names what is not tagged: a lake, a tower; 0.75 of the things that it names, more than 0.5"
        );
    }

    #[test]
    fn figures_say_by_how_much() {
        let pairs = [pair(0, 0, 0.25, 0), pair(1, 0b11, 0.5, 0)];
        let of = |spec: &PairsSpec| figure(&pairs, spec);
        let least = PairsSpec { drop_least_similar: 0.5, ..PairsSpec::default() };
        assert_eq!(of(&least), "its caption fits least: a cosine of 0.2500, where 0.5000 or more stays");
        let hash = PairsSpec { drop_near_duplicates: true, ..PairsSpec::default() };
        assert_eq!(of(&hash), "an image that looks alike stays: i001, whose hash differs in 2 of 64 bits");
        let caption = PairsSpec { max_images_per_caption: 1, ..PairsSpec::default() };
        assert_eq!(of(&caption), "enough images with its caption stay: 1 that it fits better");
    }

    #[test]
    fn images_with_like_vectors_give_way_to_the_better_one_before_captions_are_counted() {
        let spec = PairsSpec { near_duplicate_cosine: 0.9, max_images_per_caption: 1, ..PairsSpec::default() };
        let pairs: Vec<Pair> = (0..3).map(|i| pair(i, 0, i as f32, 5 + i as u64 / 2)).collect();
        let mut sieve = Sieve::new(&pairs, &spec);
        assert_eq!(sieve.order().collect::<Vec<_>>(), ["i002", "i001", "i000"]);
        sieve.leave_out_alike(&BTreeMap::from([(1, Alike { to: 0, cosine: 0.95 })]));
        let out = sieve.finish();
        assert_eq!(out.len(), 1, "with the better one gone its caption is free: {out:?}");
        assert_eq!(out["i001"].in_words(), "an image with a like vector stays: i002, at a cosine of 0.9500");
    }
}
