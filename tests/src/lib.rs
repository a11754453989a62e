//! Whole-pipeline tests: worlds to build from, builds to look into.

// helpers of tests: read where they are called
#![allow(missing_docs, clippy::missing_errors_doc)]

pub mod chaos;
pub mod chat;
pub mod distant;
pub mod http;
mod http_request;
pub mod hub;
pub mod large;
pub mod networks;
pub mod noisy;
#[cfg(unix)]
pub mod ray_head;
pub mod s3;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::RecordBatch;
use manifests::{Artifact, BuildSpec};
use pipeline::build::Build;
use pipeline::progress::Progress;
use pipeline::run::Quarantined;
use pipeline::run_options::RunOptions;
use stages::table::{Columns, content_schema, option_text};
use workers::WorkerError;
use workers::parts::PartReader;

/// A folder with a sandbox world and room for work stores.
pub struct World {
    pub folder: tempfile::TempDir,
}

impl World {
    /// A world of `tiles` tiles per country.
    pub fn new(tiles: usize) -> World {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let settings = sandbox::Settings { tiles_per_country: tiles, side_px: 80, seed: 7 };
        sandbox::generate(&folder.path().join("world"), &settings, &mut |_, _| {}).expect("a world");
        World { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A spec of Finland with a small model; `work` names the work store's folder.
    pub fn spec(&self, work: &str, set: &[&str]) -> BuildSpec {
        spec_below(self.folder.path(), work, set)
    }

    pub fn spec_text(&self, work: &str) -> String {
        spec_text_below(self.folder.path(), work)
    }
}

/// A spec of Finland with a small model, of a folder that holds a `world`; `work` names the work store's folder.
pub fn spec_below(folder: &Path, work: &str, set: &[&str]) -> BuildSpec {
    let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
    BuildSpec::parse(&spec_text_below(folder, work), "test spec", &set).expect("a good spec")
}

fn spec_text_below(folder: &Path, work: &str) -> String {
    format!(
        r#"
country = "finland"
[source]
kind = "skyscript"
url = "{}"
tables = ["dataframe/SkyScript_sandbox.csv", "dataframe/SkyScript_sandbox_polished.csv"]
tokens = ["FI"]
country_code = "FI"
[work]
url = "{}"
shards = 3
[score]
clip = "bootstrap"
bootstrap_epochs = 1
[model]
preset = "tiny"
image_size_px = 32
context_length = 24
vocabulary = 300
[pretrain]
epochs = 2
batch = 8
segments_per_image = 1
checkpoint_every_steps = 2
"#,
        folder.join("world").display(),
        folder.join(work).display()
    )
}

/// Opens a build; nobody stops it.
pub async fn open(spec: BuildSpec) -> Result<Build, WorkerError> {
    Build::open(spec, Arc::new(AtomicBool::new(false))).await
}

/// Opens and runs a build.
pub async fn run(spec: BuildSpec) -> Result<(Build, Vec<Quarantined>), WorkerError> {
    run_with(spec, RunOptions::default()).await
}

pub async fn run_with(spec: BuildSpec, options: RunOptions) -> Result<(Build, Vec<Quarantined>), WorkerError> {
    let mut build = open(spec).await?;
    let quarantined = pipeline::run::run(&mut build, &options, &Progress::new(true)).await?;
    Ok((build, quarantined))
}

/// A text column of a table by image id; null is "".
pub async fn column(build: &Build, artifact: Artifact, name: &str) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    for part in build.pin(artifact).await.expect("a table").parts {
        let reader = PartReader::open(&build.work, artifact, &part).await.expect("a part");
        let batch = reader.read(&["image_id", name]).await.expect("columns");
        let columns = Columns::new(artifact, &batch);
        let (ids, values) = (columns.text("image_id").expect("ids"), columns.text(name).expect("texts"));
        for row in 0..batch.num_rows() {
            let value = option_text(values, row).unwrap_or_default().to_owned();
            assert!(rows.insert(ids.value(row).to_owned(), value).is_none(), "{} twice", ids.value(row));
        }
    }
    rows
}

/// Recipes of all rows of all tables, by table and image id: equal recipes are equal rows.
pub async fn recipes(spec: BuildSpec) -> BTreeMap<String, BTreeMap<String, String>> {
    let build = open(spec).await.expect("a build");
    let mut all = BTreeMap::new();
    for artifact in tables(&build) {
        all.insert(artifact.name().to_owned(), column(&build, artifact, "recipe").await);
    }
    all
}

/// All rows of all tables: content and recipes, by table, in order of image.
pub async fn rows(build: &Build) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for artifact in tables(build) {
        let content = content_schema(artifact);
        let names: Vec<&str> = ["image_id", "status", "error", "recipe"]
            .into_iter()
            .chain(content.fields().iter().map(|field| field.name().as_str()))
            .collect();
        let mut rows = Vec::new();
        for part in build.pin(artifact).await.expect("a table").parts {
            let batch: RecordBatch = PartReader::open(&build.work, artifact, &part)
                .await
                .expect("a table")
                .read(&names)
                .await
                .expect("a table");
            let ids = Columns::new(artifact, &batch).text("image_id").expect("a table").clone();
            for row in 0..batch.num_rows() {
                rows.push(format!("{} {:?}", ids.value(row), batch.slice(row, 1).columns()));
            }
        }
        rows.sort_unstable();
        all.insert(artifact.name().to_owned(), rows);
    }
    all
}

/// Edits tags until a Finnish image is among the edited; the Finnish ones.
pub fn edit_a_finnish_image(world: &World) -> Vec<String> {
    for seed in 0..50 {
        let edited = sandbox::edit_tags(&world.path("world"), 0.006, seed).expect("a world");
        let finnish: Vec<String> = edited.into_iter().filter(|id| id.contains("_FI_")).collect();
        if !finnish.is_empty() {
            return finnish;
        }
    }
    panic!("no edit met a Finnish image");
}

/// The tables that a build's stages write.
pub fn tables(build: &Build) -> Vec<Artifact> {
    stages::map_stages(&build.spec).into_iter().map(|stage| stage.output).collect()
}

/// Delta version of a table.
pub async fn version(build: &Build, artifact: Artifact) -> u64 {
    build.pin(artifact).await.expect("a table").version.expect("a version")
}

/// The program, built beside the tests.
pub fn urbancross() -> PathBuf {
    program("urbancross")
}

/// The program that makes worlds.
pub fn urbancross_sandbox() -> PathBuf {
    program("urbancross-sandbox")
}

fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    let folder = test.parent().and_then(Path::parent).expect("target/debug");
    let program = folder.join(name);
    assert!(program.exists(), "{} is not built: run `make test`, or `make binary` first", program.display());
    program
}

/// Says that this test, or a part of it, is skipped: past the capture that hides what passing tests print.
pub fn skipped(why: impl Display) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {why}\n", thread.name().unwrap_or("a test"));
    _ = std::io::stderr().write_all(line.as_bytes());
}

/// A Python that has these modules; says so and gives `None` where there is none. There must be one where all of them
/// were installed for the tests (`URBANCROSS_ELSEWHERE`).
pub fn python_with(modules: &[&str]) -> Option<&'static str> {
    let import = modules.iter().map(|m| format!("import {m}")).collect::<Vec<_>>().join("; ");
    let output = std::process::Command::new("python3").args(["-c", &import]).output();
    if output.is_ok_and(|o| o.status.success()) {
        return Some("python3");
    }
    let lacks = format!("no python3 with {}", modules.join(", "));
    assert!(std::env::var_os("URBANCROSS_ELSEWHERE").is_none(), "{lacks}");
    skipped(lacks);
    None
}
