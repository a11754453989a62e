//! Others load what we write: open_clip and transformers, strictly, with the same embeddings.
//!
//! Runs `check_exports.py` with `$PYTHON` (or `python3`) and skips where their libraries are missing.

use candle_core::{DType, Device, Tensor};
use choices::Preset;
use models::clip::{Clip, ClipConfig, Eot, Stem};
use models::ops::Activation;
use models::tokenizer::Tokenizer;
use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

const SKIPPED: i32 = 77;

fn config(activation: Activation, eot: Eot) -> ClipConfig {
    let mut config = ClipConfig::preset(Preset::VitB32);
    config.embed_dim = 10;
    config.activation = activation;
    config.vision.image_size = 32;
    config.vision.patch_size = 8;
    config.vision.stem = Stem::Patch;
    (config.vision.width, config.vision.layers, config.vision.heads) = (24, 3, 4);
    (config.text.width, config.text.layers, config.text.heads) = (16, 2, 2);
    (config.text.vocab_size, config.text.context_length, config.text.eot) = (50, 9, eot);
    config
}

fn export(folder: &Path, config: &ClipConfig) -> models::Result<()> {
    let clip = Clip::init(config, 3, &Device::Cpu, DType::F32)?;
    clip.save_open_clip(&folder.join("open_clip"))?;
    clip.save_hugging_face(&folder.join("hugging_face"))?;
    let pixels: Vec<f32> = (0..2 * 3 * 32 * 32).map(|i| ((i * 7919) % 1013) as f32 / 506.5 - 1.0).collect();
    let pixels = Tensor::from_vec(pixels, (2, 3, 32, 32), &Device::Cpu)?;
    let ids = Tensor::new(&[[48u32, 5, 6, 49, 0, 0, 0, 0, 0], [48, 7, 8, 9, 10, 11, 12, 13, 49]], &Device::Cpu)?;
    let io = HashMap::from([
        ("image_embeds", clip.encode_image(&pixels)?.detach()),
        ("text_embeds", clip.encode_text(&ids)?.detach()),
        ("pixel_values", pixels),
        ("input_ids", ids.to_dtype(DType::I64)?),
    ]);
    candle_core::safetensors::save(&io, folder.join("io.safetensors"))?;

    let captions = ["Many planes are parked near the airport.", "planes near a port, and the airport"];
    let tokenizer = Tokenizer::train(captions, 200)?;
    tokenizer.save(&folder.join("tokenizer.json"))?;
    let texts = [captions[0], "PLANES fly; ports don't", ""];
    let tokens = texts.map(|text| {
        let ids = tokenizer.encode(text, 77).unwrap();
        let inner = ids.into_iter().skip(1).take_while(|&id| id != tokenizer.end_id());
        (text, inner.collect::<Vec<_>>())
    });
    std::fs::write(folder.join("tokens.json"), serde_json::to_vec(&tokens).unwrap()).unwrap();
    Ok(())
}

#[test]
fn open_clip_and_transformers_load_our_exports() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check_exports.py");
    let python = std::env::var_os("PYTHON").unwrap_or("python3".into());
    for config in [config(Activation::QuickGelu, Eot::Argmax), config(Activation::Gelu, Eot::Id(49))] {
        let folder = tempfile::tempdir().unwrap();
        export(folder.path(), &config).unwrap();
        let output = match Command::new(&python).arg(&script).arg(folder.path()).output() {
            Ok(output) => output,
            Err(error) => return println!("skipped: {}: {error}", python.display()),
        };
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        print!("{stdout}");
        if output.status.code() == Some(SKIPPED) {
            return;
        }
        assert!(output.status.success(), "{stdout}{stderr}");
    }
}
