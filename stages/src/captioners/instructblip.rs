//! `instructblip`: the model looks at the image and is told its tags.

use manifests::spec::{Captioner, Precision};
use models::instructblip;

use super::network::{InProcess, Network};
use crate::clip_scorer::CLIP_FIELD;

const WEIGHTS: &str = "caption.instructblip.weights";
const LANGUAGE: &str = "caption.instructblip.language_gguf";

pub(super) struct InstructBlip;

impl InProcess for InstructBlip {
    const NETWORK: Network = Network {
        captioner: Captioner::Instructblip,
        weights: WEIGHTS,
        language: LANGUAGE,
        models: &[WEIGHTS, LANGUAGE],
        judged_models: &[WEIGHTS, LANGUAGE, CLIP_FIELD],
        variants_an_answer: 1,
        // 2: the Q-Former's attention to the image by candle's products
        version: 2,
        open: |folder, gguf, device, dtype| {
            Ok(Box::new(match gguf {
                None => instructblip::InstructBlip::load(folder, device, dtype)?,
                Some(gguf) => instructblip::InstructBlip::load_with_gguf(folder, gguf, device, dtype)?,
            }))
        },
        settings: |spec| {
            let mut settings = serde_json::json!(spec.caption.instructblip);
            // T5's sums along its layers; whether it is T5 that writes is not known before the weights are here
            if spec.model.precision == Precision::F16 {
                settings["residuals"] = "f32".into();
            }
            settings
        },
    };
}

#[cfg(test)]
mod tests {
    use super::super::Captions;
    use super::*;
    use manifests::BuildSpec;
    use serde_json::Value;

    /// Of captions, structured captions and query texts.
    fn settings(set: &[&str]) -> [Value; 3] {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n[caption]\n\
                    captioner = \"instructblip\"\ninstructblip.weights = \"a/b\"\n";
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        let spec = BuildSpec::parse(text, "t", &set).unwrap();
        let (structured, query) = (InstructBlip.structured().unwrap(), InstructBlip.query_text().unwrap());
        [InstructBlip.captions().settings, structured.settings, query.settings].map(|of| of(&spec).unwrap())
    }

    #[test]
    fn what_f16_does_otherwise_than_before_is_in_the_recipe() {
        let residuals = |precision: &str| {
            let [captions, structured, query] = settings(&[&format!("model.precision={precision}")]);
            [&captions["settings"], &structured, &query["settings"]].map(|of| of["residuals"].clone())
        };
        assert_eq!(residuals("f16"), ["f32"; 3].map(Value::from));
        for precision in ["f32", "bf16"] {
            assert_eq!(residuals(precision), [Value::Null, Value::Null, Value::Null], "{precision}");
        }
    }

    #[test]
    fn how_long_captions_must_be_is_in_no_recipe_of_structured_ones() {
        let least = |min_length: usize| {
            let [captions, structured, _] = settings(&[&format!("caption.instructblip.min_length={min_length}")]);
            [&captions["settings"], &structured].map(|of| of["min_length"].as_u64())
        };
        assert_eq!([0, 1, 200].map(least), [[Some(0); 2], [Some(1); 2], [Some(200), Some(1)]]);
    }

    #[test]
    fn what_a_checkpoint_leaves_out_is_in_the_recipe_of_its_decoding() {
        let top_k = |decoding: &str| {
            let all = settings(&[&format!("caption.instructblip.decoding={decoding}")]);
            all.map(|settings| settings["settings"]["default_top_k"].clone())
        };
        assert_eq!(top_k("checkpoint"), [50.into(), Value::Null, 50.into()]);
        assert_eq!(top_k("spec"), [Value::Null, Value::Null, Value::Null]);
    }
}
