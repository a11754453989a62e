use choices::Protocol;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::{Cosines, Directions, Outcome, Pairs, QueryRanks, evaluate_scores};
use super::*;

const DIM: usize = 16;

/// Images with up to five vectors each, and captions that belong to them.
struct World {
    counts: Vec<usize>,
    vectors: Vec<Vec<f32>>,
    captions: Vec<f32>,
    own: Vec<u32>,
}

/// Vectors of ±1/4: every score is exact in any order of summation.
fn vector(random: &mut ChaCha8Rng) -> Vec<f32> {
    (0..DIM).map(|_| if random.random() { 0.25 } else { -0.25 }).collect()
}

fn world(images: usize, captions: usize, seed: u64) -> World {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let counts: Vec<usize> = (0..images).map(|image| if image % 7 == 3 { 0 } else { 1 + image % 5 }).collect();
    let vectors = (0..counts.iter().sum()).map(|_| vector(&mut random)).collect();
    let own = (0..captions).map(|_| random.random_range(0..images as u32)).collect();
    World { counts, vectors, captions: (0..captions).flat_map(|_| vector(&mut random)).collect(), own }
}

fn keys(count: usize, seed: u64) -> Vec<u64> {
    (0..count as u64).map(|key| key + seed).collect()
}

fn ranked(both: &dyn Scores, images: usize, own: &[u32], block: usize) -> Outcome {
    let (image_keys_n, caption_keys_m) = (keys(images, 1 << 20), keys(own.len(), 1 << 30));
    let pairs = Pairs { own_image_m: own, image_keys_n: &image_keys_n, caption_keys_m: &caption_keys_m };
    let directions = Directions { text_to_image: both, image_to_text: both };
    evaluate_scores(directions, pairs, Protocol::Standard, block).unwrap()
}

impl World {
    fn best(&self) -> (Vec<f32>, Vec<usize>) {
        (self.vectors.concat(), self.counts.clone())
    }

    fn score(&self, image: usize, caption: usize) -> Option<f32> {
        let start: usize = self.counts[..image].iter().sum();
        let own = &self.vectors[start..start + self.counts[image]];
        let text = &self.captions[caption * DIM..][..DIM];
        own.iter().map(|v| v.iter().zip(text).map(|(a, b)| a * b).sum::<f32>()).max_by(f32::total_cmp)
    }
}

#[test]
fn the_best_variant_is_that_of_brute_force() {
    let world = world(90, 240, 3);
    let (vectors, counts) = world.best();
    let scores = Variants::new(Combine::Max, (&vectors, &counts), &world.captions, DIM).unwrap();
    let outcome = ranked(&scores, 90, &world.own, 64);
    for (caption, rank) in &outcome.ranks.captions {
        let own = world.own[*caption as usize] as usize;
        let (greater, ties) = match world.score(own, *caption as usize) {
            None => (89, 0),
            Some(best) => {
                let others = (0..90).filter(|image| *image != own);
                let others: Vec<f32> = others.filter_map(|image| world.score(image, *caption as usize)).collect();
                let greater = others.iter().filter(|other| **other > best).count();
                (greater, others.iter().filter(|other| **other == best).count())
            }
        };
        assert_eq!((rank.optimistic(), rank.pessimistic()), (greater as u32, (greater + ties) as u32), "{caption}");
    }
    for block in [1, 7, 128, 1000] {
        assert_eq!(ranked(&scores, 90, &world.own, block).ranks, outcome.ranks, "{block} images at a time");
    }
}

#[test]
fn equal_variants_are_one_and_their_order_says_nothing() {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let world = world(50, 120, 5);
    let images: Vec<Vec<f32>> = (0..50).map(|_| vector(&mut random)).collect();
    let flat = images.concat();
    let cosines = Cosines::new(&flat, &world.captions, DIM).unwrap();
    let five: Vec<f32> = images.iter().flat_map(|image| image.repeat(5)).collect();
    let five = Variants::new(Combine::Max, (&five, &[5; 50]), &world.captions, DIM).unwrap();
    let ranks = |scores: &dyn Scores| ranked(scores, 50, &world.own, 64).ranks;
    assert_eq!(ranks(&five), ranks(&cosines));
    let repeated: Vec<f32> = images.iter().flat_map(|image| image.repeat(5)).collect();
    let mean = Variants::new(Combine::Mean, (&repeated, &[5; 50]), &world.captions, DIM).unwrap();
    assert_eq!(ranks(&mean), ranks(&cosines));

    let (vectors, counts) = world.best();
    let mut start = 0;
    let turned = counts.iter().flat_map(|count| {
        let mut own = world.vectors[start..start + count].to_vec();
        start += count;
        own.reverse();
        own.concat()
    });
    let turned: Vec<f32> = turned.collect();
    let one = Variants::new(Combine::Max, (&vectors, &counts), &world.captions, DIM).unwrap();
    let other = Variants::new(Combine::Max, (&turned, &counts), &world.captions, DIM).unwrap();
    assert_eq!(ranks(&one), ranks(&other));
}

#[test]
fn the_mean_of_variants_is_that_of_brute_force() {
    let world = world(50, 120, 6);
    let (vectors, counts) = world.best();
    let scores = Variants::new(Combine::Mean, (&vectors, &counts), &world.captions, DIM).unwrap();
    let (mut room, mut tile) = (Room::default(), vec![0.0; TILE * TILE]);
    scores.fill(&[4, 3, 1], &[7], &mut room, &mut tile);
    let mean = |image: usize| {
        let start: usize = counts[..image].iter().sum();
        let text = &world.captions[7 * DIM..][..DIM];
        let own = &world.vectors[start..start + counts[image]];
        own.iter().flat_map(|v| v.iter().zip(text).map(|(a, b)| a * b)).sum::<f32>() / counts[image] as f32
    };
    assert_eq!((tile[0], tile[TILE], tile[2 * TILE]), (mean(4), LOST, mean(1)));
}

#[test]
fn what_has_no_text_has_lost_both_ways() {
    let world = world(40, 100, 7);
    let (vectors, counts) = world.best();
    let scores = Variants::new(Combine::Max, (&vectors, &counts), &world.captions, DIM).unwrap();
    let QueryRanks { images, captions } = ranked(&scores, 40, &world.own, 64).ranks;
    let lost = |image: u32| counts[image as usize] == 0;
    assert!(images.iter().any(|(image, _)| lost(*image)), "it stays a query");
    for (image, rank) in images.iter().filter(|(image, _)| lost(*image)) {
        assert_eq!((rank.optimistic(), rank.pessimistic()), (99, 99), "image {image}");
    }
    for (caption, rank) in captions.iter().filter(|(caption, _)| lost(world.own[*caption as usize])) {
        assert_eq!((rank.optimistic(), rank.pessimistic()), (39, 39), "caption {caption}");
    }
}

#[test]
fn standard_scores_have_mean_0_and_deviation_1() {
    let (images, captions) = (700, 610);
    let world = world(images, captions, 11);
    let (vectors, counts) = world.best();
    let scores = Variants::new(Combine::Max, (&vectors, &counts), &world.captions, DIM).unwrap();
    for by in [Queries::Images, Queries::Captions] {
        let standard = Standardised::new(&scores, by);
        let (mut room, mut tile) = (Room::default(), vec![0.0; TILE * TILE]);
        // 700 images are two tiles: one query is collected over both
        let mut of_query = Vec::new();
        for start in (0..if by == Queries::Captions { images } else { captions }).step_by(500) {
            let answers: Vec<u32> =
                (start as u32..(start + 500).min(if by == Queries::Captions { images } else { captions }) as u32)
                    .collect();
            match by {
                Queries::Captions => standard.fill(&answers, &[17], &mut room, &mut tile),
                Queries::Images => standard.fill(&[18], &answers, &mut room, &mut tile),
            }
            of_query.extend((0..answers.len()).map(|answer| match by {
                Queries::Captions => tile[answer * TILE],
                Queries::Images => tile[answer],
            }));
        }
        let found: Vec<f64> = of_query.iter().filter(|score| **score > LOST).map(|score| f64::from(*score)).collect();
        assert_eq!(found.len() < of_query.len(), by == Queries::Captions, "images without a text stay lost");
        let mean = found.iter().sum::<f64>() / found.len() as f64;
        let deviation = (found.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / found.len() as f64).sqrt();
        assert!(mean.abs() < 1e-5 && (deviation - 1.0).abs() < 1e-5, "{by:?}: {mean} {deviation}");
    }
}

#[test]
fn shares_of_nothing_and_of_all_are_the_models_alone() {
    let mut random = ChaCha8Rng::seed_from_u64(13);
    let world = world(60, 150, 13);
    let (vectors, counts) = world.best();
    let texts = Variants::new(Combine::Max, (&vectors, &counts), &world.captions, DIM).unwrap();
    let pixels: Vec<f32> = (0..60).flat_map(|_| vector(&mut random)).collect();
    let cosines = Cosines::new(&pixels, &world.captions, DIM).unwrap();
    let (one, other) = (Standardised::new(&texts, Queries::Captions), Standardised::new(&cosines, Queries::Captions));
    let of = |scores: &dyn Scores| ranked(scores, 60, &world.own, 64).ranks.captions;
    let sum = |share| of(&WeightedSum { one: &one, other: &other, share });
    assert_eq!(sum(1.0), of(&texts), "the order of a query's answers is that of the plain scores");
    assert_eq!(sum(0.0), of(&cosines));
    assert_ne!(sum(0.5), sum(0.0));
}

#[test]
fn numbers_that_do_not_add_up_are_named() {
    let problem = |vectors: &[f32], counts: &[usize]| {
        Variants::new(Combine::Max, (vectors, counts), &[1.0, 0.0], 2).err().unwrap()
    };
    assert!(problem(&[1.0, 0.0], &[2]).to_string().contains("vector_vd"));
    assert!(problem(&[f32::NAN, 0.0], &[1]).to_string().contains("variant 0"));
    assert!(problem(&[0.5, 0.0], &[1]).to_string().contains("norm 0.5"));
}
