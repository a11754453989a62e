//! Stage `captions`: words for an image, by the captioner that the spec names.

use std::sync::Arc;

use arrow::array::{Float32Array, Int32Array};
use manifests::spec::Captioner;
use manifests::{Artifact, BuildSpec, digest};

use crate::captioners::{self, Caption, Images, Quality, Writer};
use crate::stage::{InputRows, MapOutput, Outcome, Stage, StageError, Transform};
use crate::table::{self, Columns, TableError};

const NAME: &str = "captions";

/// Texts of each image, by the captioner of the spec, and a digest of them.
pub fn stage(spec: &BuildSpec) -> Stage {
    let captioner = captioners::of(spec.caption.captioner);
    Stage {
        name: NAME,
        // 2: words of other languages for buildings, sports, surfaces and colours
        version: 2,
        inputs: captioners::inputs(captioner),
        output: Artifact::Captions,
        source: None,
        model: (captioner.captions().model)(spec),
        recipe_digest: None,
        parameters: |spec| {
            let captioner = spec.caption.captioner;
            captioners::of(captioner).captions().parameters(captioner, spec)
        },
        open: |context| {
            let captioner = context.spec.caption.captioner;
            let writer = (captioners::of(captioner).captions().open)(context)?;
            Ok(Box::new(WriteCaptions { writer, captioner }))
        },
    }
}

struct WriteCaptions {
    writer: Box<dyn Writer<Caption>>,
    captioner: Captioner,
}

impl Transform for WriteCaptions {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let columns = Columns::new(Artifact::Geotags, &rows.tables[&Artifact::Geotags]);
        let given = columns.texts("given_captions").map_err(table_error)?;
        let written = self.writer.write(&Images::read(rows, &given).map_err(table_error)?)?;
        let content = self.content(&written).map_err(table_error)?;
        Ok(MapOutput { outcomes: Outcome::of(&written), content })
    }
}

impl WriteCaptions {
    fn content(&self, written: &[Result<Caption, String>]) -> Result<arrow::record_batch::RecordBatch, TableError> {
        let captioner = serde_json::json!(self.captioner);
        let captioner = captioner.as_str().unwrap_or_default();
        let good: Vec<Option<&Caption>> = written.iter().map(|w| w.as_ref().ok()).collect();
        let lists = |of: fn(&Caption) -> &Vec<String>| -> Result<_, TableError> {
            table::text_lists(&good.iter().map(|w| w.map(|w| of(w).clone())).collect::<Vec<_>>())
        };
        let qualities: Vec<&Quality> = good.iter().flatten().flat_map(|w| &w.quality).collect();
        let float = |of: fn(&Quality) -> f64| {
            Arc::new(Float32Array::from_iter_values(qualities.iter().map(|q| of(q) as f32))) as _
        };
        let int = |of: fn(&Quality) -> usize| {
            Arc::new(Int32Array::from_iter_values(qualities.iter().map(|q| of(q) as i32))) as _
        };
        let quality = table::struct_lists(
            Artifact::Captions,
            "quality",
            &good.iter().map(|w| w.map(|w| w.quality.len())).collect::<Vec<_>>(),
            vec![int(|q| q.words), float(|q| q.repetition), float(|q| q.tag_coverage), int(|q| q.attempts)],
        )?;
        table::content(
            Artifact::Captions,
            vec![
                table::texts(good.iter().map(|w| w.map(|_| captioner))),
                lists(|w| &w.captions)?,
                lists(|w| &w.dropped_tags)?,
                table::texts(good.iter().map(|w| w.map(|w| digest::of_value(&w.captions)))),
                quality,
                table::texts(good.iter().map(|w| w.and_then(|w| w.flagged.as_deref()))),
            ],
        )
    }
}
