//! The network and the vocabulary that a training starts with.

use std::path::Path;

use manifests::BuildSpec;
use manifests::weights::Weights;
use models::clip::Clip;
use models::tokenizer::Tokenizer;

use super::init::{check_vocabulary, described, preset};
use crate::device::{device, dtype, opening_error};
use crate::network::Network;
use crate::stage::StageError;
use crate::text_embeddings::{TOKENIZER_FILE, read_tokenizer};
use crate::train_rows::TrainRows;

/// Where a training starts from.
pub struct Start<'a> {
    /// The build's spec.
    pub spec: &'a BuildSpec,
    /// What `model.init` and `model.tokenizer` name, on this machine.
    pub weights: &'a Weights,
    /// Folder of the run: the vocabulary made at its start is kept there.
    pub folder: &'a Path,
    /// Result folder of an earlier run.
    pub warm_start: Option<&'a Path>,
}

/// Opens network and vocabulary: a warm start brings both; `model.init` brings weights; else the
/// weights are random from the seed, and the vocabulary is trained on the captions or read from
/// the file that the spec names.
///
/// # Errors
/// [`StageError::Configuration`] for files that are not here, cannot be read or are another network's,
/// [`StageError::Unreachable`] for those that are not read now.
pub fn open_network(
    stage: &'static str,
    start: &Start<'_>,
    train: &mut dyn TrainRows,
) -> Result<(Network, Tokenizer), StageError> {
    let configuration = |why: String| StageError::Configuration { stage, why };
    let (device, dtype) = (device(stage, start.spec)?, dtype(start.spec));
    let model = &start.spec.model;
    if let Some(folder) = start.warm_start {
        let clip = Clip::load(folder, &device, dtype)
            .map_err(|e| opening_error(stage, &device, format!("warm start {}: {e}", folder.display()), &e))?;
        let tokenizer = read_tokenizer(stage, &folder.join(TOKENIZER_FILE))?;
        return Ok((clip, tokenizer));
    }
    let tokenizer = vocabulary(stage, start, train)?;
    let clip = match start.weights.path("model.init") {
        None if !model.init.is_empty() => return Err(configuration(not_here("model.init", &model.init))),
        None => {
            let mut config = preset(model);
            config.text.vocab_size = tokenizer.vocab_size();
            Clip::init(&config, start.spec.pretrain.seed, &device, dtype)
        }
        Some(path) => {
            let config = described(model, path).map_err(configuration)?;
            match path.is_dir() {
                true => Clip::load(path, &device, dtype),
                false => Clip::load_file(path, &config, &device, dtype),
            }
        }
    }
    .map_err(|e| {
        let name = if model.init.is_empty() { model.preset.name() } else { &model.init };
        opening_error(stage, &device, format!("model {name}: {e}"), &e)
    })?;
    check_vocabulary(&tokenizer, clip.config()).map_err(configuration)?;
    Ok((clip, tokenizer))
}

fn vocabulary(stage: &'static str, start: &Start<'_>, train: &mut dyn TrainRows) -> Result<Tokenizer, StageError> {
    let kept = start.folder.join(TOKENIZER_FILE);
    if kept.exists() {
        return read_tokenizer(stage, &kept);
    }
    let model = &start.spec.model;
    let tokenizer = if model.tokenizer == "train" {
        let captions = train.captions().map_err(|e| StageError::of(stage, &e))?;
        Tokenizer::train(captions, model.vocabulary)
            .map_err(|e| StageError::Compute { stage, why: format!("vocabulary: {e}") })?
    } else {
        let path = start
            .weights
            .path("model.tokenizer")
            .ok_or_else(|| StageError::Configuration { stage, why: not_here("model.tokenizer", &model.tokenizer) })?;
        read_tokenizer(stage, path)?
    };
    tokenizer.save(&kept).map_err(|e| StageError::of(stage, &e))?;
    Ok(tokenizer)
}

fn not_here(field: &str, source: &str) -> String {
    format!("{field} = {source:?} is not on this machine: `urbancross weights SPEC --fetch` brings it")
}

#[cfg(test)]
mod tests {
    use super::super::init::tests::bare;
    use super::*;
    use crate::torch_writer::{Saved, archive, contiguous, pickle};
    use crate::train_rows::{RowsError, TrainRow};
    use choices::Activation::QuickGelu;
    use choices::Preset;
    use manifests::weights::LocalWeights;
    use models::clip::ClipConfig;

    struct Captions;

    impl TrainRows for Captions {
        fn groups(&self) -> &[u32] {
            &[2]
        }

        fn read(&mut self, _: usize) -> Result<Vec<TrainRow>, RowsError> {
            Err(RowsError { passes: false, why: "no row is read".into() })
        }

        fn captions(&mut self) -> Result<Vec<String>, RowsError> {
            Ok(vec!["a long road beside a lawn".into(), "a lawn beside a long road".into()])
        }
    }

    /// The network of a training that starts from a file.
    fn opened(file: &Path, set: &[&str]) -> Result<Clip, StageError> {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
        let set: Vec<String> =
            set.iter().chain(&["model.vocabulary=80", "model.init=w"]).map(|s| s.to_string()).collect();
        let spec = BuildSpec::parse(text, "t", &set).unwrap();
        let mut weights = Weights::default();
        weights.insert("model.init", LocalWeights { path: Some(file.to_owned()), digest: "1".into() });
        let run = tempfile::tempdir().unwrap();
        let start = Start { spec: &spec, weights: &weights, folder: run.path(), warm_start: None };
        open_network("pretrain", &start, &mut Captions).map(|(clip, _)| clip)
    }

    /// As others publish them: all of it that the file does not tell is to be said, and what is said must be so.
    #[test]
    fn a_training_starts_from_a_state_dictionary() {
        let mut config = ClipConfig::preset(Preset::Tiny);
        (config.text.context_length, config.activation) = (248, QuickGelu);
        let clip = Clip::init(&config, 1, &candle_core::Device::Cpu, candle_core::DType::F32).unwrap();
        let values = |variable: &candle_core::Var| variable.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let variables: Vec<_> = clip.parameters().iter().collect();
        let saved = variables.iter().enumerate().map(|(key, (name, variable))| Saved {
            name: format!("module.{name}"),
            storage: "FloatStorage",
            key,
            elements: variable.elem_count(),
            offset: 0,
            shape: variable.dims().to_vec(),
            strides: contiguous(variable.dims()),
        });
        let pickle = pickle(&saved.collect::<Vec<_>>(), Some("state_dict"));
        let bytes = |variable| values(variable).into_iter().flat_map(f32::to_le_bytes).collect();
        let storages: Vec<_> = variables.iter().enumerate().map(|(key, (_, v))| (key, bytes(v))).collect();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("LRSCLIP.pt");
        std::fs::write(&file, archive(&pickle, &storages)).unwrap();

        let wrong = |set: &[&str]| match opened(&file, set) {
            Err(StageError::Configuration { why, .. }) => why,
            other => panic!("{other:?}"),
        };
        assert!(wrong(&["model.preset=tiny", "model.context_length=248"]).contains("model.activation"));
        let why = wrong(&["model.activation=quick_gelu", "model.preset=vit-b-32", "model.image_size_px=224"]);
        for words in ["model.preset = \"tiny\"", "model.image_size_px = 64", "model.context_length = 248"] {
            assert!(why.contains(words), "{why}");
        }
        let why = wrong(&["model.activation=quick_gelu", "model.preset=tiny"]);
        assert!(why.ends_with(": set model.context_length = 248"), "{why}");
        let said = ["model.activation=quick_gelu", "model.preset=tiny", "model.context_length=248"];
        let opened = opened(&file, &said).unwrap();
        assert_eq!(opened.config(), &config);
        assert_eq!(opened.parameters().digest().unwrap(), clip.parameters().digest().unwrap());
    }

    #[test]
    fn a_training_starts_with_the_activation_of_its_weights() {
        let folder = tempfile::tempdir().unwrap();
        let config = ClipConfig { activation: QuickGelu, ..ClipConfig::preset(Preset::Tiny) };
        let cpu = candle_core::Device::Cpu;
        Clip::init(&config, 1, &cpu, candle_core::DType::F32).unwrap().save(folder.path()).unwrap();
        let open = |file: &Path, activation: &str| {
            opened(file, &["model.preset=tiny", activation]).map(|clip| clip.config().activation)
        };
        let file = folder.path().join("model.safetensors");
        assert_eq!(open(&file, "model.activation=").unwrap(), QuickGelu, "tiny's own is another");
        assert!(matches!(open(&file, "model.activation=gelu"), Err(StageError::Configuration { .. })));
        let (_kept, alone) = bare(&[]);
        std::fs::copy(&file, &alone).unwrap();
        assert!(matches!(open(&alone, "model.activation="), Err(StageError::Configuration { .. })));
        assert_eq!(open(&alone, "model.activation=quick_gelu").unwrap(), QuickGelu);
    }
}
