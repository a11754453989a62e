//! Train, validation and test, disjoint on the ground and by object.
//!
//! Neighbouring images show the same streets, and one OpenStreetMap object is imaged by several
//! sources and years: a split by image would test on what was trained on. So the split follows
//! the 0.02 degree cell of the box centre, all images of an object go together, and what still
//! overlaps a training image is dropped.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::SourceError;
use crate::box_grid::BoxGrid;
use crate::country::center;
use crate::meta::is_box;
use crate::name::{OsmKind, OsmObject};

/// Cells per degree: cells of 0.02 degrees.
const CELLS_PER_DEGREE: f64 = 50.0;

/// Train : validation : test of pre-training.
pub const PRETRAIN_RATIOS: [u32; 3] = [7, 1, 2];
/// Train : validation : test of adaptation.
pub const ADAPT_RATIOS: [u32; 3] = [2, 1, 7];

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    Train,
    Val,
    Test,
}

impl Split {
    /// `train`, `val` or `test`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }

    /// Reads a split as the sources write it; `restval` is Karpathy's for more training images.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "train" | "restval" => Some(Self::Train),
            "val" | "valid" | "validation" | "dev" => Some(Self::Val),
            "test" => Some(Self::Test),
            _ => None,
        }
    }
}

/// Why a row is in no split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// A validation or test box that shares area with a training box.
    OverlapsTrain,
    /// Not a box in degrees with west < east and south < north.
    InvalidBox,
}

impl DropReason {
    /// `overlaps_train` or `invalid_box`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OverlapsTrain => "overlaps_train",
            Self::InvalidBox => "invalid_box",
        }
    }
}

/// Where a row goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Placement {
    Train,
    Val,
    Test,
    Dropped(DropReason),
}

impl From<Split> for Placement {
    fn from(split: Split) -> Self {
        match split {
            Split::Train => Self::Train,
            Split::Val => Self::Val,
            Split::Test => Self::Test,
        }
    }
}

impl Placement {
    /// The split; `None` for a dropped row.
    pub fn split(self) -> Option<Split> {
        match self {
            Self::Train => Some(Split::Train),
            Self::Val => Some(Split::Val),
            Self::Test => Some(Split::Test),
            Self::Dropped(_) => None,
        }
    }
}

/// What the split of a row depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SplitRow<'a> {
    pub image_id: &'a str,
    pub osm_object: OsmObject,
    /// West, south, east, north in degrees.
    pub box_wsen: [f64; 4],
}

/// Rows per placement. Shares come out approximate and are reported, never rebalanced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitCounts {
    pub train: u64,
    pub val: u64,
    pub test: u64,
    pub overlaps_train: u64,
    pub invalid_box: u64,
}

impl SplitCounts {
    /// Shares of train, validation and test among the rows kept; zeros if none is.
    pub fn shares(&self) -> [f64; 3] {
        let kept = (self.train + self.val + self.test).max(1) as f64;
        [self.train, self.val, self.test].map(|rows| rows as f64 / kept)
    }

    fn count(&mut self, placement: Placement) {
        match placement {
            Placement::Train => self.train += 1,
            Placement::Val => self.val += 1,
            Placement::Test => self.test += 1,
            Placement::Dropped(DropReason::OverlapsTrain) => self.overlaps_train += 1,
            Placement::Dropped(DropReason::InvalidBox) => self.invalid_box += 1,
        }
    }
}

/// Places every row, in the order given. The result depends on the rows, not on their order.
///
/// `ratios` are the parts of train, validation and test, [`PRETRAIN_RATIOS`] for instance.
///
/// # Errors
/// [`SourceError::Setting`] if the ratios sum to 0 or beyond 32 bits.
pub fn assign<'a>(
    rows: impl IntoIterator<Item = SplitRow<'a>>,
    ratios: [u32; 3],
) -> Result<(Vec<Placement>, SplitCounts), SourceError> {
    let parts = ratios.iter().try_fold(0u32, |sum, part| sum.checked_add(*part));
    let Some(parts) = parts.filter(|parts| *parts > 0) else {
        return Err(SourceError::Setting(format!("split ratios {ratios:?} must sum to 1 or more, within 32 bits")));
    };
    let rows: Vec<_> = rows.into_iter().collect();
    let homes = home_cells(&rows);
    let split_of = |row: &SplitRow<'_>| {
        let (_, cell) = homes[&identity(row.osm_object)];
        let bucket = (cell_hash(cell) % u64::from(parts)) as u32;
        if bucket < ratios[0] {
            Split::Train
        } else if bucket < ratios[0] + ratios[1] {
            Split::Val
        } else {
            Split::Test
        }
    };
    let mut placements: Vec<Placement> = rows
        .iter()
        .map(|row| match is_box(row.box_wsen) {
            true => split_of(row).into(),
            false => Placement::Dropped(DropReason::InvalidBox),
        })
        .collect();
    let train_boxes = rows
        .iter()
        .zip(&placements)
        .filter(|(_, placement)| **placement == Placement::Train)
        .map(|(row, _)| row.box_wsen);
    let train = BoxGrid::new(train_boxes);
    let mut counts = SplitCounts::default();
    for (row, placement) in rows.iter().zip(&mut placements) {
        if matches!(placement, Placement::Val | Placement::Test) && train.overlaps(row.box_wsen) {
            *placement = Placement::Dropped(DropReason::OverlapsTrain);
        }
        counts.count(*placement);
    }
    Ok((placements, counts))
}

/// Whether an image without a box belongs to a share of all images, `hash_share(id, 0.1)` to a
/// tenth. Fixed by the id alone; a smaller share is a subset of a larger one.
pub fn hash_share(image_id: &str, share: f64) -> bool {
    // 53 bits are what a float holds exactly: a number in 0..1.
    let bits = hash64("image share", image_id.as_bytes()) >> 11;
    (bits as f64) < share * (1u64 << 53) as f64
}

type GridCell = [i32; 2];

/// For every object the cell of its smallest image id, among the rows with a valid box.
fn home_cells<'a>(rows: &[SplitRow<'a>]) -> BTreeMap<OsmObject, (&'a str, GridCell)> {
    let mut homes = BTreeMap::new();
    for row in rows.iter().filter(|row| is_box(row.box_wsen)) {
        // Compared with the cell, so that a repeated id does not make the order of rows matter.
        let candidate = (row.image_id, cell_of(row.box_wsen));
        match homes.entry(identity(row.osm_object)) {
            Entry::Vacant(entry) => {
                entry.insert(candidate);
            }
            Entry::Occupied(mut entry) => {
                if candidate < *entry.get() {
                    entry.insert(candidate);
                }
            }
        }
    }
    homes
}

/// An area is a closed way, so `a5` and `w5` may be one object: they go together.
fn identity(object: OsmObject) -> OsmObject {
    let kind = match object.kind {
        OsmKind::Area => OsmKind::Way,
        kind => kind,
    };
    OsmObject { kind, ..object }
}

fn cell_of(box_wsen: [f64; 4]) -> GridCell {
    let (lon, lat) = center(box_wsen);
    [lon, lat].map(|degrees| (degrees * CELLS_PER_DEGREE).floor() as i32)
}

fn cell_hash([column, row]: GridCell) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&column.to_le_bytes());
    bytes[4..].copy_from_slice(&row.to_le_bytes());
    hash64("split cell", &bytes)
}

/// First 64 bits of BLAKE3 over a purpose and a content.
fn hash64(purpose: &str, content: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(purpose.as_bytes()).update(&[0]).update(content);
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
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
            assert_eq!(counts.train + counts.val + counts.test + counts.overlaps_train, rows.len() as u64);
        }
    }

    #[test]
    fn nothing_kept_outside_of_train_overlaps_it_or_shares_an_object() {
        // Dense, so that boxes overlap across cell borders.
        let mut rows = world(3000, 2);
        for (_, _, wsen) in &mut rows {
            let [west, south, east, north] = *wsen;
            let (dx, dy) = ((west - 20.0) * 0.98, (south - 60.0) * 0.98);
            *wsen = [west - dx, south - dy, east - dx, north - dy];
        }
        for ratios in RATIOS {
            let (placements, counts) = place(&rows, ratios);
            assert!(counts.overlaps_train > 10, "{counts:?}");
            let mut by_object = BTreeMap::new();
            for ((_, object, a), place_a) in rows.iter().zip(&placements) {
                if let Some(split) = place_a.split() {
                    assert_eq!(*by_object.entry(*object).or_insert(split), split);
                }
                if !matches!(place_a, Placement::Val | Placement::Test) {
                    continue;
                }
                for ((_, _, b), place_b) in rows.iter().zip(&placements) {
                    let apart = a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1];
                    assert!(*place_b != Placement::Train || apart, "{a:?} {b:?}");
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
}
