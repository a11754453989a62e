//! What a captioner makes of an image's tags, as a digest beside what it wrote: an edit that changes nothing of it leaves the
//! row as it is, and nobody looks at the image again.

use arrow::record_batch::RecordBatch;
use manifests::digest::canonical_json;
use manifests::spec::Captioner;
use manifests::{Artifact, digest};
use rayon::prelude::*;

use super::tags::TagWords;
use super::{ImageTags, of};
use crate::stage::{InputRows, Told, ToldRows};
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

/// What whoever looks is told: the words of the prompt that the tags give, or that they give none. They judge what is
/// answered, too.
pub(super) fn scene(tags: &ImageTags<'_>) -> Option<String> {
    Some(canonical_json(&TagWords::of(tags).ok()?.scene()))
}

const COLUMN: &str = "told";

/// Raised when a captioner asks something else of the same tags and its stage stays at its version.
const VERSION: u32 = 1;

fn of_captions(by: Captioner, rows: &InputRows) -> Result<ToldRows, TableError> {
    digests(rows, of(by).captions().told)
}

fn of_structured(by: Captioner, rows: &InputRows) -> Result<ToldRows, TableError> {
    of(by).structured().map_or_else(|| Ok(vec![None; rows.len()]), |way| digests(rows, way.told))
}

fn of_query_text(by: Captioner, rows: &InputRows) -> Result<ToldRows, TableError> {
    of(by).query_text().map_or_else(|| Ok(vec![None; rows.len()]), |way| digests(rows, way.told))
}

fn digests(rows: &InputRows, told: fn(&ImageTags<'_>) -> Option<String>) -> Result<ToldRows, TableError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// One image with these tags of its object.
    fn rows(center: &str, given: &[&str]) -> InputRows {
        let given = vec![Some(given.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())];
        let none = || table::texts([None::<String>]);
        let columns = [
            ("title", none()),
            ("title_multi_objects", none()),
            ("given_captions", table::text_lists(&given).unwrap()),
            ("center_tags", table::texts([Some(center)])),
            ("surrounding_tags", table::texts([Some("[]")])),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        InputRows {
            image_ids: vec!["a1_FI_19".into()],
            tables: [(Artifact::Geotags, batch)].into(),
            source: Vec::new(),
        }
    }

    const HOUSE: &str = r#"{"building":"house"}"#;
    const OLD_HOUSE: &str = r#"{"building":"house","start_date":"1907"}"#;

    #[test]
    fn every_captioner_is_told_the_same_of_what_it_never_says() {
        for by in [Captioner::Geotags, Captioner::Instructblip, Captioner::Llava, Captioner::Server] {
            for told in [captions(by), structured(by), query_text(by)].into_iter().flatten() {
                let of = |tags: &str| (told.of)(by, &rows(tags, &[])).unwrap().remove(0);
                assert!(of(HOUSE).is_some() && of(HOUSE) == of(OLD_HOUSE), "{by:?}");
                assert_ne!(of(HOUSE), of(r#"{"natural":"water"}"#), "{by:?}");
            }
        }
        assert!(query_text(Captioner::Instructblip).is_none(), "whoever looks is told nothing");
        let given = |tags: &str, texts: &[&str]| of_captions(Captioner::Given, &rows(tags, texts)).unwrap().remove(0);
        assert_eq!(given(HOUSE, &["a house"]), given(r#"{"natural":"water"}"#, &["a house"]));
        assert_ne!(given(HOUSE, &["a house"]), given(HOUSE, &["a lake"]));
        // what nothing can be said of is looked at again by whoever says words of tags alone
        let dark = r#"{"start_date":"1907"}"#;
        assert_eq!(of_captions(Captioner::Geotags, &rows(dark, &[])).unwrap(), [None]);
        assert!(of_captions(Captioner::Instructblip, &rows(dark, &[])).unwrap()[0].is_some());
    }
}
