//! Zip archives read in place: the directory by range and streamed, members one request each.

use std::sync::Arc;

use futures::StreamExt;
use manifests::{digest, paths};
use serde::{Deserialize, Serialize};
use sources::SourceError;
use sources::zip::{self, Directory, DirectoryParser, Limits, Member, Method, Tail};

use crate::error::WorkerError;
use crate::stores::{SourceStore, WorkStore, tag};

/// Where one member lies: enough to fetch and check it without the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberPlace {
    /// Path within the archive.
    pub name: String,
    /// Whether it is stored without compression; otherwise it is deflated.
    pub stored: bool,
    /// CRC-32 of the extracted data.
    pub crc32: u32,
    /// Bytes in the archive.
    pub compressed_bytes: u64,
    /// Bytes once extracted.
    pub uncompressed_bytes: u64,
    /// Offset of the local header in the archive.
    pub header_offset: u64,
}

impl MemberPlace {
    fn new(member: Member) -> Self {
        Self {
            name: member.name,
            stored: member.method == Method::Stored,
            crc32: member.crc32,
            compressed_bytes: member.compressed_size,
            uncompressed_bytes: member.uncompressed_size,
            header_offset: member.header_offset,
        }
    }

    /// The member, as the reader of zips knows it.
    pub fn member(&self) -> Member {
        Member {
            name: self.name.clone(),
            method: if self.stored { Method::Stored } else { Method::Deflated },
            crc32: self.crc32,
            compressed_size: self.compressed_bytes,
            uncompressed_size: self.uncompressed_bytes,
            header_offset: self.header_offset,
        }
    }

    /// Identity of the content without reading it: checksum and size.
    pub(crate) fn content_digest(&self) -> String {
        digest::of_parts([&self.crc32.to_le_bytes()[..], &self.uncompressed_bytes.to_le_bytes()])
    }
}

/// The wanted members of one archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedMembers {
    /// ETag of the archive when its directory was read.
    pub etag: Option<String>,
    /// Length of the archive.
    pub archive_bytes: u64,
    /// Members in the archive, wanted or not.
    pub entries: u64,
    /// Those that can be read, in the order of the directory.
    pub members: Vec<MemberPlace>,
    /// Wanted members that cannot be read, with the reason (encrypted, unknown method, …).
    pub unreadable: Vec<(String, String)>,
}

/// Names of the members that are wanted of an archive.
pub trait WantedNames {
    /// Whether this is one of them.
    fn contains(&self, name: &str) -> bool;
    /// All of them, in order.
    fn in_order(&self) -> Box<dyn Iterator<Item = String> + '_>;
}

/// A digest of names, whatever holds them.
fn digest_of(wanted: &dyn WantedNames) -> String {
    let (mut names, mut ends) = (Vec::new(), vec![0]);
    for name in wanted.in_order() {
        names.extend_from_slice(name.as_bytes());
        ends.push(names.len());
    }
    digest::of_parts(ends.array_windows().map(|[from, to]| &names[*from..*to]))
}

/// Finds the members of `archive` whose names are in `wanted`. What the work store keeps under the archive's identity
/// is taken from there, so that an unchanged archive's directory is read once per wanted set; of what is not there comes the
/// name to keep it under. Memory grows with the wanted members, never with the archive.
pub(crate) async fn wanted_members(
    source: &SourceStore,
    work: &WorkStore,
    archive: &str,
    wanted: &(dyn WantedNames + Sync),
) -> Result<Option<(Arc<WantedMembers>, Option<String>)>, WorkerError> {
    let Some(meta) = source.head(archive).await? else { return Ok(None) };
    // stores without ETags (and file systems that derive it) are told apart by size and time
    let identity = format!("{}|{:?}|{}|{}", source.url(), meta.e_tag, meta.size, meta.last_modified);
    let key = digest::of_parts([archive.as_bytes(), identity.as_bytes(), digest_of(wanted).as_bytes()]);
    let cache = paths::members(&key);
    let etag = tag(&meta);
    if let Some(members) = work.get_sealed::<WantedMembers>(&cache).await? {
        return Ok(Some((Arc::new(WantedMembers { etag, ..members }), None)));
    }
    let is_wanted = |name: &str| wanted.contains(name);
    let members = scan_directory(source, archive, meta.size, etag, &is_wanted).await?;
    Ok(Some((Arc::new(members), Some(cache))))
}

/// Streams the directory of an archive and keeps the wanted members. An empty file has none.
///
/// # Errors
/// [`WorkerError::Broken`] if it is no zip that is read here; a store that does not answer.
pub async fn scan_directory(
    source: &SourceStore,
    archive: &str,
    archive_bytes: u64,
    etag: Option<String>,
    wanted: &(dyn Fn(&str) -> bool + Sync),
) -> Result<WantedMembers, WorkerError> {
    let broken = |e: SourceError| WorkerError::Broken(format!("{}{archive}: {e}", source.url()));
    let limits = Limits::default();
    let mut found = WantedMembers { etag: etag.clone(), archive_bytes, ..WantedMembers::default() };
    if archive_bytes == 0 {
        return Ok(found);
    }
    let tail_start = archive_bytes.saturating_sub(zip::TAIL_BYTES);
    let tail = source.get_range(archive, tail_start..archive_bytes, etag.as_deref()).await?;
    let directory: Directory = match zip::find_directory(archive_bytes, &tail).map_err(broken)? {
        Tail::Found(directory) => directory,
        Tail::NeedRange { offset, length } => {
            let bytes = source.get_range(archive, offset..offset + length, etag.as_deref()).await?;
            zip::read_zip64_end(offset, &bytes).map_err(broken)?
        }
    };
    let mut parser = DirectoryParser::new(directory, &limits).map_err(broken)?;
    let range = directory.offset..directory.offset + directory.length;
    if !range.is_empty() {
        let mut chunks = source.stream_range(archive, range, etag.as_deref()).await?;
        while let Some(chunk) = chunks.next().await {
            parser
                .feed(&chunk?, &mut |entry| {
                    if let Ok(name) = std::str::from_utf8(entry.raw_name)
                        && wanted(name)
                    {
                        match entry.member() {
                            Ok(member) => found.members.push(MemberPlace::new(member)),
                            Err(error) => found.unreadable.push((name.to_owned(), error.to_string())),
                        }
                    }
                    Ok(())
                })
                .map_err(broken)?;
        }
    }
    found.entries = parser.finish().map_err(broken)?;
    Ok(found)
}
