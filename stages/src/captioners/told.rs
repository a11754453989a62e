//! What a captioner makes of an image's tags, as a digest beside what it wrote: an edit that changes nothing of it leaves the
//! row as it is, and nobody looks at the image again.

use arrow::record_batch::RecordBatch;
use manifests::spec::Captioner;
use manifests::{Artifact, Digest, digest};
use rayon::prelude::*;

use super::tags::TagWords;
use super::{ImageTags, of};
use crate::stage::{InputRows, Told};
use crate::table::{self, Columns, TableError};

/// Of captions.
pub(crate) fn captions(by: Captioner) -> Option<Told> {
    Some(Told { input: Artifact::Geotags, column: COLUMN, by, of: of_captions, renew: with_dropped_tags })
}

/// Of structured captions.
pub(crate) fn structured(by: Captioner) -> Option<Told> {
    of(by).structured()?;
    Some(Told { input: Artifact::Geotags, column: COLUMN, by, of: of_structured, renew: as_it_is })
}

/// Of texts that captions are searched with: whoever looks is told nothing.
pub(crate) fn query_text(by: Captioner) -> Option<Told> {
    let way = of(by).query_text().filter(|_| !of(by).looks());
    way.map(|_| Told { input: Artifact::Geotags, column: COLUMN, by, of: of_query_text, renew: as_it_is })
}

const COLUMN: &str = "told";

/// Raised when a captioner asks something else of the same tags and its stage stays at its version.
const VERSION: u32 = 1;

fn of_captions(by: Captioner, rows: &InputRows) -> Result<Vec<Option<Digest>>, TableError> {
    digests(rows, of(by).captions().told)
}

fn of_structured(by: Captioner, rows: &InputRows) -> Result<Vec<Option<Digest>>, TableError> {
    of(by).structured().map_or_else(|| Ok(vec![None; rows.len()]), |way| digests(rows, way.told))
}

fn of_query_text(by: Captioner, rows: &InputRows) -> Result<Vec<Option<Digest>>, TableError> {
    of(by).query_text().map_or_else(|| Ok(vec![None; rows.len()]), |way| digests(rows, way.told))
}

fn digests(rows: &InputRows, told: fn(&ImageTags<'_>) -> Option<String>) -> Result<Vec<Option<Digest>>, TableError> {
    let Some(geotags) = rows.tables.get(&Artifact::Geotags) else { return Ok(vec![None; rows.len()]) };
    let given = Columns::new(Artifact::Geotags, geotags).texts("given_captions")?;
    let tags = ImageTags::read(rows, &given)?;
    Ok(tags.par_iter().map(|tags| Some(digest::of_value(&(VERSION, told(tags)?)))).collect())
}

fn as_it_is(_: Captioner, _: &InputRows, content: &RecordBatch) -> Result<RecordBatch, TableError> {
    Ok(content.clone())
}

/// Tags that the words leave out are others, though the words are the same.
fn with_dropped_tags(by: Captioner, rows: &InputRows, content: &RecordBatch) -> Result<RecordBatch, TableError> {
    if !of(by).drops_tags() {
        return Ok(content.clone());
    }
    let dropped: Vec<Option<Vec<String>>> = ImageTags::read(rows, &[])?
        .par_iter()
        .map(|tags| Some(TagWords::of(tags).map(|words| words.dropped_tags).unwrap_or_default()))
        .collect();
    let dropped = table::text_lists(&dropped)?;
    let schema = content.schema();
    let columns = schema.fields().iter().zip(content.columns()).map(|(field, column)| match field.name().as_str() {
        "dropped_tags" => dropped.clone(),
        _ => column.clone(),
    });
    table::content(Artifact::Captions, columns.collect())
}
