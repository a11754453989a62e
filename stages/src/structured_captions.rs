//! Stage `structured_captions`: five texts of three fields for each image, which text is searched with (TRSLLaVA). Tags
//! are put into them by rule, or InstructBLIP is asked until it gave five that are valid and distinct.

use std::sync::Arc;

use arrow::array::StringArray;
use arrow::record_batch::RecordBatch;
use manifests::plan::Usage;
use manifests::spec::Captioner;
use manifests::{Artifact, BuildSpec, Digest, digest};
use wording::Variant;

use crate::captioners::{self, Images, StructuredCaption, Way, Writer};
use crate::stage::{InputRows, MapOutput, ModelUse, Outcome, Stage, StageContext, StageError, Transform};
use crate::table::{self, TableError};

const NAME: &str = "structured_captions";

/// `writer` as [`CaptionSpec::structured_by`](manifests::spec::CaptionSpec::structured_by) says.
pub fn stage(writer: Captioner, spec: &BuildSpec) -> Stage {
    let captioner = captioners::of(writer);
    Stage {
        name: NAME,
        // 2, of whoever is asked: half an object is none, and what the tags say is no echo of the prompt
        version: if captioner.looks() { 2 } else { 1 },
        inputs: captioners::inputs(captioner),
        output: Artifact::StructuredCaptions,
        source: None,
        model: captioner.structured().map_or(ModelUse::None, |way| (way.model)(spec)),
        told: captioners::told::structured(writer),
        recipe_digest: None,
        parameters: |spec| match way(spec) {
            Some((writer, way)) => way.parameters(writer, spec),
            None => serde_json::Value::Null,
        },
        open,
    }
}

/// Who writes, and how.
fn way(spec: &BuildSpec) -> Option<(Captioner, Way<StructuredCaption>)> {
    let writer = spec.caption.structured_by()?;
    Some((writer, captioners::of(writer).structured()?))
}

fn open(context: &StageContext<'_>) -> Result<Box<dyn Transform>, StageError> {
    let nobody = || StageError::Configuration { stage: NAME, why: "caption.structured = false: nobody writes".into() };
    let (captioner, way) = way(context.spec).ok_or_else(nobody)?;
    Ok(Box::new(WriteVariants { captioner, writer: (way.open)(context)? }))
}

struct WriteVariants {
    captioner: Captioner,
    writer: Box<dyn Writer<StructuredCaption>>,
}

impl Transform for WriteVariants {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        // given captions are what is searched with: whoever writes must not know them
        let written = self.writer.write(&Images::read(rows, &[]).map_err(table_error)?)?;
        let told = match captioners::told::structured(self.captioner) {
            Some(told) => (told.of)(told.by, rows).map_err(table_error)?,
            None => vec![None; rows.len()],
        };
        let content = content(self.captioner, &written, &told).map_err(table_error)?;
        Ok(MapOutput { outcomes: Outcome::of(&written), content })
    }

    fn usage(&mut self) -> Usage {
        self.writer.usage()
    }
}

fn content(
    writer: Captioner,
    written: &[Result<StructuredCaption, String>],
    told: &[Option<Digest>],
) -> Result<RecordBatch, TableError> {
    let writer = serde_json::json!(writer);
    let writer = writer.as_str().unwrap_or_default();
    let good: Vec<Option<&StructuredCaption>> = written.iter().map(|w| w.as_ref().ok()).collect();
    let field = |of: fn(&Variant) -> &String| {
        let variants = good.iter().flatten().flat_map(|w| &w.variants);
        Arc::new(StringArray::from_iter_values(variants.map(of))) as _
    };
    let variants = table::struct_lists(
        Artifact::StructuredCaptions,
        "variants",
        &good.iter().map(|w| w.map(|w| w.variants.len())).collect::<Vec<_>>(),
        vec![field(|v| &v.one_sentence), field(|v| &v.feature), field(|v| &v.caption)],
    )?;
    let texts = |w: &StructuredCaption| w.variants.iter().map(Variant::embedding_text).collect::<Vec<_>>();
    table::content(
        Artifact::StructuredCaptions,
        vec![
            table::texts(good.iter().map(|w| w.map(|_| writer))),
            variants,
            table::int32s(good.iter().map(|w| w.map(|w| w.attempts as i32))),
            table::texts(good.iter().map(|w| w.and_then(|w| w.flagged.as_deref()))),
            table::texts(good.iter().map(|w| w.map(|w| digest::of_value(&texts(w))))),
            table::texts(good.iter().zip(told).map(|(w, told)| w.and(told.as_deref()))),
            table::texts(good.iter().map(|w| w.and_then(|w| w.served.as_deref()))),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_what_changes_words() {
        let of = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
            let text = "country = \"x\"\n[source]\nkind = \"captioned\"\nurl = \"x\"\n[caption]\ncaptioner = \
                        \"given\"\nstructured = true\ninstructblip.weights = \"a/b\"\n";
            {
                let spec = BuildSpec::parse(text, "t", &set).unwrap();
                (stage(spec.caption.structured_by().unwrap(), &spec).parameters)(&spec)
            }
        };
        let base = of(&[]);
        assert_eq!(base["captioner"], "instructblip", "given captions are what is searched with");
        for same in ["images_per_batch=1", "cache_mib=100", "num_beams=1", "quality={ min_words = 9 }", "prompt=x"] {
            assert_eq!(of(&[&format!("caption.instructblip.{same}")]), base, "{same}");
        }
        for other in ["structured.prompt=x", "structured.temperature=0.3", "structured.attempts=6", "seed=1"] {
            assert_ne!(of(&[&format!("caption.instructblip.{other}")]), base, "{other}");
        }
    }
}
