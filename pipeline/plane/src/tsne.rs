//! t-SNE: points whose neighbours in the plane are those among the vectors, as far as a plane allows.
//!
//! Distances are those of cosines, whatever the lengths of the vectors. Nothing is drawn by lot: neighbours are exact, the
//! start is given, and one thread adds up, so that each server shows the same points.

use std::io;

use bhtsne::{Neighbor, tSNE};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::nearest::nearest;

/// About as many neighbours as pull at a point; fewer where there are few vectors.
const PERPLEXITY: usize = 30;
/// Neighbours that are looked for, for each one that pulls: beyond, a bell curve has nothing left.
const REACH: usize = 3;
/// Steps of the descent, the first third with neighbours that pull more strongly.
const STEPS: usize = 750;
/// From how far off a group of points pushes as one.
const COARSENESS: f32 = 0.5;
/// Spread of the start along its longer direction: so small that pulls decide, and not where points begin.
const SPREAD: f64 = 1e-4;
/// Vectors of which too few have neighbours.
const FEWEST: usize = 8;

/// Points for vectors, of which the nearest in the plane are the nearest by cosine. `start` says where each begins,
/// at any scale: what the nearness of neighbours leaves open stays as it is there. A vector without a direction or
/// of another width than the first has no point. The same vectors in the same order give the same points.
///
/// # Errors
/// Threads that cannot be started.
pub fn neighbours(vectors: &[Vec<f32>], start: &[[f32; 2]]) -> io::Result<Vec<Option<[f32; 2]>>> {
    let dim = vectors.first().map_or(0, Vec::len);
    let units: Vec<Option<Vec<f32>>> = vectors.iter().map(|vector| unit(vector, dim)).collect();
    let (mut flat, mut begin) = (Vec::new(), Vec::new());
    for (unit, place) in units.iter().zip(start) {
        if let Some(unit) = unit {
            flat.extend_from_slice(unit);
            begin.push(*place);
        }
    }
    let points = settled(&flat, dim, begin)?;
    let mut points = points.into_iter();
    Ok(units.iter().map(|unit| unit.as_ref().and_then(|_| points.next())).collect())
}

fn settled(units_nd: &[f32], dim: usize, start: Vec<[f32; 2]>) -> io::Result<Vec<[f32; 2]>> {
    let count = start.len();
    let Some(start) = scaled(&start).filter(|_| count >= FEWEST) else { return Ok(start) };
    let perplexity = PERPLEXITY.min((count - 1) / REACH);
    // pools of its own: whoever searches meanwhile does not queue behind it
    let near = pool(0)?.install(|| nearest(units_nd, dim, REACH * perplexity)).map_err(io::Error::other)?;
    let neighbors: Vec<Vec<Neighbor<f32>>> =
        near.into_iter().map(|near| near.into_iter().map(neighbor).collect()).collect();
    let points = pool(1)?.install(|| {
        let none = vec![(); count];
        let mut descent: tSNE<f32, (), 2> = tSNE::new(&none);
        descent.perplexity(perplexity as f32).epochs(STEPS).initial_embedding(start.as_flattened());
        descent.barnes_hut_with_neighbors(COARSENESS, &neighbors).embedding()
    });
    let points: Vec<[f32; 2]> = points.as_chunks().0.to_vec();
    let is_whole = points.len() == count && points.as_flattened().iter().all(|value| value.is_finite());
    Ok(if is_whole { points } else { start })
}

fn pool(threads: usize) -> io::Result<ThreadPool> {
    ThreadPoolBuilder::new().num_threads(threads).thread_name(|_| "layout".into()).build().map_err(io::Error::other)
}

/// The distance between vectors of length one with such a cosine.
fn neighbor((index, cosine): (u32, f32)) -> Neighbor<f32> {
    Neighbor { index: index as usize, distance: (2.0 - 2.0 * cosine).max(0.0).sqrt() }
}

fn unit(vector: &[f32], dim: usize) -> Option<Vec<f32>> {
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let is_good = vector.len() == dim && length.is_finite() && length > 0.0;
    is_good.then(|| vector.iter().map(|value| (f64::from(*value) / length) as f32).collect())
}

/// The start as small as it has to be; `None`: it has no extent.
fn scaled(start: &[[f32; 2]]) -> Option<Vec<[f32; 2]>> {
    let count = start.len().max(1) as f64;
    let spread = |axis: usize| {
        let values = start.iter().map(|place| f64::from(place[axis]));
        let mean = values.clone().sum::<f64>() / count;
        (values.map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt()
    };
    let scale = SPREAD / spread(0).max(spread(1));
    scale.is_finite().then(|| start.iter().map(|place| place.map(|value| (f64::from(value) * scale) as f32)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plane;
    use std::collections::BTreeSet;

    const GROUPS: usize = 12;

    /// Groups of vectors, each around a direction of its own, in no order.
    fn groups(count: usize) -> Vec<Vec<f32>> {
        let wave = |at: usize, step: f64| (at as f64 * step).sin() as f32;
        let of = |at: usize| {
            let group = at * 5 % GROUPS;
            (0..20).map(|number| wave(group * 20 + number + 1, 1.7) + 0.4 * wave(at * 20 + number, 2.3)).collect()
        };
        (0..count).map(of).collect()
    }

    fn laid(vectors: &[Vec<f32>]) -> Vec<[f32; 2]> {
        let plane = Plane::through(vectors);
        let start: Vec<[f32; 2]> = vectors.iter().map(|vector| plane.place(vector)).collect();
        neighbours(vectors, &start).unwrap().into_iter().map(|point| point.unwrap()).collect()
    }

    /// Share of the ten nearest vectors that are among the ten nearest points.
    fn kept(vectors: &[Vec<f32>], points: &[[f32; 2]]) -> f64 {
        let nearest = |distance: &dyn Fn(usize, usize) -> f64, of: usize| {
            let mut others: Vec<usize> = (0..points.len()).filter(|other| *other != of).collect();
            others.sort_by(|a, b| distance(of, *a).total_cmp(&distance(of, *b)));
            others.into_iter().take(10).collect::<BTreeSet<_>>()
        };
        let units: Vec<Vec<f32>> = vectors.iter().map(|vector| unit(vector, vector.len()).unwrap()).collect();
        let squares = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let share = |of: usize| {
            let among_vectors = nearest(&|a, b| squares(&units[a], &units[b]), of);
            among_vectors.intersection(&nearest(&|a, b| squares(&points[a], &points[b]), of)).count() as f64 / 10.0
        };
        (0..points.len()).map(share).sum::<f64>() / points.len() as f64
    }

    #[test]
    fn neighbours_stay_neighbours_and_the_same_vectors_give_the_same_points() {
        let vectors = groups(600);
        let plane = Plane::through(&vectors);
        let before: Vec<[f32; 2]> = vectors.iter().map(|vector| plane.place(vector)).collect();
        let points = laid(&vectors);
        let [before, after] = [kept(&vectors, &before), kept(&vectors, &points)];
        assert!(after > 0.7 && after > before + 0.15, "{before} in the plane of the largest variance, {after} here");
        assert_eq!(laid(&vectors), points);
        // the length of a vector says nothing
        let mut longer = vectors.clone();
        longer.iter_mut().step_by(3).flatten().for_each(|value| *value *= 4.0);
        let start: Vec<[f32; 2]> = vectors.iter().map(|vector| plane.place(vector)).collect();
        let points: Vec<_> = neighbours(&longer, &start).unwrap().into_iter().flatten().collect();
        assert!((kept(&vectors, &points) - after).abs() < 0.05, "{after} {}", kept(&vectors, &points));
    }

    #[test]
    fn what_has_no_direction_has_no_point() {
        let mut vectors = groups(60);
        vectors[7] = vec![0.0; 20];
        vectors[9] = vec![1.0; 19];
        vectors[11][3] = f32::NAN;
        let start: Vec<[f32; 2]> = (0..60).map(|at| [at as f32, (at * at % 7) as f32]).collect();
        let points = neighbours(&vectors, &start).unwrap();
        let without: Vec<usize> = (0..60).filter(|at| points[*at].is_none()).collect();
        assert_eq!(without, [7, 9, 11]);
        assert!(points.iter().flatten().flatten().all(|value| value.is_finite()));
    }

    #[test]
    fn few_vectors_and_equal_ones_are_points_too() {
        for count in [0, 1, 7, 8, 9, 40] {
            assert_eq!(laid(&groups(count)).len(), count);
        }
        // all in one place, and many copies of a few
        assert_eq!(laid(&vec![vec![1.0, 2.0, 3.0]; 50]), [[0.0; 2]; 50]);
        let copies: Vec<Vec<f32>> = (0..300).map(|at| groups(GROUPS)[at % 3].clone()).collect();
        let points = laid(&copies);
        assert!(points.as_flattened().iter().all(|value| value.is_finite()));
    }
}
