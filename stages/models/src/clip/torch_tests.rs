//! State dictionaries as others publish them, and what their shapes say.

use super::weights::declarations;
use super::{Clip, ClipConfig, Pool, SeenPreset, Stem};
use crate::ModelError;
use crate::checkpoint::torch_writer::{Saved, archive, contiguous, pickle};
use crate::parameters::save_tensors;
use candle_core::{DType, Device, Tensor};
use choices::{Activation, Preset};
use half::f16;
use std::path::Path;

const CPU: &Device = &Device::Cpu;

fn small() -> ClipConfig {
    let mut config = ClipConfig::preset(Preset::Tiny);
    (config.embed_dim, config.vision.width, config.text.width) = (4, 8, 8);
    (config.vision.stem, config.vision.pool) = (Stem::Patch, Pool::Cls);
    (config.vision.image_size, config.vision.patch_size, config.vision.heads) = (8, 4, 2);
    (config.text.context_length, config.text.vocab_size, config.text.heads) = (30, 12, 2);
    config
}

fn tensors(clip: &Clip, dtype: DType) -> Vec<(String, Tensor)> {
    let tensor = |variable: &Tensor| variable.to_dtype(dtype).unwrap();
    clip.parameters().iter().map(|(name, variable)| (name.to_owned(), tensor(variable))).collect()
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let flat = tensor.flatten_all().unwrap();
    match tensor.dtype() {
        DType::F16 => flat.to_vec1::<f16>().unwrap().into_iter().flat_map(f16::to_le_bytes).collect(),
        _ => flat.to_vec1::<f32>().unwrap().into_iter().flat_map(f32::to_le_bytes).collect(),
    }
}

/// `torch.save` of a state dictionary.
fn save_torch(path: &Path, tensors: &[(String, Tensor)], nested: Option<&str>) {
    let described = tensors.iter().enumerate().map(|(key, (name, tensor))| Saved {
        name: name.clone(),
        storage: if tensor.dtype() == DType::F16 { "HalfStorage" } else { "FloatStorage" },
        key,
        elements: tensor.elem_count(),
        offset: 0,
        shape: tensor.dims().to_vec(),
        strides: contiguous(tensor.dims()),
    });
    let storages: Vec<_> = tensors.iter().enumerate().map(|(key, (_, tensor))| (key, bytes(tensor))).collect();
    let pickle = pickle(&described.collect::<Vec<_>>(), nested);
    std::fs::write(path, archive(&pickle, &storages)).unwrap();
}

#[test]
fn a_state_dictionary_and_safetensors_give_equal_bits() {
    let config = small();
    let clip = Clip::init(&config, 1, CPU, DType::F32).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let digest = |name: &str, dtype: DType| {
        let clip = Clip::load_file(&folder.path().join(name), &config, CPU, dtype).unwrap();
        clip.parameters().digest().unwrap()
    };
    for stored in [DType::F32, DType::F16] {
        let plain = tensors(&clip, stored);
        save_tensors(&folder.path().join("w.safetensors"), plain.clone()).unwrap();
        for (prefix, nested) in [
            ("", None),
            ("module.", None),
            ("", Some("state_dict")),
            ("module.", Some("state_dict")),
            ("", Some("model")),
        ] {
            let named: Vec<_> =
                plain.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone())).collect();
            save_torch(&folder.path().join("w.pt"), &named, nested);
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                assert_eq!(digest("w.pt", dtype), digest("w.safetensors", dtype), "{stored:?} {prefix} {nested:?}");
            }
        }
    }
    save_torch(&folder.path().join("w.pt"), &tensors(&clip, DType::F32), None);
    assert_eq!(digest("w.pt", DType::F32), clip.parameters().digest().unwrap());
    // as `score.clip` names it
    clip.save_open_clip(folder.path()).unwrap();
    let beside = Clip::load(&folder.path().join("w.pt"), CPU, DType::F32).unwrap();
    assert_eq!(beside.parameters().digest().unwrap(), clip.parameters().digest().unwrap());
}

#[test]
fn folders_may_hold_state_dictionaries() {
    let clip = Clip::init(&small(), 1, CPU, DType::F32).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (save, weights, torch) in [
        (Clip::save_open_clip as fn(&Clip, &Path) -> _, "open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
        (Clip::save, "model.safetensors", "pytorch_model.bin"),
    ] {
        let folder = folder.path().join(torch);
        save(&clip, &folder).unwrap();
        std::fs::remove_file(folder.join(weights)).unwrap();
        assert!(Clip::load(&folder, CPU, DType::F32).unwrap_err().to_string().contains(torch));
        save_torch(&folder.join(torch), &tensors(&clip, DType::F32), None);
        let loaded = Clip::load(&folder, CPU, DType::F32).unwrap();
        assert_eq!(loaded.parameters().digest().unwrap(), clip.parameters().digest().unwrap());
    }
}

#[test]
fn the_positions_of_long_clip_are_those_that_it_computes_with() {
    let config = small();
    let clip = Clip::init(&config, 1, CPU, DType::F32).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pt");
    let mut all = tensors(&clip, DType::F32);
    let other = (Tensor::ones((30, 8), DType::F32, CPU).unwrap() * 7.0).unwrap();
    all.push(("positional_embedding_res".to_owned(), other));
    save_torch(&path, &all, None);
    let loaded = Clip::load_file(&path, &config, CPU, DType::F32).unwrap();
    let rows = |clip: &Clip| clip.parameters().get("positional_embedding").unwrap().to_vec2::<f32>().unwrap();
    let (ours, first) = (rows(&loaded), rows(&clip));
    assert_eq!(ours[..20], first[..20]);
    assert_eq!(ours[20..], vec![vec![7.0; 8]; 10]);

    // a second table of another shape is no table of positions
    all.last_mut().unwrap().1 = Tensor::ones((31, 8), DType::F32, CPU).unwrap();
    save_torch(&path, &all, None);
    let error = Clip::load_file(&path, &config, CPU, DType::F32).unwrap_err();
    assert!(matches!(&error, ModelError::WrongShape { name, .. } if name == "positional_embedding_res"), "{error}");
}

/// A file whose header is that of a network; of its tensors there is nothing but their length.
fn write_header(path: &Path, config: &ClipConfig, more: &[(&str, &[usize])]) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    let declared = declarations(config).into_iter().map(|declared| (declared.name, declared.shape));
    for (name, shape) in declared.chain(more.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec()))) {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name, serde_json::json!({ "dtype": "F16", "shape": shape, "data_offsets": [start, end] }));
    }
    let header = serde_json::Value::Object(header).to_string();
    std::fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

#[test]
fn shapes_tell_the_preset_and_the_sizes_of_its_tables() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    for preset in Preset::ALL {
        let config = ClipConfig::preset(preset);
        write_header(&path, &config, &[]);
        let (image_size, context_length) = (config.vision.image_size, config.text.context_length);
        assert_eq!(SeenPreset::of_file(&path).unwrap(), SeenPreset { preset, image_size, context_length });
    }
    // ViT-L/14@336px with the positions of Long-CLIP
    let mut config = ClipConfig::preset(Preset::VitL14);
    (config.vision.image_size, config.text.context_length) = (336, 248);
    write_header(&path, &config, &[("positional_embedding_res", &[248, 768]), ("context_length", &[])]);
    let seen = SeenPreset { preset: Preset::VitL14, image_size: 336, context_length: 248 };
    assert_eq!(SeenPreset::of_file(&path).unwrap(), seen);
    let message = Clip::load(&path, CPU, DType::F32).unwrap_err().to_string();
    for words in ["vit-l-14", "336", "248", "which activation", "open_clip_config.json"] {
        assert!(message.contains(words), "{message}");
    }
    // ViT-H/14, and a tensor too many
    let mut huge = ClipConfig::preset(Preset::VitL14);
    (huge.vision.width, huge.vision.layers, huge.embed_dim, huge.text.width) = (1280, 32, 1024, 1024);
    write_header(&path, &huge, &[]);
    let none = |path: &Path| match SeenPreset::of_file(path).unwrap_err() {
        ModelError::AnotherModel { reason, .. } => assert!(reason.contains("none of the presets"), "{reason}"),
        other => panic!("{other}"),
    };
    none(&path);
    write_header(&path, &config, &[("head.weight", &[10, 768])]);
    none(&path);
}

/// LAION-2B's ViT-L/14 differs from those of LAION-400M and DataComp in what pixels are normalised by, and no file says
/// so.
#[test]
fn a_large_network_with_gelu_needs_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    for preset in [Preset::VitL14, Preset::VitB32] {
        write_header(&path, &ClipConfig::preset(preset), &[]);
        let of = |activation| ClipConfig::of_shapes(&path, activation);
        assert_eq!(of(Activation::QuickGelu).unwrap(), ClipConfig::preset(preset));
        match (preset, of(Activation::Gelu)) {
            (Preset::VitL14, Err(why)) => assert!(why.to_string().contains("open_clip_config.json"), "{why}"),
            (Preset::VitB32, Ok(config)) => assert_eq!(config.activation, Activation::Gelu),
            (_, found) => panic!("{preset}: {found:?}"),
        }
    }
}

#[test]
fn a_resnet_50_is_seen_by_its_shapes_and_is_no_preset() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let config = ClipConfig::resnet_50();
    write_header(
        &path,
        &config,
        &[("visual.bn1.num_batches_tracked", &[]), ("visual.layer1.0.bn1.num_batches_tracked", &[])],
    );
    let of_shapes = ClipConfig::of_shapes(&path, choices::Activation::QuickGelu).unwrap();
    assert_eq!(of_shapes, config);
    let message = SeenPreset::of_file(&path).unwrap_err().to_string();
    assert!(message.contains("ResNet-50") && message.contains("not trained"), "{message}");
    // a bottleneck too few is another network
    let few = ClipConfig { vision: super::VisionConfig::resnet(224, 64, vec![3, 4, 5, 3], 64), ..config };
    write_header(&path, &few, &[]);
    assert!(ClipConfig::of_shapes(&path, choices::Activation::QuickGelu).is_err());
}

/// What a layer of a ResNet computes does not depend on the other images of its batch, nor on kernels.
#[test]
fn images_of_a_resnet_do_not_know_of_each_other() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/open_clip_resnet");
    let clip = Clip::load(&folder, CPU, DType::F32).unwrap();
    let pixels = Tensor::rand(-2f32, 2.0, (5, 3, 64, 64), CPU).unwrap();
    let all = clip.encode_image(&pixels).unwrap().to_vec2::<f32>().unwrap();
    let frozen = clip.frozen().unwrap();
    for (row, together) in all.iter().enumerate() {
        let alone = frozen.encode_image(&pixels.narrow(0, row, 1).unwrap()).unwrap().to_vec2::<f32>().unwrap();
        let worst = alone[0].iter().zip(together).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst < 1e-5, "{worst}");
    }
    assert!(clip.encode_image(&pixels.narrow(2, 0, 32).unwrap()).is_err());
    let half = Clip::load(&folder, CPU, DType::BF16).unwrap();
    let half = half.encode_image(&pixels).unwrap().to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
    assert!(half.iter().flatten().all(|x| x.is_finite()));
    // its own format has room for it, others' have none
    let own = tempfile::tempdir().unwrap();
    clip.save(own.path()).unwrap();
    let again = Clip::load(own.path(), CPU, DType::F32).unwrap();
    assert_eq!(again.parameters().digest().unwrap(), clip.parameters().digest().unwrap());
    assert!(matches!(clip.save_open_clip(own.path()), Err(ModelError::Unsupported { .. })));
    assert!(matches!(clip.save_hugging_face(own.path()), Err(ModelError::Unsupported { .. })));
}
