//! Vectors of one byte a number: a quarter of what f32 takes, and still enough to say between which bounds the similarity to
//! a query lies. So a search reads the bytes of all vectors, and the vectors themselves only of the few that might be among
//! the best: its answers are those of a search through everything.

use models::ops::{byte_products, widest};

/// Largest number of a quantised vector.
const MOST: f32 = 127.0;
/// Share by which bounds are widened: more than all rounding of their own computation.
const SLACK: f64 = 1e-6;

/// How far a quantised vector is from the vector that it stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantised {
    /// What one unit of its numbers stands for.
    pub step: f32,
    /// Length of the difference between the two vectors, or a little more.
    pub error: f32,
}

/// Rounds a vector to whole multiples of a step of its own, so that its largest number becomes 127.
pub fn quantise(vector: &[f32], codes: &mut [i8]) -> Quantised {
    let largest = vector.iter().fold(0f32, |most, number| most.max(number.abs()));
    let step = largest / MOST;
    let mut square = 0f64;
    for (code, number) in codes.iter_mut().zip(vector) {
        let units = if step > 0.0 { (number / step).round().clamp(-MOST, MOST) } else { 0.0 };
        *code = units as i8;
        square += (f64::from(*number) - f64::from(step) * f64::from(units)).powi(2);
    }
    Quantised { step, error: (square.sqrt() as f32).next_up() }
}

/// A query that is compared with quantised vectors.
#[derive(Debug, Clone)]
pub struct QuantisedQuery {
    codes: Vec<i16>,
    step: f64,
    length: f64,
    /// Length of the difference between the query and its numbers.
    error: f64,
}

impl QuantisedQuery {
    /// Rounds a query as little as exact sums of 32 bits allow. `None`: it is too wide for them, or not finite.
    pub fn new(query: &[f32]) -> Option<Self> {
        let most = [i16::MAX, 4095, 511, 63].into_iter().find(|most| query.len() <= widest(*most))?;
        let largest = query.iter().fold(0f64, |most, number| most.max(f64::from(number.abs())));
        if query.iter().any(|number| !number.is_finite()) {
            return None;
        }
        let step = largest / f64::from(most);
        let units = |number: f32| if step > 0.0 { (f64::from(number) / step).round() } else { 0.0 };
        let codes: Vec<i16> = query.iter().map(|number| units(*number) as i16).collect();
        let differences = codes.iter().zip(query).map(|(code, number)| f64::from(*number) - step * f64::from(*code));
        let error = differences.map(|difference| difference * difference).sum::<f64>().sqrt();
        let length = query.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
        Some(Self { codes, step, length, error })
    }

    /// Numbers of a vector.
    pub fn width(&self) -> usize {
        self.codes.len()
    }

    /// Inner products of the query's numbers with those of quantised vectors, which lie one after the other.
    ///
    /// # Panics
    /// If there are not as many vectors as products.
    pub fn products(&self, codes: &[i8], products: &mut [i32]) {
        byte_products(codes, &self.codes, products);
    }

    /// The similarity of the query to a vector, from the product of their numbers: at least and at most.
    ///
    /// With v = s c + e and q = t k + f the similarity v q is s t (c k) + s (c f) + e q, and by Cauchy and Schwarz the last
    /// two are at most s |c| |f| + |e| |q|.
    pub fn bounds(&self, product: i32, of: Quantised) -> (f64, f64) {
        let step = f64::from(of.step);
        let longest = step * f64::from(MOST) * (self.codes.len() as f64).sqrt();
        let about = step * self.step * f64::from(product);
        let off = longest * self.error + f64::from(of.error) * self.length;
        let off = off + (about.abs() + off) * SLACK + f64::MIN_POSITIVE;
        (about - off, about + off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::similarity;
    use rand::{Rng, SeedableRng};

    #[test]
    fn similarities_lie_within_their_bounds_and_those_are_narrow() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        for width in [0, 1, 7, 96, 512, 513, 5000] {
            for trial in 0..40 {
                let mut vector =
                    |size: f32| -> Vec<f32> { (0..width).map(|_| random.random_range(-1.0..1.0f32) * size).collect() };
                // nothing, denormal, ordinary, huge; the query itself among the vectors
                let (query, other) =
                    (vector([1.0, 0.05, 1e6][trial % 3]), vector([0.0, 1e-42, 1e-3, 1.0, 1e12][trial % 5]));
                for vector in [&other, &query] {
                    let mut codes = vec![0; width];
                    let of = quantise(vector, &mut codes);
                    let quantised = QuantisedQuery::new(&query).unwrap();
                    let mut product = [0];
                    quantised.products(&codes, &mut product);
                    let (least, most) = quantised.bounds(product[0], of);
                    let exact = similarity(&query, vector);
                    assert!(least <= exact && exact <= most, "{width}, {trial}: {least} {exact} {most}");
                    let lengths = (similarity(&query, &query) * similarity(vector, vector)).sqrt();
                    assert!(most - least <= 0.03 * lengths + 1e-30, "{width}, {trial}: {least} {most} {lengths}");
                }
            }
        }
    }

    #[test]
    fn queries_that_cannot_be_compared_are_refused() {
        assert!(QuantisedQuery::new(&[1.0, f32::NAN]).is_none());
        assert!(QuantisedQuery::new(&[f32::INFINITY]).is_none());
        assert!(QuantisedQuery::new(&vec![1.0; widest(63) + 1]).is_none());
    }
}
