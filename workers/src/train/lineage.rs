//! Which rows a training saw, and which its ancestors saw: kept beside the run, so that no later question needs a part
//! that may be gone by then.
//!
//! Two questions are asked: how far the tables have moved since, and whether weights saw what is held out now.

mod file;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sources::box_grid::BoxGrid;

use crate::assignment;

pub use tables::RunInputs;

/// A digest as numbers: there are two for each row of a country.
type DigestBits = [u8; 16];

/// The split of a row, or that it is in none, in a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowSplit {
    Train,
    Val,
    Test,
    Dropped,
}

impl RowSplit {
    /// The one of that name.
    fn named(text: &str) -> Option<Self> {
        [Self::Train, Self::Val, Self::Test, Self::Dropped].into_iter().find(|split| split.name() == text)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
            Self::Dropped => assignment::DROPPED,
        }
    }
}

/// All by which an image is known again, beside its name.
#[derive(Debug, Clone, Default, PartialEq)]
struct Sight {
    /// Address of the source that the image's name is from.
    source: Option<Arc<str>>,
    /// Digest of the picture's bytes.
    bytes: Option<DigestBits>,
    /// Its OpenStreetMap object.
    object: Option<Box<str>>,
    /// West, south, east, north in degrees.
    box_wsen: Option<[f64; 4]>,
}

impl Sight {
    /// Whether an image of the same name is the same image. Names with an OpenStreetMap object are SkyScript's wherever
    /// they lie; those of other sources may say `1.jpg` of different pictures.
    fn shares_names_with(&self, other: &Sight) -> bool {
        let (Some(one), Some(two)) = (&self.source, &other.source) else { return true };
        one == two || self.object.is_some() || other.object.is_some()
    }
}

/// What is remembered of one image that a run reads.
#[derive(Debug, Clone, Default, PartialEq)]
struct RunRow {
    /// Digest of everything that a training reads of it.
    digest: Option<DigestBits>,
    split: Option<RowSplit>,
    sight: Sight,
}

impl RunRow {
    fn is_learnt(&self) -> bool {
        self.split == Some(RowSplit::Train)
    }

    fn is_held_out(&self) -> bool {
        matches!(self.split, Some(RowSplit::Val | RowSplit::Test))
    }
}

/// What a run reads, and what the runs that it descends from learnt from. About 150 bytes a row: a country has millions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunRows {
    /// By image id.
    rows: BTreeMap<Box<str>, RunRow>,
    /// By image id, each as it was when it was learnt from: another build may have had another image of that name.
    ancestors: BTreeMap<String, Vec<Sight>>,
}

/// How far tables have moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedShare {
    /// Rows that there are now or were then.
    pub rows: u64,
    /// Those of them that are new, gone or different.
    pub changed: u64,
}

impl ChangedShare {
    /// The changed ones as a share of all, 0 to 1.
    pub fn share(&self) -> f64 {
        if self.rows == 0 { 0.0 } else { self.changed as f64 / self.rows as f64 }
    }
}

/// Held-out images that weights were trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    /// How many.
    pub images: u64,
    /// One of them.
    pub image_id: String,
    /// By what it was recognised, in words.
    pub how: String,
}

impl std::fmt::Display for Leak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (images, image_id, how) = (self.images, &self.image_id, &self.how);
        let plural = if images == 1 { "image that is" } else { "images that are" };
        write!(f, "{images} {plural} validation or test now, such as {image_id} ({how})")
    }
}

/// Everything that weights learnt from, by each key that an image is known by: whoever asks for one asks for all.
struct Learnt<'a> {
    names: BTreeMap<&'a str, Vec<&'a Sight>>,
    pictures: BTreeSet<DigestBits>,
    objects: BTreeSet<&'a str>,
    boxes: BoxGrid,
}

impl<'a> Learnt<'a> {
    fn new(rows: &'a RunRows) -> Self {
        let mut names: BTreeMap<&str, Vec<&Sight>> = BTreeMap::new();
        for (image_id, sight) in rows.learnt() {
            names.entry(image_id).or_default().push(sight);
        }
        let sights = || rows.learnt().map(|(_, sight)| sight);
        Self {
            names,
            pictures: sights().filter_map(|sight| sight.bytes).collect(),
            objects: sights().filter_map(|sight| sight.object.as_deref()).collect(),
            boxes: BoxGrid::new(sights().filter_map(|sight| sight.box_wsen)),
        }
    }

    /// By which key an image is known here, if it is.
    fn knows(&self, image_id: &str, sight: &Sight) -> Option<&'static str> {
        let named = |names: &Vec<&Sight>| names.iter().any(|then| then.shares_names_with(sight));
        if self.names.get(image_id).is_some_and(named) {
            Some("the same image")
        } else if sight.bytes.is_some_and(|bytes| self.pictures.contains(&bytes)) {
            Some("the same picture, byte for byte")
        } else if sight.object.as_ref().is_some_and(|object| self.objects.contains(&**object)) {
            Some("another image of the same OpenStreetMap object")
        } else if sight.box_wsen.is_some_and(|wsen| self.boxes.overlaps(wsen)) {
            Some("an overlapping box")
        } else {
            None
        }
    }
}

impl RunRows {
    /// What the weights in a folder, or in a file of one, saw; `None`: nothing there says, as with external weights.
    /// For `like` see [`RunRows::from_bytes`].
    pub fn of_weights(path: &Path, like: &RunRows) -> Option<Self> {
        let folder = if path.is_dir() { path } else { path.parent()? };
        let path = folder.join(super::ROWS_FILE);
        let bytes = std::fs::read(&path).ok()?;
        let rows = Self::from_bytes(bytes.into(), like);
        rows.inspect_err(|why| tracing::warn!("{}: {why}; it is passed over", path.display())).ok()
    }

    /// How far `now` is from these rows.
    pub fn changed(&self, now: &RunRows) -> ChangedShare {
        let mut share = ChangedShare::default();
        let before = self.rows.iter().filter(|(_, row)| row.digest.is_some()).map(|(id, _)| id);
        let ids: BTreeSet<&Box<str>> = before.chain(now.rows.keys()).collect();
        for id in ids {
            let digest = |rows: &'_ RunRows| rows.rows.get(id).and_then(|row| row.digest);
            share.rows += 1;
            share.changed += u64::from(digest(self) != digest(now));
        }
        share
    }

    /// Whether weights trained on these rows saw what `now` holds out.
    pub fn leak(&self, now: &RunRows) -> Option<Leak> {
        let leaked = self.leaked(now);
        let (image_id, how) = leaked.first_key_value()?;
        Some(Leak { images: leaked.len() as u64, image_id: image_id.clone(), how: (*how).to_owned() })
    }

    /// Images that `now` holds out and weights trained on these rows saw: each with how it was recognised. No figure may
    /// be taken over them.
    pub fn leaked(&self, now: &RunRows) -> BTreeMap<String, &'static str> {
        let learnt = Learnt::new(self);
        let held_out = now.rows.iter().filter(|(_, row)| row.is_held_out());
        held_out.filter_map(|(id, row)| Some((id.to_string(), learnt.knows(id, &row.sight)?))).collect()
    }

    /// Pictures that these rows learn from and hold out at once, byte for byte, as splits of older versions may have
    /// them: their number, and the image of one that is held out.
    pub fn learnt_and_held_out(&self) -> Option<(usize, &str)> {
        let of = |is: fn(&RunRow) -> bool| self.rows.iter().filter(move |(_, row)| is(row));
        let learnt: BTreeSet<DigestBits> = of(RunRow::is_learnt).filter_map(|(_, row)| row.sight.bytes).collect();
        let held_out = of(RunRow::is_held_out).filter_map(|(id, row)| Some((row.sight.bytes?, &**id)));
        let both: BTreeMap<DigestBits, &str> = held_out.filter(|(bytes, _)| learnt.contains(bytes)).collect();
        both.values().min().map(|image_id| (both.len(), *image_id))
    }

    /// Adds what an ancestor was trained on.
    pub fn descend_from(&mut self, ancestor: &RunRows) {
        for (image_id, sight) in ancestor.learnt() {
            let is_own = self.rows.get(image_id).is_some_and(|row| row.is_learnt() && row.sight == *sight);
            let known = self.ancestors.entry(image_id.to_owned()).or_default();
            if !is_own && !known.contains(sight) {
                known.push(sight.clone());
            }
        }
        self.ancestors.retain(|_, sights| !sights.is_empty());
    }

    /// Everything that the run or an ancestor was trained on.
    fn learnt(&self) -> impl Iterator<Item = (&str, &Sight)> {
        let own = self.rows.iter().filter(|(_, row)| row.is_learnt()).map(|(id, row)| (&**id, &row.sight));
        own.chain(self.ancestors.iter().flat_map(|(id, sights)| sights.iter().map(move |sight| (id.as_str(), sight))))
    }

    /// Names of images that the run or an ancestor was trained on.
    pub fn trained(&self) -> usize {
        self.learnt().map(|(image_id, _)| image_id).collect::<BTreeSet<_>>().len()
    }
}
