//! The network that `model.init` names, beside what the spec says of it.

use std::path::Path;

use choices::Preset;
use manifests::spec::ModelSpec;
use models::clip::{Clip, ClipConfig, SeenPreset};
use models::tokenizer::Tokenizer;

/// The network that `model.init` names, as its configuration and the shapes of its tensors have it. No weights are read.
///
/// # Errors
/// Files of something else, and settings of the spec that speak of another network.
pub(crate) fn described(model: &ModelSpec, path: &Path) -> Result<ClipConfig, String> {
    let config = if path.is_dir() {
        let config = Clip::examine(path).map_err(|e| format!("model.init = {:?}: {e}", model.init))?;
        check_settings(model, &config)?;
        config
    } else {
        let config = of_bare_file(model, path)?;
        check_shapes(model, path)?;
        config
    };
    check_activation(model, &config)?;
    if config.is_resnet() {
        return Err(format!(
            "model.init = {:?}: a CLIP with a ResNet is read for evaluations and scores and not trained: name a vision \
             Transformer, or measure it as it is with `urbancross evaluate SPEC --model`",
            model.init
        ));
    }
    Ok(config)
}

/// What the spec says of the network beside a folder that says it itself must be so. A spec without `model.preset` has the
/// default one, which says nothing; and a network that is no preset's has no name.
fn check_settings(model: &ModelSpec, config: &ClipConfig) -> Result<(), String> {
    let mut settings = Vec::new();
    let is = |preset: &Preset| same_layers(&ClipConfig::preset(*preset), config);
    if let Some(found) = Preset::ALL.into_iter().find(is).filter(|found| *found != model.preset)
        && model.preset != ModelSpec::default().preset
    {
        settings.push(format!("model.preset = {:?}", found.name()));
    }
    for (field, said, is) in [
        ("image_size_px", model.image_size_px, config.vision.image_size),
        ("context_length", model.context_length, config.text.context_length),
    ] {
        if said != 0 && said != is {
            settings.push(format!("model.{field} = {is}"));
        }
    }
    if settings.is_empty() {
        return Ok(());
    }
    Err(format!("model.init = {:?} is another network than the spec says: set {}", model.init, settings.join(" and ")))
}

/// Whether two networks have the same towers, but for the sizes of images, texts and vocabulary.
fn same_layers(a: &ClipConfig, b: &ClipConfig) -> bool {
    let mut a = a.clone();
    a.vision.image_size = b.vision.image_size;
    (a.text.context_length, a.text.vocab_size, a.text.eot) = (b.text.context_length, b.text.vocab_size, b.text.eot);
    (a.embed_dim, &a.vision, &a.text) == (b.embed_dim, &b.vision, &b.text)
}

/// # Errors
/// A vocabulary with more entries than the network has.
pub(crate) fn check_vocabulary(tokenizer: &Tokenizer, config: &ClipConfig) -> Result<(), String> {
    let (has, knows) = (tokenizer.vocab_size(), config.text.vocab_size);
    if has <= knows {
        return Ok(());
    }
    Err(format!(
        "model.tokenizer has {has} entries and the network {knows}: name the tokenizer that belongs to model.init"
    ))
}

/// The preset with what the spec changes in it.
pub(crate) fn preset(model: &ModelSpec) -> ClipConfig {
    let mut config = ClipConfig::preset(model.preset);
    if model.image_size_px > 0 {
        config.vision.image_size = model.image_size_px;
    }
    if model.context_length > 0 {
        config.text.context_length = model.context_length;
    }
    config.activation = model.activation.unwrap_or(config.activation);
    config
}

/// The network of a file of weights: the configuration beside it says, or preset and activation do.
fn of_bare_file(model: &ModelSpec, file: &Path) -> Result<ClipConfig, String> {
    if let Some(config) = ClipConfig::beside(file).map_err(|e| e.to_string())? {
        return Ok(config);
    }
    if model.activation.is_none() {
        return Err(format!(
            "model.init = {:?}: the file does not say which activation its weights were trained with, and the wrong one \
             costs points without an error. Put open_clip_config.json or config.json beside it, or set \
             model.activation = \"quick_gelu\" (OpenAI's weights and those fine-tuned from them) or \
             \"gelu\" (LAION-2B's and DataComp's; LAION-400M's ViT-B/32 is quick_gelu)",
            model.init
        ));
    }
    Ok(preset(model))
}

/// A file that nothing else describes must have the shapes of the network that the spec describes, and leave nothing
/// open.
fn check_shapes(model: &ModelSpec, file: &Path) -> Result<(), String> {
    let described = |e: models::ModelError| format!("model.init = {:?}: {e}", model.init);
    if ClipConfig::beside(file).map_err(described)?.is_some() {
        return Ok(());
    }
    let seen = SeenPreset::of_file(file).map_err(described)?;
    let wanted = preset(&ModelSpec { preset: seen.preset, ..model.clone() });
    let mut settings = Vec::new();
    if seen.preset != model.preset {
        settings.push(format!("model.preset = {:?}", seen.preset.name()));
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
        return ClipConfig::of_shapes(file, wanted.activation).map(drop).map_err(described);
    }
    Err(format!("model.init = {:?}: its shapes are those of {seen}: set {}", model.init, settings.join(" and ")))
}

/// A named activation and a configuration that both speak must agree.
fn check_activation(model: &ModelSpec, config: &ClipConfig) -> Result<(), String> {
    match model.activation {
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
    let plain = preset(&ModelSpec { activation: None, ..model.clone() });
    let config = match init {
        Some(file) if file.is_file() => of_bare_file(model, file).ok()?,
        _ => preset(model),
    };
    (config != plain).then(|| serde_json::json!(config))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use choices::Activation::{self, Gelu, QuickGelu};
    use std::path::PathBuf;

    /// The settings that `check_settings` asks for; nothing where it asks for none.
    fn asked(model: &ModelSpec, config: &ClipConfig) -> String {
        check_settings(model, config)
            .err()
            .and_then(|why| Some(why.split_once(": set ")?.1.to_owned()))
            .unwrap_or_default()
    }

    #[test]
    fn a_preset_beside_weights_that_describe_themselves_is_theirs() {
        let of = |preset| ModelSpec { preset, init: "acme/clip".into(), ..ModelSpec::default() };
        let large = ClipConfig::preset(Preset::VitL14);
        assert_eq!(asked(&of(Preset::VitL14), &large), "");
        assert_eq!(asked(&of(Preset::VitB32), &large), "model.preset = \"vit-l-14\"");
        assert_eq!(asked(&of(ModelSpec::default().preset), &large), "", "who names none has the default");
        // ViT-L/14@336px, and a vocabulary of its own
        let mut wide = large.clone();
        (wide.vision.image_size, wide.text.vocab_size) = (336, 1000);
        assert_eq!(asked(&of(Preset::VitL14), &wide), "");
        let other = ModelSpec { image_size_px: 224, context_length: 248, ..of(Preset::VitB16) };
        let settings = "model.preset = \"vit-l-14\" and model.image_size_px = 336 and model.context_length = 77";
        assert_eq!(asked(&other, &wide), settings);
        // no preset's: it has no name
        let mut huge = large;
        (huge.vision.layers, huge.vision.width) = (32, 1280);
        assert_eq!(asked(&of(Preset::VitB32), &huge), "");
    }

    #[test]
    fn a_folder_is_examined_without_its_weights() {
        let folder = tempfile::tempdir().unwrap();
        let model = ModelSpec { preset: Preset::Tiny, init: "x".into(), ..ModelSpec::default() };
        assert!(described(&model, folder.path()).is_err());
        let config = ClipConfig::preset(Preset::Tiny);
        Clip::init(&config, 1, &Device::Cpu, DType::F32).unwrap().save(folder.path()).unwrap();
        assert_eq!(described(&model, folder.path()), Ok(config.clone()));
        let why = described(&ModelSpec { preset: Preset::VitB16, ..model.clone() }, folder.path()).unwrap_err();
        assert!(why.contains("set model.preset = \"tiny\""), "{why}");
        // weights of another network under the same configuration
        let narrow = ClipConfig { embed_dim: 8, ..config };
        let clip = Clip::init(&narrow, 1, &Device::Cpu, DType::F32).unwrap();
        clip.parameters().save_safetensors(&folder.path().join("model.safetensors")).unwrap();
        assert!(described(&model, folder.path()).unwrap_err().contains("proj"));
        let tokenizer = Tokenizer::train(["a road"; 2], 80).unwrap();
        assert!(check_vocabulary(&tokenizer, &narrow).is_ok());
        let mut few = narrow;
        few.text.vocab_size = 8;
        assert!(check_vocabulary(&tokenizer, &few).unwrap_err().contains("the network 8"));
    }

    #[test]
    fn a_resnet_is_not_trained() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tests/goldens/open_clip_resnet");
        let model = ModelSpec { init: "RN50".into(), ..ModelSpec::default() };
        let why = described(&model, Path::new(golden)).unwrap_err();
        assert!(why.contains("not trained") && why.contains("evaluate SPEC --model"), "{why}");
    }

    /// ViT-B/32 as open_clip writes it.
    fn open_clip(quick_gelu: bool) -> String {
        format!(
            r#"{{"model_cfg": {{"embed_dim": 512, "quick_gelu": {quick_gelu},
                "vision_cfg": {{"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}},
                "text_cfg": {{"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}}}}}}"#
        )
    }

    fn model(activation: Option<Activation>) -> ModelSpec {
        ModelSpec { preset: Preset::VitB32, init: "w.safetensors".into(), activation, ..ModelSpec::default() }
    }

    /// A file of weights, and the configurations beside it.
    pub(in crate::pretrain) fn bare(configs: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
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
        for name in Preset::ALL {
            let of = |side, context| {
                let model =
                    ModelSpec { preset: name, image_size_px: side, context_length: context, ..ModelSpec::default() };
                preset(&model)
            };
            of(255 * name.patch_px(), 1 << 16).validate().unwrap();
            of(name.patch_px(), 3).validate().unwrap();
            assert!(of(name.patch_px() + 1, 0).validate().is_err() && of(0, 1).validate().is_err());
        }
        assert!(Tokenizer::train(["a road"], 64).is_ok() && Tokenizer::train(["a road"], 63).is_err());
    }

    #[test]
    fn a_bare_file_takes_the_configuration_beside_it_or_asks() {
        let open = model(None);
        let (_kept, file) = bare(&[]);
        let error = of_bare_file(&open, &file).unwrap_err();
        for words in ["model.activation", "open_clip_config.json", "config.json", "quick_gelu", "gelu"] {
            assert!(error.contains(words), "{error}");
        }
        for (choice, activation) in [(Some(Gelu), Gelu), (Some(QuickGelu), QuickGelu)] {
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
            let other = if activation == Gelu { Some(QuickGelu) } else { Some(Gelu) };
            let error = check_activation(&model(other), &config).unwrap_err();
            assert!(error.contains("leave the field out"), "{error}");
        }
    }

    /// The preset's own network is what earlier runs trained; only another one is another run.
    #[test]
    fn only_another_network_than_the_presets_is_another_identity() {
        let (_kept, file) = bare(&[]);
        let of = |choice, file: &Path| identity(&model(choice), Some(file));
        assert_eq!(of(None, &file), None);
        assert_eq!(of(Some(QuickGelu), &file), None);
        let gelu = of(Some(Gelu), &file).unwrap();
        assert_eq!(gelu["activation"], "gelu");
        let (_kept, laion) = bare(&[("open_clip_config.json", &open_clip(false))]);
        assert_eq!(of(None, &laion), Some(gelu.clone()), "however it is known");
        let (_kept, openai) = bare(&[("open_clip_config.json", &open_clip(true))]);
        assert_eq!(of(None, &openai), None);
        let scratch = ModelSpec { init: String::new(), ..model(Some(Gelu)) };
        assert_eq!(identity(&scratch, None), Some(gelu));
        assert_eq!(identity(&ModelSpec { activation: None, ..scratch }, None), None);
    }
}
