//! Stage `captions`: words for an image, by the captioner that the spec names, or as a person decided. Where captions are
//! written twice, stage `draft_captions` comes before it: the same words before their writer knows the segments.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Float32Array, Int32Array, RecordBatch};
use manifests::plan::Usage;
use manifests::spec::{Captioner, SecondPassSpec};
use manifests::{Artifact, BuildSpec, Digest, digest};

use crate::captioners::{self, Caption, Images, Quality, Writer};
use crate::reviews;
use crate::stage::{InputRows, MapOutput, Outcome, Stage, StageContext, StageError, Transform};
use crate::table::{self, Columns, TableError};

const NAME: &str = "captions";
// 2: words of other languages for buildings, sports, surfaces and colours
const VERSION: u32 = 2;

/// Texts of each image, by the captioner of the spec, and a digest of them.
pub fn stage(spec: &BuildSpec) -> Stage {
    let (captioner, is_second) = (captioners::of(spec.caption.captioner), spec.caption.second_pass.enabled);
    Stage {
        name: NAME,
        version: VERSION,
        inputs: captioners::reviewed_inputs(captioner, is_second),
        output: Artifact::Captions,
        source: None,
        model: (captioner.captions().model)(spec),
        told: captioners::told::captions(spec.caption.captioner),
        recipe_digest: None,
        parameters: |spec| {
            let mut parameters = parameters(spec);
            let SecondPassSpec { enabled, most_regions, sentence } = &spec.caption.second_pass;
            if *enabled {
                parameters["second_pass"] = serde_json::json!({ "most_regions": most_regions, "sentence": sentence });
            }
            parameters
        },
        open: |context| {
            let second_pass = context.spec.caption.second_pass.clone();
            Ok(Box::new(WriteCaptions { second_pass: second_pass.enabled.then_some(second_pass), ..open(context)? }))
        },
    }
}

/// The same before its writer knows the segments.
pub(crate) fn draft_stage(spec: &BuildSpec) -> Stage {
    let captioner = captioners::of(spec.caption.captioner);
    Stage {
        name: "draft_captions",
        inputs: captioners::inputs(captioner),
        output: Artifact::DraftCaptions,
        parameters,
        open: |context| Ok(Box::new(open(context)?)),
        ..stage(spec)
    }
}

fn parameters(spec: &BuildSpec) -> serde_json::Value {
    let captioner = spec.caption.captioner;
    captioners::of(captioner).captions().parameters(captioner, spec)
}

fn open(context: &StageContext<'_>) -> Result<WriteCaptions, StageError> {
    let captioner = context.spec.caption.captioner;
    let writer = (captioners::of(captioner).captions().open)(context)?;
    Ok(WriteCaptions { writer, captioner, second_pass: None })
}

struct WriteCaptions {
    writer: Box<dyn Writer<Caption>>,
    captioner: Captioner,
    /// What it tells of segments, where it knows them.
    second_pass: Option<SecondPassSpec>,
}

/// Words with who wrote them, or why there are none.
type Written = Result<(String, Caption), Outcome>;

impl Transform for WriteCaptions {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let mut decided = decided(rows).map_err(table_error)?;
        let open: Vec<usize> = (0..rows.len()).filter(|row| !decided.contains_key(row)).collect();
        let written = match open.len() {
            0 => Vec::new(),
            all if all == rows.len() => self.write(rows)?,
            _ => self.write(&rows.some(&open).map_err(table_error)?)?,
        };
        // what a person decided does not follow from what a captioner is told
        let mut told = match captioners::told::captions(self.captioner) {
            Some(told) => (told.of)(told.by, rows).map_err(table_error)?,
            None => vec![None; rows.len()],
        };
        decided.keys().for_each(|row| told[*row] = None);
        decided.extend(open.into_iter().zip(written));
        let written: Vec<Written> = decided.into_values().collect();
        let outcome = |written: &Written| written.as_ref().map_or_else(Outcome::clone, |_| Outcome::Good);
        let content = content(&written, &told).map_err(table_error)?;
        Ok(MapOutput { outcomes: written.iter().map(outcome).collect(), content })
    }

    fn usage(&mut self) -> Usage {
        self.writer.usage()
    }
}

/// By row, what people decided.
fn decided(rows: &InputRows) -> Result<BTreeMap<usize, Written>, TableError> {
    let Some(reviews) = rows.tables.get(&Artifact::CaptionReviews) else { return Ok(BTreeMap::new()) };
    let tags = Columns::new(Artifact::Geotags, &rows.tables[&Artifact::Geotags]).text("tags_digest")?;
    let reviews = reviews::read(reviews)?.into_iter().enumerate();
    Ok(reviews.filter_map(|(row, review)| Some((row, reviews::decided(&review?, tags.value(row))))).collect())
}

impl WriteCaptions {
    /// Words by the captioner.
    fn write(&self, rows: &InputRows) -> Result<Vec<Written>, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let columns = Columns::new(Artifact::Geotags, &rows.tables[&Artifact::Geotags]);
        let given = columns.texts("given_captions").map_err(table_error)?;
        let captioner = serde_json::json!(self.captioner);
        let captioner = captioner.as_str().unwrap_or_default();
        let mut images = Images::read(rows, &given).map_err(table_error)?;
        if let Some(second_pass) = &self.second_pass {
            images.tell_regions(rows, second_pass).map_err(table_error)?;
        }
        let written = self.writer.write(&images)?;
        let by_captioner = |caption| (captioner.to_owned(), caption);
        Ok(written.into_iter().map(|w| w.map(by_captioner).map_err(Outcome::Failed)).collect())
    }
}

fn content(written: &[Written], told: &[Option<Digest>]) -> Result<RecordBatch, TableError> {
    let good: Vec<Option<&(String, Caption)>> = written.iter().map(|w| w.as_ref().ok()).collect();
    let captioners = table::texts(good.iter().map(|w| w.map(|(captioner, _)| captioner.clone())));
    let good: Vec<Option<&Caption>> = good.into_iter().map(|w| w.map(|(_, caption)| caption)).collect();
    let lists = |of: fn(&Caption) -> &Vec<String>| -> Result<_, TableError> {
        table::text_lists(&good.iter().map(|w| w.map(|w| of(w).clone())).collect::<Vec<_>>())
    };
    let qualities: Vec<&Quality> = good.iter().flatten().flat_map(|w| &w.quality).collect();
    let float =
        |of: fn(&Quality) -> f64| Arc::new(Float32Array::from_iter_values(qualities.iter().map(|q| of(q) as f32))) as _;
    let int =
        |of: fn(&Quality) -> usize| Arc::new(Int32Array::from_iter_values(qualities.iter().map(|q| of(q) as i32))) as _;
    let quality = table::struct_lists(
        Artifact::Captions,
        "quality",
        &good.iter().map(|w| w.map(|w| w.quality.len())).collect::<Vec<_>>(),
        vec![int(|q| q.words), float(|q| q.repetition), float(|q| q.tag_coverage), int(|q| q.attempts)],
    )?;
    table::content(
        Artifact::Captions,
        vec![
            captioners,
            lists(|w| &w.captions)?,
            lists(|w| &w.dropped_tags)?,
            table::texts(good.iter().map(|w| w.map(|w| digest::of_value(&w.captions)))),
            quality,
            table::texts(good.iter().map(|w| w.and_then(|w| w.flagged.as_deref()))),
            table::texts(good.iter().zip(told).map(|(w, told)| w.and(told.as_deref()))),
            table::texts(good.iter().map(|w| w.and_then(|w| w.served.as_deref()))),
        ],
    )
}
