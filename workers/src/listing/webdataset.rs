//! Tar archives of images with captions, as WebDataset has them. An archive is streamed once: what it holds is kept in the
//! work store under its identity.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use futures::{StreamExt, TryStreamExt};
use manifests::spec::BuildSpec;
use manifests::words::count;
use manifests::{digest, paths};
use sources::SourceError;
use sources::tar::{self, Archive};
use sources::webdataset::{Picture, Sample, Samples};

use super::anew::ReadArchive;
use super::kept_samples::{KeptSample, KeptSamples};
use super::{Collected, ListedRow, ObjectRange};
use crate::archive::MemberPlace;
use crate::error::WorkerError;
use crate::stores::{SourceStore, WorkStore, tag};

/// Archives that are streamed at once: each of them fills a line.
const MOST_AT_ONCE: usize = 8;

/// The samples of these archives.
pub(super) async fn list(
    source: &SourceStore,
    work: &WorkStore,
    spec: &BuildSpec,
    archives: Vec<String>,
) -> Result<Collected, WorkerError> {
    let mut listing = Collected::new(spec.work.shards);
    let mut rows: BTreeMap<String, ListedRow> = BTreeMap::new();
    let mut read = futures::stream::iter(archives)
        .map(|archive| async move { Ok::<_, WorkerError>((samples_of(source, work, &archive).await?, archive)) })
        .buffered(spec.work.concurrency.clamp(1, MOST_AT_ONCE));
    while let Some(((kept, anew), archive)) = read.try_next().await? {
        listing.listing.read_anew.extend(anew.map(|cache| (cache, ReadArchive::Samples(kept.clone()))));
        let others = match kept.others {
            0 => String::new(),
            others => format!("; {others} without an image passed over"),
        };
        let samples = count(kept.samples.len(), "sample");
        listing.listing.notes.push(format!("{samples} of {}{archive}{others}", source.url()));
        for sample in kept.samples {
            let what = format!("{archive}, {}", sample.place.name);
            if let Some(why) = sample.problem {
                listing.leave_out(what, why);
                continue;
            }
            match rows.entry(sample.id.clone()) {
                Entry::Vacant(place) => drop(place.insert(row(spec, &archive, kept.etag.clone(), sample))),
                Entry::Occupied(known) => {
                    let (id, known) = (&sample.id, &known.get().image.object);
                    listing.leave_out(what, format!("its id {id} is taken by an image of {known}; rename one of them"));
                }
            }
        }
    }
    while spec.source.max_images > 0 && rows.len() > spec.source.max_images {
        rows.pop_last();
    }
    rows.into_values().for_each(|row| listing.push(&row));
    Ok(listing)
}

fn row(spec: &BuildSpec, archive: &str, etag: Option<String>, sample: KeptSample) -> ListedRow {
    let image_digest = sample.place.content_digest();
    let filepath = sample.place.name.clone();
    let image = ObjectRange { object: archive.to_owned(), etag, bytes: None, member: Some(sample.place) };
    // what says where it lies is the picture itself
    let meta = (spec.source.georeferenced && super::is_tiff(&filepath)).then(|| image.clone());
    ListedRow {
        image_id: sample.id,
        filepath,
        image,
        meta_digest: if meta.is_some() { image_digest.clone() } else { String::new() },
        meta,
        title: None,
        title_multi_objects: None,
        captions: sample.captions,
        given_split: sample.split,
        image_digest,
    }
}

/// From the work store, or from the archive itself, and then with the path where it is to be kept.
async fn samples_of(
    source: &SourceStore,
    work: &WorkStore,
    archive: &str,
) -> Result<(KeptSamples, Option<String>), WorkerError> {
    let Some(meta) = source.head(archive).await? else {
        let why = format!("{}{archive} is not there; look at source.tables", source.url());
        return Err(WorkerError::Configuration(why));
    };
    let identity = format!("{}|{:?}|{}|{}", source.url(), meta.e_tag, meta.size, meta.last_modified);
    let cache = paths::members(&digest::of_parts([archive.as_bytes(), identity.as_bytes(), b"webdataset 1"]));
    let etag = tag(&meta);
    if let Some(kept) = work.get_sealed::<KeptSamples>(&cache).await? {
        return Ok((KeptSamples { etag, ..kept }, None));
    }
    let mut samples = Samples::of(archive);
    let is_packed = stream(source, archive, meta.size, etag.as_deref(), &mut samples).await?;
    let (samples, others) =
        samples.finish().map_err(|e| WorkerError::Broken(format!("{}{archive}: {e}", source.url())))?;
    let samples = samples.into_iter().map(|sample| kept(sample, is_packed)).collect();
    Ok((KeptSamples { etag, samples, others }, Some(cache)))
}

fn kept(sample: Sample, is_packed: bool) -> KeptSample {
    let Sample { id, picture: Picture { name, offset, size, crc32 }, captions, split, problem } = sample;
    let place = MemberPlace {
        name,
        stored: !is_packed,
        crc32,
        compressed_bytes: size,
        uncompressed_bytes: size,
        header_offset: offset,
    };
    KeptSample { id, place, captions, split: split.map(|split| split.as_str().to_owned()), problem }
}

/// Shows a visitor the members of an archive until it has seen enough, or all; whether it is packed.
///
/// # Errors
/// [`WorkerError::Broken`] for what is no tar that is read here; a store that does not answer.
pub(crate) async fn stream(
    source: &SourceStore,
    archive: &str,
    bytes: u64,
    etag: Option<&str>,
    visitor: &mut (impl tar::Visitor + Send),
) -> Result<bool, WorkerError> {
    let broken = |e: SourceError| WorkerError::Broken(format!("{}{archive}: {e}", source.url()));
    if bytes == 0 {
        return Err(WorkerError::Broken(format!("{}{archive} is empty", source.url())));
    }
    let mut chunks = source.stream_range(archive, 0..bytes, etag).await?;
    let Some(first) = chunks.next().await.transpose()? else { return Ok(false) };
    let is_packed = tar::is_packed(&first);
    let mut reader = Archive::new(is_packed, visitor);
    reader.feed(&first).map_err(broken)?;
    while !reader.is_done()
        && let Some(chunk) = chunks.next().await.transpose()?
    {
        reader.feed(&chunk).map_err(broken)?;
    }
    reader.finish().map_err(broken)?;
    Ok(is_packed)
}
