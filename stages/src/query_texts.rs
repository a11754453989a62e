//! Stage `query_texts`: what a captioner says of an image that captions are searched with. It never reads captions.

use manifests::plan::Usage;
use manifests::spec::Captioner;
use manifests::{Artifact, BuildSpec, digest};

use crate::captioners::{self, Images, QueryText, Way, Writer};
use crate::stage::{InputRows, MapOutput, ModelUse, Outcome, Stage, StageContext, StageError, Transform};
use crate::table;

const NAME: &str = "query_texts";

/// `writer` as [`CaptionSpec::structured_by`](manifests::spec::CaptionSpec::structured_by) says: whoever wrote what is
/// searched.
pub fn stage(writer: Captioner, spec: &BuildSpec) -> Stage {
    let captioner = captioners::of(writer);
    Stage {
        name: NAME,
        version: 1,
        inputs: captioners::query_inputs(captioner),
        output: Artifact::QueryTexts,
        source: None,
        model: captioner.query_text().map_or(ModelUse::None, |way| (way.model)(spec)),
        told: captioners::told::query_text(writer),
        recipe_digest: None,
        parameters: |spec| match way(spec) {
            Some((writer, way)) => way.parameters(writer, spec),
            None => serde_json::Value::Null,
        },
        open,
    }
}

/// Who writes, and how.
fn way(spec: &BuildSpec) -> Option<(Captioner, Way<QueryText>)> {
    let writer = spec.caption.structured_by()?;
    Some((writer, captioners::of(writer).query_text()?))
}

fn open(context: &StageContext<'_>) -> Result<Box<dyn Transform>, StageError> {
    let nobody = || StageError::Configuration { stage: NAME, why: "caption.structured = false: nobody writes".into() };
    let (captioner, way) = way(context.spec).ok_or_else(nobody)?;
    Ok(Box::new(WriteQueries { captioner, writer: (way.open)(context)? }))
}

struct WriteQueries {
    captioner: Captioner,
    writer: Box<dyn Writer<QueryText>>,
}

impl Transform for WriteQueries {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let written = self.writer.write(&Images::read(rows, &[]).map_err(table_error)?)?;
        let told = match captioners::told::query_text(self.captioner) {
            Some(told) => (told.of)(told.by, rows).map_err(table_error)?,
            None => vec![None; rows.len()],
        };
        let good: Vec<Option<&QueryText>> = written.iter().map(|w| w.as_ref().ok()).collect();
        let writer = serde_json::json!(self.captioner);
        let writer = writer.as_str().unwrap_or_default();
        let columns = vec![
            table::texts(good.iter().map(|w| w.map(|_| writer))),
            table::texts(good.iter().map(|w| w.map(|w| w.text.as_str()))),
            table::int32s(good.iter().map(|w| w.map(|w| w.attempts as i32))),
            table::texts(good.iter().map(|w| w.and_then(|w| w.flagged.as_deref()))),
            table::texts(good.iter().map(|w| w.map(|w| digest::of_bytes(w.text.as_bytes())))),
            table::texts(good.iter().zip(&told).map(|(w, told)| w.and(told.as_deref()))),
            table::texts(good.iter().map(|w| w.and_then(|w| w.served.as_deref()))),
        ];
        let content = table::content(Artifact::QueryTexts, columns).map_err(table_error)?;
        Ok(MapOutput { outcomes: Outcome::of(&written), content })
    }

    fn usage(&mut self) -> Usage {
        self.writer.usage()
    }
}
