//! Images whose vectors are like that of a better one: exact, in memory that does not grow with the images.
//!
//! Images have places, the best first. A pass through all vectors, in whatever order they lie, compares them with the images of
//! one block of places that stay, and gathers those of the next block. So the outcome is that of comparing each image with all
//! better ones that stay, and depends neither on the size of a block nor on how the vectors are stored.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::search::{Quantised, QuantisedQuery, quantise, similarity};
use crate::segment_features::from_half_bytes;

/// Bytes of a block's vectors.
const BLOCK_BYTES: usize = 128 << 20;
/// Vectors that are compared before it is looked whether one of them was alike.
const CHUNK: usize = 2048;
/// What rounding takes from the cosine of equal vectors.
const ROUNDING: f64 = 1e-6;

/// The image that another one is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alike {
    /// Its place: the first of those that stay.
    pub to: usize,
    /// Of their vectors.
    pub cosine: f64,
}

/// The search for images that are alike, pass after pass.
pub struct Search {
    least: f64,
    images: usize,
    /// Places of a block; known with the first vector.
    block: Option<usize>,
    width: usize,
    found: BTreeMap<usize, Alike>,
    /// Images of the block before, which stay.
    settled: Kept,
    /// First place that nothing is known of.
    at: usize,
    /// Vectors of the places from there to the end of the block.
    gathered: Vec<(usize, Vec<f32>)>,
}

impl Search {
    /// Among so many images, for cosines of at least `least`.
    pub fn new(images: usize, least: f64) -> Self {
        let least = least - ROUNDING;
        let (found, settled, gathered) = (BTreeMap::new(), Kept::default(), Vec::new());
        Self { least, images, block: None, width: 0, found, settled, at: 0, gathered }
    }

    /// Whether another pass through the vectors is needed.
    pub fn is_open(&self) -> bool {
        self.at < self.images
    }

    /// Whether this pass wants the vector of an image.
    pub fn wants(&self, place: usize) -> bool {
        place >= self.at && !self.found.contains_key(&place)
    }

    /// Some vectors, as the table has them, each with its place: every image once a pass. Those that are no vectors of the
    /// same width as the others are like none.
    pub fn offer(&mut self, vectors: Vec<(usize, &[u8])>) {
        let wanted = vectors.into_par_iter().filter(|(place, _)| self.wants(*place));
        let mut units: Vec<(usize, Vec<f32>)> =
            wanted.filter_map(|(place, bytes)| Some((place, unit(from_half_bytes(bytes))?))).collect();
        if self.width == 0 {
            self.width = units.first().map_or(0, |(_, vector)| vector.len());
        }
        if units.is_empty() {
            return;
        }
        units.retain(|(_, vector)| vector.len() == self.width);
        let alike: Vec<Option<Alike>> =
            units.par_iter().map(|(_, vector)| self.settled.like(vector, self.least, 0)).collect();
        let block = *self.block.get_or_insert((BLOCK_BYTES / (4 * self.width)).max(1));
        for ((place, vector), alike) in units.into_iter().zip(alike) {
            match alike {
                Some(alike) => _ = self.found.insert(place, alike),
                None if place < self.at.saturating_add(block) => self.gathered.push((place, vector)),
                None => {}
            }
        }
    }

    /// The end of a pass: decides about the block that it gathered.
    pub fn end_pass(&mut self) {
        let mut block = std::mem::take(&mut self.gathered);
        block.sort_unstable_by_key(|(place, _)| *place);
        let mut kept = Kept::default();
        for chunk in block.chunks(CHUNK) {
            // against what came before the chunk at once, within it one after the other
            let before = kept.places.len();
            let alike: Vec<Option<Alike>> =
                chunk.par_iter().map(|(_, vector)| kept.like(vector, self.least, 0)).collect();
            for ((place, vector), alike) in chunk.iter().zip(alike) {
                match alike.or_else(|| kept.like(vector, self.least, before)) {
                    Some(alike) => _ = self.found.insert(*place, alike),
                    None => kept.push(*place, vector),
                }
            }
        }
        self.settled = kept;
        self.at = self.at.saturating_add(self.block.unwrap_or(self.images.max(1)));
    }

    /// The places of images that are like a better one.
    pub fn finish(self) -> BTreeMap<usize, Alike> {
        self.found
    }
}

/// A vector of length one; `None`: it has no direction.
fn unit(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    let length = similarity(&vector, &vector).sqrt();
    vector.iter_mut().for_each(|number| *number = (f64::from(*number) / length) as f32);
    (length.is_finite() && length > 0.0).then_some(vector)
}

/// Images that stay, in order of their places. One byte a number says of most of them that they are not alike.
#[derive(Default)]
struct Kept {
    places: Vec<usize>,
    codes: Vec<i8>,
    quantised: Vec<Quantised>,
    vectors: Vec<f32>,
}

impl Kept {
    fn push(&mut self, place: usize, vector: &[f32]) {
        let start = self.codes.len();
        self.codes.resize(start + vector.len(), 0);
        self.quantised.push(quantise(vector, &mut self.codes[start..]));
        self.vectors.extend(vector);
        self.places.push(place);
    }

    /// The first image from `from` on that a vector is like.
    fn like(&self, vector: &[f32], least: f64, from: usize) -> Option<Alike> {
        let width = vector.len();
        let query = QuantisedQuery::new(vector)?;
        let mut products = vec![0; CHUNK.min(self.places.len().saturating_sub(from))];
        let mut start = from;
        while start < self.places.len() {
            let count = CHUNK.min(self.places.len() - start);
            query.products(&self.codes[start * width..(start + count) * width], &mut products[..count]);
            for (row, product) in (start..start + count).zip(&products) {
                if query.bounds(*product, self.quantised[row]).1 < least {
                    continue;
                }
                let cosine = similarity(vector, &self.vectors[row * width..(row + 1) * width]);
                if cosine >= least {
                    return Some(Alike { to: self.places[row], cosine });
                }
            }
            start += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment_features::half_bytes;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};

    fn searched(
        vectors: &[Vec<u8>],
        order: &[usize],
        group: usize,
        block: usize,
        least: f64,
    ) -> BTreeMap<usize, Alike> {
        let mut search = Search { block: Some(block), ..Search::new(vectors.len(), least) };
        let mut passes = 0;
        while search.is_open() {
            for places in order.chunks(group) {
                search.offer(places.iter().map(|place| (*place, vectors[*place].as_slice())).collect());
            }
            search.end_pass();
            passes += 1;
        }
        assert_eq!(passes, vectors.len().div_ceil(block));
        search.finish()
    }

    #[test]
    fn blocks_find_what_all_comparisons_find_however_the_vectors_lie() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let mut vectors: Vec<Vec<f32>> = Vec::new();
        for _ in 0..300 {
            let near = (!vectors.is_empty() && random.random_bool(0.5)).then(|| random.random_range(0..vectors.len()));
            let base = near.map(|near| vectors[near].clone()).unwrap_or_else(|| vec![0.0; 40]);
            let size = if near.is_some() { random.random_range(0.0..0.4f32) } else { 1.0 };
            vectors.push(base.iter().map(|x| x + random.random_range(-1.0..1.0f32) * size).collect());
        }
        let stored: Vec<Vec<u8>> = vectors.iter().map(|vector| half_bytes(vector)).collect();
        let units: Vec<Vec<f32>> = stored.iter().map(|bytes| unit(from_half_bytes(bytes)).unwrap()).collect();
        for least in [0.5, 0.95, 1.0] {
            let (mut kept, mut expected) = (Vec::new(), BTreeMap::new());
            for place in 0..units.len() {
                let like = |other: &&usize| similarity(&units[place], &units[**other]) >= least - ROUNDING;
                match kept.iter().find(like) {
                    Some(to) => _ = expected.insert(place, *to),
                    None => kept.push(place),
                }
            }
            assert!(least == 1.0 || (expected.len() > 20 && kept.len() > 20), "{} {}", expected.len(), kept.len());
            let mut order: Vec<usize> = (0..units.len()).collect();
            for (group, block) in [(300, 300), (7, 1000), (64, 33), (1, 1)] {
                order.shuffle(&mut random);
                let found = searched(&stored, &order, group, block, least);
                let to: BTreeMap<usize, usize> = found.iter().map(|(place, alike)| (*place, alike.to)).collect();
                assert_eq!(to, expected, "{least}, {group}, {block}");
            }
        }
    }

    #[test]
    fn what_is_no_vector_is_like_none_and_equal_ones_are_alike() {
        let good = half_bytes(&[0.3, -0.7, 0.1]);
        let vectors =
            [good.clone(), half_bytes(&[0.0; 3]), half_bytes(&[f32::NAN; 3]), half_bytes(&[1.0; 4]), Vec::new(), good];
        let found = searched(&vectors, &[0, 1, 2, 3, 4, 5], 6, 6, 1.0);
        assert_eq!(found.keys().collect::<Vec<_>>(), [&5]);
        assert!(found[&5].to == 0 && (found[&5].cosine - 1.0).abs() < ROUNDING);
        assert!(searched(&[], &[], 1, 1, 0.5).is_empty());
    }
}
