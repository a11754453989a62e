//! Columns of what is known of an image, the same in every format.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, ListBuilder, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema};

use super::rows::About;

/// What a column of [`of`] holds, in the words of Hugging Face's features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Texts,
    Int32,
    Int64,
    Float64,
}

/// The columns in their order.
pub(super) const COLUMNS: [(&str, Kind); 15] = [
    ("image_id", Kind::Text),
    ("captions", Kind::Texts),
    ("captioner", Kind::Text),
    ("split", Kind::Text),
    ("country", Kind::Text),
    ("source", Kind::Text),
    ("osm_kind", Kind::Text),
    ("osm_id", Kind::Int64),
    ("year", Kind::Int32),
    ("time", Kind::Text),
    ("gsd_meters", Kind::Float64),
    ("west", Kind::Float64),
    ("south", Kind::Float64),
    ("east", Kind::Float64),
    ("north", Kind::Float64),
];

/// Columns behind [`COLUMNS`]: tags as JSON.
pub(super) const TAGS: [&str; 2] = ["center_tags", "surrounding_tags"];

/// Every column with its kind.
pub(super) fn all() -> impl Iterator<Item = (&'static str, Kind)> {
    COLUMNS.into_iter().chain(TAGS.map(|name| (name, Kind::Text)))
}

/// Arrow fields of [`all`].
pub(super) fn fields() -> Vec<Field> {
    all()
        .map(|(name, kind)| {
            let kind = match kind {
                Kind::Text => DataType::Utf8,
                Kind::Texts => DataType::List(Arc::new(item())),
                Kind::Int32 => DataType::Int32,
                Kind::Int64 => DataType::Int64,
                Kind::Float64 => DataType::Float64,
            };
            Field::new(name, kind, true)
        })
        .collect()
}

fn item() -> Field {
    Field::new("item", DataType::Utf8, true)
}

/// A schema of these fields.
pub(super) fn schema(fields: Vec<Field>) -> Arc<Schema> {
    Arc::new(Schema::new(fields))
}

/// The columns of some images, in the order of [`all`].
pub(super) fn of(rows: &[&About], country: &str) -> Vec<ArrayRef> {
    let text = |get: fn(&About) -> Option<&str>| -> ArrayRef {
        Arc::new(rows.iter().map(|row| get(row)).collect::<StringArray>())
    };
    let edge = |side: usize| -> ArrayRef {
        Arc::new(rows.iter().map(|row| row.ground.map(|ground| ground[side])).collect::<Float64Array>())
    };
    let mut captions = ListBuilder::new(StringBuilder::new()).with_field(item());
    for row in rows {
        row.captions.iter().for_each(|caption| captions.values().append_value(caption));
        captions.append(true);
    }
    vec![
        text(|row| Some(&row.image_id)),
        Arc::new(captions.finish()),
        text(|row| row.captioner.as_deref()),
        text(|row| Some(&row.split)),
        Arc::new(rows.iter().map(|_| Some(country)).collect::<StringArray>()),
        text(|row| row.source.as_deref()),
        text(|row| row.osm_kind.as_deref()),
        Arc::new(rows.iter().map(|row| row.osm_id).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.year).collect::<Int32Array>()),
        text(|row| row.time.as_deref()),
        Arc::new(rows.iter().map(|row| row.gsd_meters).collect::<Float64Array>()),
        edge(0),
        edge(1),
        edge(2),
        edge(3),
        text(|row| row.center_tags.as_deref()),
        text(|row| row.surrounding_tags.as_deref()),
    ]
}
