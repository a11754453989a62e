//! Fetching source bytes: ranges close to each other in one request, requests side by side.

mod tar;

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use sources::zip::{self, Extracted, Limits, Member, Method};

use crate::error::WorkerError;
use crate::listing::ObjectRange;
use crate::stores::{SourceStore, tag};

/// Bytes between two wanted ranges that are cheaper to read than to ask for again.
const MAX_GAP_BYTES: u64 = 128 << 10;

/// Bytes of a row, or why they cannot be had.
type Fetched = (usize, Result<Vec<u8>, String>);

/// An object, with the [`tag`] that it had when it was listed.
type Listed<'p> = (&'p str, Option<&'p str>);

/// A member to fetch for a row: its bytes in the archive.
type Wanted<'m> = (Range<u64>, usize, &'m Member);

/// How a build fetches.
#[derive(Debug, Clone, Copy)]
pub struct FetchSettings {
    /// Requests in flight.
    pub concurrency: usize,
    /// Largest request.
    pub request_bytes: u64,
}

/// Fetches the bytes of each place, in order. A place that is broken for good is an `Err` of its
/// own; a store that does not answer fails the call, which may be repeated.
///
/// # Errors
/// [`WorkerError::Transient`] if the store does not answer, [`WorkerError::Outdated`] if an object changed or went since it was listed.
pub async fn fetch(
    source: &SourceStore,
    places: &[Option<ObjectRange>],
    settings: FetchSettings,
) -> Result<Vec<Option<Result<Vec<u8>, String>>>, WorkerError> {
    let mut fetched: Vec<Option<Result<Vec<u8>, String>>> = places.iter().map(|_| None).collect();
    let mut members: BTreeMap<Listed<'_>, Vec<(usize, Member)>> = BTreeMap::new();
    let mut objects: Vec<(usize, Listed<'_>)> = Vec::new();
    for (row, place) in places.iter().enumerate() {
        match place {
            None => {}
            Some(ObjectRange { object, etag, member: Some(member), .. }) => {
                members.entry((object, etag.as_deref())).or_default().push((row, member.member()));
            }
            Some(ObjectRange { object, etag, member: None, .. }) => objects.push((row, (object, etag.as_deref()))),
        }
    }
    for ((archive, etag), members) in members {
        let is_packed =
            sources::tar::is_tar(archive) && members.iter().any(|(_, member)| member.method != Method::Stored);
        let bytes = match is_packed {
            true => tar::unpack(source, archive, etag, &members).await?,
            false => fetch_members(source, archive, etag, &members, settings).await?,
        };
        // an archive that is being rewritten has broken members for a moment, which would pass for broken rows
        if bytes.iter().any(|(_, bytes)| bytes.is_err()) {
            check_unchanged(source, archive, etag).await?;
        }
        for (row, bytes) in bytes {
            fetched[row] = Some(bytes);
        }
    }
    let whole = futures::stream::iter(objects)
        .map(|(row, listed)| async move { Ok::<_, WorkerError>((row, fetch_object(source, listed).await?)) })
        .buffer_unordered(settings.concurrency);
    for (row, bytes) in whole.try_collect::<Vec<_>>().await? {
        fetched[row] = Some(bytes);
    }
    Ok(fetched)
}

/// Is an object still the one that was listed?
async fn check_unchanged(source: &SourceStore, object: &str, etag: Option<&str>) -> Result<(), WorkerError> {
    if etag.is_none() {
        return Ok(());
    }
    is_unchanged(source, (object, etag), source.head(object).await?.as_ref())
}

fn is_unchanged(source: &SourceStore, (object, etag): Listed<'_>, now: Option<&ObjectMeta>) -> Result<(), WorkerError> {
    match (etag, now) {
        (None, _) => Ok(()),
        (Some(_), None) => Err(WorkerError::gone(object)),
        (Some(listed), Some(now)) => match source.is_still(listed, now) {
            Some(false) => Err(WorkerError::changed(object)),
            _ => Ok(()),
        },
    }
}

async fn fetch_object(source: &SourceStore, listed: Listed<'_>) -> Result<Result<Vec<u8>, String>, WorkerError> {
    let (object, limit) = (listed.0, Limits::default().max_member_bytes);
    let head = match source.head(object).await {
        // a file that may not be read is one row's; a store that refuses one object refuses all
        Err(WorkerError::Configuration(why)) if source.local_folder().is_some() => return Ok(Err(why)),
        other => other?,
    };
    // its row is known by what was listed: later pixels would pass for those
    is_unchanged(source, listed, head.as_ref())?;
    match head {
        None => Ok(Err(format!("{object} is not there"))),
        Some(meta) if meta.size > limit => {
            Ok(Err(format!("{object} has {} bytes, over the limit of {limit}", meta.size)))
        }
        Some(meta) => {
            let tag = tag(&meta);
            let bytes = source.get_range(object, 0..meta.size, tag.as_deref());
            Ok(if meta.size == 0 { Err(format!("{object} is empty")) } else { Ok(bytes.await?.to_vec()) })
        }
    }
}

/// Members of one archive.
async fn fetch_members(
    source: &SourceStore,
    archive: &str,
    etag: Option<&str>,
    members: &[(usize, Member)],
    settings: FetchSettings,
) -> Result<Vec<Fetched>, WorkerError> {
    let limits = Limits::default();
    let mut done = Vec::with_capacity(members.len());
    let mut wanted: Vec<Wanted<'_>> = Vec::new();
    for (row, member) in members {
        // refuse before a byte is fetched: an archive may claim any size
        if member.compressed_size > limits.max_member_bytes || member.uncompressed_size > limits.max_member_bytes {
            let most = member.compressed_size.max(member.uncompressed_size);
            done.push((
                *row,
                Err(format!("{archive}, {}: {most} bytes, over the limit of {}", member.name, limits.max_member_bytes)),
            ));
        } else {
            let range = match sources::tar::is_tar(archive) {
                true => member.header_offset..member.header_offset.saturating_add(member.compressed_size),
                false => zip::member_range(member, None),
            };
            wanted.push((range, *row, member));
        }
    }
    wanted.sort_by_key(|(range, ..)| range.start);
    let ranges: Vec<Range<u64>> = wanted.iter().map(|(range, ..)| range.clone()).collect();
    let requests = zip::coalesce(&ranges, MAX_GAP_BYTES, settings.request_bytes);
    let mut groups: Vec<(Range<u64>, Vec<Wanted<'_>>)> =
        requests.into_iter().map(|request| (request, Vec::new())).collect();
    for item in wanted {
        let at = groups.partition_point(|(request, _)| request.end < item.0.end);
        match groups.get_mut(at) {
            Some((request, items)) if request.start <= item.0.start => items.push(item),
            _ => return Err(WorkerError::Broken(format!("{archive}: no request covers member {}", item.2.name))),
        }
    }
    let results: Vec<Vec<Fetched>> = futures::stream::iter(groups)
        .map(|(request, items)| async move {
            let bytes = source.get_range(archive, request.clone(), etag).await?;
            let mut extracted = Vec::with_capacity(items.len());
            for (range, row, member) in items {
                let start = ((range.start - request.start) as usize).min(bytes.len());
                if sources::tar::is_tar(archive) {
                    extracted.push((row, tar::checked(archive, member, &bytes[start..])));
                    continue;
                }
                extracted.push((row, extract(source, archive, etag, member, bytes.slice(start..), &limits).await?));
            }
            Ok::<_, WorkerError>(extracted)
        })
        .buffer_unordered(settings.concurrency)
        .try_collect()
        .await?;
    done.extend(results.into_iter().flatten());
    Ok(done)
}

async fn extract(
    source: &SourceStore,
    archive: &str,
    etag: Option<&str>,
    member: &Member,
    bytes: Bytes,
    limits: &Limits,
) -> Result<Result<Vec<u8>, String>, WorkerError> {
    let mut bytes = bytes;
    for _ in 0..2 {
        match zip::extract(member, &bytes, limits) {
            Ok(Extracted::Data(data)) => return Ok(Ok(data.into_owned())),
            Ok(Extracted::NeedMore { length }) => {
                let range = member.header_offset..member.header_offset.saturating_add(length);
                bytes = source.get_range(archive, range, etag).await?;
            }
            Err(error) => return Ok(Err(format!("{archive}: {error}"))),
        }
    }
    Ok(Err(format!("{archive}, {}: its data ends before its size says", member.name)))
}

#[cfg(test)]
mod tests;
