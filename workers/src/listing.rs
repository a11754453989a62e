//! What the source store offers a build: one row per wanted image, with the places of its bytes
//! and digests that tell a changed row without reading it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;

use arrow::array::RecordBatch;
use bytes::Bytes;
use manifests::build::{BuildSpec, SourceKind, SourceSpec};
use manifests::{Artifact, digest, shard_of};
use serde::{Deserialize, Serialize};
use sources::captioned::{self, CaptionFormat, CaptionedImage};
use sources::name::ImageName;
use sources::source::Coverage;
use sources::{SourceError, csv};
use stages::table::{self, TableError};

use crate::archive::{MemberPlace, wanted_members};
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
    /// Rows of the source per token, wanted or not: shows at a glance what a CSV holds.
    pub rows_by_token: BTreeMap<String, u64>,
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

    /// Identity of the whole listing.
    pub fn digest(&self) -> String {
        let rows: Vec<String> = self
            .shards
            .iter()
            .flatten()
            .map(|r| format!("{}|{}|{}|{}", r.image_id, r.text_digest(), r.image_digest, r.meta_digest))
            .collect();
        digest::of_parts(rows.iter().map(String::as_bytes))
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

/// Lists what a build wants.
pub async fn list(source: &SourceStore, work: &WorkStore, spec: &BuildSpec) -> Result<Listing, WorkerError> {
    let mut listing = match spec.source.kind {
        SourceKind::Skyscript => skyscript(source, work, spec).await?,
        SourceKind::Captioned => captioned_folder(source, spec).await?,
    };
    if listing.rows() == 0 {
        let tokens: Vec<String> = listing.rows_by_token.iter().map(|(t, n)| format!("{t} {n}")).collect();
        let first =
            listing.problems.first().map(|p| format!("; first problem: {}: {}", p.what, p.why)).unwrap_or_default();
        return Err(WorkerError::Configuration(format!(
            "{}: no image is wanted for {} (rows by source token: {}){first}; look at source.tokens, source.tables and source.max_gsd_meters",
            source.url(),
            spec.country,
            if tokens.is_empty() { "none".into() } else { tokens.join(", ") },
        )));
    }
    listing.sort();
    Ok(listing)
}

/// Reads an object as a blocking stream of ranges: the CSV reader is synchronous, and a CSV may be
/// larger than memory.
struct RangeReader {
    source: SourceStore,
    runtime: tokio::runtime::Handle,
    path: String,
    etag: Option<String>,
    length: u64,
    at: u64,
    chunk: Bytes,
}

const READ_BYTES: u64 = 4 << 20;

impl Read for RangeReader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.chunk.is_empty() && self.at < self.length {
            let range = self.at..(self.at + READ_BYTES).min(self.length);
            let read = self.source.get_range(&self.path, range.clone(), self.etag.as_deref());
            self.chunk = self.runtime.block_on(read).map_err(std::io::Error::other)?;
            self.at = range.end;
        }
        let taken = self.chunk.len().min(out.len());
        out[..taken].copy_from_slice(&self.chunk.split_to(taken));
        Ok(taken)
    }
}

async fn skyscript(source: &SourceStore, work: &WorkStore, spec: &BuildSpec) -> Result<Listing, WorkerError> {
    let mut listing = Listing::new(spec.work.shards);
    let mut wanted: BTreeMap<String, WantedRow> = BTreeMap::new();
    if spec.source.tables.is_empty() {
        return Err(WorkerError::Configuration(
            "source.tables is empty: name the CSV files below source.url, such as \"dataframe/SkyScript_….csv\"".into(),
        ));
    }
    for path in &spec.source.tables {
        read_table(source, spec, path, &mut wanted, &mut listing).await?;
    }
    if spec.source.max_images > 0 {
        while wanted.len() > spec.source.max_images {
            wanted.pop_last();
        }
    }

    // one pass over each archive that holds a wanted image, and over its meta archive
    let mut images = Members::default();
    let mut metas = Members::default();
    let parts: BTreeMap<&str, &str> =
        wanted.values().map(|row| (row.name.part.as_str(), row.meta_part.as_str())).collect();
    for (part, meta_part) in parts {
        let of_part = || wanted.values().filter(|row| row.name.part == part);
        let names = of_part().map(|row| row.name.image_path()).collect();
        images.scan(source, work, &format!("{part}.zip"), &names, &mut listing).await?;
        if spec.source.meta {
            let names = of_part().map(|row| row.name.meta_path()).collect();
            metas.scan(source, work, &format!("{meta_part}.zip"), &names, &mut listing).await?;
        }
    }
    for (image_id, row) in wanted {
        let Some(image) = images.take(&row.name.image_path()) else {
            if !images.unreadable.contains(&row.name.image_path()) {
                listing.problem(row.name.image_path(), format!("{}.zip has no such member", row.name.part));
            }
            continue;
        };
        let meta = metas.take(&row.name.meta_path());
        let digest_of = |place: &Place| place.member.as_ref().map_or(String::new(), MemberPlace::content_digest);
        listing.push(ListedRow {
            image_id,
            filepath: row.name.image_path(),
            image_digest: digest_of(&image),
            meta_digest: meta.as_ref().map_or(String::new(), digest_of),
            image,
            meta,
            title: Some(row.title),
            title_multi_objects: row.title_multi_objects,
            captions: Vec::new(),
            given_split: None,
        });
    }
    Ok(listing)
}

struct WantedRow {
    name: ImageName,
    meta_part: String,
    title: String,
    title_multi_objects: Option<String>,
}

/// Members found so far, by name.
#[derive(Default)]
struct Members {
    places: HashMap<String, Place>,
    unreadable: HashSet<String>,
}

impl Members {
    async fn scan(
        &mut self,
        source: &SourceStore,
        work: &WorkStore,
        archive: &str,
        names: &HashSet<String>,
        listing: &mut Listing,
    ) -> Result<(), WorkerError> {
        let Some(found) = wanted_members(source, work, archive, names).await? else {
            listing.problem(
                archive,
                format!("the source has no such archive; {} wanted members are missing", names.len()),
            );
            return Ok(());
        };
        listing.etags.insert(archive.to_owned(), found.etag);
        for member in found.members {
            let name = member.name.clone();
            let place = Place { object: archive.to_owned(), member: Some(member) };
            if self.places.insert(name.clone(), place).is_some() {
                listing.problem(name, format!("{archive} holds it twice; the last one counts"));
            }
        }
        for (name, why) in found.unreadable {
            listing.problem(name.clone(), why);
            self.unreadable.insert(name);
        }
        Ok(())
    }

    fn take(&mut self, name: &str) -> Option<Place> {
        self.places.remove(name)
    }
}

/// Does the spec want rows of this source token? Global sources are wanted where the box can
/// decide; sources coarser than the limit never.
fn wants_token(spec: &SourceSpec, name: &ImageName) -> bool {
    let fine = name.source().is_none_or(|s| s.gsd_meters <= spec.max_gsd_meters);
    let named = spec.tokens.is_empty() || spec.tokens.contains(&name.source);
    let global = name.source().is_some_and(|s| s.coverage == Coverage::Global);
    fine && (named || (global && spec.meta && !spec.country_code.is_empty()))
}

async fn read_table(
    source: &SourceStore,
    spec: &BuildSpec,
    path: &str,
    wanted: &mut BTreeMap<String, WantedRow>,
    listing: &mut Listing,
) -> Result<(), WorkerError> {
    let Some(meta) = source.head(path).await? else {
        return Err(WorkerError::Configuration(format!(
            "{}{path} is not there; look at source.url and source.tables",
            source.url()
        )));
    };
    let reader = RangeReader {
        source: source.clone(),
        runtime: tokio::runtime::Handle::current(),
        path: path.to_owned(),
        etag: meta.e_tag,
        length: meta.size,
        at: 0,
        chunk: Bytes::new(),
    };
    let source_spec = spec.source.clone();
    let read = move || {
        let mut rows = Vec::new();
        let mut by_token = BTreeMap::<String, u64>::new();
        let mut bad_names = Vec::new();
        let summary = csv::read_csv(reader, &mut |row| {
            match ImageName::parse(&row.filepath) {
                Ok(name) => {
                    *by_token.entry(name.source.clone()).or_default() += 1;
                    if wants_token(&source_spec, &name) {
                        rows.push((name, row));
                    }
                }
                Err(error) => bad_names.push((row.line, error.to_string())),
            }
            Ok(())
        })?;
        Ok::<_, SourceError>((rows, by_token, bad_names, summary))
    };
    let (rows, by_token, bad_names, summary) = tokio::task::spawn_blocking(read)
        .await
        .map_err(|e| WorkerError::Broken(format!("{path}: the reader failed: {e}")))?
        .map_err(|e| match e {
            SourceError::Io(io) => WorkerError::Transient(format!("{path}: {io}")),
            other => WorkerError::Broken(format!("{}{path}: {other}", source.url())),
        })?;
    for (token, count) in by_token {
        *listing.rows_by_token.entry(token).or_default() += count;
    }
    for (line, why) in bad_names {
        listing.problem(format!("{path}, line {line}"), why);
    }
    for why in &summary.first_errors {
        listing.problem(path, why.clone());
    }
    listing.problem_count += summary.row_errors.saturating_sub(summary.first_errors.len() as u64);
    for (name, row) in rows {
        let id = name.image_id.clone();
        let next = WantedRow {
            meta_part: name.meta_part(),
            name,
            title: row.title,
            title_multi_objects: row.title_multi_objects,
        };
        match wanted.get(&id) {
            Some(first) => {
                let kept = first.name.image_path();
                listing.problem(
                    format!("{path}, line {}", row.line),
                    format!("image {id} is listed again; {kept} of its first row is kept"),
                );
            }
            None => _ = wanted.insert(id, next),
        }
    }
    Ok(())
}

/// A folder of images with captions. The caption file is the one that the spec names, or the first
/// in order of name that looks like one.
async fn captioned_folder(source: &SourceStore, spec: &BuildSpec) -> Result<Listing, WorkerError> {
    let tables =
        if spec.source.tables.is_empty() { vec![find_caption_file(source).await?] } else { spec.source.tables.clone() };
    let mut listing = Listing::new(spec.work.shards);
    let mut rows: BTreeMap<String, CaptionedImage> = BTreeMap::new();
    for path in &tables {
        for image in read_captions(source, path).await? {
            if image.captions.is_empty() {
                listing.problem(image.file, "all of its captions are blank");
                continue;
            }
            let id = image_id_of(&image.file);
            match rows.get_mut(&id) {
                // another caption file of the same image (train and test lists, or more captions)
                Some(known) if known.file == image.file => known.captions.extend(image.captions),
                Some(known) => {
                    let why = format!("its id {id} is taken by {}; rename one of them", known.file);
                    listing.problem(image.file, why);
                }
                None => _ = rows.insert(id, image),
            }
        }
    }
    if spec.source.max_images > 0 {
        while rows.len() > spec.source.max_images {
            rows.pop_last();
        }
    }
    // the folder is listed once: sizes and times tell changed files
    let present: HashMap<String, String> =
        source.list_identities(&spec.source.image_folder).await?.into_iter().collect();
    for (image_id, image) in rows {
        let Some(identity) = present.get(&image.file) else {
            listing.problem(image.file, format!("it is not in {}", spec.source.image_folder));
            continue;
        };
        let object = format!("{}/{}", spec.source.image_folder.trim_end_matches('/'), image.file);
        listing.push(ListedRow {
            image_id,
            filepath: image.file,
            image: Place { object, member: None },
            meta: None,
            title: None,
            title_multi_objects: None,
            captions: image.captions,
            given_split: image.split.map(|s| s.as_str().to_owned()),
            image_digest: digest::of_bytes(identity.as_bytes()),
            meta_digest: String::new(),
        });
    }
    Ok(listing)
}

/// The file's path without its extension.
fn image_id_of(file: &str) -> String {
    match file.rsplit_once('.') {
        Some((stem, extension)) if !extension.contains('/') => stem.to_owned(),
        _ => file.to_owned(),
    }
}

async fn find_caption_file(source: &SourceStore) -> Result<String, WorkerError> {
    for name in source.list_top().await? {
        let Some(meta) = source.head(&name).await? else { continue };
        let head = source.get_range(&name, 0..meta.size.min(512), None).await?;
        if captioned::sniff(&name, &head).is_some() {
            return Ok(name);
        }
    }
    Err(WorkerError::Configuration(format!(
        "{}: no caption file found; name it with source.tables = [\"captions.jsonl\"]",
        source.url()
    )))
}

async fn read_captions(source: &SourceStore, path: &str) -> Result<Vec<CaptionedImage>, WorkerError> {
    let whole = |path: String| async move {
        source
            .get(&path)
            .await?
            .ok_or_else(|| WorkerError::Configuration(format!("{}{path} is not there", source.url())))
    };
    let bytes = whole(path.to_owned()).await?;
    let format = captioned::sniff(path, &bytes[..bytes.len().min(512)]).ok_or_else(|| {
        WorkerError::Configuration(format!("{}{path} is no caption file that is known here", source.url()))
    })?;
    let images = match format {
        CaptionFormat::Jsonl => captioned::read_jsonl(&bytes),
        CaptionFormat::Csv => captioned::read_csv(&bytes),
        CaptionFormat::Karpathy => captioned::read_karpathy(&bytes),
        CaptionFormat::Lines { filenames, split } => captioned::read_lines(&whole(filenames).await?, &bytes, split),
    };
    images.map_err(|e| WorkerError::Broken(format!("{}{path}: {e}", source.url())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_chosen_by_country_and_resolution() {
        let spec = |tokens: &str, code: &str| {
            let text = format!(
                "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\ntokens = {tokens}\ncountry_code = \"{code}\"\n"
            );
            BuildSpec::parse(&text, "t", &[]).unwrap().source
        };
        let name = |token: &str| ImageName::parse(&format!("images2/w1_{token}_19.jpg")).unwrap();
        let finland = spec("[\"FI\"]", "FI");
        assert!(wants_token(&finland, &name("FI")));
        assert!(!wants_token(&finland, &name("DE")));
        assert!(!wants_token(&finland, &name("S2")), "10 m is coarser than 0.5 m");
        assert!(wants_token(&spec("[]", ""), &name("DE")));
    }

    #[test]
    fn ids_of_files_keep_their_folders() {
        assert_eq!(image_id_of("airport_3.jpg"), "airport_3");
        assert_eq!(image_id_of("a.b/c"), "a.b/c");
    }
}
