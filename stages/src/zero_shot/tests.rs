use super::*;
use candle_core::Device;

/// A small network as a bare file, and its vocabulary elsewhere.
fn published(folder: &Path) -> ForeignFiles {
    let tokenizer = Tokenizer::train(["a road beside a lake ."; 2], 100).unwrap();
    let mut config = ClipConfig::preset(Preset::Tiny);
    config.vision.image_size = 32;
    config.text.vocab_size = tokenizer.vocab_size();
    let clip = Clip::init(&config, 1, &Device::Cpu, DType::F32).unwrap();
    let path = folder.join("w.safetensors");
    clip.parameters().save_safetensors(&path).unwrap();
    let vocabulary = folder.join("vocabulary");
    std::fs::create_dir(&vocabulary).unwrap();
    tokenizer.save(&vocabulary.join("tokenizer.json")).unwrap();
    let tokenizer = Some((vocabulary, "v".into()));
    ForeignFiles { path, digest: "w".into(), tokenizer, activation: Some(Activation::Gelu) }
}

fn rows(captions: &[&[&str]]) -> Vec<TrainRow> {
    let row = |(at, captions): (usize, &&[&str])| {
        let data = (0..40 * 32 * 3).map(|i| (i * (at + 3) % 251) as u8).collect();
        let picture = pixels::Rgb { width: 40, height: 32, data };
        TrainRow {
            image_id: format!("i{at}"),
            bytes: pixels::encode_jpeg(&picture, 90),
            bytes_digest: format!("d{at}"),
            captions: captions.iter().map(|text| (*text).to_owned()).collect(),
            segments: Vec::new(),
            embedded: None,
        }
    };
    captions.iter().enumerate().map(row).collect()
}

fn spec() -> BuildSpec {
    let text = "country = \"x\"\n[source]\nkind = \"captioned\"\nurl = \"/a\"\n[work]\nurl = \"/b\"\n[caption]\n\
                captioner = \"given\"\n";
    BuildSpec::parse(text, "test", &[]).unwrap()
}

#[test]
fn captions_are_read_behind_their_treatment_and_stay_what_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let encoded = |treatment: &str, captions: &[&[&str]]| {
        let _ = std::fs::remove_dir_all(folder.path().join("vocabulary"));
        let clip = ForeignClip::examine(published(folder.path())).unwrap();
        let mut model = clip.open(&spec(), treatment.parse().unwrap()).unwrap();
        // in two calls, of which the second meets what the first has seen
        let mut all = model.encode(rows(captions)).unwrap();
        all.extend(model.encode(rows(captions)).unwrap());
        all
    };
    let plain = encoded("as-is", &[&["a road", "a lake."], &["a road"]]);
    let without = encoded("no-punctuation", &[&["a road", "a lake."], &["a lake"]]);
    assert_eq!(plain[0].captions[1].0, "a lake.", "the caption itself");
    assert_eq!(plain[0].captions[0].1, without[0].captions[0].1);
    assert_ne!(plain[0].captions[1].1, without[0].captions[1].1);
    assert_eq!(without[0].captions[1].1, without[1].captions[0].1);
    assert_eq!(plain[1].captions[0].1, plain[2].captions[0].1, "of the second call");
    assert_eq!(plain[0].embedding, without[0].embedding);
    assert_ne!(plain[0].embedding, plain[1].embedding);
}

#[test]
fn what_files_do_not_say_is_asked_for_and_what_they_say_counts() {
    let folder = tempfile::tempdir().unwrap();
    let files = published(folder.path());
    let why = |files: ForeignFiles| ForeignClip::examine(files).err().unwrap_or_default();
    assert_eq!(why(files.clone()), "");
    let without = ForeignFiles { activation: None, ..files.clone() };
    assert!(why(without.clone()).contains("#activation=quick_gelu"), "{}", why(without));
    let without = ForeignFiles { tokenizer: None, ..files.clone() };
    assert!(why(without.clone()).contains("--tokenizer"), "{}", why(without));
    // a vocabulary with more entries than the text tower has
    let words: Vec<String> = (0..400).map(|i| format!("word{i} word{i}")).collect();
    Tokenizer::train(&words, 600).unwrap().save(&folder.path().join("vocabulary/tokenizer.json")).unwrap();
    assert!(why(files.clone()).contains("its text tower"), "{}", why(files.clone()));
    // the configuration beside the file is another's word
    let clip = ForeignClip::examine(published(tempfile::tempdir().unwrap().path())).unwrap();
    let own = folder.path().join("own");
    Clip::init(clip.config(), 1, &Device::Cpu, DType::F32).unwrap().save(&own).unwrap();
    let other = ForeignFiles { path: own, activation: Some(Activation::QuickGelu), ..files };
    assert!(why(other.clone()).contains("leave it out"), "{}", why(other));
}

#[test]
fn another_vocabulary_text_or_activation_is_another_identity() {
    let folder = tempfile::tempdir().unwrap();
    let files = published(folder.path());
    let of = |files: &ForeignFiles, treatment: &str| {
        let clip = ForeignClip::examine(files.clone()).unwrap();
        clip.identity(&spec(), &treatment.parse().unwrap()).to_string()
    };
    let plain = of(&files, "as-is");
    assert_eq!(plain, of(&files, "as-is"));
    assert_ne!(plain, of(&files, "lower"));
    assert_ne!(plain, of(&ForeignFiles { activation: Some(Activation::QuickGelu), ..files.clone() }, "as-is"));
    assert_ne!(plain, of(&ForeignFiles { digest: "other".into(), ..files.clone() }, "as-is"));
    let tokenizer = files.tokenizer.clone().map(|(path, _)| (path, "other".into()));
    assert_ne!(plain, of(&ForeignFiles { tokenizer, ..files }, "as-is"));
}
