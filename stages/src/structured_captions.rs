//! Stage `structured_captions`: five texts of three fields for each image, which text is searched with (TRSLLaVA). Tags
//! are put into them by rule, or InstructBLIP is asked until it gave five that are valid and distinct.

mod asked;

use std::sync::Arc;

use arrow::array::StringArray;
use arrow::record_batch::RecordBatch;
use manifests::build::Captioner;
use manifests::{Artifact, BuildSpec, digest};
use rayon::prelude::*;
use wording::{Variant, variants_from_scene, variants_from_tags};

use crate::captions::{Known, PIXELS, TAGS, TagWords};
use crate::device::arithmetic;
use crate::instructblip::{LANGUAGE_FIELD, WEIGHTS_FIELD};
use crate::stage::{InputRows, Map, MapOutput, ModelUse, Opening, Outcome, Stage, StageError};
use crate::table::{self, Columns, TableError};
use asked::Asked;

const NAME: &str = "structured_captions";

/// `writer` as [`CaptionSpec::structured_by`](manifests::build::CaptionSpec::structured_by) says.
pub fn stage(writer: Captioner) -> Stage {
    let looks = writer == Captioner::Instructblip;
    Stage {
        name: NAME,
        version: 1,
        inputs: if looks { &[TAGS, PIXELS] } else { &[TAGS] },
        output: Artifact::StructuredCaptions,
        source: None,
        model: if looks { ModelUse::Named(&[WEIGHTS_FIELD, LANGUAGE_FIELD]) } else { ModelUse::None },
        recipe_digest: None,
        parameters,
        open,
    }
}

fn parameters(spec: &BuildSpec) -> serde_json::Value {
    let writer = spec.caption.structured_by();
    if writer != Some(Captioner::Instructblip) {
        return serde_json::json!({ "captioner": writer });
    }
    let blip = &spec.caption.instructblip;
    serde_json::json!({
        "captioner": writer,
        "settings": blip.structured,
        "min_length": blip.min_length,
        "seed": blip.seed,
        "precision": arithmetic(spec),
    })
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Map>, StageError> {
    let writer = opening.spec.caption.structured_by().unwrap_or(Captioner::Geotags);
    let asked = (writer == Captioner::Instructblip).then(|| Asked::open(opening)).transpose()?;
    Ok(Box::new(WriteVariants { writer, asked }))
}

struct WriteVariants {
    writer: Captioner,
    /// `None`: by rule.
    asked: Option<Asked>,
}

/// What came of one image.
#[derive(Debug, Default)]
struct Written {
    variants: Vec<Variant>,
    /// Answers that were asked for.
    attempts: usize,
    /// Why there are fewer than five.
    flagged: Option<String>,
}

fn from_geotags(known: &Known<'_>) -> Result<Written, String> {
    let (center, surrounding) = known.tags()?;
    let of_title = || variants_from_scene(TagWords::of(known).ok()?.scene()?);
    match variants_from_tags(&center, &surrounding).or_else(of_title) {
        Some(variants) => Ok(Written { variants: variants.into(), ..Written::default() }),
        None => Err("neither its tags nor its title say anything that can be seen".into()),
    }
}

impl Map for WriteVariants {
    fn map(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        // given captions are what is searched with: whoever writes must not know them
        let known = Known::read(rows, &[]).map_err(table_error)?;
        let written = match &self.asked {
            None => known.par_iter().map(from_geotags).collect(),
            Some(asked) => {
                let images = Columns::new(Artifact::Images, &rows.tables[&Artifact::Images]);
                let bytes = images.binary("bytes").map_err(table_error)?;
                asked.write(&known, &(0..rows.len()).map(|row| bytes.value(row)).collect::<Vec<_>>())?
            }
        };
        let content = content(self.writer, &written).map_err(table_error)?;
        Ok(MapOutput { outcomes: Outcome::of(&written), content })
    }
}

fn content(writer: Captioner, written: &[Result<Written, String>]) -> Result<RecordBatch, TableError> {
    let writer = serde_json::json!(writer);
    let writer = writer.as_str().unwrap_or_default();
    let good: Vec<Option<&Written>> = written.iter().map(|w| w.as_ref().ok()).collect();
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
    let texts = |w: &Written| w.variants.iter().map(Variant::embedding_text).collect::<Vec<_>>();
    table::content(
        Artifact::StructuredCaptions,
        vec![
            table::texts(good.iter().map(|w| w.map(|_| writer))),
            variants,
            table::int32s(good.iter().map(|w| w.map(|w| w.attempts as i32))),
            table::texts(good.iter().map(|w| w.and_then(|w| w.flagged.as_deref()))),
            table::texts(good.iter().map(|w| w.map(|w| digest::of_value(&texts(w))))),
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
            parameters(&BuildSpec::parse(text, "t", &set).unwrap())
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
