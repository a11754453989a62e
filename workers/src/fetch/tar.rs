//! Members of tar archives: ranges of plain ones, and what comes by on the way through packed ones.

use std::collections::BTreeMap;

use sources::SourceError;
use sources::tar::{self, Visitor};
use sources::zip::{Limits, Member};

use super::Fetched;
use crate::error::WorkerError;
use crate::listing::stream;
use crate::stores::SourceStore;

/// The data of a member that was read, checked.
pub(super) fn checked(archive: &str, member: &Member, data: &[u8]) -> Result<Vec<u8>, String> {
    let of = |problem: String| Err(format!("{archive}, {}: {problem}", member.name));
    let Some(data) = usize::try_from(member.uncompressed_size).ok().and_then(|size| data.get(..size)) else {
        return of(format!("its {} bytes are cut off", member.uncompressed_size));
    };
    match crc32fast::hash(data) == member.crc32 {
        true => Ok(data.to_vec()),
        false => of("its data is not what it was when the archive was listed: run again".into()),
    }
}

/// Members of a packed archive: it is read from its beginning up to the last of them.
pub(super) async fn unpack(
    source: &SourceStore,
    archive: &str,
    etag: Option<&str>,
    members: &[(usize, Member)],
) -> Result<Vec<Fetched>, WorkerError> {
    let Some(meta) = source.head(archive).await? else {
        return Ok(members.iter().map(|(row, _)| (*row, Err(format!("{archive} is not there")))).collect());
    };
    let most = Limits::default().max_member_bytes;
    let (small, large): (Vec<_>, Vec<_>) = members.iter().partition(|(_, member)| member.uncompressed_size <= most);
    let mut wanted = Wanted {
        places: small.iter().map(|(_, member)| (member.header_offset, member.uncompressed_size)).collect(),
        data: BTreeMap::new(),
        open: None,
    };
    stream(source, archive, meta.size, etag, &mut wanted).await?;
    let refused = large.into_iter().map(|(row, member)| {
        let bytes = member.uncompressed_size;
        (*row, Err(format!("{archive}, {}: {bytes} bytes, over the limit of {most}", member.name)))
    });
    let read = small.into_iter().map(|(row, member)| {
        let data = wanted.data.get(&member.header_offset);
        (*row, checked(archive, member, data.map_or(&[][..], Vec::as_slice)))
    });
    Ok(refused.chain(read).collect())
}

/// What is taken on the way, by its offset.
struct Wanted {
    /// What has not come yet, with its size.
    places: BTreeMap<u64, u64>,
    data: BTreeMap<u64, Vec<u8>>,
    open: Option<(u64, Vec<u8>)>,
}

impl Visitor for Wanted {
    fn begin(&mut self, member: tar::Member) -> Result<(), SourceError> {
        // a member of another size is none of those that were listed
        let is_wanted = self.places.get(&member.offset) == Some(&member.size);
        self.open = is_wanted.then(|| (member.offset, Vec::new()));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), SourceError> {
        if let Some((_, data)) = &mut self.open {
            data.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), SourceError> {
        if let Some((offset, data)) = self.open.take() {
            self.places.remove(&offset);
            self.data.insert(offset, data);
        }
        Ok(())
    }

    fn is_satisfied(&self) -> bool {
        self.places.is_empty()
    }
}
