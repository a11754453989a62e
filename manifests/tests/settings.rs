//! Values that no build and no adaptation can mean are refused by name, before anything else looks at them.

use std::path::Path;

use manifests::{BuildSpec, PairSpec};

const BUILD: &str = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"s3://bucket/x\"\n";
const PAIR: &str = "source = \"a.toml\"\ntarget = \"b.toml\"\n";

fn build(set: &[&str]) -> Result<BuildSpec, String> {
    let set: Vec<String> = set.iter().map(|&set| set.to_owned()).collect();
    BuildSpec::parse(BUILD, "t", &set).map_err(|error| error.to_string())
}

fn pair(set: &[&str]) -> Result<PairSpec, String> {
    let set: Vec<String> = set.iter().map(|&set| set.to_owned()).collect();
    PairSpec::parse(PAIR, "t", &set).map_err(|error| error.to_string())
}

/// Expects each to be refused with its field, as it is written, in the message.
fn refused<T>(parse: impl Fn(&[&str]) -> Result<T, String>, cases: &[(&str, &str)]) {
    for (set, words) in cases {
        let (field, _) = set.split_once('=').unwrap();
        let Err(error) = parse(&[set]) else { panic!("{set} was taken") };
        assert!(error.contains(field) && error.contains(words), "{set}: {error}");
    }
}

#[test]
fn a_build_that_means_nothing_is_refused_by_its_field() {
    refused(
        build,
        &[
            ("source.url=s3://", "write s3://BUCKET/FOLDER"),
            ("model.precision=tf32", "is for NVIDIA GPUs"),
            ("source.url=https://", "write https://HOST/FOLDER"),
            ("source.options.endpoint=http://", "names no host"),
            ("source.options.timeout_seconds=0", "between 1 and"),
            ("source.options.retries=4294967295", "between 0 and 1000"),
            ("source.max_gsd_meters=0.0", "above 0.0"),
            ("source.tables=['../x.csv']", "without .."),
            ("source.tables=['a.csv', '/x.csv']", "relative to it"),
            ("source.tables=['s3://bucket/x.csv']", "relative to it"),
            ("source.tables=['']", "names nothing"),
            ("source.tables=['a//x.csv']", "no plain path"),
            ("source.tables=['./x.csv']", "no plain path"),
            ("source.image_folder=../x", "without .."),
            ("source.tokens=['FI', ' ']", "empty token"),
            ("source.max_image_pixels=0", "between 1 and"),
            ("work.url=gs://", "write gs://BUCKET/FOLDER"),
            ("work.url=az:///x", "write az://CONTAINER/FOLDER"),
            ("work.shards=0", "between 1 and 100000"),
            ("work.concurrency=0", "between 1 and"),
            ("work.request_mib=17592186044416", "between 1 and"),
            ("split.ratio=[0,0,0]", "at least one part"),
            ("split.val_share=1.0", "below 1.0"),
            ("caption.instructblip.num_beams=0", "between 1 and 256"),
            ("caption.instructblip.max_new_tokens=0", "between 1 and"),
            ("caption.instructblip.min_length=257", "max_new_tokens"),
            ("caption.instructblip.repetition_penalty=0.0", "above 0.0"),
            ("caption.instructblip.top_p=1.5", "at most 1.0"),
            ("caption.instructblip.temperature=-1.0", "above 0.0"),
            ("caption.instructblip.quality.max_repetition=2.0", "share"),
            ("caption.instructblip.structured.top_p=0.0", "above 0.0"),
            ("segment.felzenszwalb.scale=-1.0", "above 0.0"),
            ("segment.felzenszwalb.sigma_px=nan", "0 smooths nothing"),
            ("segment.sam.points_per_side=0", "between 1 and 1024"),
            ("segment.sam.pred_iou_thresh=1.5", "between 0.0 and 1.0"),
            ("segment.sam.crop_overlap_ratio=1.0", "below 1.0"),
            ("segment.sam.timeout_seconds=0", "between 1 and"),
            ("score.min_area_share=-0.1", "share"),
            ("score.min_similarity=2.0", "cosine"),
            ("score.max_segments=0", "between 1 and"),
            ("score.crop_margin=-1.0", "share of the box"),
            ("score.bootstrap_epochs=0", "between 1 and"),
            ("model.preset=huge", "expected one of `tiny`, `small`, `vit-b-32`"),
            ("model.vocabulary=1", "between 64 and"),
            ("model.context_length=2", "or 0"),
            ("model.image_size_px=100", "multiple of 16"),
            ("model.image_size_px=1048576", "up to 4080"),
            ("model.device=gpu", "cuda:0"),
            ("pretrain.epochs=0", "between 1 and"),
            ("pretrain.batch=1", "compared with the others"),
            ("pretrain.learning_rate=-1e-3", "above 0.0"),
            ("pretrain.learning_rate=0.0", "above 0.0"),
            ("pretrain.learning_rate=inf", "at most 1.0"),
            ("pretrain.weight_decay=-1.0", "between 0.0 and"),
            ("pretrain.warmup_share=1.0", "below 1.0"),
            ("pretrain.max_grad_norm=-1.0", "0 clips nothing"),
            ("pretrain.margin=3.0", "cosines"),
            ("pretrain.ema_decay=1.0", "below 1.0"),
            ("pretrain.label_smoothing=3.0", "below 1.0"),
            ("pretrain.captions_per_image=0", "between 1 and"),
            ("pretrain.dropout=1.0", "below 1.0"),
            ("pretrain.word_dropout=1.0", "below 1.0"),
            ("pretrain.augment.crop_scale=[2.0,1.0]", "0 < least <= greatest <= 1"),
            ("pretrain.augment.crop_scale=[0.0,0.0]", "0 < least <= greatest <= 1"),
            ("pretrain.augment.crop_scale=[nan,1.0]", "0 < least <= greatest <= 1"),
            ("pretrain.augment.colour_jitter=-0.5", "between 0.0 and 1.0"),
            ("pretrain.micro_batches=65", "between 1 and 64"),
            ("pretrain.retrain_above=1.5", "share"),
            ("pretrain.segment_tower=true", "expected one of `shared`, `frozen`, `separate`"),
            ("evaluate.rerank.temperature_of_images=0.00001", "between 0.001 and 100.0"),
            ("evaluate.rerank.temperature_of_captions=0.0", "between 0.001 and 100.0"),
            (
                "ranks.processes=50",
                "pretrain.batch = 64: ranks.processes = 50 cannot share it; use a multiple, such as 100",
            ),
            ("ranks.timeout_seconds=0", "between 1 and"),
            ("ranks.bucket_mib=0", "between 1 and"),
            ("ranks.backend=nccl", "model.device = \"cpu\""),
        ],
    );
}

#[test]
fn an_adaptation_that_means_nothing_is_refused_by_its_field() {
    refused(
        pair,
        &[
            ("ratio=[2,0,7]", "validation"),
            ("adapt.epochs=0", "between 1 and"),
            ("adapt.passes_per_epoch=0", "between 1 and"),
            ("adapt.batch=1", "compared with the others"),
            ("adapt.learning_rate=nan", "above 0.0"),
            ("adapt.weight_decay=-1.0", "between 0.0 and"),
            ("adapt.warmup_share=2.0", "below 1.0"),
            ("adapt.max_grad_norm=-1.0", "0 clips nothing"),
            ("adapt.dropout=1.0", "below 1.0"),
            ("adapt.word_dropout=1.0", "below 1.0"),
            ("adapt.ema_decay=1.0", "below 1.0"),
            ("adapt.augment.crop_scale=[2.0,1.0]", "0 < least <= greatest <= 1"),
            ("adapt.schedule=1", "expected one of `cosine`, `step`, `constant`"),
            ("ablation.seeds=[1,2,1]", "each counts once"),
        ],
    );
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let error = build(&["pretrain.epochs=0", "pretrain.dropout=1.0", "ranks.bucket_mib=0"]).unwrap_err();
    assert!(error.contains("3 fields are wrong"), "{error}");
    for field in ["pretrain.epochs = 0", "pretrain.dropout = 1.0", "ranks.bucket_mib = 0"] {
        assert!(error.contains(field), "{error}");
    }
}

/// What looks like nothing and means something, as it is documented where the field stands.
#[test]
fn a_value_that_switches_something_off_is_taken() {
    for set in [
        "source.tokens=[]",
        "source.country_code=",
        "source.image_folder=",
        "source.image_folder=./",
        "source.max_images=0",
        "work.lease_seconds=0",
        "pretrain.max_grad_norm=0.0",
        "pretrain.max_grad_norm=0",
    ] {
        build(&[set]).unwrap();
    }
    pair(&["adapt.max_grad_norm=0"]).unwrap();
    // pieces of a batch need not be of one size
    build(&["pretrain.batch=32", "pretrain.micro_batches=5"]).unwrap();
}

#[test]
fn a_tower_for_segments_wants_segments() {
    for tower in ["frozen", "separate"] {
        let (tower, shown) = (&*format!("pretrain.segment_tower={tower}"), format!("segment_tower = {tower:?}: "));
        build(&[tower]).unwrap();
        let error = build(&[tower, "segment.segmenter=none"]).unwrap_err();
        assert!(error.contains(&shown) && error.contains("set segment.segmenter = \"felzenszwalb\""), "{error}");
        let error = build(&[tower, "pretrain.segments_per_image=0"]).unwrap_err();
        assert!(error.contains("pretrain.segments_per_image = 0: set it to at least 1"), "{error}");
    }
    build(&["segment.segmenter=none"]).unwrap();
}

/// Fields for which every number that their type holds means something.
const UNBOUNDED: [&str; 10] = [
    "adapt.seed",
    "caption.instructblip.seed",
    "caption.llava.seed",
    "caption.server.seed",
    "pretrain.checkpoint_every_steps",
    "pretrain.patience_epochs",
    "pretrain.seed",
    "segment.felzenszwalb.min_size_px",
    "source.max_images",
    "ablation.seeds",
];

/// Every number of a spec, by its field.
fn numbers(path: &str, value: &toml::Value, found: &mut Vec<(String, toml::Value)>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                numbers(&path, value, found);
            }
        }
        toml::Value::Integer(_) | toml::Value::Float(_) => found.push((path.to_owned(), value.clone())),
        _ => {}
    }
}

fn bounded<T: serde::Serialize>(parse: impl Fn(&[&str]) -> Result<T, String>) -> usize {
    let mut found = Vec::new();
    numbers("", &toml::Value::try_from(parse(&[]).unwrap()).unwrap(), &mut found);
    found.retain(|(field, _)| !UNBOUNDED.contains(&field.as_str()));
    for (field, value) in &found {
        let wrong: &[&str] =
            if value.is_float() { &["nan", "inf", "-inf", "1e30", "-1e30"] } else { &["9223372036854775807"] };
        for wrong in wrong {
            let error = parse(&[&format!("{field}={wrong}")]).err();
            assert!(error.is_some_and(|error| error.contains(field)), "{field} = {wrong} was taken: bound it");
        }
    }
    found.len()
}

#[test]
fn every_number_has_bounds() {
    assert!(bounded(build) > 50);
    assert!(bounded(pair) > 8);
}

/// What the README and the guides show in code, `section.field = value` and `--over section.field=value,value`.
#[test]
fn what_the_guides_show_passes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let guides = std::fs::read_dir(root.join("docs/guide")).unwrap().map(|entry| entry.unwrap().path());
    let pages = guides.chain([root.join("README.md")]);
    let text: String = pages.map(|page| std::fs::read_to_string(page).unwrap()).collect();
    let sections = ["source.", "work.", "split.", "caption.", "segment.", "score.", "model.", "pretrain.", "ranks."];
    let shown = text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once(" = "));
    let swept = text.split("--over ").skip(1).filter_map(|rest| rest.split_whitespace().next()?.split_once('='));
    let mut sets: Vec<String> = shown.map(|(field, value)| format!("{field}={value}")).collect();
    for (field, values) in swept {
        sets.extend(values.split(',').map(|value| format!("{field}={value}")));
    }
    sets.retain(|set| sections.iter().any(|section| set.starts_with(section)) && !set.contains(char::is_whitespace));
    assert!(sets.len() >= 10, "{sets:?}");
    for set in &sets {
        let weights = ["segment.sam.weights=a/b", "caption.instructblip.weights=a/b"];
        build(&[weights[0], weights[1], set]).unwrap_or_else(|error| panic!("{set}: {error}"));
    }
}

/// What `urbancross spec` prints is the same spec, wherever it is put.
#[test]
fn a_spec_with_its_defaults_is_the_same_spec() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = std::env::temp_dir().join(format!("urbancross-spec-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let set = ["pretrain.epochs=3".to_owned(), "score.min_similarity=0.1".to_owned(), "model.init=a/b".to_owned()];
    for file in ["countries/finland.toml", "sandbox.toml", "captioned.toml"] {
        let spec = BuildSpec::read(&root.join(file), &set).unwrap();
        let printed = folder.join("spec.toml");
        std::fs::write(&printed, spec.to_toml()).unwrap();
        assert_eq!(BuildSpec::read(&printed, &[]).unwrap(), spec, "{file}");
        assert!(spec.to_toml().contains("min_similarity = 0.1\n"), "as it was written");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// The countries by the paper's method, and the same ones without any external weights.
#[test]
fn countries_come_by_the_papers_method_and_light() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for country in ["finland", "germany", "spain"] {
        let paper = BuildSpec::read(&folder.join(format!("countries/{country}.toml")), &[]).unwrap();
        let light = BuildSpec::read(&folder.join(format!("light/countries/{country}.toml")), &[]).unwrap();
        let fields: Vec<&str> = paper.weights().iter().map(|weights| weights.field).collect();
        for field in
            ["caption.instructblip.weights", "segment.sam.weights", "model.init", "model.tokenizer", "score.clip"]
        {
            assert!(fields.contains(&field), "{country}: {field} is not of {fields:?}");
        }
        let pretrain = &paper.pretrain;
        assert_eq!((pretrain.epochs, pretrain.batch, pretrain.segments_per_image), (15, 40, 6), "{country}");
        assert_eq!(light.weights().len(), 0, "{country}");
        assert_eq!((&paper.source, &paper.work.shards), (&light.source, &light.work.shards), "{country}");
    }
    for pair in ["finland_to_spain", "germany_to_finland", "germany_to_spain"] {
        for set in ["pairs", "light/pairs"] {
            let path = folder.join(format!("{set}/{pair}.toml"));
            let (spec, source, target) = PairSpec::read(&path, &[]).unwrap();
            assert_eq!(format!("{}_to_{}", source.country, target.country), pair);
            assert_eq!((spec.adapt.epochs, spec.ratio), (5, [2, 1, 7]), "{}", path.display());
        }
    }
}
