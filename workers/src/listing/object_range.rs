//! Where source bytes lie, and how that is written into slices.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::Schema;
use manifests::Artifact;
use stages::table::{self, Columns, TableError, option_text};

use crate::archive::MemberPlace;

/// Where bytes lie: a whole object, or a member of a zip.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectRange {
    /// Path of the object within the source.
    pub object: String,
    /// Of the object as it was listed, checked again with every range; without an ETag what stands for one.
    pub etag: Option<String>,
    /// Size of an object that is read whole, where it was listed.
    pub bytes: Option<u64>,
    /// The member, where the object is a zip.
    pub member: Option<MemberPlace>,
}

impl ObjectRange {
    /// Bytes of what is read, once extracted.
    fn size(&self) -> Option<u64> {
        self.member.as_ref().map_or(self.bytes, |member| Some(member.uncompressed_bytes))
    }

    /// What reading it takes of memory, as far as it was listed.
    pub(crate) fn weight(&self) -> u64 {
        let packed = self.member.as_ref().map_or(0, |member| member.compressed_bytes);
        self.size().map_or(packed, |bytes| bytes.max(packed))
    }
}

/// Places as a column of a listing.
pub(super) fn column<'a>(
    name: &'static str,
    places: impl Iterator<Item = Option<&'a ObjectRange>> + Clone,
) -> Result<ArrayRef, TableError> {
    let members = || places.clone().map(|place| place.and_then(|place| place.member.as_ref()));
    let number = |of: fn(&MemberPlace) -> u64| table::int64s(members().map(|m| m.map(|m| of(m) as i64)));
    let columns = vec![
        table::texts(places.clone().map(|place| place.map(|place| place.object.as_str()))),
        table::texts(places.clone().map(|place| place.and_then(|place| place.etag.as_deref()))),
        table::texts(members().map(|m| m.map(|m| m.name.as_str()))),
        table::bools(members().map(|m| m.map(|m| m.stored))),
        number(|m| m.crc32.into()),
        number(|m| m.compressed_bytes),
        table::int64s(places.clone().map(|place| place?.size().map(|bytes| bytes as i64))),
        number(|m| m.header_offset),
    ];
    let nulls = NullBuffer::from_iter(places.map(|place| place.is_some()));
    table::structures(Artifact::Listing, name, columns, Some(nulls).filter(|nulls| nulls.null_count() > 0))
}

/// The places of a column that [`column`] made.
///
/// # Errors
/// A batch without such a column.
pub(crate) fn places(batch: &RecordBatch, name: &str) -> Result<Vec<Option<ObjectRange>>, TableError> {
    let places = Columns::new(Artifact::Listing, batch).structure(name)?;
    let schema = Schema::new(places.fields().clone());
    let fields = RecordBatch::try_new(Arc::new(schema), places.columns().to_vec())
        .map_err(|e| TableError::Build { table: Artifact::Listing.name(), why: e.to_string() })?;
    let columns = Columns::new(Artifact::Listing, &fields);
    let (objects, etags, members) = (columns.text("object")?, columns.text("etag")?, columns.text("member")?);
    let (stored, crc32) = (columns.bool("stored")?, columns.int64("crc32")?);
    let (compressed, uncompressed) = (columns.int64("compressed_bytes")?, columns.int64("uncompressed_bytes")?);
    let offsets = columns.int64("header_offset")?;
    let member = |row: usize| {
        Some(MemberPlace {
            name: option_text(members, row)?.to_owned(),
            stored: stored.value(row),
            crc32: crc32.value(row) as u32,
            compressed_bytes: compressed.value(row) as u64,
            uncompressed_bytes: uncompressed.value(row) as u64,
            header_offset: offsets.value(row) as u64,
        })
    };
    let place = |row: usize| {
        let (object, etag) = (objects.value(row).to_owned(), option_text(etags, row).map(str::to_owned));
        let member = member(row);
        let bytes = (member.is_none() && !uncompressed.is_null(row)).then(|| uncompressed.value(row) as u64);
        ObjectRange { object, etag, bytes, member }
    };
    Ok((0..places.len()).map(|row| (!places.is_null(row)).then(|| place(row))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_as_they_were_written() {
        let member = MemberPlace {
            name: "images2/a_FI_19.jpg".into(),
            stored: true,
            crc32: u32::MAX,
            compressed_bytes: 5,
            uncompressed_bytes: 1 << 40,
            header_offset: u64::MAX,
        };
        let of = |etag: Option<&str>, bytes, member| {
            let (object, etag) = ("a.zip".into(), etag.map(str::to_owned));
            ObjectRange { object, etag, bytes, member }
        };
        let whole = |bytes| Some(of(None, bytes, None));
        let places = [Some(of(Some("\"e\""), None, Some(member))), None, whole(None), whole(Some(7)), whole(Some(0))];
        let weights: Vec<_> = places.iter().flatten().map(ObjectRange::weight).collect();
        assert_eq!(weights, [1 << 40, 0, 7, 0]);
        let column = column("meta", places.iter().map(Option::as_ref)).unwrap();
        let batch = RecordBatch::try_from_iter([("meta", column)]).unwrap();
        assert_eq!(super::places(&batch, "meta").unwrap(), places);
        assert!(super::places(&batch, "image").is_err());
    }
}
