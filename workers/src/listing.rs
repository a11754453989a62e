//! What the source store offers a build: one row per wanted image, with the places of its bytes
//! and digests that tell a changed row without reading it.

mod anew;
mod captioned;
mod folder;
mod kept_samples;
mod object_range;
mod rows;
mod skyscript;
mod wanted;
mod webdataset;

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use manifests::spec::{BuildSpec, SourceKind};
use manifests::{Artifact, digest, shard_of};
use serde::{Deserialize, Serialize};
use sources::name::ImageName;
use sources::source::Coverage;
use stages::table::{self, TableError};

use crate::error::WorkerError;
use crate::slices::Slices;
use crate::stores::{SourceStore, WorkStore};
use anew::ReadAnew;
pub use object_range::ObjectRange;
pub(crate) use object_range::places;
use rows::Rows;
pub(crate) use webdataset::stream;

/// One wanted image.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedRow {
    /// Stem of the image's name.
    pub image_id: String,
    /// Path of the image within the source.
    pub filepath: String,
    /// Where its bytes lie.
    pub image: ObjectRange,
    /// Where those of its meta record lie.
    pub meta: Option<ObjectRange>,
    /// The title that came with it.
    pub title: Option<String>,
    /// The title with its surroundings that came with it.
    pub title_multi_objects: Option<String>,
    /// The captions that came with it.
    pub captions: Vec<String>,
    /// The split that came with it.
    pub given_split: Option<String>,
    /// Changes when the image's bytes may have changed.
    pub image_digest: String,
    /// Changes when the record's bytes may have changed; empty without a record.
    pub meta_digest: String,
}

impl ListedRow {
    /// Digest of everything that is text here.
    pub fn text_digest(&self) -> String {
        digest::of_value(&(&self.filepath, &self.title, &self.title_multi_objects, &self.captions, &self.given_split))
    }
}

/// Something of the source that could not become a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Image, file or line.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

/// Most problems that are kept with their names; all of them are counted.
const NAMED_PROBLEMS: usize = 10_000;

/// What a source offers a build, without the rows themselves: those lie in slices.
#[derive(Debug, Default)]
pub struct Listing {
    /// Wanted rows of each shard.
    pub rows_by_shard: Vec<u64>,
    /// Wanted rows by the country that their source is of; `None`: of several, or unknown.
    pub rows_by_nation: BTreeMap<Option<&'static str>, u64>,
    /// What could not be listed, for the quarantine listing.
    pub problems: Vec<Problem>,
    /// Rows of the source that are left out; a problem may cost none, or be of several.
    pub rows_left_out: u64,
    /// Archives without which wanted rows are left out, and what is wrong with them.
    pub gone: BTreeMap<String, &'static str>,
    /// What was read, for people.
    pub notes: Vec<String>,
    /// Rows of the source per token, wanted or not: shows at a glance what a CSV holds.
    pub rows_by_token: BTreeMap<String, u64>,
    /// Of the archives' directories; to be kept by whoever goes on with the listing.
    read_anew: ReadAnew,
}

impl Listing {
    /// Wanted rows of all shards.
    pub fn rows(&self) -> u64 {
        self.rows_by_shard.iter().sum()
    }

    /// Rows of the source per token, in words.
    fn tokens(&self) -> String {
        let tokens: Vec<String> = self.rows_by_token.iter().map(|(token, rows)| format!("{token} {rows}")).collect();
        if tokens.is_empty() { "none".into() } else { tokens.join(", ") }
    }

    /// Keeps what was read of archives, so that the next listing need not read it; in a store that was made.
    ///
    /// # Errors
    /// The work store's.
    pub async fn keep(&mut self, work: &WorkStore) -> Result<(), WorkerError> {
        if !self.read_anew.is_empty() && work.is_there().await? {
            for (path, read) in self.read_anew.drain(..) {
                work.put_sealed(&path, &read).await?;
            }
        }
        Ok(())
    }
}

/// A listing in the making: all wanted rows, each in the bytes of its texts and about a hundred more.
/// `source.max_images` bounds it.
struct Collected {
    rows: Rows,
    listing: Listing,
}

impl Collected {
    fn new(shards: u32) -> Self {
        Self { rows: Rows::new(shards), listing: Listing::default() }
    }

    /// A row that is left out.
    fn leave_out(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.listing.rows_left_out += 1;
        self.problem(what, why);
    }

    /// Something that by itself costs no row.
    fn problem(&mut self, what: impl Into<String>, why: impl Into<String>) {
        if self.listing.problems.len() < NAMED_PROBLEMS {
            self.listing.problems.push(Problem { what: what.into(), why: why.into() });
        }
    }

    fn push(&mut self, row: &ListedRow) {
        let source = ImageName::parse(&row.filepath).ok().and_then(|name| name.source().map(|s| s.coverage));
        let nation = match source {
            Some(Coverage::National(country)) => Some(country),
            Some(Coverage::Global) | None => None,
        };
        *self.listing.rows_by_nation.entry(nation).or_default() += 1;
        self.rows.push(shard_of(&row.image_id, self.rows.shards()), row);
    }

    /// Cuts the rows into slices, in order of image id.
    async fn finish(mut self, country: &str, slices: &mut Slices) -> Result<Listing, WorkerError> {
        self.listing.rows_by_shard = self.rows.by_shard();
        let batches = (0..).zip(self.rows.into_shards()).map(|(shard, rows)| Ok((shard, batch(&rows)?)));
        slices.replace(Artifact::Listing, country, batches).await?;
        Ok(self.listing)
    }
}

/// Rows of a listing as a batch of [`Artifact::Listing`].
fn batch(rows: &[ListedRow]) -> Result<RecordBatch, TableError> {
    let text = |of: fn(&ListedRow) -> Option<String>| table::texts(rows.iter().map(of));
    let captions: Vec<_> = rows.iter().map(|r| Some(r.captions.clone())).collect();
    table::content(
        Artifact::Listing,
        vec![
            text(|r| Some(r.image_id.clone())),
            text(|r| Some(r.filepath.clone())),
            text(|r| r.title.clone()),
            text(|r| r.title_multi_objects.clone()),
            table::text_lists(&captions)?,
            text(|r| r.given_split.clone()),
            text(|r| Some(r.text_digest())),
            text(|r| Some(r.image_digest.clone())),
            text(|r| Some(r.meta_digest.clone())),
            object_range::column("image", rows.iter().map(|r| Some(&r.image)))?,
            object_range::column("meta", rows.iter().map(|r| r.meta.as_ref()))?,
        ],
    )
}

/// Names at the top of a source, folders with a `/` behind them.
///
/// # Errors
/// A store that does not answer or lets nobody in.
pub async fn names_at_top(source: &SourceStore) -> Result<Vec<String>, WorkerError> {
    let top = folder::Folder::top(source).await?;
    Ok(top.folders.into_iter().chain(top.files.into_keys()).collect())
}

/// Lists what a build wants, and cuts the rows into slices. It only looks: what a later listing may be spared is kept by
/// [`Listing::keep`].
///
/// # Errors
/// A source that cannot be read, or that has nothing that is wanted.
pub async fn list(
    source: &SourceStore,
    work: &WorkStore,
    spec: &BuildSpec,
    slices: &mut Slices,
) -> Result<Listing, WorkerError> {
    if let Some(folder) = source.local_folder().filter(|folder| !folder.is_dir()) {
        return Err(WorkerError::Configuration(format!("source.url: there is no folder {}", folder.display())));
    }
    let collected = match spec.source.kind {
        SourceKind::Skyscript => skyscript::list(source, work, spec).await?,
        SourceKind::Captioned => captioned::list(source, work, spec).await?,
    };
    let listing = collected.finish(&spec.country, slices).await?;
    if listing.rows() == 0 {
        let first =
            listing.problems.first().map(|p| format!("; first problem: {}: {}", p.what, p.why)).unwrap_or_default();
        let (tokens, look) = match spec.source.kind {
            SourceKind::Skyscript => (
                format!(" (rows by source token: {})", listing.tokens()),
                "look at source.tokens, source.tables and source.max_gsd_meters",
            ),
            SourceKind::Captioned => (String::new(), "look at source.url, source.tables and source.image_folder"),
        };
        return Err(WorkerError::Configuration(format!(
            "{}: no image is wanted for {}{tokens}{first}; {look}",
            source.url(),
            spec.country,
        )));
    }
    Ok(listing)
}

fn is_tiff(file: &str) -> bool {
    let ending = file.rsplit('.').next().unwrap_or_default();
    ending.eq_ignore_ascii_case("tif") || ending.eq_ignore_ascii_case("tiff")
}
