//! What the source store offers a build: one row per wanted image, with the places of its bytes
//! and digests that tell a changed row without reading it.

mod captioned;
mod folder;
mod skyscript;

use std::collections::{BTreeMap, HashMap};

use arrow::array::RecordBatch;
use manifests::build::{BuildSpec, SourceKind};
use manifests::{Artifact, digest, shard_of};
use serde::{Deserialize, Serialize};
use stages::table::{self, TableError};

use crate::archive::{MemberPlace, ReadAnew};
use crate::error::WorkerError;
use crate::stores::{SourceStore, WorkStore};

/// Where bytes lie: a whole object, or a member of a zip.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    pub object: String,
    pub member: Option<MemberPlace>,
}

/// One wanted image.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedRow {
    pub image_id: String,
    pub filepath: String,
    pub image: Place,
    pub meta: Option<Place>,
    pub title: Option<String>,
    pub title_multi_objects: Option<String>,
    pub captions: Vec<String>,
    pub given_split: Option<String>,
    pub image_digest: String,
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
    pub why: String,
}

/// Most problems that are kept with their names; all of them are counted.
const NAMED_PROBLEMS: usize = 10_000;

/// The wanted rows of a build, by shard, sorted by image id. About 400 bytes a row; a country of
/// SkyScript has at most a few hundred thousand, and `source.max_images` bounds it.
#[derive(Debug, Default)]
pub struct Listing {
    shards: Vec<Vec<ListedRow>>,
    /// ETags of the archives, checked again with every range.
    pub etags: HashMap<String, Option<String>>,
    pub problems: Vec<Problem>,
    pub problem_count: u64,
    /// What was read, for people.
    pub notes: Vec<String>,
    /// Rows of the source per token, wanted or not: shows at a glance what a CSV holds.
    pub rows_by_token: BTreeMap<String, u64>,
    /// Of the archives' directories; to be kept by whoever goes on with the listing.
    read_anew: ReadAnew,
}

impl Listing {
    fn new(shards: u32) -> Self {
        Self { shards: (0..shards).map(|_| Vec::new()).collect(), ..Self::default() }
    }

    fn problem(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.problem_count += 1;
        if self.problems.len() < NAMED_PROBLEMS {
            self.problems.push(Problem { what: what.into(), why: why.into() });
        }
    }

    fn push(&mut self, row: ListedRow) {
        let shard = shard_of(&row.image_id, self.shards.len() as u32) as usize;
        self.shards[shard].push(row);
    }

    fn sort(&mut self) {
        for rows in &mut self.shards {
            rows.sort_by(|a, b| a.image_id.cmp(&b.image_id));
        }
    }

    pub fn shard(&self, shard: u32) -> &[ListedRow] {
        self.shards.get(shard as usize).map_or(&[], Vec::as_slice)
    }

    pub fn rows(&self) -> u64 {
        self.shards.iter().map(|s| s.len() as u64).sum()
    }

    /// Rows of the source per token, in words.
    fn tokens(&self) -> String {
        let tokens: Vec<String> = self.rows_by_token.iter().map(|(token, rows)| format!("{token} {rows}")).collect();
        if tokens.is_empty() { "none".into() } else { tokens.join(", ") }
    }

    /// Keeps what was read of archives, so that the next listing need not read it; in a store that was made.
    pub async fn keep(&mut self, work: &WorkStore) -> Result<(), WorkerError> {
        if !self.read_anew.is_empty() && work.is_there().await? {
            for (path, members) in self.read_anew.drain(..) {
                work.put_json(&path, &members).await?;
            }
        }
        Ok(())
    }

    /// Identity of each shard's rows.
    pub fn shard_digests(&self) -> Vec<String> {
        let row = |r: &ListedRow| format!("{}|{}|{}|{}", r.image_id, r.text_digest(), r.image_digest, r.meta_digest);
        self.shards
            .iter()
            .map(|rows| digest::of_parts(rows.iter().map(row).collect::<Vec<_>>().iter().map(String::as_bytes)))
            .collect()
    }
}

/// Rows of a listing as a batch of [`Artifact::Listing`].
pub fn batch<'a>(rows: impl Iterator<Item = &'a ListedRow> + Clone) -> Result<RecordBatch, TableError> {
    let text = |of: fn(&ListedRow) -> Option<String>| table::texts(rows.clone().map(of));
    let captions: Vec<_> = rows.clone().map(|r| Some(r.captions.clone())).collect();
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
        ],
    )
}

/// Names at the top of a source, folders with a `/` behind them.
pub async fn names_at_top(source: &SourceStore) -> Result<Vec<String>, WorkerError> {
    let top = folder::Folder::top(source).await?;
    Ok(top.folders.into_iter().chain(top.files.into_keys()).collect())
}

/// Lists what a build wants. It only looks: what a later listing may be spared is kept by [`Listing::keep`].
pub async fn list(source: &SourceStore, work: &WorkStore, spec: &BuildSpec) -> Result<Listing, WorkerError> {
    if let Some(folder) = source.local_folder().filter(|folder| !folder.is_dir()) {
        return Err(WorkerError::Configuration(format!("source.url: there is no folder {}", folder.display())));
    }
    let mut listing = match spec.source.kind {
        SourceKind::Skyscript => skyscript::list(source, work, spec).await?,
        SourceKind::Captioned => captioned::list(source, spec).await?,
    };
    if listing.rows() == 0 {
        let first =
            listing.problems.first().map(|p| format!("; first problem: {}: {}", p.what, p.why)).unwrap_or_default();
        return Err(WorkerError::Configuration(format!(
            "{}: no image is wanted for {} (rows by source token: {}){first}; look at source.tokens, source.tables and source.max_gsd_meters",
            source.url(),
            spec.country,
            listing.tokens(),
        )));
    }
    listing.sort();
    Ok(listing)
}
