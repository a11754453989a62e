//! Train, validation and test, disjoint on the ground and by object.
//!
//! Neighbouring images show the same streets, and one OpenStreetMap object is imaged by several
//! sources and years: a split by image would test on what was trained on. So the split follows
//! the 0.02 degree cell of the box centre, all images of an object go together, and what still
//! overlaps a training image is dropped, as are validation images that overlap a test image: what is chosen by
//! validation would be chosen by test. Pictures that are the same byte for byte are told apart by no name and no box
//! ([`drop_identical`]).

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

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
    /// What weights learn from.
    Train,
    /// What the best epoch is chosen by.
    Val,
    /// What the final figures are measured on.
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
    /// A validation box that shares area with a test box.
    OverlapsTest,
    /// A training or validation picture that is a test picture, byte for byte.
    IdenticalToTest,
    /// A training picture that is a validation picture, byte for byte.
    IdenticalToVal,
    /// Not a box in degrees with west < east and south < north.
    InvalidBox,
}

impl DropReason {
    /// All reasons, in the order of their declaration.
    pub const ALL: [Self; 5] =
        [Self::OverlapsTrain, Self::OverlapsTest, Self::IdenticalToTest, Self::IdenticalToVal, Self::InvalidBox];

    /// As the table of splits has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OverlapsTrain => "overlaps_train",
            Self::OverlapsTest => "overlaps_test",
            Self::IdenticalToTest => "identical_to_test",
            Self::IdenticalToVal => "identical_to_val",
            Self::InvalidBox => "invalid_box",
        }
    }

    /// Reads what [`DropReason::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }

    /// What is the matter with the image, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::OverlapsTrain => "the box overlaps that of a training image",
            Self::OverlapsTest => "the box overlaps that of a test image",
            Self::IdenticalToTest => "the picture is a test image too, byte for byte",
            Self::IdenticalToVal => "the picture is a validation image too, byte for byte",
            Self::InvalidBox => "the box is none",
        }
    }
}

/// Where a row goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Placement {
    /// Into training.
    Train,
    /// Into validation.
    Val,
    /// Into the test split.
    Test,
    /// Into no split.
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
    /// Stem of the image's name, unique within its source.
    pub image_id: &'a str,
    /// The OpenStreetMap object: all images of one object go the same way.
    pub osm_object: OsmObject,
    /// West, south, east, north in degrees.
    pub box_wsen: [f64; 4],
}

/// Places every row, in the order given. The result depends on the rows, not on their order. Shares come out approximate
/// and are reported, never rebalanced.
///
/// `ratios` are the parts of train, validation and test, [`PRETRAIN_RATIOS`] for instance.
///
/// # Errors
/// [`SourceError::Setting`] if the ratios sum to 0 or beyond 32 bits.
pub fn assign<'a>(
    rows: impl Iterator<Item = SplitRow<'a>> + Clone,
    ratios: [u32; 3],
) -> Result<Vec<Placement>, SourceError> {
    let parts = ratios.iter().try_fold(0u32, |sum, part| sum.checked_add(*part));
    let Some(parts) = parts.filter(|parts| *parts > 0) else {
        return Err(SourceError::Setting(format!("split ratios {ratios:?} must sum to 1 or more, within 32 bits")));
    };
    let homes = home_cells(rows.clone());
    let split_of = |row: &SplitRow<'_>| {
        // every object with a valid box has a home
        let at = homes.partition_point(|(object, ..)| *object < identity(row.osm_object));
        let (.., cell) = homes[at];
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
        .clone()
        .map(|row| match is_box(row.box_wsen) {
            true => split_of(&row).into(),
            false => Placement::Dropped(DropReason::InvalidBox),
        })
        .collect();
    drop(homes);
    // Test boxes that overlap training boxes are gone before validation is held against test.
    drop_overlaps(
        rows.clone(),
        &mut placements,
        Placement::Train,
        &[Placement::Val, Placement::Test],
        DropReason::OverlapsTrain,
    );
    drop_overlaps(rows, &mut placements, Placement::Test, &[Placement::Val], DropReason::OverlapsTest);
    Ok(placements)
}

/// Drops the rows in one of the placements `dropped` whose boxes share area with one that stays in `kept`.
fn drop_overlaps<'a>(
    rows: impl Iterator<Item = SplitRow<'a>> + Clone,
    placements: &mut [Placement],
    kept: Placement,
    dropped: &[Placement],
    reason: DropReason,
) {
    let placed = rows.clone().zip(&*placements);
    let grid = BoxGrid::new(placed.filter(|(_, placement)| **placement == kept).map(|(row, _)| row.box_wsen));
    for (row, placement) in rows.zip(placements) {
        if dropped.contains(placement) && grid.overlaps(row.box_wsen) {
            *placement = Placement::Dropped(reason);
        }
    }
}

/// Drops what is held out elsewhere, byte for byte: test keeps a picture, validation gives up what test has, training what
/// either has. Test is a data set's own most often, and its figures are compared with those of others; so here it is
/// training that gives way. `pictures` has a digest for each placement, where the bytes are known. Called last: what a box
/// has dropped holds out nothing.
pub fn drop_identical<P: Ord>(pictures: impl Iterator<Item = Option<P>> + Clone, placements: &mut [Placement]) {
    let rules: [(Placement, &[Placement], DropReason); 2] = [
        (Placement::Test, &[Placement::Val, Placement::Train], DropReason::IdenticalToTest),
        (Placement::Val, &[Placement::Train], DropReason::IdenticalToVal),
    ];
    for (kept, gives_way, reason) in rules {
        let placed = pictures.clone().zip(&*placements);
        let held_out: BTreeSet<P> =
            placed.filter(|(_, placement)| **placement == kept).filter_map(|(picture, _)| picture).collect();
        for (picture, placement) in pictures.clone().zip(&mut *placements) {
            if gives_way.contains(placement) && picture.is_some_and(|picture| held_out.contains(&picture)) {
                *placement = Placement::Dropped(reason);
            }
        }
    }
}

/// Whether an image without a box belongs to a share of all images, `hash_share(id, 0.1)` to a
/// tenth. Fixed by the id alone; a smaller share is a subset of a larger one.
pub fn hash_share(image_id: &str, share: f64) -> bool {
    // 53 bits are what a float holds exactly: a number in 0..1.
    let bits = hash64("image share", image_id.as_bytes()) >> 11;
    (bits as f64) < share * (1u64 << 53) as f64
}

type GridCell = [i32; 2];

/// For every object the cell of its smallest image id, among the rows with a valid box; in order of object.
fn home_cells<'a>(rows: impl Iterator<Item = SplitRow<'a>>) -> Vec<(OsmObject, &'a str, GridCell)> {
    let boxed = rows.filter(|row| is_box(row.box_wsen));
    // sorted by the cell too, so that a repeated id does not make the order of rows matter
    let mut homes: Vec<_> = boxed.map(|row| (identity(row.osm_object), row.image_id, cell_of(row.box_wsen))).collect();
    homes.sort_unstable();
    homes.dedup_by_key(|(object, ..)| *object);
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
