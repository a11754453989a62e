//! SkyScript: CSV files of titles, and archives of images and of their geo-tags.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;

use bytes::Bytes;
use manifests::spec::{BuildSpec, SourceSpec};
use manifests::words::count;
use sources::name::ImageName;
use sources::source::Coverage;
use sources::{SourceError, csv};

use super::{Collected, ListedRow, ObjectRange};
use crate::archive::{MemberPlace, wanted_members};
use crate::error::WorkerError;
use crate::stores::{SourceStore, WorkStore};

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

/// The rows of the build's CSV files whose images the archives hold.
pub(super) async fn list(source: &SourceStore, work: &WorkStore, spec: &BuildSpec) -> Result<Collected, WorkerError> {
    let mut listing = Collected::new(spec.work.shards);
    let mut wanted: BTreeMap<String, WantedRow> = BTreeMap::new();
    if spec.source.tables.is_empty() {
        return Err(WorkerError::Configuration(
            "source.tables is empty: name the CSV files below source.url, such as \"dataframe/SkyScript_….csv\"".into(),
        ));
    }
    for path in &spec.source.tables {
        read_table(source, spec, path, &mut wanted, &mut listing).await?;
    }
    let absent: Vec<&str> = spec
        .source
        .tokens
        .iter()
        .map(String::as_str)
        .filter(|t| !listing.listing.rows_by_token.contains_key(*t))
        .collect();
    if !absent.is_empty() && !wanted.is_empty() {
        let why =
            format!("no row of its tables has the token {}; they have {}", absent.join(", "), listing.listing.tokens());
        listing.listing.notes.push(format!("source.tokens: {why}"));
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
            // of one that cannot be read it is known why
            if !images.unreadable.contains(&row.name.image_path()) {
                listing.problem(row.name.image_path(), format!("{}.zip has no such member", row.name.part));
            }
            listing.listing.rows_left_out += 1;
            continue;
        };
        let meta = metas.take(&row.name.meta_path());
        let digest_of = |place: &ObjectRange| place.member.as_ref().map_or(String::new(), MemberPlace::content_digest);
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
    places: HashMap<String, ObjectRange>,
    unreadable: HashSet<String>,
}

impl Members {
    async fn scan(
        &mut self,
        source: &SourceStore,
        work: &WorkStore,
        archive: &str,
        names: &HashSet<String>,
        listing: &mut Collected,
    ) -> Result<(), WorkerError> {
        let found = wanted_members(source, work, archive, names, &mut listing.listing.read_anew).await?;
        let mut gone = |archive: &str, what: &'static str, why: &str| {
            let missing = count(names.len(), "wanted member");
            listing.problem(archive, format!("{why}; {missing} cannot be found"));
            listing.listing.gone.insert(archive.to_owned(), what);
        };
        let Some(found) = found else {
            gone(archive, "is no longer in the source", "the source has no such archive");
            return Ok(());
        };
        if found.archive_bytes == 0 {
            gone(archive, "is an empty file", "the archive is an empty file");
        }
        for member in found.members {
            let name = member.name.clone();
            let place = ObjectRange { object: archive.to_owned(), etag: found.etag.clone(), member: Some(member) };
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

    fn take(&mut self, name: &str) -> Option<ObjectRange> {
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
    listing: &mut Collected,
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
            SourceError::Io(io) => io.downcast().unwrap_or_else(|io| WorkerError::Transient(format!("{path}: {io}"))),
            other => WorkerError::Broken(format!("{}{path}: {other}", source.url())),
        })?;
    for (token, rows) in by_token {
        *listing.listing.rows_by_token.entry(token).or_default() += rows;
    }
    for (line, why) in bad_names {
        listing.leave_out(format!("{path}, line {line}"), why);
    }
    for why in &summary.first_errors {
        listing.problem(path, why.clone());
    }
    listing.listing.rows_left_out += summary.row_errors;
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
                listing.leave_out(
                    format!("{path}, line {}", row.line),
                    format!("image {id} is listed again; {kept} of its first row is kept"),
                );
            }
            None => _ = wanted.insert(id, next),
        }
    }
    Ok(())
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
}
