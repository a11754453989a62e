//! Models from elsewhere on a build's data set: the figures are those of the protocol, and tables stay as they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use manifests::BuildSpec;
use pipeline::build::Build;
use pipeline::progress::Progress;
use pipeline::run_options::RunOptions;
use pipeline::zero_shot::{AskedModel, ZeroShotQuestion, ZeroShotTable, zero_shot};
use pipeline_tests::{networks, rows, run, run_with};
use pixels::Rgb;
use workers::WorkerError;

fn folder(images: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("images")).unwrap();
    let mut lines = String::new();
    for i in 0..images {
        let data = (0..40 * 32 * 3).map(|p| ((p * (i + 2)) % 251) as u8).collect();
        let picture = Rgb { width: 40, height: 32, data };
        std::fs::write(folder.path().join(format!("images/t{i}.jpg")), pixels::encode_jpeg(&picture, 90)).unwrap();
        let split = if i % 3 == 0 { "test" } else { "train" };
        let captions = [format!("A field, number {i} ."), format!("a plain of colour {}", i % 4)];
        lines += &serde_json::json!({"file": format!("t{i}.jpg"), "split": split, "captions": captions}).to_string();
        lines.push('\n');
    }
    std::fs::write(folder.path().join("captions.jsonl"), lines).unwrap();
    folder
}

fn spec(folder: &Path) -> BuildSpec {
    let text = format!(
        "country = \"rsitmd\"\n[source]\nkind = \"captioned\"\nurl = \"{}\"\n[work]\nurl = \"{}\"\nshards = 2\n\
         [caption]\ncaptioner = \"given\"\n[segment]\nsegmenter = \"none\"\n[model]\npreset = \"tiny\"\n\
         image_size_px = 32\ncontext_length = 16\nvocabulary = 200\n[pretrain]\nepochs = 1\nbatch = 8\n",
        folder.display(),
        folder.join("work").display()
    );
    BuildSpec::parse(&text, "test", &[]).unwrap()
}

async fn ask(spec: &BuildSpec, models: &[&str], tokenizer: Option<&str>) -> Result<ZeroShotTable, WorkerError> {
    let models: Vec<AskedModel> = models.iter().map(|asked| asked.parse().unwrap()).collect();
    let question = ZeroShotQuestion { models: &models, tokenizer, split: "test", published: None };
    let build = Build::open_work(spec.clone(), Arc::new(AtomicBool::new(false))).await?;
    zero_shot(&build, &question, &Progress::new(true)).await
}

fn trained(folder: &Path) -> PathBuf {
    let runs = std::fs::read_dir(folder.join("work/checkpoints/rsitmd/pretrain")).unwrap();
    let mut results = runs.map(|run| run.unwrap().path().join("result")).filter(|result| result.exists());
    results.next().unwrap()
}

fn text(path: PathBuf) -> String {
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_from_elsewhere_has_the_figures_of_the_protocol_and_changes_no_table() {
    let folder = folder(36);
    let spec = spec(folder.path());
    let (build, _) = run(spec.clone()).await.unwrap();
    let before = rows(&build).await;
    let own = pipeline::evaluate::stored(&build).await.unwrap().unwrap();

    // the build's own model, named as any other
    let model = text(trained(folder.path()));
    let other = folder.path().join("other");
    networks::clip(&other, 5);
    let other = text(other);
    let table = ask(&spec, &[&model, &other], None).await.unwrap();
    assert_eq!(table.models[0].recall, own.recall, "the same figures as by the tables of vectors");
    assert_eq!(table.own.as_ref().unwrap().recall, own.recall);
    assert_eq!((table.models[1].model.as_str(), table.models[1].recall.image_gallery), ("other", 12));
    assert_ne!(table.models[1].weights_digest, table.models[0].weights_digest);
    assert!(table.published.iter().any(|figure| figure.model.starts_with("RemoteCLIP")), "beside rsitmd");
    let build = pipeline_tests::open(spec.clone()).await.unwrap();
    assert_eq!(rows(&build).await, before);

    // measured once: the weights are not read again
    let kept = folder.path().join("work/zero_shot/rsitmd");
    let files = || std::fs::read_dir(&kept).unwrap().count();
    assert_eq!(files(), 2);
    assert_eq!(ask(&spec, &[&model, &other], None).await.unwrap(), table);
    assert_eq!(files(), 2);
    // figures that somebody has changed are measured again
    for file in std::fs::read_dir(&kept).unwrap() {
        let path = file.unwrap().path();
        let changed = std::fs::read_to_string(&path).unwrap().replacen("\"mean_recall\":", "\"mean_recall\":1", 1);
        std::fs::write(&path, changed).unwrap();
    }
    assert_eq!(ask(&spec, &[&model, &other], None).await.unwrap(), table);

    // another treatment of captions is another measurement, with captions that belong together as before
    let treated =
        ask(&spec, &[&format!("{model}#captions=no-punctuation,template=a photo of {{}}")], None).await.unwrap();
    assert_eq!(files(), 3);
    let (treated, plain) = (&treated.models[0], &table.models[0]);
    assert_eq!(treated.captions, "no-punctuation in \"a photo of {}\"");
    assert_eq!(treated.recall.distinct_captions, plain.recall.distinct_captions);
    assert_ne!(treated.recall, plain.recall);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_has_to_be_trained_and_what_is_missing_is_said() {
    let folder = folder(24);
    let spec = spec(folder.path());
    let network = folder.path().join("network");
    networks::clip(&network, 5);
    let named = text(network.clone());
    let why = async |models: &[&str], tokenizer: Option<&str>| match ask(&spec, models, tokenizer).await {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    assert!(!why(&[&named], None).await.is_empty(), "no store yet");
    let options = RunOptions { until: Some("images".into()), ..RunOptions::default() };
    run_with(spec.clone(), options).await.unwrap();
    assert!(why(&[&named], None).await.contains("--until captions"));
    let options = RunOptions { until: Some("captions".into()), ..RunOptions::default() };
    run_with(spec.clone(), options).await.unwrap();
    let table = ask(&spec, &[&named], None).await.unwrap();
    assert!(table.own.is_none() && table.models[0].recall.image_gallery == 8);

    // a bare file: what it does not say is asked for
    let bare = folder.path().join("bare.safetensors");
    std::fs::copy(network.join("model.safetensors"), &bare).unwrap();
    let (bare, vocabulary) = (text(bare), text(network.join("tokenizer.json")));
    assert!(why(&[&bare], Some(&vocabulary)).await.contains("#activation=quick_gelu"));
    assert!(why(&[&format!("{bare}#activation=gelu")], None).await.contains("--tokenizer"));
    let of_file = ask(&spec, &[&format!("{bare}#activation=gelu")], Some(&vocabulary)).await.unwrap();
    assert_eq!(of_file.models[0].recall, table.models[0].recall, "the same network");
    let quick = ask(&spec, &[&format!("{bare}#remoteclip")], Some(&vocabulary)).await.unwrap();
    assert_eq!(quick.models[0].captions, "capitalize");

    // what is no model ends the command before anything is computed
    for (name, bytes, words) in [
        ("page.pt", b"<html>".to_vec(), "page.pt"),
        ("cut.safetensors", std::fs::read(&bare).unwrap()[..500].to_vec(), "cut"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let said = why(&[&named, &format!("{}#openai", path.display())], Some(&vocabulary)).await;
        assert!(said.contains(words) && said.contains("--model"), "{said}");
    }
    assert!(why(&["no/such/file.pt"], None).await.contains("no such file"));
}
