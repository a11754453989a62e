//! Others load what we write: open_clip, transformers and plain PyTorch, with the same ids and the same embeddings.
//!
//! Runs `check_exports.py` with `$PYTHON` (or `python3`). What their libraries are missing for is skipped, unless
//! `URBANCROSS_ELSEWHERE` says that all of them are there (`tests/gate.sh`).

use candle_core::{DType, Device, Tensor};
use choices::Preset;
use models::clip::{Clip, ClipConfig, Eot};
use models::dual_encoder::DualEncoder;
use models::ops::Activation;
use models::tokenizer::Tokenizer;
use models::upload::Upload;
use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const SKIPPED: i32 = 77;
const CAPTIONS: usize = 1000;

/// Captions as the geo-tags captioner writes them.
fn captions() -> Vec<String> {
    let things =
        ["residential road", "bus stop", "lake", "church", "car park", "vineyard", "runway", "café", "Süd-Straße"];
    let places = ["beside", "next to", "north of", "between two lanes and", "surrounded by"];
    (0..CAPTIONS)
        .map(|i| {
            let (a, place, b) = (things[i % 9], places[i / 9 % 5], things[(i / 45 + i) % 9]);
            format!("A satellite image of a {a} {place} a {b}, {} m wide (No. {i}).", i % 37)
        })
        .collect()
}

/// Texts that tokenizers stumble over.
fn hostile() -> Vec<String> {
    let plain = [
        "",
        " ",
        "\t\r\n",
        "<|endoftext|> a lake <|startoftext|><|pad|><|unk|>",
        "a<|endoftext|>b",
        "!!! ! ?!",
        "!",
        "don't we'll they've it's",
        "&amp; &lt;b&gt; &amp;lt; &nbsp;",
        "schÃ¶n â€œquotedâ€\u{9d}",
        "naïve CAFÉ ﬁne Ⅻ İstanbul ẞ ǅ",
        "e\u{301}e\u{300} a\u{308}",
        "漢字 東京タワー 한국어 ไทย العربية עברית",
        "👩‍👩‍👧‍👦 🏝️ 🇫🇮",
        "zero\u{200b}width \u{feff}bom\u{ad}soft\u{2028}line\u{a0}space\u{3000}wide",
        "bell\u{7} nul\u{0} unit\u{1f} next\u{85}line \u{fffd}",
        "##road ##s [CLS] [SEP] [PAD] </s> <s>",
        "1234567890 3.14 1e-5 0x1F 10km² ½",
        "a_b-c/d\\e|f~g`h^i@j#k$l%m*n(o)p[q]r{s}t",
        "road,road;road:road.road",
    ];
    let mut texts: Vec<String> = plain.map(str::to_owned).into();
    texts.push("lake ".repeat(500));
    texts.push("x".repeat(2000));
    texts.push("a".repeat(300) + " road");
    texts.push("漢".repeat(200));
    texts
}

/// ViT-B/32's kind, small.
fn plain(activation: Activation, eot: impl Fn(&Tokenizer) -> Eot, tokenizer: &Tokenizer) -> ClipConfig {
    let mut config = ClipConfig::preset(Preset::VitB32);
    config.embed_dim = 10;
    config.activation = activation;
    (config.vision.image_size, config.vision.patch_size) = (32, 8);
    (config.vision.width, config.vision.layers, config.vision.heads) = (24, 3, 4);
    (config.text.width, config.text.layers, config.text.heads) = (16, 2, 2);
    (config.text.vocab_size, config.text.context_length) = (tokenizer.vocab_size(), 24);
    config.text.eot = eot(tokenizer);
    config
}

fn preset(preset: Preset, residual: &[usize], tokenizer: &Tokenizer) -> ClipConfig {
    let mut config = ClipConfig::preset(preset);
    config.text.vocab_size = tokenizer.vocab_size();
    if let models::clip::Stem::Conv { residual: here, .. } = &mut config.vision.stem {
        *here = residual.to_vec();
    }
    config
}

/// What a training leaves, and what our side makes of the same inputs.
fn export(folder: &Path, config: &ClipConfig, tokenizer: &Tokenizer) -> models::Result<()> {
    std::fs::create_dir(folder).unwrap();
    let clip = Clip::init(config, 3, &Device::Cpu, DType::F32)?;
    clip.save(folder)?;
    tokenizer.save(&folder.join("tokenizer.json"))?;
    clip.export(tokenizer, folder)?;

    let (side, length) = (config.vision.image_size, config.text.context_length);
    let pixels: Vec<f32> = (0..2 * 3 * side * side).map(|i| ((i * 7919) % 1013) as f32 / 506.5 - 1.0).collect();
    let pixels = Tensor::from_vec(pixels, (2, 3, side, side), &Device::Cpu)?;
    let texts: Vec<String> = captions().into_iter().chain(hostile()).collect();
    let ids: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text, length)).collect::<Result<_, _>>()?;
    let some = Tensor::new(ids[..4].to_vec(), &Device::Cpu)?;
    // a picture as it lies in a file: through the preprocessing of each side
    let (width, height) = (side as u32 * 2 + 7, side as u32 * 3 + 2);
    let picture: Vec<u8> = (0..height)
        .flat_map(|y| (0..width).flat_map(move |x| [x * 3 % 256, y * 2 % 256, (x * y / 16) % 256].map(|v| v as u8)))
        .collect();
    let picture = pixels::Rgb::new(width, height, picture).unwrap();
    std::fs::write(folder.join("picture.png"), pixels::encode_png(&picture)).unwrap();
    let view = pixels::clip_view(&picture, side as u32);
    let of_file = clip.preprocessing().load(&view.data, &mut Upload::new(&Device::Cpu))?;
    let io = HashMap::from([
        ("image_embeds", clip.encode_image(&pixels)?.detach()),
        ("text_embeds", clip.encode_text(&some)?.detach()),
        ("file_embeds", clip.encode_image(&of_file)?.detach()),
        ("pixel_values", pixels),
    ]);
    candle_core::safetensors::save(&io, folder.join("io.safetensors"))?;
    let tokens: Vec<_> = texts.into_iter().zip(ids).collect();
    std::fs::write(folder.join("tokens.json"), serde_json::to_vec(&tokens).unwrap()).unwrap();
    Ok(())
}

fn export_all(folder: &Path) {
    let trained = Tokenizer::train(&captions()[..600], 400).unwrap();
    let end = |tokenizer: &Tokenizer| Eot::Id(tokenizer.end_id());
    let save = |name: &str, config, tokenizer: &Tokenizer| export(&folder.join(name), &config, tokenizer).unwrap();
    save("plain", plain(Activation::QuickGelu, |_| Eot::Argmax, &trained), &trained);
    save("plain_gelu", plain(Activation::Gelu, end, &trained), &trained);
    save("tiny", preset(Preset::Tiny, &[], &trained), &trained);
    save("small_residual", preset(Preset::Small, &[1, 0, 2], &trained), &trained);
    if let Some(data) = std::env::var_os("URBANCROSS_TEST_DATA").map(PathBuf::from) {
        let bpe = Tokenizer::from_clip_bpe(&data.join("data/clip_bpe/bpe_simple_vocab_16e6.txt.gz")).unwrap();
        save("openai_words", plain(Activation::QuickGelu, |_| Eot::Argmax, &bpe), &bpe);
        let published = Tokenizer::from_file(&data.join("data/tokenizers/clip/tokenizer.json")).unwrap();
        save("published_words", plain(Activation::Gelu, end, &published), &published);
    }
}

#[test]
fn every_export_says_what_its_network_and_vocabulary_are() {
    let folder = tempfile::tempdir().unwrap();
    export_all(folder.path());
    for (name, is_plain) in [("plain", true), ("plain_gelu", true), ("tiny", false), ("small_residual", false)] {
        let of = folder.path().join(name);
        assert!(of.join("urbancross_clip.py").is_file() && of.join("tokenizer.json").is_file());
        for layout in ["open_clip", "hugging_face"] {
            let files = ["tokenizer.json", "tokenizer_config.json"].map(|file| of.join(layout).join(file).is_file());
            assert_eq!(files, [is_plain; 2], "{name}/{layout}");
        }
        if is_plain {
            let own = Clip::examine(&of).unwrap();
            assert_eq!(Clip::examine(&of.join("open_clip")).unwrap(), own, "read back");
            assert_eq!(Clip::examine(&of.join("hugging_face")).unwrap().text.vocab_size, own.text.vocab_size);
        }
    }
}

/// Past the capture that hides what passing tests print.
fn aloud(line: &str) {
    _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

#[test]
fn others_load_our_exports() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check_exports.py");
    let python = std::env::var_os("PYTHON").unwrap_or("python3".into());
    let folder = tempfile::tempdir().unwrap();
    export_all(folder.path());
    let output = match Command::new(&python).arg(&script).arg(folder.path()).output() {
        Ok(output) => output,
        Err(error) => {
            let lacks = format!("skipped: {}: {error}", python.display());
            assert!(std::env::var_os("URBANCROSS_ELSEWHERE").is_none(), "{lacks}");
            return aloud(&lacks);
        }
    };
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    print!("{stdout}");
    stdout.lines().filter(|line| line.starts_with("skipped: ")).for_each(aloud);
    if output.status.code() == Some(SKIPPED) {
        return;
    }
    assert!(output.status.success(), "{stdout}{stderr}");
}
