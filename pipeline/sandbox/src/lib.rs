//! A procedural world in the shape of SkyScript: image and meta zips, tables and an OSM extract
//! of three countries with different looks and tag habits, so that everything runs with no
//! download.
//!
//! ```text
//! OUT/images2.zip images3.zip   images2/a100000000_DE_19.jpg, stored and deflated members mixed
//! OUT/meta2.zip   meta3.zip     meta2/a100000000_DE_19.pickle
//! OUT/dataframe/SkyScript_sandbox.csv            filepath,title,title_multi_objects,similarity…
//! OUT/dataframe/SkyScript_sandbox_polished.csv   title,filepath,title_raw
//! OUT/extract.osm extract.osm.pbf   the same objects as OpenStreetMap has them, ids as in the image names
//! ```
//!
//! A tile is drawn from a vector scene, and the scene's objects are its tags: the picture
//! determines what the caption says. Boxes have the ground sampling distance of the real sources,
//! while tiles are small; so the world is a miniature (a pitch is some tens of metres long).
//!
//! The same [`Settings`] give the same bytes, whatever the number of threads.

mod archive;
mod canvas;
mod composer;
mod country;
mod dice;
mod edits;
mod error;
mod extract;
mod geometry;
mod meta;
mod noise;
mod objects;
mod pickle;
mod refresh;
mod scene;
mod sensor;
mod subjects;
mod tables;
mod tile;
mod titles;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

pub use edits::{MapEdits, edit_map};
pub use error::SandboxError;
pub use refresh::edit_tags;

use archive::Archive;
use extract::Extract;
use tables::{LAYOUTS, Table};
use tile::Tile;

/// Partitions of the archive; part 1 does not exist in SkyScript either.
const PARTS: [&str; 2] = ["2", "3"];
/// The partition whose image zip has 64-bit records, and the one whose meta zip has.
const ZIP64_IMAGES: &str = "3";
const ZIP64_META: &str = "2";
/// Tiles drawn before they are written: bounds memory and gives progress.
const BATCH: usize = 64;
/// Of a country.
pub const MOST_TILES: usize = 100_000;

/// How large a world to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Tiles of each of the three countries; a few per cent of foreign and coarse ones are added.
    pub tiles_per_country: usize,
    /// Nominal side of a tile, pixels; sides vary from 0.75 to 1.375 of it.
    pub side_px: u32,
    /// Everything that is drawn at random follows from it.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { tiles_per_country: 600, side_px: 160, seed: 0 }
    }
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Images in both archives.
    pub images: usize,
    /// Rows of each source token (`FI`, `DE`, `ES`; `US` and `S2` are there to be left out).
    pub rows_by_source: BTreeMap<String, usize>,
    /// Objects in the OSM extract.
    pub osm_objects: usize,
    /// Files, relative to the output folder.
    pub files: Vec<PathBuf>,
}

/// Makes a sandbox world in the folder `out`, which is created; files of an older world there are
/// replaced, each at once when it is complete, and the edits of its map are removed. `progress` is
/// told how many of how many tiles are done.
///
/// # Errors
/// [`SandboxError::Setting`] for settings out of limits, [`SandboxError::Storage`] if the disk
/// refuses.
pub fn generate(
    out: &Path,
    settings: &Settings,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Summary, SandboxError> {
    check(settings)?;
    let mut world = World::create(out)?;
    let plans = tile::plan(settings);
    progress(0, plans.len());
    for batch in plans.chunks(BATCH) {
        let tiles: Vec<Tile> = batch.par_iter().map(|plan| tile::make(plan, settings)).collect::<Result<_, _>>()?;
        for tile in &tiles {
            world.put(tile)?;
        }
        progress(world.summary.images, plans.len());
    }
    world.publish(out)
}

/// # Errors
/// [`SandboxError::Exists`] where [`generate`] would replace or remove a file: the names are those of SkyScript's own
/// archives.
pub fn check_absent(out: &Path) -> Result<(), SandboxError> {
    let archives = ["images", "meta"].iter().flat_map(|kind| PARTS.map(|part| format!("{kind}{part}.zip")));
    let mut files = archives
        .chain(LAYOUTS.map(|layout| layout.file().to_owned()))
        .chain(["extract.osm".into(), "extract.osm.pbf".into()])
        .map(|name| out.join(name))
        .chain(edits::left_in(out));
    files.find(|path| path.exists()).map_or(Ok(()), |path| Err(SandboxError::Exists { path }))
}

/// # Errors
/// [`SandboxError::Stranger`] for a folder that holds something and is no world that [`generate`] made or has begun.
pub fn check_replaceable(out: &Path) -> Result<(), SandboxError> {
    let is_empty = std::fs::read_dir(out).map_or(true, |mut entries| entries.next().is_none());
    let is_world = ["dataframe/SkyScript_sandbox.csv", "extract.osm"].iter().all(|name| out.join(name).is_file());
    let is_begun = out.join("extract.osm.partial").is_file();
    if is_empty || is_world || is_begun { Ok(()) } else { Err(SandboxError::Stranger { path: out.to_owned() }) }
}

fn check(settings: &Settings) -> Result<(), SandboxError> {
    if !(1..=MOST_TILES).contains(&settings.tiles_per_country) {
        return Err(SandboxError::Setting {
            name: "tiles_per_country",
            value: settings.tiles_per_country.to_string(),
            limits: "1..=100000",
        });
    }
    if !(48..=1024).contains(&settings.side_px) {
        return Err(SandboxError::Setting {
            name: "side_px",
            value: settings.side_px.to_string(),
            limits: "48..=1024",
        });
    }
    Ok(())
}

/// All files of a world in the making.
struct World {
    images: [Archive; 2],
    metas: [Archive; 2],
    tables: [Table; 2],
    extract: Extract,
    summary: Summary,
}

impl World {
    fn create(out: &Path) -> Result<World, SandboxError> {
        let archive = |kind: &str, part: &str, zip64: bool| {
            let name = format!("{kind}{part}");
            Archive::create(&out.join(format!("{name}.zip")), Some(&name), zip64)
        };
        std::fs::create_dir_all(out).map_err(SandboxError::storage(out))?;
        // begun before everything else, and published after it: where its partial file is, a world was interrupted
        let extract = Extract::create(&out.join("extract.osm"), 0)?;
        let tables = out.join("dataframe");
        std::fs::create_dir_all(&tables).map_err(SandboxError::storage(&tables))?;
        Ok(World {
            images: [
                archive("images", PARTS[0], PARTS[0] == ZIP64_IMAGES)?,
                archive("images", PARTS[1], PARTS[1] == ZIP64_IMAGES)?,
            ],
            metas: [
                archive("meta", PARTS[0], PARTS[0] == ZIP64_META)?,
                archive("meta", PARTS[1], PARTS[1] == ZIP64_META)?,
            ],
            tables: [Table::create(out, LAYOUTS[0])?, Table::create(out, LAYOUTS[1])?],
            extract,
            summary: Summary { images: 0, rows_by_source: BTreeMap::new(), osm_objects: 0, files: Vec::new() },
        })
    }

    fn put(&mut self, tile: &Tile) -> Result<(), SandboxError> {
        let (plan, id) = (&tile.plan, &tile.image_id);
        let part = plan.part();
        let filepath = format!("images{}/{id}.jpg", PARTS[part]);
        self.images[part].put(&filepath, &tile.jpeg, plan.deflated(0))?;
        let pickle = tile
            .meta
            .encode()
            .ok_or_else(|| SandboxError::encode(format!("meta of {id}"), "unknown pickle protocol"))?;
        self.metas[part].put(&format!("meta{}/{id}.pickle", PARTS[part]), &pickle, plan.deflated(1))?;
        let layout = plan.layout();
        for (table, _) in self.tables.iter_mut().zip(LAYOUTS).filter(|(_, other)| *other == layout) {
            table.put(&filepath, &tile.meta, tile.similarity)?;
        }
        self.extract.put(&tile.elements)?;
        self.summary.images += 1;
        self.summary.osm_objects += tile.elements.len();
        *self.summary.rows_by_source.entry(plan.source.to_owned()).or_default() += 1;
        Ok(())
    }

    fn publish(self, out: &Path) -> Result<Summary, SandboxError> {
        let mut summary = self.summary;
        let mut staged = Vec::new();
        for archive in self.images.into_iter().chain(self.metas) {
            staged.push(archive.complete()?);
        }
        for table in self.tables {
            staged.push(table.complete()?);
        }
        staged.extend(self.extract.complete()?);
        // objects have the same numbers in every world: the old one's diffs would be taken for edits of this one
        for path in edits::left_in(out) {
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(SandboxError::storage(&path))?;
        }
        for file in staged {
            let path = file.path();
            summary.files.push(path.strip_prefix(out).unwrap_or(path).to_owned());
            file.publish()?;
        }
        Ok(summary)
    }
}
