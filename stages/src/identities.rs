//! What makes rows and trainings of existing stores stale: the version and the parameters of every step, for specs that
//! use every method, beside a committed file. A change there makes users compute again; it is made on purpose, with a line
//! in CHANGELOG.md, or not at all.

use std::fmt::Write;
use std::path::Path;

use manifests::weights::Weights;
use manifests::{BuildSpec, PairSpec, digest};

use crate::{Training, adapt, evaluate, map_stages, pretrain, text_retrieval, zero_shot};

const FILE: &str = "tests/identities.txt";
const WRITE: &str = "URBANCROSS_WRITE_IDENTITIES";

/// By name, what is not a default. The first lines may belong to `[source]`.
const SPECS: [(&str, &str); 9] = [
    ("defaults", ""),
    ("weightless", "[score]\nclip = \"bootstrap\"\n[model]\npreset = \"tiny\"\nvocabulary = 500\n"),
    (
        "the paper's",
        "[caption]\ncaptioner = \"instructblip\"\ninstructblip.weights = \"a/b\"\nscore.clip = \"a/b\"\n[segment]\n\
         segmenter = \"sam\"\nsam.weights = \"a/b\"\n[score]\nclip = \"a/b\"\n[model]\ninit = \"a/b\"\n",
    ),
    (
        "half precision",
        "[model]\nprecision = \"bf16\"\n[score]\nclip = \"a/b\"\n[segment]\nsegmenter = \"sam\"\nsam.weights = \"a/b\"\n",
    ),
    ("given captions", "kind = \"captioned\"\n[caption]\ncaptioner = \"given\"\n[segment]\nsegmenter = \"none\"\n"),
    (
        "llava",
        "[caption]\ncaptioner = \"llava\"\nstructured = true\nllava.weights = \"a/b\"\n[text_retrieval]\nencoder = \"a/b\"\n",
    ),
    (
        "a server",
        "[caption]\ncaptioner = \"server\"\nstructured = true\nserver.url = \"https://a.example/v1\"\nserver.model = \"m\"\n\
         [text_retrieval]\nencoder = \"a/b\"\n",
    ),
    (
        "instructblip, structured",
        "[caption]\ncaptioner = \"instructblip\"\nstructured = true\ninstructblip.weights = \"a/b\"\n[text_retrieval]\n\
         encoder = \"a/b\"\n",
    ),
    (
        "written twice, of pairs that fit",
        "[caption]\nsecond_pass.enabled = true\n[score]\nclip = \"a/b\"\n[pretrain.pairs]\ndrop_least_similar = 0.1\n",
    ),
];

fn all() -> String {
    let mut text = String::new();
    for (name, more) in SPECS {
        let kind = if more.starts_with("kind") { "" } else { "kind = \"skyscript\"\n" };
        let spec = format!("country = \"finland\"\n[source]\nurl = \"x\"\n{kind}{more}");
        let spec = BuildSpec::parse(&spec, name, &["model.device=cpu".into()]).unwrap();
        writeln!(text, "# {name}").unwrap();
        for stage in map_stages(&spec) {
            let parameters = digest::canonical_json(&(stage.parameters)(&spec));
            writeln!(text, "{} {} {parameters}", stage.name, stage.version).unwrap();
        }
        for training in [Training::Bootstrap, Training::Pretrain] {
            let parameters = digest::canonical_json(&pretrain::parameters(&spec, training, &Weights::default()));
            writeln!(text, "{} {} {parameters}", training.name(), pretrain::VERSION).unwrap();
        }
        for segments in [0, 2] {
            let pair = format!("source = \"a\"\ntarget = \"b\"\n[adapt]\nsegments_per_image = {segments}\n");
            let pair = PairSpec::parse(&pair, name, &[]).unwrap();
            let parameters = digest::canonical_json(&adapt::parameters(&pair, &spec).unwrap());
            writeln!(text, "adapt {} {parameters}", adapt::VERSION).unwrap();
        }
    }
    let versions = [evaluate::VERSION, evaluate::PANELS_VERSION, text_retrieval::VERSION, zero_shot::VERSION];
    writeln!(text, "# evaluation, its pictures, text by text, zero-shot\n{versions:?}").unwrap();
    text
}

#[test]
fn nothing_makes_existing_stores_stale_by_accident() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let now = all();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let moved: Vec<String> = known
        .lines()
        .zip(now.lines())
        .filter(|(known, now)| known != now)
        .map(|(a, b)| format!("- {a}\n+ {b}"))
        .collect();
    assert!(
        known == now,
        "existing stores would compute this again:\n{}\nIf that is meant, say so in CHANGELOG.md and write {FILE} anew: \
         {WRITE}=1 cargo test --workspace --lib identities",
        moved.join("\n")
    );
}
