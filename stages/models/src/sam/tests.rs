//! What every Segment Anything of ours has to do, whatever its size.

use super::{EncoderConfig, MaskOutputs, Prompt, Sam, SamConfig, TinyVitConfig};
use crate::ModelError;
use crate::checkpoint::Checkpoint;
use crate::parameters::save_tensors;
use candle_core::{DType, Device, Tensor};
use std::path::Path;

fn vit() -> SamConfig {
    let mut config = SamConfig::preset("vit-b").unwrap();
    config.image_size = 64;
    let EncoderConfig::Vit(vit) = &mut config.encoder else { unreachable!("the preset is a ViT") };
    (vit.patch_size, vit.width, vit.depth, vit.heads, vit.mlp_width) = (8, 8, 2, 2, 16);
    (vit.window, vit.global_blocks) = (3, vec![1]);
    (config.decoder.width, config.decoder.mlp_width, config.decoder.iou_head_width) = (64, 24, 20);
    config
}

fn tiny() -> SamConfig {
    let encoder = TinyVitConfig {
        widths: [4, 8, 12, 16],
        depths: [1, 1, 2, 1],
        heads: [2, 3, 4],
        windows: [3, 5, 3],
        expansion: 2,
    };
    SamConfig { image_size: 64, encoder: EncoderConfig::TinyVit(encoder), decoder: vit().decoder }
}

fn pixels(config: &SamConfig, images: usize) -> Tensor {
    let side = config.image_size;
    let values: Vec<f32> = (0..images * 3 * side * side).map(|i| ((i * 7919) % 1013) as f32 / 506.5 - 1.0).collect();
    Tensor::from_vec(values, (images, 3, side, side), &Device::Cpu).unwrap()
}

fn flat(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn kernels_and_compositions_agree() {
    // f16 has no kernel; its rounding is all that differs.
    for config in [vit(), tiny()] {
        let [exact, rounded] = [DType::F64, DType::F16].map(|dtype| {
            let sam = Sam::init(&config, 1, &Device::Cpu, dtype).unwrap();
            let image = sam.embed_images(&pixels(&config, 1)).unwrap().remove(0);
            let side = config.embedding_side();
            assert_eq!(image.tensor().dims(), [side, side, 64]);
            flat(image.tensor())
        });
        let scale = exact.iter().fold(0.0f64, |scale, x| scale.max(x.abs()));
        let mean = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).sum::<f64>() / exact.len() as f64;
        assert!(mean < 0.02 * scale, "{mean} of {scale}");
    }
}

#[test]
fn images_of_a_batch_are_independent() {
    for config in [vit(), tiny()] {
        let sam = Sam::init(&config, 1, &Device::Cpu, DType::F64).unwrap();
        let batch = pixels(&config, 2);
        let both = sam.embed_images(&batch).unwrap();
        let second = sam.embed_images(&batch.narrow(0, 1, 1).unwrap()).unwrap();
        let pairs = flat(both[1].tensor()).into_iter().zip(flat(second[0].tensor()));
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-12));
        assert!(sam.embed_images(&batch.narrow(0, 0, 0).unwrap()).unwrap().is_empty());
    }
}

#[test]
fn what_is_saved_for_transformers_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let config = vit();
    let tensors = Sam::random_tensors(&config, 5).unwrap();
    Sam::save_hugging_face(&config, &tensors, folder.path()).unwrap();
    let loaded = Sam::load(folder.path(), &Device::Cpu, DType::F32).unwrap();
    assert_eq!(loaded.config(), &config);
    // Without a configuration the shapes tell, in these names too.
    let file = Sam::load(&folder.path().join("model.safetensors"), &Device::Cpu, DType::F32).unwrap();
    let expected = Sam::from_tensors(&config, &tensors, &Device::Cpu, DType::F32).unwrap();
    let embed = |sam: &Sam| flat(sam.embed_images(&pixels(&config, 1)).unwrap()[0].tensor());
    assert_eq!(embed(&loaded), embed(&expected));
    assert_eq!(embed(&file), embed(&expected));
    let unsupported = Sam::save_hugging_face(&tiny(), &tensors, folder.path());
    assert!(matches!(unsupported, Err(ModelError::Unsupported { .. })));
}

#[test]
fn what_does_not_fit_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sam.safetensors");
    let config = vit();
    let tensors = Sam::random_tensors(&config, 5).unwrap();
    let load = |tensors: std::collections::BTreeMap<String, Tensor>, config: Option<&SamConfig>| {
        save_tensors(&path, tensors).unwrap();
        Sam::read(&path, config, &Device::Cpu, DType::F32)
    };
    load(tensors.clone(), None).unwrap();
    let name = "image_encoder.blocks.0.attn.proj.weight";
    let mut missing = tensors.clone();
    missing.remove(name);
    let error = load(missing, None).unwrap_err();
    assert!(matches!(&error, ModelError::MissingTensor { name: n, expected, .. } if n == name && expected == &[8, 8]));
    let mut wrong = tensors.clone();
    wrong.insert(name.to_owned(), Tensor::zeros((8, 9), DType::F32, &Device::Cpu).unwrap());
    let error = load(wrong, None).unwrap_err();
    assert!(
        matches!(&error, ModelError::WrongShape { found, expected, .. } if found == &[8, 9] && expected == &[8, 8])
    );
    let mut more = tensors.clone();
    more.insert("image_encoder.head.weight".to_owned(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
    let error = load(more, Some(&config)).unwrap_err();
    assert!(matches!(&error, ModelError::UnexpectedTensor { name, .. } if name == "image_encoder.head.weight"));
    let other = [("conv1.weight".to_owned(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap())];
    assert!(matches!(load(other.into(), None), Err(ModelError::AnotherModel { .. })));
    let error = Sam::from_tensors(&tiny(), &tensors, &Device::Cpu, DType::F32).unwrap_err();
    assert!(error.to_string().contains("patch_embed.seq.0.c.weight"), "{error}");
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let config = vit();
    let sam = Sam::init(&config, 1, &Device::Cpu, DType::F32).unwrap();
    let wrong = Tensor::zeros((1, 3, 64, 60), DType::F32, &Device::Cpu).unwrap();
    assert!(sam.embed_images(&wrong).unwrap_err().to_string().contains("[1, 3, 64, 60]"));
    let image = sam.embed_images(&pixels(&config, 1)).unwrap().remove(0);
    let predict = |prompts: &[Prompt]| sam.predict(&image, prompts, MaskOutputs::Multi, None);
    assert!(predict(&[]).unwrap().is_empty());
    let point = Prompt::point([3.0, 4.0]);
    let two = Prompt { points_xy: point.points_xy.repeat(2), ..Prompt::default() };
    assert!(predict(&[point.clone(), two]).unwrap_err().to_string().contains("1 and 2 points"));
    let masked = Prompt { mask_logits: Some(vec![0.0; 7]), ..point.clone() };
    assert!(predict(std::slice::from_ref(&masked)).unwrap_err().to_string().contains("7 logits"));
    let whole = Prompt { mask_logits: Some(vec![0.0; 32 * 32]), ..point.clone() };
    assert!(predict(&[whole, point]).is_err());
}

/// Checkpoints of `torch.save`, written by `tests/make_sam_goldens.py`.
#[test]
fn torch_checkpoints_are_read_and_code_in_them_is_not() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/sam_torch");
    let load = |name: &str| Sam::load(&folder.join(name), &Device::Cpu, DType::F32);
    let sam = load("tiny_vit.pt").unwrap();
    assert!(matches!(sam.config().encoder, EncoderConfig::TinyVit(_)));
    // The same weights in another format.
    assert_eq!(load("tiny_vit.safetensors").unwrap().config(), sam.config());
    let config = SamConfig { image_size: 64, ..sam.config().clone() };
    let io = Checkpoint::open(&folder.join("tiny_vit_io.safetensors")).unwrap();
    let io = |name: &str| io.load(name).unwrap();
    let theirs = flat(&io("image_embeddings"));
    let scale = theirs.iter().fold(0.0f64, |scale, x| scale.max(x.abs()));
    for name in ["tiny_vit.pt", "tiny_vit.safetensors"] {
        let sam = Sam::load_as(&folder.join(name), &config, &Device::Cpu, DType::F32).unwrap();
        let image = sam.embed_images(&io("pixel_values")).unwrap().remove(0);
        let ours = flat(&image.tensor().permute((2, 0, 1)).unwrap());
        assert_eq!(ours.len(), theirs.len());
        assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-4 * scale), "{name}");
    }
    let error = load("malicious.pth").unwrap_err().to_string();
    assert!(error.contains("system") && error.contains("refused") && error.contains("malicious.pth"), "{error}");
}
