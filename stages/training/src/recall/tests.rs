use choices::Protocol;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Query, rank at t = 0, rank at t = 1.
type Reading = (u32, u32, u32);

struct Owned {
    image_nd: Vec<f32>,
    text_md: Vec<f32>,
    dim: usize,
    own_image_m: Vec<u32>,
    image_keys_n: Vec<u64>,
    caption_keys_m: Vec<u64>,
}

impl Owned {
    fn gallery(&self) -> Gallery<'_> {
        Gallery {
            image_nd: &self.image_nd,
            text_md: &self.text_md,
            dim: self.dim,
            own_image_m: &self.own_image_m,
            image_keys_n: &self.image_keys_n,
            caption_keys_m: &self.caption_keys_m,
        }
    }

    fn score(&self, image: usize, caption: usize) -> f32 {
        let image = &self.image_nd[image * self.dim..][..self.dim];
        let text = &self.text_md[caption * self.dim..][..self.dim];
        image.iter().zip(text).map(|(a, b)| a * b).sum()
    }
}

/// Embeddings of ±1/4 in 16 dimensions: every score is exact in any order of summation, and many are equal.
fn grid(images: usize, captions: usize, seed: u64) -> Owned {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let dim = 16;
    let mut embed = |keys: &[u64]| {
        let mut of_key = std::collections::BTreeMap::new();
        let rows = keys.iter().flat_map(|&key| {
            of_key
                .entry(key)
                .or_insert_with(|| (0..dim).map(|_| if rng.random() { 0.25 } else { -0.25 }).collect::<Vec<f32>>())
                .clone()
        });
        rows.collect::<Vec<f32>>()
    };
    let mut keys = ChaCha8Rng::seed_from_u64(seed + 1);
    let image_keys_n: Vec<u64> = (0..images).map(|_| keys.random_range(0..images as u64 * 3)).collect();
    let caption_keys_m: Vec<u64> = (0..captions).map(|_| keys.random_range(0..captions as u64)).collect();
    let own_image_m = (0..captions).map(|_| keys.random_range(0..images as u32)).collect();
    Owned {
        image_nd: embed(&image_keys_n),
        text_md: embed(&caption_keys_m),
        dim,
        own_image_m,
        image_keys_n,
        caption_keys_m,
    }
}

/// The definition, from the full matrix: for each query (greater, ties) of the positive with the smallest count.
fn naive(data: &Owned, positive: impl Fn(usize, usize) -> bool) -> (Vec<Reading>, Vec<Reading>) {
    let (images, captions) = (data.image_keys_n.len(), data.own_image_m.len());
    let count = |query: u32, answers: usize, score: &dyn Fn(usize) -> f32, right: &dyn Fn(usize) -> bool| {
        let rank = |own: usize| {
            let greater = (0..answers).filter(|&a| score(a) > score(own)).count() as u32;
            let ties = (0..answers).filter(|&a| !right(a) && score(a) == score(own)).count() as u32;
            (greater, ties)
        };
        let own = (0..answers).filter(|&a| right(a));
        let optimistic = own.clone().map(|own| rank(own).0).min();
        let pessimistic = own.map(|own| rank(own).0 + rank(own).1).min();
        optimistic.zip(pessimistic).map(|(o, p)| (query, o, p))
    };
    let by_image =
        (0..images).filter_map(|i| count(i as u32, captions, &|c| data.score(i, c), &|c| positive(i, c))).collect();
    let by_caption =
        (0..captions).filter_map(|c| count(c as u32, images, &|i| data.score(i, c), &|i| positive(i, c))).collect();
    (by_image, by_caption)
}

fn readings(ranks: &[(u32, Rank)]) -> Vec<Reading> {
    ranks.iter().map(|&(query, rank)| (query, rank.optimistic(), rank.pessimistic())).collect()
}

#[test]
fn equals_the_full_matrix_at_every_block_size() {
    let data = grid(150, 420, 3);
    let own = naive(&data, |i, c| data.own_image_m[c] as usize == i);
    let in_group = |i: usize, c: usize| {
        (0..420).any(|other| {
            data.caption_keys_m[other] == data.caption_keys_m[c]
                && data.image_keys_n[data.own_image_m[other] as usize] == data.image_keys_n[i]
        })
    };
    let (group_i2t, group_t2i) = naive(&data, in_group);
    for block_rows in [1, 7, 128, 150] {
        let outcome = evaluate(&data.gallery(), Protocol::Standard, block_rows).unwrap();
        assert_eq!(readings(&outcome.ranks.images), own.0, "block of {block_rows}");
        assert_eq!(readings(&outcome.ranks.captions), own.1, "block of {block_rows}");
        let at_5 =
            |ranks: &[Reading]| 100.0 * ranks.iter().filter(|&&(_, _, r)| r < 5).count() as f64 / ranks.len() as f64;
        assert_eq!(outcome.report.group.pessimistic.i2t.at_5, at_5(&group_i2t));
        assert_eq!(outcome.report.group.pessimistic.t2i.at_5, at_5(&group_t2i));
        assert!(outcome.report.group.pessimistic.mean_recall > outcome.report.exact.pessimistic.mean_recall);
    }
}

#[test]
fn dedup_merges_equal_rows_and_counts_any_positive() {
    let data = grid(60, 200, 11);
    let outcome = evaluate(&data.gallery(), Protocol::Dedup, 7).unwrap();
    // The same by hand: keep the first of every key, and join what belonged to any copy.
    let firsts = |keys: &[u64]| (0..keys.len()).filter(|&k| !keys[..k].contains(&keys[k])).collect::<Vec<_>>();
    let (images, captions) = (firsts(&data.image_keys_n), firsts(&data.caption_keys_m));
    let merged = Owned {
        image_nd: images.iter().flat_map(|&i| data.image_nd[i * 16..][..16].to_vec()).collect(),
        text_md: captions.iter().flat_map(|&c| data.text_md[c * 16..][..16].to_vec()).collect(),
        dim: 16,
        own_image_m: vec![0; captions.len()],
        image_keys_n: images.iter().map(|&i| data.image_keys_n[i]).collect(),
        caption_keys_m: captions.iter().map(|&c| data.caption_keys_m[c]).collect(),
    };
    let (i2t, t2i) = naive(&merged, |i, c| {
        (0..200).any(|other| {
            data.caption_keys_m[other] == merged.caption_keys_m[c]
                && data.image_keys_n[data.own_image_m[other] as usize] == merged.image_keys_n[i]
        })
    });
    let places =
        |ranks: &[(u32, Rank)]| ranks.iter().map(|r| (r.1.optimistic(), r.1.pessimistic())).collect::<Vec<_>>();
    let expected = |ranks: Vec<Reading>| ranks.into_iter().map(|(_, o, p)| (o, p)).collect::<Vec<_>>();
    assert_eq!(places(&outcome.ranks.images), expected(i2t));
    assert_eq!(places(&outcome.ranks.captions), expected(t2i));
    assert_eq!((outcome.report.image_gallery, outcome.report.caption_gallery), (images.len(), captions.len()));
}

#[test]
fn a_constant_model_is_perfect_at_t_0_and_at_chance_at_t_1() {
    let (images, captions) = (400, 800);
    let data = Owned {
        image_nd: [1.0, 0.0].repeat(images),
        text_md: [1.0, 0.0].repeat(captions),
        dim: 2,
        own_image_m: (0..captions as u32).map(|c| c / 2).collect(),
        image_keys_n: (0..images as u64).collect(),
        caption_keys_m: (0..captions as u64).collect(),
    };
    let report = evaluate(&data.gallery(), Protocol::Standard, DEFAULT_BLOCK_ROWS).unwrap().report;
    assert_eq!(report.exact.optimistic.i2t.at_1, 100.0);
    assert_eq!(report.exact.optimistic.t2i.at_1, 100.0);
    assert_eq!(report.exact.pessimistic.mean_recall, 0.0);
    assert_eq!(report.exact.pessimistic.t2i.median_rank, images as f64);
    assert_eq!(report.t2i_ties.other_percent, 100.0);
    assert!(!report.other_ties_are_harmless());
}

#[test]
fn twins_tie_to_the_last_bit_wherever_they_lie() {
    // 900 images in 3 copies each, 300 rows apart: copies fall into other tiles and other places of a tile.
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (distinct, copies, dim) = (300, 3, 37);
    let mut unit = || {
        let row: Vec<f32> = (0..dim).map(|_| rng.random::<f32>() - 0.5).collect();
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.into_iter().map(|v| v / norm).collect::<Vec<f32>>()
    };
    let embeddings: Vec<f32> = (0..distinct).flat_map(|_| unit()).collect();
    let rows = distinct * copies;
    let keys: Vec<u64> = (0..rows).map(|r| (r % distinct) as u64).collect();
    let data = Owned {
        image_nd: embeddings.repeat(copies),
        text_md: embeddings.repeat(copies),
        dim,
        own_image_m: (0..rows as u32).collect(),
        image_keys_n: keys.clone(),
        caption_keys_m: keys,
    };
    let outcome = evaluate(&data.gallery(), Protocol::Standard, 100).unwrap();
    let twins_only = Rank { greater: 0, twin_ties: copies as u32 - 1, other_ties: 0 };
    assert!(outcome.ranks.images.iter().chain(&outcome.ranks.captions).all(|&(_, rank)| rank == twins_only));
    // Exact pairs lose their twins at t = 1; groups lose nothing.
    assert_eq!(outcome.report.exact.pessimistic.i2t.at_1, 0.0);
    assert_eq!(outcome.report.i2t_ties.twin_moves_points, 100.0);
    assert_eq!(outcome.report.group.pessimistic.mean_recall, 100.0);
    assert!(outcome.report.other_ties_are_harmless());
    let other_blocks = evaluate(&data.gallery(), Protocol::Standard, 1).unwrap();
    assert_eq!(other_blocks.ranks, outcome.ranks);
}

#[test]
fn chance_is_the_mean_over_models_that_guess() {
    // Vectors drawn anew for every distinct image and caption rank them in an order drawn at random.
    let keys = grid(30, 70, 5);
    for protocol in [Protocol::Standard, Protocol::Dedup] {
        let figures: Vec<[BothWays; 4]> = (0..400)
            .map(|draw| {
                let guess = guessing(&keys, draw);
                let report = evaluate(&guess.gallery(), protocol, DEFAULT_BLOCK_ROWS).unwrap().report;
                [report.exact.pessimistic, report.exact.optimistic, report.group.pessimistic, report.group.optimistic]
            })
            .collect();
        for at in 0..4 {
            let recalls: Vec<f64> = figures.iter().map(|figures| figures[at].mean_recall).collect();
            let mean = recalls.iter().sum::<f64>() / recalls.len() as f64;
            let variance = recalls.iter().map(|recall| (recall - mean).powi(2)).sum::<f64>() / recalls.len() as f64;
            let error = (variance / recalls.len() as f64).sqrt();
            let chance = figures[0][at].chance_mean_recall;
            assert!(
                error < 0.3 && (mean - chance).abs() < 3.0 * error,
                "{protocol:?} {at}: {mean} ± {error}, {chance}"
            );
            assert!(figures.iter().all(|figures| figures[at].chance_mean_recall == chance), "no matter of scores");
        }
    }
}

/// The same images and captions with vectors that say nothing.
fn guessing(of: &Owned, seed: u64) -> Owned {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let dim = 24;
    let mut embed = |keys: &[u64]| {
        let mut of_key = std::collections::BTreeMap::new();
        let rows = keys.iter().flat_map(|&key| {
            let drawn = of_key.entry(key).or_insert_with(|| {
                let row: Vec<f32> = (0..dim).map(|_| rng.random::<f32>() - 0.5).collect();
                let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                row.into_iter().map(|v| v / norm).collect::<Vec<f32>>()
            });
            drawn.clone()
        });
        rows.collect::<Vec<f32>>()
    };
    let (image_nd, text_md) = (embed(&of.image_keys_n), embed(&of.caption_keys_m));
    let Owned { own_image_m, image_keys_n, caption_keys_m, .. } = of;
    Owned {
        image_nd,
        text_md,
        dim,
        own_image_m: own_image_m.clone(),
        image_keys_n: image_keys_n.clone(),
        caption_keys_m: caption_keys_m.clone(),
    }
}

#[test]
fn a_small_gallery_is_half_won_by_guessing() {
    // ten images with a caption each: R@1 0.1, R@5 0.5, R@10 1, both ways
    let data = Owned {
        image_nd: [1.0, 0.0].repeat(10),
        text_md: [1.0, 0.0].repeat(10),
        dim: 2,
        own_image_m: (0..10).collect(),
        image_keys_n: (0..10).collect(),
        caption_keys_m: (0..10).collect(),
    };
    let lost = evaluate(&data.gallery(), Protocol::Standard, 8).unwrap().report.exact.pessimistic;
    assert_eq!(lost.in_words(), "mR 33.33 (chance 53.33)");
    assert!(!lost.exceeds_chance());
    // a single pair is always found
    let one = Owned {
        image_nd: vec![1.0, 0.0],
        text_md: vec![1.0, 0.0],
        own_image_m: vec![0],
        image_keys_n: vec![0],
        caption_keys_m: vec![0],
        ..data
    };
    let found = evaluate(&one.gallery(), Protocol::Standard, 8).unwrap().report.exact.pessimistic;
    assert_eq!(found.in_words(), "mR 100.00 (chance 100.00)");
    assert!(!found.exceeds_chance());
}

#[test]
fn images_without_captions_are_distractors_only() {
    let data = Owned {
        image_nd: vec![1.0, 0.0, 0.0, 1.0, 0.8, 0.6],
        text_md: vec![1.0, 0.0, 0.6, 0.8],
        dim: 2,
        own_image_m: vec![0, 1],
        image_keys_n: vec![1, 2, 3],
        caption_keys_m: vec![1, 2],
    };
    let outcome = evaluate(&data.gallery(), Protocol::Standard, 8).unwrap();
    assert_eq!((outcome.report.image_gallery, outcome.report.image_queries), (3, 2));
    assert_eq!(outcome.ranks.captions[1].1.greater, 1, "the third image outranks the second caption's own");
    assert_eq!(outcome.report.exact.optimistic.t2i.at_1, 50.0);
    assert_eq!(outcome.report.exact.optimistic.t2i.median_rank, 1.5);
}

#[test]
fn bad_rows_are_named() {
    let mut data = grid(20, 40, 1);
    data.text_md[16 * 17 + 3] = f32::NAN;
    let message = evaluate(&data.gallery(), Protocol::Standard, 8).unwrap_err().to_string();
    assert!(message.contains("embedding of caption 17") && message.contains("NaN"), "{message}");
    data.text_md[16 * 17 + 3] = 0.25;
    data.image_nd[16 * 4..16 * 5].fill(0.0);
    let message = evaluate(&data.gallery(), Protocol::Standard, 8).unwrap_err().to_string();
    assert!(message.contains("embedding of image 4 ") || message.contains("embedding of image 4:"), "{message}");
    data.own_image_m[39] = 20;
    let message = evaluate(&data.gallery(), Protocol::Standard, 8).unwrap_err().to_string();
    assert!(message.contains("caption 39 belongs to image 20"), "{message}");
}
