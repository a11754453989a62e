//! Tags as OpenStreetMap has them now: between rows of a table and plain data, and what a refresh makes of a row.

use std::collections::BTreeMap;

use arrow::array::{Array, RecordBatch};
use manifests::{Artifact, Digest, digest};
use sources::meta::{Tags, canonical_tags};

use crate::stage::{Input, InputRows};
use crate::table::{self, Columns, TableError, option_text};

/// What the geo-tags read of it.
pub(crate) const INPUT: Input = Input {
    artifact: Artifact::TagRefreshes,
    digests: &["refresh_digest"],
    columns: &["center_tags", "surrounding_tags", "gone"],
};

/// The tags of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageTags {
    /// Of the object that it was taken for.
    pub center: Tags,
    /// Of those around, the nearest to the middle first.
    pub surrounding: Vec<Tags>,
}

impl ImageTags {
    /// From the JSON of a table.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(center: Option<&str>, surrounding: Option<&str>) -> Result<ImageTags, String> {
        fn read<T: serde::de::DeserializeOwned + Default>(text: Option<&str>) -> Result<T, String> {
            text.map_or(Ok(T::default()), |text| {
                serde_json::from_str(text).map_err(|e| format!("its tags are no JSON: {e}"))
            })
        }
        Ok(ImageTags { center: read(center)?, surrounding: read(surrounding)? })
    }

    /// The same for equal tags, in whatever order those around are.
    pub fn digest(&self) -> Digest {
        digest::of_value(&canonical_tags(&self.center, &self.surrounding))
    }
}

/// What OpenStreetMap says of an image, in words of the program where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refresh {
    /// Its tags.
    Tags(ImageTags),
    /// What it was taken for is gone.
    Gone(String),
    /// The table says something else than we write.
    Broken(String),
}

/// What changed a row last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// `extract` or `diff`.
    pub kind: String,
    /// Number of the diff, or of the last one in the extract; `None`: the extract does not say it.
    pub sequence: Option<i64>,
    /// The moment that it shows.
    pub moment: Option<String>,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refreshed {
    /// What the image shows by now; `None`: what it was taken for is gone.
    pub tags: Option<ImageTags>,
    /// What changed it last.
    pub origin: Origin,
}

impl Refreshed {
    /// The same for equal tags, wherever they come from: what else is known of them makes no row stale.
    pub fn digest(&self) -> Digest {
        self.tags.as_ref().map_or_else(|| "gone".to_owned(), ImageTags::digest)
    }

    fn gone(&self) -> Option<String> {
        let Origin { kind, sequence, moment } = &self.origin;
        let number = sequence.map_or(String::new(), |sequence| format!(" {sequence}"));
        let moment = moment.as_ref().map_or(String::new(), |moment| format!(" ({moment})"));
        self.tags.is_none().then(|| format!("its object is no longer in OpenStreetMap: {kind}{number}{moment}"))
    }
}

/// What the rows of a call were refreshed to; empty where none was.
pub(crate) fn read(rows: &InputRows) -> Result<Vec<Option<Refresh>>, TableError> {
    let Some(batch) = rows.tables.get(&Artifact::TagRefreshes) else { return Ok(Vec::new()) };
    let columns = Columns::new(Artifact::TagRefreshes, batch);
    let (center, surrounding) = (columns.text("center_tags")?, columns.text("surrounding_tags")?);
    let gone = columns.text("gone")?;
    let row = |row: usize| match option_text(gone, row) {
        Some(why) => Some(Refresh::Gone(why.chars().take(200).collect())),
        None if center.is_null(row) => None,
        None => Some(match ImageTags::parse(option_text(center, row), option_text(surrounding, row)) {
            Ok(tags) => Refresh::Tags(tags),
            Err(why) => Refresh::Broken(format!("table {}: {why}", Artifact::TagRefreshes.name())),
        }),
    };
    Ok((0..batch.num_rows()).map(row).collect())
}

/// Rows of the table, in order of image.
///
/// # Errors
/// None that columns of these rows have.
pub fn batch(rows: &BTreeMap<String, Refreshed>) -> Result<RecordBatch, TableError> {
    let text = |of: fn(&Refreshed) -> Option<String>| table::texts(rows.values().map(of));
    let columns = vec![
        table::texts(rows.keys().map(|id| Some(id.clone()))),
        text(|_| Some("ok".into())),
        text(|_| None),
        text(|row| Some(row.digest())),
        table::int32s(rows.values().map(|_| Some(1))),
        text(|_| Some(String::new())),
        text(|_| Some("{}".into())),
        text(|_| Some("{}".into())),
        text(|row| row.tags.as_ref().map(|tags| digest::canonical_json(&tags.center))),
        text(|row| row.tags.as_ref().map(|tags| digest::canonical_json(&tags.surrounding))),
        text(Refreshed::gone),
        text(|row| Some(row.origin.kind.clone())),
        table::int64s(rows.values().map(|row| row.origin.sequence)),
        text(|row| row.origin.moment.clone()),
        text(|row| Some(row.digest())),
    ];
    RecordBatch::try_new(table::schema(Artifact::TagRefreshes), columns)
        .map_err(|e| TableError::Build { table: Artifact::TagRefreshes.name(), why: e.to_string() })
}

/// Columns that [`rows`] reads.
pub const COLUMNS: [&str; 7] = ["image_id", "center_tags", "surrounding_tags", "gone", "origin", "sequence", "moment"];

/// The rows of a batch.
///
/// # Errors
/// A column that is not there.
pub fn rows(batch: &RecordBatch) -> Result<BTreeMap<String, Result<Refreshed, String>>, TableError> {
    let columns = Columns::new(Artifact::TagRefreshes, batch);
    let text = |name| columns.text(name);
    let (ids, gone, origin, moment) = (text("image_id")?, text("gone")?, text("origin")?, text("moment")?);
    let (center, surrounding) = (text("center_tags")?, text("surrounding_tags")?);
    let sequence = columns.int64("sequence")?;
    let row = |row: usize| {
        let tags = match gone.is_null(row) {
            true => Some(ImageTags::parse(option_text(center, row), option_text(surrounding, row))?),
            false => None,
        };
        let origin = Origin {
            kind: option_text(origin, row).unwrap_or_default().to_owned(),
            sequence: (!sequence.is_null(row)).then(|| sequence.value(row)),
            moment: option_text(moment, row).map(str::to_owned),
        };
        Ok(Refreshed { tags, origin })
    };
    Ok((0..batch.num_rows()).map(|at| (ids.value(at).to_owned(), row(at))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn rows_are_read_as_they_are_written() {
        let origin = Origin { kind: "diff".into(), sequence: Some(7), moment: Some("2026-11-27T10:30:00Z".into()) };
        let some = ImageTags { center: tags(&[("building", "yes")]), surrounding: vec![tags(&[("a", "\"1\"")])] };
        let there = Refreshed { tags: Some(some), origin: origin.clone() };
        let gone = Refreshed { tags: None, origin };
        let written: BTreeMap<_, _> = [("a1".to_owned(), there.clone()), ("n2".to_owned(), gone.clone())].into();
        let read = rows(&batch(&written).unwrap()).unwrap();
        assert_eq!(read["a1"], Ok(there.clone()));
        assert_eq!(read["n2"], Ok(gone.clone()));
        assert_eq!(gone.gone().unwrap(), "its object is no longer in OpenStreetMap: diff 7 (2026-11-27T10:30:00Z)");
        let other = Refreshed { origin: Origin::default(), ..there.clone() };
        assert_eq!(other.digest(), there.digest(), "where tags come from makes no row stale");
        assert_ne!(gone.digest(), there.digest());
    }

    #[test]
    fn the_order_of_what_is_around_says_nothing() {
        let (a, b) = (tags(&[("a", "1")]), tags(&[("b", "2")]));
        let of = |surrounding: &[&Tags]| ImageTags {
            center: Tags::new(),
            surrounding: surrounding.iter().map(|tags| (*tags).clone()).collect(),
        };
        assert_eq!(of(&[&a, &b]).digest(), of(&[&b, &a]).digest());
        assert_ne!(of(&[&a, &b]).digest(), of(&[&a, &b, &b]).digest());
    }
}
