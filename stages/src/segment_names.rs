//! Stage `segment_names`: what the best segments of an image show, and how much of it, for a captioner that writes again
//! (UrbanCross A.2.1). Names are those of the image's tags; the CLIP that scores segments chooses among them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Float32Array, Int32Array, StringArray};
use manifests::{Artifact, BuildSpec, digest};
use models::tokenizer::Tokenizer;
use pixels::mask::Rle;

use crate::captioners::tags::ImageTags;
use crate::device::note_precision;
use crate::network::{Network, load_network};
use crate::segment_features::{RowSegments, from_half_bytes};
use crate::segment_scores::cosine;
use crate::stage::{Input, InputRows, MapOutput, ModelUse, Outcome, Stage, StageContext, StageError, Transform};
use crate::table::{self, Columns, TableError};
use crate::text_embeddings::{encode_texts, load_tokenizer};

const NAME: &str = "segment_names";

pub fn stage() -> Stage {
    Stage {
        name: NAME,
        version: 1,
        inputs: &[
            Input {
                artifact: Artifact::Geotags,
                digests: &["tags_digest"],
                columns: &["title", "title_multi_objects", "center_tags", "surrounding_tags"],
            },
            Input {
                artifact: Artifact::Segments,
                digests: &["segments_digest"],
                columns: &["width", "height", "segments"],
            },
            Input { artifact: Artifact::SegmentFeatures, digests: &["features_digest"], columns: &["features"] },
            Input { artifact: Artifact::DraftScores, digests: &["scores_digest"], columns: &["scores"] },
        ],
        output: Artifact::SegmentNames,
        source: None,
        model: ModelUse::Scoring,
        told: None,
        recipe_digest: None,
        parameters: |spec: &BuildSpec| {
            let mut parameters = serde_json::json!({ "prefix": PREFIX });
            note_precision(&mut parameters, spec);
            parameters
        },
        open,
    }
}

/// What stands before a name where CLIP compares it.
const PREFIX: &str = "a satellite image of ";

fn open(context: &StageContext<'_>) -> Result<Box<dyn Transform>, StageError> {
    Ok(Box::new(NameSegments { network: load_network(NAME, context)?, tokenizer: load_tokenizer(NAME, context)? }))
}

/// A segment with its name.
#[derive(Debug, Clone, PartialEq)]
struct Named {
    segment: usize,
    name: String,
    similarity: f32,
}

/// All segments of a name.
#[derive(Debug, Clone, PartialEq)]
struct Region {
    name: String,
    /// Of the image, in whole per cent.
    percent: i32,
}

/// Chosen segments, and what they add up to.
type Row = (Vec<Named>, Vec<Region>);

struct NameSegments {
    network: Network,
    tokenizer: Tokenizer,
}

impl Transform for NameSegments {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let tags = ImageTags::read(rows, &[]).map_err(table_error)?;
        let kinds: Vec<Vec<String>> = tags.iter().map(|tags| tags.kinds().unwrap_or_default()).collect();
        let mut vectors: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
        kinds.iter().flatten().for_each(|kind| _ = vectors.entry(kind).or_default());
        let texts: Vec<String> = vectors.keys().map(|kind| format!("{PREFIX}{kind}")).collect();
        let encoded =
            encode_texts(NAME, &self.network, &self.tokenizer, &texts.iter().map(String::as_str).collect::<Vec<_>>())?;
        vectors.values_mut().zip(encoded).for_each(|(vector, encoded)| *vector = encoded);

        let segments = Columns::new(Artifact::Segments, &rows.tables[&Artifact::Segments]);
        let features = Columns::new(Artifact::SegmentFeatures, &rows.tables[&Artifact::SegmentFeatures]);
        let scores = Columns::new(Artifact::DraftScores, &rows.tables[&Artifact::DraftScores]);
        let mut named = Vec::with_capacity(rows.len());
        for (row, kinds) in kinds.iter().enumerate() {
            let best = chosen(&scores, row).map_err(table_error)?;
            let known: Vec<(&str, &[f32])> =
                kinds.iter().map(|kind| (kind.as_str(), &vectors[kind.as_str()][..])).collect();
            let shown = of_features(&features, row, |segment| best.contains(&segment)).map_err(table_error)?;
            let names = shown.iter().filter_map(|(segment, vector)| name(*segment, vector, &known)).collect::<Vec<_>>();
            let masks = RowSegments::read(&segments, row).map_err(table_error)?;
            named.push(regions(&names, &masks).map(|regions| (names, regions)));
        }
        content(&named).map_err(table_error)
    }
}

/// Segments that the drafts have chosen.
fn chosen(scores: &Columns<'_>, row: usize) -> Result<Vec<usize>, TableError> {
    let items = scores.structs("scores", row)?;
    let inner = scores.inner(&items);
    let (segment, selected) = (inner.int32("segment")?, inner.bool("selected")?);
    Ok((0..items.num_rows()).filter(|&i| selected.value(i)).map(|i| segment.value(i).max(0) as usize).collect())
}

/// Vectors of some segments of a row.
fn of_features(
    features: &Columns<'_>,
    row: usize,
    is_wanted: impl Fn(usize) -> bool,
) -> Result<Vec<(usize, Vec<f32>)>, TableError> {
    let items = features.structs("features", row)?;
    let inner = features.inner(&items);
    let (segment, vector) = (inner.int32("segment")?, inner.binary("vector")?);
    let all = (0..items.num_rows()).map(|i| (segment.value(i).max(0) as usize, i));
    Ok(all
        .filter(|(segment, _)| is_wanted(*segment))
        .map(|(segment, i)| (segment, from_half_bytes(vector.value(i))))
        .collect())
}

/// The name whose vector is nearest; of equals the first.
fn name(segment: usize, vector: &[f32], known: &[(&str, &[f32])]) -> Option<Named> {
    let similarities = known.iter().map(|(name, text)| (*name, cosine(vector, text)));
    let best = similarities.reduce(|best, other| if other.1 > best.1 { other } else { best })?;
    Some(Named { segment, name: best.0.to_owned(), similarity: best.1 })
}

/// Names with the share of the image that their segments cover together, the largest first.
fn regions(named: &[Named], segments: &RowSegments) -> Result<Vec<Region>, String> {
    let mut masks: BTreeMap<&str, Vec<Rle>> = BTreeMap::new();
    for Named { segment, name, .. } in named {
        masks.entry(name).or_default().push(segments.mask(*segment)?);
    }
    let area = f64::from(segments.width) * f64::from(segments.height);
    let region = |(name, masks): (&str, Vec<Rle>)| {
        let covered = Rle::covered_px(&masks.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())?;
        Ok(Region { name: name.to_owned(), percent: (100.0 * covered as f64 / area.max(1.0)).round() as i32 })
    };
    let mut regions = masks.into_iter().map(region).collect::<Result<Vec<_>, String>>()?;
    regions.sort_by(|a, b| b.percent.cmp(&a.percent).then_with(|| a.name.cmp(&b.name)));
    Ok(regions)
}

fn content(rows: &[Result<Row, String>]) -> Result<MapOutput, TableError> {
    let lengths = |of: fn(&Row) -> usize| -> Vec<_> { rows.iter().map(|row| row.as_ref().ok().map(of)).collect() };
    let named = || rows.iter().flatten().flat_map(|(named, _)| named);
    let segments = table::struct_lists(
        Artifact::SegmentNames,
        "segments",
        &lengths(|(named, _)| named.len()),
        vec![
            Arc::new(Int32Array::from_iter_values(named().map(|n| n.segment as i32))),
            Arc::new(StringArray::from_iter_values(named().map(|n| &n.name))),
            Arc::new(Float32Array::from_iter_values(named().map(|n| n.similarity))),
        ],
    )?;
    let regions = || rows.iter().flatten().flat_map(|(_, regions)| regions);
    let lists = table::struct_lists(
        Artifact::SegmentNames,
        "regions",
        &lengths(|(_, regions)| regions.len()),
        vec![
            Arc::new(StringArray::from_iter_values(regions().map(|r| &r.name))),
            Arc::new(Int32Array::from_iter_values(regions().map(|r| r.percent))),
        ],
    )?;
    let told = |regions: &[Region]| digest::of_value(&regions.iter().map(|r| (&r.name, r.percent)).collect::<Vec<_>>());
    let digests = table::texts(rows.iter().map(|row| row.as_ref().ok().map(|(_, regions)| told(regions))));
    Ok(MapOutput {
        outcomes: Outcome::of(rows),
        content: table::content(Artifact::SegmentNames, vec![segments, lists, digests])?,
    })
}

/// What a captioner is told of an image's regions, the largest so many of them; `None`: of none.
///
/// # Errors
/// [`TableError::Column`] if the columns are not those of `segment_names`.
pub(crate) fn in_words(columns: &Columns<'_>, row: usize, most: usize) -> Result<Option<String>, TableError> {
    let items = columns.structs("regions", row)?;
    let inner = columns.inner(&items);
    let (name, percent) = (inner.text("name")?, inner.int32("percent")?);
    let shares = (0..items.num_rows()).filter(|&i| percent.value(i) > 0).take(most);
    let words: Vec<String> = shares.map(|i| format!("{} ({} %)", name.value(i), percent.value(i))).collect();
    Ok((!words.is_empty()).then(|| words.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments() -> RowSegments {
        // a picture of ten by ten: two segments of its upper half that share a row, and one of a pixel
        let rows = |from: usize, to: usize| -> Vec<u8> {
            (0..100).map(|i| u8::from((from..to).contains(&(i / 10)))).collect()
        };
        let masks = [rows(0, 3), rows(2, 5), (0..100).map(|i| u8::from(i == 99)).collect()];
        let rles = masks.iter().map(|bits| Rle::from_row_major(bits, 10, 10).unwrap().to_coco_string()).collect();
        RowSegments { width: 10, height: 10, rles, areas_px: vec![30, 30, 1] }
    }

    fn named(segment: usize, name: &str) -> Named {
        Named { segment, name: name.into(), similarity: 0.5 }
    }

    #[test]
    fn what_two_segments_of_a_name_share_counts_once() {
        let regions = regions(&[named(0, "grass"), named(1, "grass"), named(2, "a house")], &segments()).unwrap();
        assert_eq!(
            regions,
            [Region { name: "grass".into(), percent: 50 }, Region { name: "a house".into(), percent: 1 }]
        );
        assert!(super::regions(&[], &segments()).unwrap().is_empty());
        let none = super::regions(&[named(3, "grass")], &segments()).unwrap_err();
        assert!(none.contains("3 segments"), "{none}");
    }

    #[test]
    fn the_nearest_name_is_taken_and_the_first_of_equals() {
        let known: [(&str, &[f32]); 3] = [("a", &[0.0, 1.0]), ("b", &[1.0, 0.1]), ("c", &[1.0, 0.1])];
        assert_eq!(name(7, &[1.0, 0.0], &known).map(|named| (named.segment, named.name)), Some((7, "b".into())));
        assert_eq!(name(7, &[1.0, 0.0], &[]), None);
    }

    #[test]
    fn words_tell_the_largest_regions() {
        let region = |name: &str, percent| Region { name: name.into(), percent };
        let rows = [
            Ok((vec![named(0, "grass")], vec![region("grass", 34), region("a road", 12), region("a house", 1)])),
            Ok((Vec::new(), Vec::new())),
            Err("broken".to_owned()),
            Ok((vec![named(0, "a pole")], vec![region("a pole", 0)])),
        ];
        let made = content(&rows).unwrap();
        let columns = Columns::new(Artifact::SegmentNames, &made.content);
        let words = |row| in_words(&columns, row, 2).unwrap();
        assert_eq!(words(0).as_deref(), Some("grass (34 %), a road (12 %)"));
        assert_eq!((words(1), words(2), words(3)), (None, None, None));
        assert!(matches!(&made.outcomes[2], Outcome::Failed(why) if why == "broken"));
    }
}
