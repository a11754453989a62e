//! SkyScript: CSV files of titles, and archives of images and of their geo-tags.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;

use bytes::Bytes;
use manifests::spec::{BuildSpec, SourceSpec};
use manifests::words::count;
use sources::name::ImageName;
use sources::source::Coverage;
use sources::{SourceError, csv};

use super::anew::ReadArchive;
use super::wanted::{Of, Row, Wanted};
use super::{Collected, ListedRow, NAMED_PROBLEMS, ObjectRange};
use crate::archive::{MemberPlace, WantedNames, wanted_members};
use crate::error::WorkerError;
use crate::stores::{SourceStore, WorkStore, tag};

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
    let mut wanted = Wanted::default();
    if spec.source.tables.is_empty() {
        return Err(WorkerError::Configuration(
            "source.tables is empty: name the CSV files below source.url, such as \"dataframe/SkyScript_….csv\"".into(),
        ));
    }
    for path in &spec.source.tables {
        wanted = read_table(source, spec, path, wanted, &mut listing).await?;
    }
    let absent: Vec<&str> = spec
        .source
        .tokens
        .iter()
        .map(String::as_str)
        .filter(|t| !listing.listing.rows_by_token.contains_key(*t))
        .collect();
    if !absent.is_empty() && wanted.len() > 0 {
        let why =
            format!("no row of its tables has the token {}; they have {}", absent.join(", "), listing.listing.tokens());
        listing.listing.notes.push(format!("source.tokens: {why}"));
    }
    if spec.source.max_images > 0 {
        wanted.truncate(spec.source.max_images);
    }

    // one pass over each archive that holds a wanted image, and over its meta archive
    let mut unreadable = HashSet::new();
    for (part, meta_part) in wanted.parts() {
        let stores = (source, work);
        scan(stores, &mut wanted, (&part, &part, Of::Image), &mut unreadable, &mut listing).await?;
        if spec.source.meta {
            scan(stores, &mut wanted, (&part, &meta_part, Of::Meta), &mut HashSet::new(), &mut listing).await?;
        }
    }
    for number in wanted.numbers().filter(|number| !wanted.is_placed(*number, Of::Image)) {
        let path = wanted.filepath(number);
        // of one that cannot be read it is known why
        if !unreadable.contains(path) {
            let part = path.split_once('/').map_or("", |(part, _)| part);
            listing.problem(path, format!("{part}.zip has no such member"));
        }
        listing.listing.rows_left_out += 1;
    }
    let digest_of = |place: &ObjectRange| place.member.as_ref().map_or(String::new(), MemberPlace::content_digest);
    wanted.drain(|row, name, image, meta| {
        listing.push(&ListedRow {
            image_id: name.image_id.clone(),
            filepath: row.filepath.to_owned(),
            image_digest: digest_of(&image),
            meta_digest: meta.as_ref().map_or(String::new(), digest_of),
            image,
            meta,
            title: Some(row.title.to_owned()),
            title_multi_objects: row.title_multi_objects.map(str::to_owned),
            captions: Vec::new(),
            given_split: None,
        });
    });
    Ok(listing)
}

/// Notes where an archive has its wanted members, and what of them cannot be read.
async fn scan(
    (source, work): (&SourceStore, &WorkStore),
    wanted: &mut Wanted,
    of: (&str, &str, Of),
    unreadable: &mut HashSet<String>,
    listing: &mut Collected,
) -> Result<(), WorkerError> {
    let archive = format!("{}.zip", of.1);
    let names = wanted.names(of.0, of.1, of.2);
    let found = wanted_members(source, work, &archive, &names).await?;
    let mut gone = |what: &'static str, why: &str| {
        let missing = count(names.in_order().count(), "wanted member");
        listing.problem(archive.as_str(), format!("{why}; {missing} cannot be found"));
        listing.listing.gone.insert(archive.clone(), what);
    };
    let Some((found, anew)) = found else {
        gone("is no longer in the source", "the source has no such archive");
        return Ok(());
    };
    if found.archive_bytes == 0 {
        gone("is an empty file", "the archive is an empty file");
    }
    listing.listing.read_anew.extend(anew.map(|kept_as| (kept_as, ReadArchive::Members(found.clone()))));
    for name in wanted.place(&archive, &found, of) {
        listing.problem(name, format!("{archive} holds it twice; the last one counts"));
    }
    for (name, why) in &found.unreadable {
        listing.problem(name.as_str(), why.as_str());
        unreadable.insert(name.clone());
    }
    Ok(())
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
    mut wanted: Wanted,
    listing: &mut Collected,
) -> Result<Wanted, WorkerError> {
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
        etag: tag(&meta),
        length: meta.size,
        at: 0,
        chunk: Bytes::new(),
    };
    let source_spec = spec.source.clone();
    let first = wanted.arrived();
    let read = move || {
        // of each row its line
        let mut lines = Vec::new();
        let mut by_token = BTreeMap::<String, u64>::new();
        let (mut bad_names, mut unnamed) = (Vec::new(), 0);
        let summary = csv::read_csv(reader, &mut |row| {
            match ImageName::parse(&row.filepath) {
                Ok(name) => {
                    *by_token.entry(name.source.clone()).or_default() += 1;
                    if wants_token(&source_spec, &name) {
                        let title_multi_objects = row.title_multi_objects.as_deref();
                        wanted.push(Row { filepath: &row.filepath, title: &row.title, title_multi_objects });
                        lines.push(row.line);
                    }
                }
                Err(error) if bad_names.len() < NAMED_PROBLEMS => bad_names.push((row.line, error.to_string())),
                Err(_) => unnamed += 1,
            }
            Ok(())
        })?;
        let again = wanted.settle(first);
        Ok::<_, SourceError>((wanted, lines, again, by_token, (bad_names, unnamed), summary))
    };
    let (wanted, lines, again, by_token, (bad_names, unnamed), summary) = tokio::task::spawn_blocking(read)
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
    listing.listing.rows_left_out += summary.row_errors + unnamed;
    for (number, counts) in again {
        let line = lines.get((number - first) as usize).copied().unwrap_or_default();
        let (path_again, kept) = (wanted.filepath(number), wanted.filepath(counts));
        let id = ImageName::parse(path_again).map_or_else(|_| path_again.to_owned(), |name| name.image_id);
        listing.leave_out(
            format!("{path}, line {line}"),
            format!("image {id} is listed again; {kept} of its first row is kept"),
        );
    }
    Ok(wanted)
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
