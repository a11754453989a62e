//! What every CLIP of ours has to do, whatever its size.

use super::goldens::contrastive_loss;
use super::{Clip, ClipConfig, Eot, Pool, Stem, TextConfig, VisionConfig};
use crate::ModelError;
use crate::ops::Activation;
use crate::parameters::{Declaration, Init, Parameters};
use candle_core::{DType, Device, Tensor, backprop::GradStore};
use choices::Preset;

fn config(stem: Stem, pool: Pool) -> ClipConfig {
    ClipConfig {
        embed_dim: 6,
        vision: VisionConfig {
            image_size: 16,
            patch_size: 4,
            width: 8,
            layers: 2,
            heads: 2,
            mlp_ratio: 2.0,
            stem,
            pool,
        },
        text: TextConfig {
            context_length: 7,
            vocab_size: 12,
            width: 8,
            layers: 2,
            heads: 2,
            mlp_ratio: 2.0,
            eot: Eot::Argmax,
        },
        activation: Activation::Gelu,
        ..ClipConfig::preset(Preset::Tiny)
    }
}

fn configs() -> Vec<ClipConfig> {
    let conv = || Stem::Conv { channels: vec![4], residual: vec![1] };
    vec![
        config(Stem::Patch, Pool::Cls),
        config(Stem::Patch, Pool::Mean),
        config(conv(), Pool::Cls),
        config(conv(), Pool::Mean),
    ]
}

/// Seeded images, and texts of different lengths that use every token.
fn batch(config: &ClipConfig, dtype: DType) -> (Tensor, Tensor) {
    let side = config.vision.image_size;
    let pixels = [Declaration {
        name: "pixels".to_owned(),
        shape: vec![3, 3, side, side],
        init: Init::Normal { standard_deviation: 1.0 },
    }];
    let pixels = Parameters::init(&pixels, 5, &Device::Cpu, dtype).unwrap();
    let ids = [[10u32, 3, 4, 11, 0, 0, 0], [10, 1, 2, 5, 11, 0, 0], [10, 6, 7, 8, 9, 2, 11]];
    (pixels.get("pixels").unwrap().as_detached_tensor(), Tensor::new(&ids, &Device::Cpu).unwrap())
}

fn gradients(clip: &Clip, dtype: DType) -> GradStore {
    let (pixels, ids) = batch(clip.config(), dtype);
    let (loss, _) =
        contrastive_loss(clip, &clip.encode_image(&pixels).unwrap(), &clip.encode_text(&ids).unwrap()).unwrap();
    loss.backward().unwrap()
}

fn flat(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The middle third of a fused projection's bias: the keys', whose gradient is zero by definition.
fn without_key_bias(name: &str, values: Vec<f64>) -> Vec<f64> {
    let third = values.len() / 3;
    match name.ends_with("attn.in_proj_bias") {
        true => values.into_iter().enumerate().filter(|(i, _)| i / third != 1).map(|(_, x)| x).collect(),
        false => values,
    }
}

#[test]
fn after_one_step_every_variable_has_moved() {
    for config in configs() {
        for dtype in [DType::F32, DType::F64] {
            let clip = Clip::init(&config, 1, &Device::Cpu, dtype).unwrap();
            let before = clip.parameters().deep_copy().unwrap();
            let grads = gradients(&clip, dtype);
            for (name, variable) in clip.parameters().iter() {
                let grad = grads.get(variable).unwrap_or_else(|| panic!("{name} has no gradient"));
                let values = flat(grad);
                assert!(values.iter().all(|g| g.is_finite()), "{name}: {values:?}");
                // Of tokens and positions that no text uses, and of key biases, the gradient is zero.
                let table = name == "token_embedding.weight" || name == "positional_embedding";
                let used = without_key_bias(name, values);
                let zeros = used.iter().filter(|g| **g == 0.0).count();
                let most = if table { used.len() / 2 } else { 0 };
                assert!(zeros <= most, "{name}: {zeros} of {} gradients are zero", used.len());
                variable.set(&(variable.as_detached_tensor() - (grad * 0.1).unwrap()).unwrap()).unwrap();
            }
            for ((name, before), (_, after)) in before.iter().zip(clip.parameters().iter()) {
                assert_ne!(flat(before), flat(after), "{name} did not move");
            }
        }
    }
}

#[test]
fn a_few_steps_lower_the_loss() {
    let clip = Clip::init(&config(Stem::Patch, Pool::Cls), 1, &Device::Cpu, DType::F32).unwrap();
    let (pixels, ids) = batch(clip.config(), DType::F32);
    let loss = || {
        let (image, text) = (clip.encode_image(&pixels).unwrap(), clip.encode_text(&ids).unwrap());
        contrastive_loss(&clip, &image, &text).unwrap().0.to_scalar::<f32>().unwrap()
    };
    let before = loss();
    for _ in 0..20 {
        let grads = gradients(&clip, DType::F32);
        for (_, variable) in clip.parameters().iter() {
            let step = (grads.get(variable).unwrap() * 0.05).unwrap();
            variable.set(&(variable.as_detached_tensor() - step).unwrap()).unwrap();
        }
    }
    assert!(loss() < 0.5 * before, "{before} -> {}", loss());
}

#[test]
fn the_whole_network_agrees_with_finite_differences() {
    for config in configs() {
        let clip = Clip::init(&config, 1, &Device::Cpu, DType::F64).unwrap();
        let (pixels, ids) = batch(&config, DType::F64);
        let loss = || {
            let (image, text) = (clip.encode_image(&pixels).unwrap(), clip.encode_text(&ids).unwrap());
            contrastive_loss(&clip, &image, &text).unwrap().0.to_scalar::<f64>().unwrap()
        };
        let grads = gradients(&clip, DType::F64);
        for (name, variable) in clip.parameters().iter() {
            let grad = flat(grads.get(variable).unwrap());
            let values = flat(variable);
            // One element per variable, another in each: all of them would take minutes.
            let element = (7 * name.len()) % values.len();
            let at = |shift: f64| {
                let mut values = values.clone();
                values[element] += shift;
                variable.set(&Tensor::from_vec(values, variable.shape(), &Device::Cpu).unwrap()).unwrap();
                loss()
            };
            let step = 1e-6;
            let numeric = (at(step) - at(-step)) / (2.0 * step);
            at(0.0);
            let error = (grad[element] - numeric).abs() / numeric.abs().max(1.0);
            assert!(error < 1e-7, "{name}: {} beside {numeric}", grad[element]);
        }
    }
}

#[test]
fn results_depend_neither_on_the_batch_nor_on_threads() {
    for config in configs() {
        let clip = Clip::init(&config, 1, &Device::Cpu, DType::F32).unwrap();
        let (pixels, ids) = batch(&config, DType::F32);
        let (image, text) = (clip.encode_image(&pixels).unwrap(), clip.encode_text(&ids).unwrap());
        for row in 0..3 {
            let image_alone = clip.encode_image(&pixels.narrow(0, row, 1).unwrap()).unwrap();
            let text_alone = clip.encode_text(&ids.narrow(0, row, 1).unwrap()).unwrap();
            for (all, alone) in [(&image, image_alone), (&text, text_alone)] {
                let all = flat(&all.narrow(0, row, 1).unwrap());
                for (a, b) in all.iter().zip(flat(&alone)) {
                    assert!((a - b).abs() < 1e-5, "{a} beside {b}");
                }
            }
        }
        let grads = gradients(&clip, DType::F32);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let again = pool.install(|| gradients(&clip, DType::F32));
            for (name, variable) in clip.parameters().iter() {
                let (a, b) = (flat(grads.get(variable).unwrap()), flat(again.get(variable).unwrap()));
                assert_eq!(a, b, "gradient of {name} with {threads} threads");
            }
        }
    }
}

#[test]
fn a_frozen_copy_has_no_graph_and_stays_as_it_was() {
    let clip = Clip::init(&config(Stem::Patch, Pool::Cls), 1, &Device::Cpu, DType::F32).unwrap();
    let (pixels, _) = batch(clip.config(), DType::F32);
    let (frozen, following) = (clip.frozen().unwrap(), clip.without_gradients().unwrap());
    let before = flat(&frozen.encode_image(&pixels).unwrap());
    assert_eq!(before, flat(&clip.encode_image(&pixels).unwrap()));
    assert!(!frozen.encode_image(&pixels).unwrap().track_op() && !frozen.logit_scale().track_op());
    assert!(!following.encode_image(&pixels).unwrap().track_op());

    let other = Clip::init(clip.config(), 2, &Device::Cpu, DType::F32).unwrap();
    clip.parameters().copy_from(other.parameters()).unwrap();
    let after = flat(&clip.encode_image(&pixels).unwrap());
    assert_ne!(before, after);
    assert_eq!(before, flat(&frozen.encode_image(&pixels).unwrap()));
    assert_eq!(after, flat(&following.encode_image(&pixels).unwrap()));
}

#[test]
fn every_format_gives_back_what_was_written() {
    for config in configs() {
        let clip = Clip::init(&config, 1, &Device::Cpu, DType::F32).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let saves: [fn(&Clip, &std::path::Path) -> crate::Result<()>; 3] =
            [Clip::save, Clip::save_open_clip, Clip::save_hugging_face];
        for (index, save) in saves.into_iter().enumerate() {
            let folder = folder.path().join(index.to_string());
            match save(&clip, &folder) {
                Err(ModelError::Unsupported { .. }) => assert!(index > 0 && !config.is_plain_vit()),
                result => {
                    result.unwrap();
                    let loaded = Clip::load(&folder, &Device::Cpu, DType::F32).unwrap();
                    assert_eq!(loaded.config(), &config);
                    assert_eq!(loaded.parameters().digest().unwrap(), clip.parameters().digest().unwrap());
                }
            }
        }
    }
}

/// As transformers 5 writes it beside the weights.
#[test]
fn pixels_are_normalised_as_the_processor_of_hugging_face_says() {
    let clip = Clip::init(&config(Stem::Patch, Pool::Cls), 1, &Device::Cpu, DType::F32).unwrap();
    let folder = tempfile::tempdir().unwrap();
    clip.save_hugging_face(folder.path()).unwrap();
    std::fs::remove_file(folder.path().join("preprocessor_config.json")).unwrap();
    let processor = r#"{"image_processor": {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}}"#;
    std::fs::write(folder.path().join("processor_config.json"), processor).unwrap();
    let read = Clip::examine(folder.path()).unwrap();
    assert_eq!((read.image_mean, read.image_std), ([0.5; 3], [0.25; 3]));
}

#[test]
fn a_bare_file_is_read_with_a_configuration() {
    let config = config(Stem::Patch, Pool::Cls);
    let clip = Clip::init(&config, 1, &Device::Cpu, DType::F32).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    // As DistributedDataParallel leaves the names, with the constants of OpenAI's files beside them.
    let spell = |name: &str| format!("module.{name}");
    let mut tensors: Vec<(String, Tensor)> =
        clip.parameters().iter().map(|(name, variable)| (spell(name), variable.as_detached_tensor())).collect();
    tensors.push(("context_length".to_owned(), Tensor::new(7i64, &Device::Cpu).unwrap()));
    crate::parameters::save_tensors(&path, tensors).unwrap();
    let loaded = Clip::load_file(&path, &config, &Device::Cpu, DType::F32).unwrap();
    assert_eq!(loaded.parameters().digest().unwrap(), clip.parameters().digest().unwrap());

    let message = Clip::load(&path, &Device::Cpu, DType::F32).unwrap_err().to_string();
    assert!(message.contains("none of the presets") && message.contains("open_clip_config.json"), "{message}");
    clip.save_open_clip(&folder.path().join("open_clip")).unwrap();
    let beside = folder.path().join("open_clip_config.json");
    std::fs::rename(folder.path().join("open_clip/open_clip_config.json"), beside).unwrap();
    let loaded = Clip::load(&path, &Device::Cpu, DType::F32).unwrap();
    assert_eq!(loaded.config().activation, config.activation);
    assert_eq!(loaded.parameters().digest().unwrap(), clip.parameters().digest().unwrap());
}

#[test]
fn a_checkpoint_that_does_not_fit_is_named() {
    let config = config(Stem::Patch, Pool::Cls);
    let clip = Clip::init(&config, 1, &Device::Cpu, DType::F32).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    clip.parameters().save_safetensors(&path).unwrap();
    let load = |config: &ClipConfig| Clip::load_file(&path, config, &Device::Cpu, DType::F32).unwrap_err();

    let mut wider = config.clone();
    wider.embed_dim = 7;
    match load(&wider) {
        ModelError::WrongShape { name, expected, found, .. } => {
            assert!(name.contains("proj"), "{name}");
            assert_eq!((expected, found), (vec![8, 7], vec![8, 6]));
        }
        other => panic!("{other}"),
    }
    let mut deeper = config.clone();
    deeper.vision.layers = 3;
    assert!(matches!(load(&deeper), ModelError::MissingTensor { name, .. } if name.contains("resblocks.2")));
    let mut shallower = config.clone();
    shallower.text.layers = 1;
    assert!(matches!(load(&shallower), ModelError::UnexpectedTensor { name, .. } if name.contains("resblocks.1")));

    let other = Parameters::init(
        &[Declaration { name: "layer1.conv.weight".to_owned(), shape: vec![2, 2], init: Init::Constant(0.0) }],
        1,
        &Device::Cpu,
        DType::F32,
    );
    other.unwrap().save_safetensors(&path).unwrap();
    assert!(matches!(load(&config), ModelError::AnotherModel { .. }));
    std::fs::write(&path, b"no safetensors").unwrap();
    assert!(matches!(load(&config), ModelError::Malformed { .. }));
}

#[test]
fn a_folder_of_another_model_is_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let load = || Clip::load(folder.path(), &Device::Cpu, DType::F32).unwrap_err();
    assert!(matches!(load(), ModelError::Io { .. }));
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("config.json", r#"{"model_type": "bert"}"#);
    assert!(matches!(load(), ModelError::AnotherModel { reason, .. } if reason.contains("bert")));
    write("config.json", r#"{"clip": {"embed_dim": 4}}"#);
    assert!(matches!(load(), ModelError::Malformed { .. }));
    write(
        "config.json",
        r#"{"model_type": "clip", "vision_config": {"hidden_act": "relu"}, "text_config": {"hidden_act": "relu"}}"#,
    );
    assert!(matches!(load(), ModelError::AnotherModel { reason, .. } if reason.contains("relu")));
    write(
        "open_clip_config.json",
        r#"{"model_cfg": {"embed_dim": 8, "vision_cfg": {"layers": [3, "four"], "width": 64}, "text_cfg": {}}}"#,
    );
    assert!(matches!(load(), ModelError::AnotherModel { reason, .. } if reason.contains("layers")));
    write(
        "open_clip_config.json",
        r#"{"model_cfg": {"embed_dim": 8, "vision_cfg": {"layers": [3, 4, 6], "width": 64}, "text_cfg": {}}}"#,
    );
    assert!(matches!(load(), ModelError::Config(why) if why.contains("four groups")));
    write(
        "open_clip_config.json",
        r#"{"model_cfg": {"embed_dim": 8, "vision_cfg": {"timm_model_name": "vit"}, "text_cfg": {}}}"#,
    );
    assert!(matches!(load(), ModelError::AnotherModel { reason, .. } if reason.contains("timm_model_name")));
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let clip = Clip::init(&config(Stem::Patch, Pool::Cls), 1, &Device::Cpu, DType::F32).unwrap();
    let image = |dims: &[usize]| clip.encode_image(&Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap());
    assert!(matches!(image(&[1, 3, 16, 20]), Err(ModelError::Input(message)) if message.contains("[1, 3, 16, 20]")));
    assert!(image(&[3, 16, 16]).is_err());
    let text = |ids: Tensor| clip.encode_text(&ids);
    assert!(text(Tensor::zeros((1, 8), DType::U32, &Device::Cpu).unwrap()).is_err());
    let unknown = text(Tensor::new(&[[1u32, 12]], &Device::Cpu).unwrap());
    assert!(matches!(unknown, Err(ModelError::Input(message)) if message.contains("token id 12")));
    // candle has no tensors without elements on a GPU, nor operations that sum them up
    if crate::ops::cpu_kernels() {
        assert_eq!(image(&[0, 3, 16, 16]).unwrap().dims(), [0, 6]);
        assert_eq!(text(Tensor::zeros((0, 7), DType::U32, &Device::Cpu).unwrap()).unwrap().dims(), [0, 6]);
    }
}
