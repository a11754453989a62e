//! The network and the vocabulary that a training starts with.

use std::path::Path;

use manifests::BuildSpec;
use manifests::build::{ActivationChoice, ModelSpec, Preset};
use manifests::weights::Weights;
use models::clip::{Clip, ClipConfig, SeenPreset};
use models::ops::Activation;
use models::tokenizer::Tokenizer;

use super::init::{check_vocabulary, described};
use crate::device::{device, dtype};
use crate::network::Network;
use crate::stage::StageError;
use crate::text_embeddings::{TOKENIZER_FILE, read_tokenizer};
use crate::train_rows::TrainRows;

/// Where a training starts from.
pub struct Start<'a> {
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
            .map_err(|e| configuration(format!("warm start {}: {e}", folder.display())))?;
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
        configuration(format!("model {}: {e}", if model.init.is_empty() { model.preset.name() } else { &model.init }))
    })?;
    check_vocabulary(&tokenizer, clip.config()).map_err(configuration)?;
    Ok((clip, tokenizer))
}

/// The preset with what the spec changes in it.
pub(crate) fn preset(model: &ModelSpec) -> ClipConfig {
    let mut config = ClipConfig::preset(model.preset.name()).expect("a spec names presets that there are");
    if model.image_size_px > 0 {
        config.vision.image_size = model.image_size_px;
    }
    if model.context_length > 0 {
        config.text.context_length = model.context_length;
    }
    config.activation = named(model.activation).unwrap_or(config.activation);
    config
}

fn named(choice: ActivationChoice) -> Option<Activation> {
    match choice {
        ActivationChoice::Open => None,
        ActivationChoice::QuickGelu => Some(Activation::QuickGelu),
        ActivationChoice::Gelu => Some(Activation::Gelu),
    }
}

/// The network of a file of weights: the configuration beside it says, or preset and activation do.
pub(super) fn of_bare_file(model: &ModelSpec, file: &Path) -> Result<ClipConfig, String> {
    if let Some(config) = ClipConfig::beside(file).map_err(|e| e.to_string())? {
        return Ok(config);
    }
    if named(model.activation).is_none() {
        return Err(format!(
            "model.init = {:?}: the file does not say which activation its weights were trained with, and the wrong one \
             costs points without an error. Put open_clip_config.json or config.json beside it, or set \
             model.activation = \"quick_gelu\" (OpenAI's weights and those fine-tuned from them) or \
             \"gelu\" (LAION's)",
            model.init
        ));
    }
    Ok(preset(model))
}

/// A file that nothing else describes must have the shapes of the network that the spec describes.
pub(super) fn check_shapes(model: &ModelSpec, file: &Path) -> Result<(), String> {
    let described = |e: models::ModelError| format!("model.init = {:?}: {e}", model.init);
    if ClipConfig::beside(file).map_err(described)?.is_some() {
        return Ok(());
    }
    let seen = SeenPreset::of_file(file).map_err(described)?;
    let named = Preset::ALL.into_iter().find(|preset| preset.name() == seen.name).unwrap_or(model.preset);
    let wanted = preset(&ModelSpec { preset: named, ..model.clone() });
    let mut settings = Vec::new();
    if named != model.preset {
        settings.push(format!("model.preset = {:?}", seen.name));
    }
    for (field, wanted, seen) in [
        ("image_size_px", wanted.vision.image_size, seen.image_size),
        ("context_length", wanted.text.context_length, seen.context_length),
    ] {
        if wanted != seen {
            settings.push(format!("model.{field} = {seen}"));
        }
    }
    if settings.is_empty() {
        return Ok(());
    }
    Err(format!("model.init = {:?}: its shapes are those of {seen}: set {}", model.init, settings.join(" and ")))
}

/// A named activation and a configuration that both speak must agree.
pub(super) fn check_activation(model: &ModelSpec, config: &ClipConfig) -> Result<(), String> {
    match named(model.activation) {
        Some(activation) if activation != config.activation => Err(format!(
            "model.activation is {activation:?}, the configuration of model.init = {:?} says {:?}: leave the field out, or \
             mend the configuration",
            model.init, config.activation
        )),
        _ => Ok(()),
    }
}

/// What the digest of the weights does not tell of the network that a training starts with, where it is not the
/// preset's: the activation that is named, and the configuration beside a bare file.
pub(super) fn identity(model: &ModelSpec, init: Option<&Path>) -> Option<serde_json::Value> {
    let plain = preset(&ModelSpec { activation: ActivationChoice::Open, ..model.clone() });
    let config = match init {
        Some(file) if file.is_file() => of_bare_file(model, file).ok()?,
        _ => preset(model),
    };
    (config != plain).then(|| serde_json::json!(config))
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
    use super::*;
    use crate::torch_writer::{Saved, archive, contiguous, pickle};
    use crate::train_rows::{RowsError, TrainRow};
    use manifests::build::Preset;
    use manifests::weights::LocalWeights;
    use models::ops::Activation::{Gelu, QuickGelu};
    use std::path::PathBuf;

    /// ViT-B/32 as open_clip writes it.
    fn open_clip(quick_gelu: bool) -> String {
        format!(
            r#"{{"model_cfg": {{"embed_dim": 512, "quick_gelu": {quick_gelu},
                "vision_cfg": {{"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}},
                "text_cfg": {{"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}}}}}}"#
        )
    }

    fn model(activation: ActivationChoice) -> ModelSpec {
        ModelSpec { preset: Preset::VitB32, init: "w.safetensors".into(), activation, ..ModelSpec::default() }
    }

    /// A file of weights, and the configurations beside it.
    fn bare(configs: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in configs {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let file = folder.path().join("w.safetensors");
        std::fs::write(&file, "").unwrap();
        (folder, file)
    }

    /// What a spec refuses by itself is what the networks cannot be.
    #[test]
    fn a_spec_knows_its_presets() {
        assert_eq!(Preset::ALL.map(Preset::name), ClipConfig::PRESETS);
        for name in Preset::ALL {
            let of = |side, context| {
                let model =
                    ModelSpec { preset: name, image_size_px: side, context_length: context, ..ModelSpec::default() };
                preset(&model)
            };
            assert_eq!(of(0, 0).vision.patch_size, name.patch_px(), "{name:?}");
            of(255 * name.patch_px(), 1 << 16).validate().unwrap();
            of(name.patch_px(), 3).validate().unwrap();
            assert!(of(name.patch_px() + 1, 0).validate().is_err() && of(0, 1).validate().is_err());
        }
        assert!(Tokenizer::train(["a road"], 64).is_ok() && Tokenizer::train(["a road"], 63).is_err());
    }

    #[test]
    fn a_bare_file_takes_the_configuration_beside_it_or_asks() {
        let open = model(ActivationChoice::Open);
        let (_kept, file) = bare(&[]);
        let error = of_bare_file(&open, &file).unwrap_err();
        for words in ["model.activation", "open_clip_config.json", "config.json", "quick_gelu", "gelu"] {
            assert!(error.contains(words), "{error}");
        }
        for (choice, activation) in [(ActivationChoice::Gelu, Gelu), (ActivationChoice::QuickGelu, QuickGelu)] {
            assert_eq!(of_bare_file(&model(choice), &file).unwrap().activation, activation);
        }
        let hugging_face = |act: &str| {
            format!(
                r#"{{"model_type": "clip", "vision_config": {{"hidden_act": "{act}"}},
                    "text_config": {{"hidden_act": "{act}"}}}}"#
            )
        };
        for (name, text, activation) in [
            ("open_clip_config.json", open_clip(false), Gelu),
            ("open_clip_config.json", open_clip(true), QuickGelu),
            ("config.json", hugging_face("gelu"), Gelu),
            ("config.json", hugging_face("quick_gelu"), QuickGelu),
        ] {
            let (_kept, file) = bare(&[(name, &text)]);
            let config = of_bare_file(&open, &file).unwrap();
            assert_eq!(config.activation, activation, "{name}: {text}");
            assert!(check_activation(&open, &config).is_ok());
            let other = if activation == Gelu { ActivationChoice::QuickGelu } else { ActivationChoice::Gelu };
            let error = check_activation(&model(other), &config).unwrap_err();
            assert!(error.contains("leave the field out"), "{error}");
        }
    }

    /// The preset's own network is what earlier runs trained; only another one is another run.
    #[test]
    fn only_another_network_than_the_presets_is_another_identity() {
        let (_kept, file) = bare(&[]);
        let of = |choice, file: &Path| identity(&model(choice), Some(file));
        assert_eq!(of(ActivationChoice::Open, &file), None);
        assert_eq!(of(ActivationChoice::QuickGelu, &file), None);
        let gelu = of(ActivationChoice::Gelu, &file).unwrap();
        assert_eq!(gelu["activation"], "gelu");
        let (_kept, laion) = bare(&[("open_clip_config.json", &open_clip(false))]);
        assert_eq!(of(ActivationChoice::Open, &laion), Some(gelu.clone()), "however it is known");
        let (_kept, openai) = bare(&[("open_clip_config.json", &open_clip(true))]);
        assert_eq!(of(ActivationChoice::Open, &openai), None);
        let scratch = ModelSpec { init: String::new(), ..model(ActivationChoice::Gelu) };
        assert_eq!(identity(&scratch, None), Some(gelu));
        assert_eq!(identity(&ModelSpec { activation: ActivationChoice::Open, ..scratch }, None), None);
    }

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
        let mut config = ClipConfig::preset("tiny").unwrap();
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
        let config = ClipConfig { activation: QuickGelu, ..ClipConfig::preset("tiny").unwrap() };
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
