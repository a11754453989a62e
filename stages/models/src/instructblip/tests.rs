//! What holds for every InstructBLIP, tried on the committed goldens' networks.

use super::InstructBlip;
use super::goldens::{Golden, committed};
use crate::ModelError;
use crate::captioning::{CaptionRequest, Captioner};
use crate::language::BatchLimits;
use crate::language::generate::{GenerationSettings, Nucleus};
use crate::parameters::Parameters;
use candle_core::{DType, Device, Tensor};
use std::path::Path;

const CPU: &Device = &Device::Cpu;

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn no_caption_depends_on_its_batch() {
    let base = GenerationSettings { max_new_tokens: 10, ..GenerationSettings::default() };
    let all = [
        base.clone(),
        GenerationSettings { num_beams: 4, repetition_penalty: 1.3, ..base.clone() },
        GenerationSettings { sampling: Some(Nucleus { top_k: 0, top_p: 0.9, temperature: 1.0, seed: 1 }), ..base },
    ];
    for folder in committed() {
        let golden = Golden::open(&folder);
        let requests = golden.requests();
        // Eleven requests through places for three, against all at once.
        let many: Vec<CaptionRequest> = requests.iter().cycle().take(11).cloned().collect();
        for settings in &all {
            let together = golden.blip.caption(&many, settings, 11.into()).unwrap();
            assert_eq!(golden.blip.caption(&many, settings, 3.into()).unwrap(), together);
            if settings.sampling.is_none() {
                for (request, caption) in many.iter().zip(&together) {
                    let alone = golden.blip.caption(std::slice::from_ref(request), settings, 1.into()).unwrap();
                    assert_eq!(&alone[0], caption, "{}", folder.display());
                }
            }
        }
    }
}

#[test]
fn a_small_cache_takes_longer_and_says_the_same() {
    let settings = GenerationSettings { num_beams: 3, max_new_tokens: 10, ..GenerationSettings::default() };
    for folder in committed() {
        let golden = Golden::open(&folder);
        let many: Vec<CaptionRequest> = golden.requests().iter().cycle().take(9).cloned().collect();
        let free = golden.blip.caption(&many, &settings, 9.into()).unwrap();
        for cache_bytes in [1, 20_000, 60_000] {
            let limits = BatchLimits { rows: 9, cache_bytes: Some(cache_bytes) };
            assert_eq!(golden.blip.caption(&many, &settings, limits).unwrap(), free, "{}", folder.display());
        }
    }
}

#[test]
fn one_image_under_several_requests_is_looked_at_once_and_seeds_are_the_requests_own() {
    let sampling = Some(Nucleus { top_k: 0, top_p: 1.0, temperature: 2.0, seed: 1 });
    let settings = GenerationSettings { sampling, max_new_tokens: 10, ..GenerationSettings::default() };
    for folder in committed() {
        let golden = Golden::open(&folder);
        let of = |row: usize, seed| CaptionRequest { seed: Some(seed), ..golden.requests().swap_remove(row) };
        let (first, other) = (of(0, 1), of(1, 2));
        let same_image = CaptionRequest { seed: Some(3), ..first.clone() };
        assert_eq!(first.pixel_values_chw.id(), same_image.pixel_values_chw.id());
        let requests = [first, other, same_image];
        let together = golden.blip.caption(&requests, &settings, 3.into()).unwrap();
        assert_ne!(together[0], together[2], "{}", folder.display());
        for (request, caption) in requests.iter().zip(&together) {
            let alone = golden.blip.caption(std::slice::from_ref(request), &settings, 1.into()).unwrap();
            assert_eq!(&alone[0], caption, "{}", folder.display());
        }
    }
}

#[test]
fn padding_changes_no_number() {
    for folder in committed() {
        let golden = Golden::open(&folder);
        let (pixels, ids) = (golden.tensor("pixel_values"), golden.tensor("qformer_input_ids"));
        let mask = golden.tensor("qformer_attention_mask").to_dtype(DType::U8).unwrap();
        let together = golden.blip.encode(&pixels, &ids, &mask).unwrap();
        for row in 0..pixels.dims()[0] {
            let length = mask.get(row).unwrap().to_vec1::<u8>().unwrap().iter().filter(|&&x| x == 1).count();
            let part = |x: &Tensor, length| x.narrow(0, row, 1).unwrap().narrow(1, 0, length).unwrap();
            let alone = golden.blip.encode(&part(&pixels, 3), &part(&ids, length), &part(&mask, length)).unwrap();
            let pairs = values(&alone).into_iter().zip(values(&together.narrow(0, row, 1).unwrap()));
            let off = pairs.fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
            assert!(off < 1e-5, "{}: row {row} off by {off}", folder.display());
        }
    }
}

#[test]
fn candles_own_operations_give_the_same_text() {
    // f64 has no inference kernels: everything goes the way of other devices.
    let settings = GenerationSettings { num_beams: 3, max_new_tokens: 10, ..GenerationSettings::default() };
    for folder in committed() {
        let golden = Golden::open(&folder);
        let wide = InstructBlip::load(&folder, CPU, DType::F64).unwrap();
        let captions = |blip: &InstructBlip| blip.caption(&golden.requests(), &settings, 4.into()).unwrap();
        assert_eq!(captions(&wide), captions(&golden.blip), "{}", folder.display());
    }
}

fn copy(from: &Path, to: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let text = std::fs::read(from.join("config.json")).unwrap();
    let mut config = serde_json::from_slice(&text).unwrap();
    change(&mut config);
    std::fs::write(to.join("config.json"), config.to_string()).unwrap();
    std::fs::copy(from.join("model.safetensors"), to.join("model.safetensors")).unwrap();
}

#[test]
fn weights_that_do_not_fit_are_named_with_both_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let load = || InstructBlip::load(folder.path(), CPU, DType::F32).map(|_| ()).unwrap_err();
    let llama = &committed()[0];
    copy(llama, folder.path(), |config| config["qformer_config"]["intermediate_size"] = 25.into());
    let error = load();
    assert!(matches!(error, ModelError::WrongShape { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("intermediate_query.dense.weight") && message.contains("[24, 16]"), "{message}");
    assert!(message.contains("[25, 16]"), "{message}");
    copy(llama, folder.path(), |config| config["text_config"]["num_hidden_layers"] = 9.into());
    let error = load();
    assert!(matches!(error, ModelError::MissingTensor { .. }), "{error}");
    assert!(error.to_string().contains("language_model.model.layers.3."), "{error}");
    // A configuration that would take terabytes meets the file before it meets the memory.
    copy(llama, folder.path(), |config| config["vision_config"]["hidden_size"] = 32_766.into());
    assert!(matches!(load(), ModelError::WrongShape { .. }));
}

#[test]
fn shards_and_halves_of_numbers_are_read() {
    let (from, folder) = (&committed()[0], tempfile::tempdir().unwrap());
    copy(from, folder.path(), |_| {});
    let whole = Parameters::load_safetensors(&from.join("model.safetensors"), CPU, DType::F32).unwrap();
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let mut index = serde_json::Map::new();
    for shard in 0..2 {
        let file = format!("model-0000{}-of-00002.safetensors", shard + 1);
        let part = whole.iter().enumerate().filter(|(i, _)| i % 2 == shard);
        let part: Vec<(String, Tensor)> =
            part.map(|(_, (name, x))| (name.to_owned(), x.to_dtype(DType::BF16).unwrap())).collect();
        index.extend(part.iter().map(|(name, _)| (name.clone(), file.clone().into())));
        Parameters::from_tensors(part).unwrap().save_safetensors(&folder.path().join(file)).unwrap();
    }
    let index = serde_json::json!({ "weight_map": index });
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let golden = Golden::open(from);
    let sharded = InstructBlip::load(folder.path(), CPU, DType::F32).unwrap();
    let image = |blip: &InstructBlip| values(&blip.encode_image(&golden.tensor("pixel_values")).unwrap());
    let off = image(&sharded).iter().zip(image(&golden.blip)).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
    assert!(off > 0.0 && off < 0.2, "{off}");
}

#[test]
fn a_checkpoint_with_a_shard_missing_or_of_another_kind_is_refused_by_name() {
    let (from, folder) = (&committed()[0], tempfile::tempdir().unwrap());
    let load = || InstructBlip::load(folder.path(), CPU, DType::F32).map(|_| ()).unwrap_err();
    assert!(load().to_string().contains("config.json"), "an empty folder");
    copy(from, folder.path(), |_| {});
    let whole = std::fs::read(from.join("model.safetensors")).unwrap();
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let error = load().to_string();
    assert!(error.contains("model.safetensors"), "{error}");
    // an index that names a shard which is not there
    let first = "model-00001-of-00002.safetensors";
    let names = Parameters::load_safetensors(&from.join("model.safetensors"), CPU, DType::F32).unwrap();
    let map: serde_json::Map<String, serde_json::Value> = names
        .iter()
        .enumerate()
        .map(|(i, (name, _))| {
            let shard = if i % 2 == 0 { first } else { "model-00002-of-00002.safetensors" };
            (name.to_owned(), shard.into())
        })
        .collect();
    let index = serde_json::json!({ "weight_map": map });
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::write(folder.path().join(first), &whole).unwrap();
    let error = load().to_string();
    assert!(error.contains("model-00002-of-00002.safetensors"), "{error}");
    // a shard that ends in the middle
    std::fs::write(folder.path().join("model-00002-of-00002.safetensors"), &whole[..whole.len() / 2]).unwrap();
    let error = load().to_string();
    assert!(error.contains("model-00002-of-00002.safetensors"), "{error}");
    // another architecture
    for (field, value, word) in [
        ("model_type", serde_json::json!("blip-2"), "blip-2"),
        ("model_type", serde_json::json!("llava"), "llava"),
        ("text_config", serde_json::json!({ "model_type": "opt" }), "opt"),
    ] {
        copy(from, folder.path(), |config| config[field] = value.clone());
        let error = load();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let golden = Golden::open(&committed()[0]);
    let (pixels, ids) = (golden.tensor("pixel_values"), golden.tensor("qformer_input_ids"));
    let mask = ids.ones_like().unwrap();
    let refused = |pixels: &Tensor, ids: &Tensor, mask: &Tensor| {
        assert!(matches!(golden.blip.encode(pixels, ids, mask), Err(ModelError::Input(_))));
    };
    refused(&pixels.narrow(3, 0, 8).unwrap(), &ids, &mask);
    refused(&pixels, &ids.narrow(0, 0, 1).unwrap(), &mask.narrow(0, 0, 1).unwrap());
    refused(&pixels, &ids, &mask.narrow(1, 0, 2).unwrap());
    refused(&pixels, &(ids.to_dtype(DType::F32).unwrap() + 1000.0).unwrap(), &mask);
    let caption = |change: &dyn Fn(&mut CaptionRequest)| {
        let mut requests = golden.requests();
        change(&mut requests[1]);
        golden.blip.caption(&requests, &GenerationSettings::default(), 4.into()).unwrap_err().to_string()
    };
    assert!(caption(&|r| r.instruction.prompt_ids[0] = 48).contains("request 1: id 48"));
    assert!(caption(&|r| r.instruction.qformer_ids.resize(13, 1)).contains("13 ids"));
    assert!(caption(&|r| r.instruction.prompt_ids.resize(60, 1)).contains("60 ids and 20 new tokens"));
    assert!(caption(&|r| r.pixel_values_chw = pixels.get(0).unwrap().narrow(1, 0, 8).unwrap()).contains("[3, 8, 24]"));
    assert!(golden.blip.instruction("a road").unwrap_err().to_string().contains("tokenizer.json"));
    assert!(golden.blip.caption(&[], &GenerationSettings::default(), 4.into()).unwrap().is_empty());
}
