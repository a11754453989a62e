use std::collections::BTreeMap;

use super::*;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const RATIOS: [[u32; 3]; 2] = [PRETRAIN_RATIOS, ADAPT_RATIOS];

fn object(kind: OsmKind, id: u64) -> OsmObject {
    OsmObject { kind, id }
}

/// A row per id with a box of about 100 m; every tenth object is imaged at two places.
fn world(rows: usize, seed: u64) -> Vec<(String, OsmObject, [f64; 4])> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..rows)
        .map(|row| {
            let id = if row % 10 == 9 { row - 1 } else { row } as u64;
            let (west, south) = (rng.random_range(20.0..30.0), rng.random_range(60.0..66.0));
            let side = rng.random_range(0.0005..0.003);
            let image_id = format!("w{id}_FI_{:02}", row % 23);
            let wsen = [west, south, west + side, south + side];
            (image_id, object(OsmKind::Way, id), wsen)
        })
        .collect()
}

fn count(placements: &[Placement], placement: Placement) -> usize {
    placements.iter().filter(|other| **other == placement).count()
}

fn dropped(placements: &[Placement]) -> usize {
    placements.iter().filter(|placement| placement.split().is_none()).count()
}

fn place(rows: &[(String, OsmObject, [f64; 4])], ratios: [u32; 3]) -> Vec<Placement> {
    let rows = rows.iter().map(|(image_id, osm_object, box_wsen)| SplitRow {
        image_id,
        osm_object: *osm_object,
        box_wsen: *box_wsen,
    });
    assign(rows, ratios).unwrap()
}

#[test]
fn shares_follow_the_ratios() {
    let rows = world(20_000, 1);
    for ratios in RATIOS {
        let placements = place(&rows, ratios);
        assert_eq!(placements.len(), rows.len());
        let kept = (rows.len() - dropped(&placements)) as f64;
        let parts = f64::from(ratios.iter().sum::<u32>());
        for (placement, part) in [Placement::Train, Placement::Val, Placement::Test].into_iter().zip(ratios) {
            let share = count(&placements, placement) as f64 / kept;
            assert!((share - f64::from(part) / parts).abs() < 0.03, "{placement:?}: {share}");
        }
    }
}

#[test]
fn no_split_overlaps_another_or_shares_an_object() {
    // Dense, so that boxes overlap across cell borders.
    let mut rows = world(3000, 2);
    for (_, _, wsen) in &mut rows {
        let [west, south, east, north] = *wsen;
        let (dx, dy) = ((west - 20.0) * 0.98, (south - 60.0) * 0.98);
        *wsen = [west - dx, south - dy, east - dx, north - dy];
    }
    for ratios in RATIOS {
        let placements = place(&rows, ratios);
        for reason in [DropReason::OverlapsTrain, DropReason::OverlapsTest] {
            assert!(count(&placements, Placement::Dropped(reason)) > 10, "{reason:?}");
        }
        let mut by_object = BTreeMap::new();
        for ((_, object, a), place_a) in rows.iter().zip(&placements) {
            if let Some(split) = place_a.split() {
                assert_eq!(*by_object.entry(*object).or_insert(split), split);
            }
            let Some(split) = place_a.split() else { continue };
            for ((_, _, b), place_b) in rows.iter().zip(&placements) {
                let apart = a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1];
                assert!(apart || place_b.split().is_none_or(|other| other == split), "{a:?} {b:?}");
            }
        }
    }
}

#[test]
fn the_order_of_rows_does_not_matter() {
    let rows = world(2000, 3);
    let placements = place(&rows, PRETRAIN_RATIOS);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(4));
    let shuffled: Vec<_> = order.iter().map(|&i| rows[i].clone()).collect();
    let shuffled_placements = place(&shuffled, PRETRAIN_RATIOS);
    for (position, &row) in order.iter().enumerate() {
        assert_eq!(shuffled_placements[position], placements[row]);
    }
}

#[test]
fn an_object_goes_where_its_smallest_image_id_goes() {
    let at = |lon: f64| [lon, 60.0, lon + 0.001, 60.001];
    let way = object(OsmKind::Way, 5);
    let alone = |lon| place(&[("w5_FI_20".into(), way, at(lon))], PRETRAIN_RATIOS)[0];
    let find = |wanted| (0..99).map(|i| 20.0 + f64::from(i)).find(|&lon| alone(lon) == wanted);
    let (train, test) = (find(Placement::Train).unwrap(), find(Placement::Test).unwrap());
    for (first, second, expected) in [(train, test, Placement::Train), (test, train, Placement::Test)] {
        let rows = [
            ("w5_FI_21".into(), way, at(second)),
            ("w5_FI_20".into(), way, at(first)),
            // The same object as a closed way.
            ("w5_S2_21".into(), object(OsmKind::Area, 5), at(second)),
        ];
        assert_eq!(place(&rows, PRETRAIN_RATIOS), [expected; 3]);
    }
    // A node of the same number is another object.
    let rows = [("w5_FI_20".into(), way, at(train)), ("n5_FI_20".into(), object(OsmKind::Node, 5), at(test))];
    assert_eq!(place(&rows, PRETRAIN_RATIOS), [Placement::Train, Placement::Test]);
}

#[test]
fn the_split_is_frozen() {
    // A changed hash or cell would move rows of published builds between the splits.
    // int.from_bytes(blake3(b"split cell\0" + struct.pack("<ii", *cell)).digest()[:8],
    //                "little") % 10
    let cells = [[0, 0], [1247, 3008], [-186, 2021], [653, 2620]];
    assert_eq!(cells.map(|cell| cell_hash(cell) % 10), [0, 9, 6, 5]);
    assert_eq!(cell_of([24.94, 60.16, 24.96, 60.18]), [1247, 3008]);
    assert_eq!(cell_of([-0.002, -0.002, -0.001, -0.001]), [-1, -1]);
}

#[test]
fn bad_boxes_are_dropped_and_bad_ratios_refused() {
    let bad = [f64::NAN, 0.0, 1.0, 1.0];
    let rows = [("w1_FI_20".to_owned(), object(OsmKind::Way, 1), bad)];
    assert_eq!(place(&rows, PRETRAIN_RATIOS), [Placement::Dropped(DropReason::InvalidBox)]);
    for ratios in [[0, 0, 0], [u32::MAX, 1, 0]] {
        assert!(assign(std::iter::empty(), ratios).is_err());
    }
    assert!(assign(std::iter::empty(), [u32::MAX, 0, 0]).unwrap().is_empty());
}

#[test]
fn of_identical_pictures_only_the_held_out_ones_stay() {
    use Placement::{Dropped, Test, Train, Val};
    let (of_test, of_val) = (Dropped(DropReason::IdenticalToTest), Dropped(DropReason::IdenticalToVal));
    let overlapping = Dropped(DropReason::OverlapsTrain);
    let rows = [
        // in all three parts, twice in test
        (Some("1"), Train, of_test),
        (Some("1"), Val, of_test),
        (Some("1"), Test, Test),
        (Some("1"), Test, Test),
        (Some("2"), Train, of_val),
        (Some("2"), Val, Val),
        // twice in training
        (Some("3"), Train, Train),
        (Some("3"), Train, Train),
        // what a box has dropped holds out nothing
        (Some("4"), Train, Train),
        (Some("4"), overlapping, overlapping),
        // of these no bytes are known
        (None, Train, Train),
        (None, Test, Test),
    ];
    let mut order: Vec<usize> = (0..rows.len()).collect();
    for seed in 0..20 {
        let pictures: Vec<_> = order.iter().map(|&i| rows[i].0).collect();
        let mut placements: Vec<_> = order.iter().map(|&i| rows[i].1).collect();
        drop_identical(pictures.iter().copied(), &mut placements);
        assert_eq!(placements, order.iter().map(|&i| rows[i].2).collect::<Vec<_>>());
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    }
}

#[test]
fn hash_shares_are_nested_and_about_right() {
    let ids: Vec<_> = (0..10_000).map(|i| format!("image_{i}")).collect();
    let count = |share| ids.iter().filter(|id| hash_share(id, share)).count();
    assert_eq!((count(0.0), count(1.0)), (0, 10_000));
    assert!((900..1100).contains(&count(0.1)), "{}", count(0.1));
    assert!(ids.iter().all(|id| !hash_share(id, 0.1) || hash_share(id, 0.2)));
    assert!(!hash_share("a", f64::NAN));
}
