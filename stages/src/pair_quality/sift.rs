//! Which pairs a training leaves out: a pure function of what is known of all of them.

use std::collections::{BTreeMap, HashMap};

use manifests::spec::PairsSpec;

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
}

/// Why a pair is left out. The first that holds counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its captions are among those that fit their images least.
    LeastSimilar,
    /// Its caption mentions too little of its tags.
    TagCoverage,
    /// Another image that looks alike stays.
    NearDuplicate,
    /// Enough images with its caption stay.
    SameCaption,
}

impl Why {
    /// As messages have it.
    pub fn words(self) -> &'static str {
        match self {
            Why::LeastSimilar => "its caption fits least",
            Why::TagCoverage => "its caption mentions too few tags",
            Why::NearDuplicate => "an image that looks alike stays",
            Why::SameCaption => "enough images with its caption stay",
        }
    }
}

/// Pairs that are left out, by image id. Depends neither on the order of the pairs nor on how they are stored.
pub fn sift(pairs: &[Pair], spec: &PairsSpec) -> BTreeMap<String, Why> {
    // the best first; of equal ones by id
    let mut order: Vec<&Pair> = pairs.iter().collect();
    order.sort_by(|a, b| b.similarity.total_cmp(&a.similarity).then_with(|| a.image_id.cmp(&b.image_id)));
    let mut out = BTreeMap::new();
    let kept = order.len() - (order.len() as f64 * spec.drop_least_similar).floor() as usize;
    out.extend(order.split_off(kept).into_iter().map(|pair| (pair.image_id.clone(), Why::LeastSimilar)));
    let least = spec.min_tag_coverage as f32;
    order.retain(|pair| {
        let is_good = least <= 0.0 || pair.tag_coverage.is_none_or(|coverage| coverage >= least);
        is_good || out.insert(pair.image_id.clone(), Why::TagCoverage).is_some()
    });
    if spec.drop_near_duplicates {
        let mut seen = Seen::new(spec.near_duplicate_bits);
        order.retain(|pair| seen.is_new(pair.hash) || out.insert(pair.image_id.clone(), Why::NearDuplicate).is_some());
    }
    if spec.max_images_per_caption > 0 {
        let mut images = HashMap::<u64, usize>::new();
        order.retain(|pair| {
            // an image stays for any caption that still wants one
            let is_wanted = pair.caption_keys.is_empty()
                || pair
                    .caption_keys
                    .iter()
                    .any(|key| images.get(key).copied().unwrap_or(0) < spec.max_images_per_caption);
            if is_wanted {
                let mut keys = pair.caption_keys.clone();
                keys.sort_unstable();
                keys.dedup();
                keys.into_iter().for_each(|key| *images.entry(key).or_default() += 1);
            }
            is_wanted || out.insert(pair.image_id.clone(), Why::SameCaption).is_some()
        });
    }
    out
}

/// Hashes of which no two differ in few bits. A hash within `bits` of another agrees with it in one of `bits + 1` bands
/// (pigeonhole), so only hashes that share a band are compared.
struct Seen {
    bits: u32,
    /// By band and its bits.
    bands: HashMap<(u32, u64), Vec<u64>>,
}

impl Seen {
    fn new(bits: u32) -> Self {
        Self { bits, bands: HashMap::new() }
    }

    /// Takes note of a hash that is like none before.
    fn is_new(&mut self, hash: u64) -> bool {
        let count = self.bits + 1;
        let band = |band: u32| {
            let (from, to) = (64 * band / count, 64 * (band + 1) / count);
            let mask = if to - from == 64 { u64::MAX } else { (1 << (to - from)) - 1 };
            (band, hash >> from & mask)
        };
        let is_like = |other: &u64| (hash ^ other).count_ones() <= self.bits;
        if (0..count).any(|i| self.bands.get(&band(i)).is_some_and(|others| others.iter().any(is_like))) {
            return false;
        }
        (0..count).for_each(|i| self.bands.entry(band(i)).or_default().push(hash));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(i: usize, hash: u64, similarity: f32, caption: u64) -> Pair {
        Pair { image_id: format!("i{i:03}"), hash, similarity, caption_keys: vec![caption], tag_coverage: None }
    }

    fn left_out(pairs: &[Pair], spec: &PairsSpec) -> Vec<(String, Why)> {
        let out = sift(pairs, spec);
        let mut turned = pairs.to_vec();
        turned.reverse();
        assert_eq!(sift(&turned, spec), out, "whatever their order");
        out.into_iter().collect()
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
                let is_new = kept.iter().all(|other| (hash ^ other).count_ones() > bits);
                assert_eq!(seen.is_new(hash), is_new, "{bits} bits");
                kept.extend(is_new.then_some(hash));
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
}
