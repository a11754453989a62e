//! What guessing would score: the expected recall of a model whose scores say nothing.
//!
//! Such a model ranks the distinct answers of a query in an order drawn at random. Equal captions and byte-equal images
//! still get equal scores, so the answers come in classes, and a query's place is that of the protocol: all members of
//! the classes before its first positive one and, where ties are lost, the wrong members of that one. The expectation is
//! exact; with distinct answers it is 1 - C(N - p, K) / C(N, K) for p positives among N.

use std::collections::BTreeMap;

use super::positives::{Layout, Positives};

/// The K of every figure.
const DEPTHS: [usize; 3] = [1, 5, 10];
/// Chance is rounded to these: fewer digits than a double holds come back from JSON as they were.
const PARTS_OF_A_POINT: f64 = 1e6;
/// Places below the largest K: a class of more answers than that never stands before a hit.
const PLACES: usize = DEPTHS[2];

/// Expected mean recall of guessing, in percent, under both readings of ties.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chance {
    pub(super) optimistic: f64,
    pub(super) pessimistic: f64,
}

impl Chance {
    /// Of both directions of one relation.
    pub(super) fn of(layout: &Layout, positives: &Positives) -> Self {
        let captions = Answers::new(&layout.column_class);
        let images = Answers::new(&layout.row_class);
        let i2t = captions.queries(positives.columns_of_rows());
        let t2i = images.queries(positives.rows_of_columns());
        let mean_recall = |lost| {
            let both = [captions.recalls(&i2t, lost), images.recalls(&t2i, lost)];
            let mean = both.as_flattened().iter().sum::<f64>() / both.as_flattened().len() as f64;
            (100.0 * mean * PARTS_OF_A_POINT).round() / PARTS_OF_A_POINT
        };
        Self { optimistic: mean_recall(false), pessimistic: mean_recall(true) }
    }
}

/// A class of equal answers among which a query has positives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    answers: usize,
    /// How many of them are positive.
    positive: usize,
}

/// Queries that guessing answers alike, by the classes of their positives. In order, so that sums are the same to the bit.
type Queries = BTreeMap<Vec<Right>, usize>;

/// What is searched in one direction.
struct Answers<'a> {
    class_of: &'a [u32],
    /// Answers in each class.
    sizes: Vec<usize>,
    /// Classes by their number of answers, below [`PLACES`].
    classes_of_size: [usize; PLACES],
}

impl<'a> Answers<'a> {
    fn new(class_of: &'a [u32]) -> Self {
        let mut sizes = vec![0; class_of.iter().max().map_or(0, |&class| class as usize + 1)];
        class_of.iter().for_each(|&class| sizes[class as usize] += 1);
        let mut classes_of_size = [0; PLACES];
        for &size in sizes.iter().filter(|&&size| size < PLACES) {
            classes_of_size[size] += 1;
        }
        Self { class_of, sizes, classes_of_size }
    }

    /// Collects queries from the answers that are right for each, and how many queries share these; those without any
    /// are no queries.
    fn queries(&self, right: impl Iterator<Item = (Vec<u32>, usize)>) -> Queries {
        let mut queries = Queries::new();
        for (answers, count) in right.filter(|(answers, _)| !answers.is_empty()) {
            let mut classes: Vec<u32> = answers.iter().map(|&answer| self.class_of[answer as usize]).collect();
            classes.sort_unstable();
            let classes = classes.chunk_by(|a, b| a == b);
            let mut rights: Vec<Right> =
                classes.map(|class| Right { answers: self.sizes[class[0] as usize], positive: class.len() }).collect();
            rights.sort_unstable();
            *queries.entry(rights).or_default() += count;
        }
        queries
    }

    /// Expected share of hits at each depth.
    fn recalls(&self, queries: &Queries, ties_are_lost: bool) -> [f64; 3] {
        let mut sums = [0.0; 3];
        for (right, &count) in queries {
            let hits = hits(self.sizes.len(), self.classes_of_size, right, ties_are_lost);
            sums.iter_mut().zip(hits).for_each(|(sum, hit)| *sum += count as f64 * hit);
        }
        sums.map(|sum| sum / queries.values().sum::<usize>() as f64)
    }
}

/// Probability of a hit at each depth, of a query whose positives lie in the classes `right`, when the order of all
/// `classes` is drawn at random.
///
/// That exactly j given classes come first, in any order, and then a given right one, has the probability
/// j! (D - j - 1)! / D! = 1 / (D C(D - 1, j)), D being the number of classes. It is a hit where their answers and the
/// ties that are lost leave a place.
fn hits(classes: usize, mut classes_of_size: [usize; PLACES], right: &[Right], ties_are_lost: bool) -> [f64; 3] {
    for right in right.iter().filter(|right| right.answers < PLACES) {
        classes_of_size[right.answers] -= 1;
    }
    let ways = ways_to_come_first(&classes_of_size);
    DEPTHS.map(|depth| {
        let mut probability = 0.0;
        for right in right {
            let lost = if ties_are_lost { right.answers - right.positive } else { 0 };
            for (before, by_answers) in ways.iter().enumerate().take(classes) {
                let sets: f64 = by_answers.iter().take(depth.saturating_sub(lost)).sum();
                probability += sets / (classes as f64 * choose(classes - 1, before));
            }
        }
        probability
    })
}

/// Sets of wrong classes by their number and by the number of their answers, both below [`PLACES`].
fn ways_to_come_first(classes_of_size: &[usize; PLACES]) -> [[f64; PLACES]; PLACES] {
    let mut ways = [[0.0; PLACES]; PLACES];
    ways[0][0] = 1.0;
    for (size, &classes) in classes_of_size.iter().enumerate().skip(1).filter(|(_, classes)| **classes > 0) {
        let mut more = [[0.0; PLACES]; PLACES];
        for taken in 0..=classes.min((PLACES - 1) / size) {
            for number in 0..PLACES - taken {
                for answers in 0..PLACES - taken * size {
                    more[number + taken][answers + taken * size] += choose(classes, taken) * ways[number][answers];
                }
            }
        }
        ways = more;
    }
    ways
}

/// Binomial coefficient.
fn choose(n: usize, k: usize) -> f64 {
    (0..k).map(|i| (n as f64 - i as f64) / (i + 1) as f64).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distinct answers, `positive` of them right.
    fn distinct(answers: usize, positive: usize) -> [f64; 3] {
        let right = vec![Right { answers: 1, positive: 1 }; positive];
        let mut of_size = [0; PLACES];
        of_size[1] = answers;
        hits(answers, of_size, &right, true)
    }

    #[test]
    fn distinct_answers_follow_the_closed_form() {
        for (answers, positive) in [(1, 1), (7, 1), (40, 5), (452, 1), (2260, 5), (3_000_000, 5), (12, 12)] {
            for (depth, found) in DEPTHS.into_iter().zip(distinct(answers, positive)) {
                // C(N - p, K) / C(N, K), factor by factor
                let missed: f64 = (0..depth.min(answers))
                    .map(|i| (answers - positive).saturating_sub(i) as f64 / (answers - i) as f64)
                    .product();
                assert!((found - (1.0 - missed)).abs() < 1e-9, "{positive} of {answers} at {depth}: {found}");
            }
        }
        assert!((distinct(40, 1)[2] - 0.25).abs() < 1e-12);
    }

    /// All orders of the classes, each counted as the protocol counts.
    fn by_all_orders(classes: &[Right], ties_are_lost: bool) -> [f64; 3] {
        let (mut hit, mut orders) = ([0.0; 3], 0.0);
        let mut order: Vec<usize> = (0..classes.len()).collect();
        permute(&mut order, 0, &mut |order| {
            let first = order.iter().position(|&class| classes[class].positive > 0).unwrap();
            let before: usize = order[..first].iter().map(|&class| classes[class].answers).sum();
            let own = classes[order[first]];
            let place = before + if ties_are_lost { own.answers - own.positive } else { 0 };
            hit.iter_mut().zip(DEPTHS).for_each(|(hit, depth)| *hit += f64::from(u8::from(place < depth)));
            orders += 1.0;
        });
        hit.map(|hit| hit / orders)
    }

    fn permute(order: &mut [usize], from: usize, visit: &mut impl FnMut(&[usize])) {
        if from == order.len() {
            return visit(order);
        }
        for at in from..order.len() {
            order.swap(from, at);
            permute(order, from + 1, visit);
            order.swap(from, at);
        }
    }

    #[test]
    fn classes_of_equal_answers_come_first_as_often_as_in_all_orders() {
        let galleries: [&[(usize, usize)]; 5] = [
            &[(1, 1), (1, 0), (1, 0), (1, 0), (1, 0), (1, 0), (1, 0)],
            &[(3, 1), (2, 2), (1, 0), (4, 0), (1, 0), (2, 0), (2, 0)],
            &[(12, 3), (1, 0), (11, 0), (1, 0), (2, 0)],
            &[(2, 1), (9, 0), (10, 0), (1, 1)],
            &[(5, 2)],
        ];
        for gallery in galleries {
            let classes: Vec<Right> = gallery.iter().map(|&(answers, positive)| Right { answers, positive }).collect();
            let class_of: Vec<u32> = (0u32..).zip(&classes).flat_map(|(class, of)| vec![class; of.answers]).collect();
            let answers = Answers::new(&class_of);
            let right: Vec<Right> = classes.iter().copied().filter(|class| class.positive > 0).collect();
            for lost in [false, true] {
                let (found, counted) =
                    (hits(classes.len(), answers.classes_of_size, &right, lost), by_all_orders(&classes, lost));
                assert!(
                    found.iter().zip(counted).all(|(a, b)| (a - b).abs() < 1e-12),
                    "{gallery:?}: {found:?} {counted:?}"
                );
            }
        }
    }
}
