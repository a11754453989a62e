//! Against NumPy (`tests/goldens/make_rerank_goldens.py`), ties included.

use serde_json::Value;

use super::*;
use crate::recall::tile::TILE;
use crate::recall::{Directions, LOST, Pairs, Queries, Room, Scores, evaluate_scores};

const GOLDEN: &str = include_str!("../../../tests/goldens/rerank.json");

/// A matrix of scores; `None` is not compared.
#[derive(Clone)]
struct Matrix(Vec<Vec<Option<f64>>>);

impl Matrix {
    fn of(value: &Value) -> Matrix {
        let row = |row: &Value| row.as_array().unwrap().iter().map(Value::as_f64).collect();
        Matrix(value.as_array().unwrap().iter().map(row).collect())
    }
}

impl Scores for Matrix {
    fn shape(&self) -> (usize, usize) {
        (self.0.len(), self.0[0].len())
    }

    fn fill(&self, images: &[u32], captions: &[u32], _: &mut Room, scores: &mut [f32]) {
        for (row, &image) in scores.chunks_exact_mut(TILE).zip(images) {
            for (score, &caption) in row.iter_mut().zip(captions) {
                *score = self.0[image as usize][caption as usize].map_or(LOST, |score| score as f32);
            }
        }
    }
}

/// All scores, image by image.
fn all(scores: &dyn Scores) -> Vec<Vec<f32>> {
    let (images, captions) = scores.shape();
    let numbers = |count: usize| (0..count as u32).collect::<Vec<u32>>();
    let mut tile = vec![0.0; TILE * TILE];
    scores.fill(&numbers(images), &numbers(captions), &mut Room::default(), &mut tile);
    tile.chunks_exact(TILE).take(images).map(|row| row[..captions].to_vec()).collect()
}

fn transposed<T: Copy>(rows: &[Vec<T>]) -> Vec<Vec<T>> {
    (0..rows[0].len()).map(|column| rows.iter().map(|row| row[column]).collect()).collect()
}

/// Rows whose answers are ordered alike, equal ones by number.
fn check_order(ours: &[Vec<f32>], wanted: &[Vec<f64>]) {
    for (query, (ours, wanted)) in ours.iter().zip(wanted).enumerate() {
        let order = |score: &dyn Fn(usize) -> f64| {
            let mut order: Vec<usize> = (0..wanted.len()).collect();
            order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
            order
        };
        assert_eq!(order(&|i| f64::from(ours[i])), order(&|i| wanted[i]), "query {query}");
    }
}

fn golden() -> (Value, Matrix) {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let scores = Matrix::of(&golden["scores"]);
    (golden, scores)
}

#[test]
fn galrs_rerank_is_numpys() {
    let (golden, scores) = golden();
    let candidates = golden["candidates"].as_u64().unwrap() as usize;
    let settings = MultivariateSettings { candidates, ..MultivariateSettings::default() };
    for (by, name) in [(Queries::Images, "images"), (Queries::Captions, "captions")] {
        let wanted = Matrix::of(&golden["multivariate"][name]);
        let ours = all(&Multivariate::new(&scores, by, settings));
        for (image, row) in ours.iter().enumerate() {
            for (caption, &score) in row.iter().enumerate() {
                let before = scores.0[image][caption].unwrap();
                match wanted.0[image][caption] {
                    // candidates lie above the highest score, which is 1
                    Some(wanted) => assert!((f64::from(score) - 2.0 - wanted).abs() < 1e-6, "{image} {caption}"),
                    None => assert_eq!(f64::from(score), before, "others stay"),
                }
            }
        }
    }
}

#[test]
fn the_dual_softmax_orders_as_numpys() {
    let (golden, scores) = golden();
    let temperatures = (golden["temperatures"][0].as_f64().unwrap(), golden["temperatures"][1].as_f64().unwrap());
    let wanted: Vec<Vec<f64>> =
        Matrix::of(&golden["dual_softmax"]).0.into_iter().map(|row| row.into_iter().flatten().collect()).collect();
    check_order(&all(&DualSoftmax::new(&scores, Queries::Images, temperatures)), &wanted);
    let ours = all(&DualSoftmax::new(&scores, Queries::Captions, temperatures));
    check_order(&transposed(&ours), &transposed(&wanted));
    // what would be 0 in f32 keeps its order
    let sharp = all(&DualSoftmax::new(&scores, Queries::Images, (1e-3, 1e-3)));
    assert!(sharp.iter().flatten().all(|score| score.is_finite()));
    let best = |row: &[f32]| row.iter().copied().fold(f32::MIN, f32::max);
    assert!(sharp.iter().all(|row| row.iter().filter(|score| **score == best(row)).count() < row.len()));
}

#[test]
fn neighbours_in_common_are_numpys() {
    let (golden, scores) = golden();
    let neighbours = golden["neighbours"].as_u64().unwrap() as usize;
    let settings = ReciprocalSettings { neighbours, ..ReciprocalSettings::default() };
    for (by, name) in [(Queries::Images, "images"), (Queries::Captions, "captions")] {
        let wanted = Matrix::of(&golden["reciprocal"][name]);
        for (ours, wanted) in
            all(&Reciprocal::new(&scores, by, settings)).iter().flatten().zip(wanted.0.iter().flatten())
        {
            assert!((f64::from(*ours) - wanted.unwrap()).abs() < 1e-6, "{ours} {wanted:?}");
        }
    }
}

#[test]
fn scores_below_0_give_no_share_and_take_none() {
    let matrix = Matrix(vec![vec![Some(0.5), Some(0.6)], vec![Some(-0.499_999), Some(0.1)]]);
    let settings = MultivariateSettings { share: 1.0, reverse: 0.0, ..MultivariateSettings::default() };
    let ours = all(&Multivariate::new(&matrix, Queries::Images, settings));
    let (first, second) = ((-0.05f64).exp(), (-0.1f64).exp());
    let wanted = [[1.0 + second, 0.6 / 0.7 + first], [second, 0.1 / 0.7 + first]];
    for (ours, wanted) in ours.iter().flatten().zip(wanted.as_flattened()) {
        // candidates lie above the highest score
        assert!((f64::from(*ours) - 1.6 - wanted).abs() < 1e-6, "{ours} {wanted}");
    }
}

/// However many there are, and in whatever tile they lie.
#[test]
fn of_equal_answers_all_are_candidates_or_none_is() {
    let captions = 2 * TILE;
    let score = |caption: usize| if caption < 3 { 0.9 - 0.1 * caption as f64 } else { 0.25 };
    let matrix = Matrix(vec![(0..captions).map(|caption| Some(score(caption))).collect()]);
    for (candidates, wanted) in [(2, 2), (3, 3), (10, 3), (captions, captions)] {
        let settings = MultivariateSettings { candidates, ..MultivariateSettings::default() };
        let reranked = Multivariate::new(&matrix, Queries::Images, settings);
        let mut scores = vec![0.0; TILE * TILE];
        let mut moved = Vec::new();
        for first in [0, TILE] {
            let numbers: Vec<u32> = (first as u32..(first + TILE) as u32).collect();
            reranked.fill(&[0], &numbers, &mut Room::default(), &mut scores);
            moved.extend(scores[..TILE].iter().copied().filter(|score| *score > 1.0));
        }
        assert_eq!(moved.len(), wanted);
        assert!(moved.get(3..).is_none_or(|equal| equal.iter().all(|score| *score == moved[3])), "they tie");
    }
}

/// Several tiles, both ways, against the same done in one.
#[test]
fn nothing_depends_on_tiles_and_the_lost_stay_lost() {
    let (images, captions) = (TILE + 30, TILE + 70);
    let value = |i: usize, c: usize| ((i * 7919 + c * 104_729) % 1013) as f64 / 1013.0 - 0.2;
    let score = |i: usize, c: usize| (i != 5).then(|| value(i, c));
    let matrix = Matrix((0..images).map(|i| (0..captions).map(|c| score(i, c)).collect()).collect());
    let settings = MultivariateSettings { candidates: 10, ..MultivariateSettings::default() };
    let both = |by| Multivariate::new(&matrix, by, settings);
    let (of_images, of_captions) = (both(Queries::Images), both(Queries::Captions));
    // brute force for one query that lies behind the first tile
    let (query, mut row) = (TILE + 3, (0..captions).collect::<Vec<usize>>());
    row.sort_by(|&a, &b| value(query, b).total_cmp(&value(query, a)));
    let (mut tile, mut room) = (vec![0.0; TILE * TILE], Room::default());
    let scored = |tile: &[f32], at: usize| tile[at];
    of_images.fill(&[query as u32, 5], &[row[0] as u32, row[9] as u32, row[10] as u32], &mut room, &mut tile);
    assert!(scored(&tile, 0) > scored(&tile, 2) && scored(&tile, 1) > scored(&tile, 2), "ten candidates come first");
    assert_eq!(f64::from(scored(&tile, 2)), f64::from(value(query, row[10]) as f32));
    assert_eq!(scored(&tile, TILE), LOST);
    let own: Vec<u32> = (0..captions as u32).map(|c| c % images as u32).collect();
    let keys = |count: usize, from: u64| (from..from + count as u64).collect::<Vec<u64>>();
    let (image_keys_n, caption_keys_m) = (keys(images, 1), keys(captions, 1 << 30));
    let pairs = Pairs { own_image_m: &own, image_keys_n: &image_keys_n, caption_keys_m: &caption_keys_m };
    let directions = Directions { text_to_image: &of_captions, image_to_text: &of_images };
    let one = evaluate_scores(directions, pairs, choices::Protocol::Standard, 64).unwrap();
    let other = evaluate_scores(directions, pairs, choices::Protocol::Standard, 1000).unwrap();
    assert_eq!(one.ranks, other.ranks);
}
