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

fn place(rows: &[(String, OsmObject, [f64; 4])], ratios: [u32; 3]) -> (Vec<Placement>, SplitCounts) {
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
        let (placements, counts) = place(&rows, ratios);
        assert_eq!(placements.len(), rows.len());
        let shares = counts.shares();
        let parts = f64::from(ratios.iter().sum::<u32>());
        for (share, part) in shares.iter().zip(ratios) {
            assert!((share - f64::from(part) / parts).abs() < 0.03, "{shares:?}");
        }
        let dropped = counts.overlaps_train + counts.overlaps_test;
        assert_eq!(counts.train + counts.val + counts.test + dropped, rows.len() as u64);
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
        let (placements, counts) = place(&rows, ratios);
        assert!(counts.overlaps_train > 10 && counts.overlaps_test > 10, "{counts:?}");
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
    let (placements, counts) = place(&rows, PRETRAIN_RATIOS);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(4));
    let shuffled: Vec<_> = order.iter().map(|&i| rows[i].clone()).collect();
    let (shuffled_placements, shuffled_counts) = place(&shuffled, PRETRAIN_RATIOS);
    assert_eq!(counts, shuffled_counts);
    for (position, &row) in order.iter().enumerate() {
        assert_eq!(shuffled_placements[position], placements[row]);
    }
}

#[test]
fn an_object_goes_where_its_smallest_image_id_goes() {
    let at = |lon: f64| [lon, 60.0, lon + 0.001, 60.001];
    let way = object(OsmKind::Way, 5);
    let alone = |lon| place(&[("w5_FI_20".into(), way, at(lon))], PRETRAIN_RATIOS).0[0];
    let find = |wanted| (0..99).map(|i| 20.0 + f64::from(i)).find(|&lon| alone(lon) == wanted);
    let (train, test) = (find(Placement::Train).unwrap(), find(Placement::Test).unwrap());
    for (first, second, expected) in [(train, test, Placement::Train), (test, train, Placement::Test)] {
        let rows = [
            ("w5_FI_21".into(), way, at(second)),
            ("w5_FI_20".into(), way, at(first)),
            // The same object as a closed way.
            ("w5_S2_21".into(), object(OsmKind::Area, 5), at(second)),
        ];
        assert_eq!(place(&rows, PRETRAIN_RATIOS).0, [expected; 3]);
    }
    // A node of the same number is another object.
    let rows = [("w5_FI_20".into(), way, at(train)), ("n5_FI_20".into(), object(OsmKind::Node, 5), at(test))];
    assert_eq!(place(&rows, PRETRAIN_RATIOS).0, [Placement::Train, Placement::Test]);
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
    let (placements, counts) = place(&rows, PRETRAIN_RATIOS);
    assert_eq!(placements, [Placement::Dropped(DropReason::InvalidBox)]);
    assert_eq!((counts.invalid_box, counts.shares()), (1, [0.0; 3]));
    for ratios in [[0, 0, 0], [u32::MAX, 1, 0]] {
        assert!(assign([], ratios).is_err());
    }
    assert!(assign([], [u32::MAX, 0, 0]).unwrap().0.is_empty());
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
