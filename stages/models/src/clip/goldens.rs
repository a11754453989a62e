//! Our numbers beside those of transformers and open_clip.
//!
//! A golden folder holds a checkpoint (`config.json` + `model.safetensors`, or `open_clip_config.json` +
//! `open_clip_model.safetensors`), `io.safetensors` (inputs, embeddings of length one, logits, loss) and perhaps
//! `grads.safetensors` (gradients of the symmetric contrastive loss under the checkpoint's names).
//! `tests/make_goldens.py` writes them. `URBANCROSS_GOLDENS=DIR` checks every such folder within DIR.

use super::weights::declarations;
use super::{Clip, reading};
use crate::checkpoint::Checkpoint;
use crate::ops::l2_normalise;
use candle_core::{D, DType, Device, Result, Tensor};
use std::path::{Path, PathBuf};

/// Mean of the cross entropies of both directions, at the network's temperature.
pub(super) fn contrastive_loss(clip: &Clip, image_bd: &Tensor, text_bd: &Tensor) -> Result<(Tensor, Tensor)> {
    let cosines = l2_normalise(image_bd)?.matmul(&l2_normalise(text_bd)?.t()?)?;
    let logits = cosines.broadcast_mul(&clip.logit_scale().exp()?)?;
    let truth = Tensor::eye(logits.dim(0)?, logits.dtype(), logits.device())?;
    let cross_entropy = |logits: &Tensor| {
        let log_sum = logits.exp()?.sum(D::Minus1)?.log()?;
        (log_sum - (logits * &truth)?.sum(D::Minus1)?)?.mean_all()
    };
    let loss = ((cross_entropy(&logits)? + cross_entropy(&logits.t()?.contiguous()?)?)? / 2.0)?;
    Ok((loss, logits))
}

fn flat(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(what: &str, ours: &Tensor, theirs: &Tensor, tolerance: f64) {
    assert_eq!(ours.elem_count(), theirs.elem_count(), "{what}");
    let (ours, theirs) = (flat(ours), flat(theirs));
    let scale = theirs.iter().fold(0.0f64, |scale, x| scale.max(x.abs()));
    let worst = ours.iter().zip(&theirs).fold(0.0f64, |worst, (a, b)| worst.max((a - b).abs()));
    assert!(worst <= tolerance * scale, "{what}: off by {worst:e}, values up to {scale:e}");
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap()
}

fn check(folder: &Path) {
    let name = folder.display();
    let cpu = &Device::Cpu;
    let clip = Clip::load(folder, cpu, DType::F32).unwrap();
    let io = open(&folder.join("io.safetensors"));
    let io = |tensor: &str| io.load(tensor).unwrap();

    let image_bd = clip.encode_image(&io("pixel_values")).unwrap();
    let text_bd = clip.encode_text(&io("input_ids").to_dtype(DType::U32).unwrap()).unwrap();
    let (loss, logits) = contrastive_loss(&clip, &image_bd, &text_bd).unwrap();
    assert_close(&format!("{name}: image_embeds"), &l2_normalise(&image_bd).unwrap(), &io("image_embeds"), 2e-5);
    assert_close(&format!("{name}: text_embeds"), &l2_normalise(&text_bd).unwrap(), &io("text_embeds"), 2e-5);
    assert_close(&format!("{name}: logits_per_image"), &logits, &io("logits_per_image"), 2e-5);
    assert_close(&format!("{name}: loss"), &loss, &io("loss"), 1e-5);

    let path = folder.join("grads.safetensors");
    if !path.is_file() {
        return;
    }
    // Gradients bear the names of the weights and are read as such; large tables may be left out.
    let stored = open(&path);
    let has_table = stored.shapes().any(|(name, _)| name.ends_with("token_embedding.weight"));
    let mut wanted = declarations(clip.config());
    wanted.retain(|declaration| has_table || declaration.name != "token_embedding.weight");
    let theirs = reading::read(&stored, &wanted, cpu, DType::F32).unwrap();
    let ours = loss.backward().unwrap();
    for (parameter, theirs) in theirs.iter() {
        let ours = ours.get(clip.parameters().get(parameter).unwrap()).unwrap();
        assert_close(&format!("{name}: gradient of {parameter}"), ours, theirs, 2e-4);
    }
}

/// Sub-folders with a CLIP and its inputs and outputs.
fn golden_folders(parent: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).unwrap_or_else(|error| panic!("{}: {error}", parent.display()));
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("io.safetensors").is_file() && is_clip(folder));
    folders.sort();
    folders
}

fn is_clip(folder: &Path) -> bool {
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap_or_default();
    config["model_type"] == "clip" || folder.join("open_clip_config.json").is_file()
}

#[test]
fn committed_goldens() {
    let folders = golden_folders(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens"));
    assert!(folders.len() >= 6, "{folders:?}");
    folders.iter().for_each(|folder| check(folder));
}

#[test]
fn in_house_golden() {
    if let Some(data) = crate::test_data() {
        check(&data.join("goldens/clip_tiny"));
    }
}

#[test]
fn goldens_named_by_the_environment() {
    match std::env::var_os("URBANCROSS_GOLDENS") {
        None => println!("skipped: URBANCROSS_GOLDENS names no folder with goldens"),
        Some(parent) => {
            let folders = golden_folders(Path::new(&parent));
            println!("{} CLIP goldens in {}", folders.len(), Path::new(&parent).display());
            folders.iter().for_each(|folder| check(folder));
        }
    }
}
