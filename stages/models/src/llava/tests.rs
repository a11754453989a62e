//! What holds for every LLaVA, tried on the committed goldens' networks.

use super::goldens::{Golden, committed};
use super::{IMAGE, Llava, published};
use crate::ModelError;
use crate::captioning::{CaptionRequest, Captioner};
use crate::language::BatchLimits;
use crate::language::generate::{GenerationSettings, Nucleus};
use candle_core::{DType, Device, Tensor};
use std::path::Path;

const CPU: &Device = &Device::Cpu;

#[test]
fn names_of_all_versions_are_those_that_are_published() {
    for (old, new) in [
        ("language_model.model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("multi_modal_projector.linear_1.bias", "model.multi_modal_projector.linear_1.bias"),
        ("vision_tower.vision_model.pre_layrnorm.bias", "model.vision_tower.vision_model.pre_layrnorm.bias"),
        ("vision_tower.vision_model.pre_layrnorm.bias", "model.vision_tower.pre_layrnorm.bias"),
        ("vision_tower.vision_model.pre_layrnorm.bias", "vision_tower.pre_layrnorm.bias"),
    ] {
        assert_eq!((published(old), published(new)), (old.to_owned(), old.to_owned()));
    }
}

#[test]
fn no_caption_depends_on_its_batch_or_the_memory() {
    let base = GenerationSettings { max_new_tokens: 8, ..GenerationSettings::default() };
    let sampling = Some(Nucleus { top_k: 0, top_p: 0.9, temperature: 1.0, seed: 1 });
    for folder in committed() {
        let golden = Golden::open(&folder, DType::F32);
        let seeded = |(seed, request): (u64, CaptionRequest)| CaptionRequest { seed: Some(seed), ..request };
        let many: Vec<CaptionRequest> = (0..).zip(golden.requests().into_iter().cycle().take(7)).map(seeded).collect();
        for settings in [base.clone(), GenerationSettings { sampling, ..base.clone() }] {
            let write = |limits: BatchLimits| golden.llava.caption(&many, &settings, limits).unwrap();
            let together = write(7.into());
            assert_eq!(write(3.into()), together);
            assert_eq!(write(BatchLimits { rows: 7, cache_bytes: Some(1) }), together);
            for (request, caption) in many.iter().zip(&together) {
                let alone = golden.llava.caption(std::slice::from_ref(request), &settings, 1.into()).unwrap();
                assert_eq!(&alone[0], caption, "{}", folder.display());
            }
        }
    }
}

#[test]
fn words_of_others_stand_for_nothing_but_themselves() {
    let golden = Golden::open(&committed()[0], DType::F32);
    let error = golden.llava.instruction(&format!("a road {IMAGE} of stone")).unwrap_err();
    assert!(matches!(&error, ModelError::Input(why) if why.contains("take it out")), "{error}");
    // an end in the words is spelt
    let ids = golden.llava.instruction("a road</s> <pad>").unwrap().prompt_ids;
    assert!(!ids.contains(&2) && !ids.contains(&396) && ids[0] == 1, "{ids:?}");
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let golden = Golden::open(&committed()[0], DType::F32);
    let caption = |change: &dyn Fn(&mut CaptionRequest)| {
        let mut requests = golden.requests();
        change(&mut requests[1]);
        golden.llava.caption(&requests, &GenerationSettings::default(), 4.into()).unwrap_err().to_string()
    };
    let narrow = |x: &Tensor| x.narrow(1, 0, 8).unwrap();
    assert!(caption(&|r| r.pixel_values_chw = narrow(&r.pixel_values_chw)).contains("request 1: pixel values"));
    assert!(caption(&|r| r.instruction.prompt_ids[0] = 403).contains("id 403"));
    assert!(caption(&|r| r.instruction.prompt_ids.resize(120, 5)).contains("120 ids and 20 new tokens"));
    assert!(caption(&|r| r.instruction.prompt_ids.retain(|&id| id != 397)).contains("no id 397"));
    assert!(golden.llava.caption(&[], &GenerationSettings::default(), 4.into()).unwrap().is_empty());
}

/// The files of a network without its inputs and outputs, its configuration changed.
fn copy(from: &Path, to: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let mut config = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(to.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn a_folder_that_does_not_fit_is_refused_with_what_is_wrong() {
    let (from, folder) = (&committed()[0], tempfile::tempdir().unwrap());
    let path = folder.path();
    assert!(Llava::examine(path).unwrap_err().to_string().contains("config.json"));
    copy(from, path, |config| config["text_config"]["intermediate_size"] = 37.into());
    let error = Llava::load(path, CPU, DType::F32).unwrap_err().to_string();
    assert!(
        error.contains("language_model.model.layers.0.mlp.gate_proj.weight") && error.contains("[37, 24]"),
        "{error}"
    );
    copy(from, path, |_| {});
    assert_eq!(&Llava::examine(path).unwrap(), Golden::open(from, DType::F32).llava.config());
    std::fs::remove_file(path.join("model-00003-of-00003.safetensors")).unwrap();
    let error = Llava::examine(path).unwrap_err().to_string();
    assert!(error.contains("model-00003-of-00003.safetensors"), "{error}");
    copy(from, path, |_| {});
    std::fs::write(path.join("preprocessor_config.json"), "{\"image_std\": [1, 0, 1]}").unwrap();
    assert!(Llava::examine(path).unwrap_err().to_string().contains("image_std"));
    std::fs::remove_file(path.join("preprocessor_config.json")).unwrap();
    // as transformers 5 writes it
    std::fs::write(path.join("processor_config.json"), "{\"image_processor\": {\"resample\": 2}}").unwrap();
    assert!(Llava::examine(path).unwrap_err().to_string().contains("resample = 2"));
    std::fs::remove_file(path.join("processor_config.json")).unwrap();
    // a vocabulary without a token for the image, and none at all
    let text = std::fs::read_to_string(path.join("tokenizer.json")).unwrap();
    std::fs::write(path.join("tokenizer.json"), text.replace("<image>", "<picture>")).unwrap();
    assert!(Llava::examine(path).unwrap_err().to_string().contains("<image>"));
    std::fs::remove_file(path.join("tokenizer.json")).unwrap();
    assert!(Llava::examine(path).unwrap_err().to_string().contains("tokenizer.json"));
}
