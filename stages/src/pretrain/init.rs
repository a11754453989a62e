//! The network that `model.init` names, beside what the spec says of it.

use std::path::Path;

use choices::Preset;
use manifests::build::ModelSpec;
use models::clip::{Clip, ClipConfig};
use models::tokenizer::Tokenizer;

use super::start::{check_activation, check_shapes, of_bare_file};

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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

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
}
