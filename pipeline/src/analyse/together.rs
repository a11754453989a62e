//! Which tags go together (the paper's Figure 11): rows of the matrix of co-occurrence, their two principal components, and
//! clusters of them. Pure.

use plane::Plane;
use serde::Serialize;

use super::tags::Together;

/// Clusters at most.
const MOST_CLUSTERS: usize = 6;
/// Tags of a cluster on average, at least.
const TAGS_OF_A_CLUSTER: usize = 3;
/// Rounds of k-means; it ends earlier when nothing moves.
const ROUNDS: usize = 100;

/// A tag in the plane.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Placed {
    /// The tag.
    pub tag: String,
    /// Images that have it.
    pub images: u64,
    /// Its cluster, from 0; of the cluster's tags the most frequent one comes first.
    pub cluster: usize,
    /// Along the two principal components.
    pub place: [f32; 2],
}

/// Tags in a plane.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TagPlane {
    /// The most frequent first.
    pub tags: Vec<Placed>,
    /// Share of the variance along each component.
    pub shares: [f64; 2],
}

/// Places tags by the images that they share with others: near each other are those that go with the same ones. Two tags
/// that are always together have 1, never 0 (Ochiai's coefficient, n(a, b) / √(n(a) n(b))).
pub fn place(together: &Together) -> TagPlane {
    let images = |at: usize| together.tags[at].1 as f64;
    let row = |(one, both): (usize, &Vec<u64>)| -> Vec<f32> {
        let share = |(other, both): (usize, &u64)| (*both as f64 / (images(one) * images(other)).sqrt()) as f32;
        both.iter().enumerate().map(share).collect()
    };
    let rows: Vec<Vec<f32>> = together.both.iter().enumerate().map(row).collect();
    let plane = Plane::through(&rows);
    let clusters = clusters(&rows, (rows.len() / TAGS_OF_A_CLUSTER).clamp(1, MOST_CLUSTERS));
    let placed = together.tags.iter().zip(&rows).zip(clusters).map(|(((tag, images), row), cluster)| Placed {
        tag: tag.clone(),
        images: *images,
        cluster,
        place: plane.place(row),
    });
    TagPlane { tags: placed.collect(), shares: plane.shares }
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// k-means that begins with the first row and always adds the one that is furthest from those chosen: nothing is drawn by
/// chance. Clusters are numbered in the order of their first rows.
fn clusters(rows: &[Vec<f32>], number: usize) -> Vec<usize> {
    let Some(first) = rows.first() else { return Vec::new() };
    let mut centres = vec![first.clone()];
    while centres.len() < number.min(rows.len()) {
        let away = |row: &Vec<f32>| centres.iter().map(|centre| distance(row, centre)).fold(f64::INFINITY, f64::min);
        let furthest = rows.iter().rev().max_by(|a, b| away(a).total_cmp(&away(b)));
        centres.extend(furthest.cloned());
    }
    let nearest = |row: &Vec<f32>, centres: &[Vec<f32>]| {
        let by_distance =
            (0..centres.len()).min_by(|a, b| distance(row, &centres[*a]).total_cmp(&distance(row, &centres[*b])));
        by_distance.unwrap_or(0)
    };
    let mut of: Vec<usize> = rows.iter().map(|row| nearest(row, &centres)).collect();
    for _ in 0..ROUNDS {
        for (cluster, centre) in centres.iter_mut().enumerate() {
            let members: Vec<&Vec<f32>> =
                rows.iter().zip(&of).filter(|(_, c)| **c == cluster).map(|(row, _)| row).collect();
            for (at, number) in centre.iter_mut().enumerate().filter(|_| !members.is_empty()) {
                *number = members.iter().map(|row| row[at]).sum::<f32>() / members.len() as f32;
            }
        }
        let moved: Vec<usize> = rows.iter().map(|row| nearest(row, &centres)).collect();
        if moved == of {
            break;
        }
        of = moved;
    }
    let mut names = Vec::new();
    of.into_iter()
        .map(|cluster| {
            names.iter().position(|known| *known == cluster).unwrap_or_else(|| {
                names.push(cluster);
                names.len() - 1
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two worlds that never meet, of three tags each.
    #[test]
    fn tags_of_one_world_are_one_cluster_and_lie_side_by_side() {
        let tags = ["water", "beach", "pier", "track", "barn", "field"].map(|tag| (tag.to_owned(), 10)).to_vec();
        let both = (0..6).map(|a| {
            (0..6)
                .map(|b| {
                    if a == b {
                        10
                    } else if a / 3 == b / 3 {
                        7
                    } else {
                        0
                    }
                })
                .collect()
        });
        let plane = place(&Together { tags, both: both.collect() });
        let clusters: Vec<usize> = plane.tags.iter().map(|placed| placed.cluster).collect();
        assert_eq!(clusters, [0, 0, 0, 1, 1, 1]);
        let x: Vec<f32> = plane.tags.iter().map(|placed| placed.place[0]).collect();
        assert!(x[..3].iter().all(|x| x.signum() != plane.tags[3].place[0].signum()), "{x:?}");
        assert!(plane.shares[0] > 0.9, "{:?}", plane.shares);
    }

    #[test]
    fn without_tags_there_is_an_empty_plane() {
        assert_eq!(place(&Together::default()), TagPlane::default());
    }
}
