//! Parquet files that others wrote, some to break readers, in the place of our parts: refused with their name.

use manifests::spec::StoreOptions;
use manifests::{Artifact, PartFile};
use pipeline_tests::python_with;
use workers::parts::PartReader;
use workers::stores::WorkStore;

#[tokio::test(flavor = "multi_thread")]
async fn foreign_and_broken_parquet_is_refused() {
    let Some(data) = std::env::var_os("URBANCROSS_TEST_DATA") else {
        pipeline_tests::skipped("URBANCROSS_TEST_DATA is unset");
        return;
    };
    let work = tempfile::tempdir().unwrap();
    std::fs::create_dir(work.path().join("tables")).unwrap();
    let source = std::path::Path::new(&data).join("data/parquet_testing");
    let mut seen = 0;
    for folder in ["data", "bad_data"] {
        std::os::unix::fs::symlink(source.join(folder), work.path().join("tables/images")).unwrap();
        let store = WorkStore::open(work.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
        for entry in std::fs::read_dir(source.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "parquet") {
                continue;
            }
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let part = PartFile { shard: 0, path: name.clone(), size_bytes: path.metadata().unwrap().len(), rows: 0 };
            let error = PartReader::open(&store, Artifact::Images, &part).await.err();
            let error = error.unwrap_or_else(|| panic!("{name} was taken for one of our parts")).to_string();
            assert!(error.contains(&name), "{error}");
            seen += 1;
        }
        std::fs::remove_file(work.path().join("tables/images")).unwrap();
    }
    assert!(seen > 40, "{seen} files");
}

/// Checkpoints of the log: deltalake reads ours, and we read its.
#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_of_the_log_go_both_ways() {
    use manifests::commit::Replacement;
    use manifests::{Artifact, PartFile, paths};
    use workers::tables::{Change, Tables};

    let Some(python) = python_with(&["deltalake"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let address = folder.path().display().to_string();
    let work = workers::stores::WorkStore::open(&address, &Default::default()).unwrap();
    let maintain = |what: &str| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/maintain.py");
        let table = folder.path().join("tables/splits");
        let output = std::process::Command::new(python).arg(script).arg(table).arg(what).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let commit = async |i: u32| {
        let part = |i: u32| PartFile { shard: 0, path: paths::part("x", 0, &format!("a{i}")), size_bytes: 1, rows: 1 };
        let base = (i > 0).then(|| part(i - 1).path);
        let replacements = vec![Replacement { base, part: part(i) }];
        Tables::new(&work)
            .commit(Change { artifact: Artifact::Splits, country: "x".into(), replacements })
            .await
            .unwrap()
    };
    for i in 0..25 {
        commit(i).await;
    }
    assert_eq!(maintain("files"), "25 part-00000-a24.parquet");
    // entries before our checkpoint are gone: it is what is read
    for version in 0..20 {
        work.delete(&format!("tables/splits/_delta_log/{version:020}.json")).await.unwrap();
    }
    assert_eq!(maintain("files"), "25 part-00000-a24.parquet");
    maintain("checkpoint");
    for version in 20..=25 {
        work.delete(&format!("tables/splits/_delta_log/{version:020}.json")).await.unwrap();
    }
    let pinned = Tables::new(&work).pin(Artifact::Splits, "x", None).await.unwrap();
    assert_eq!((pinned.version, pinned.part_name(0)), (Some(25), Some("country=x/part-00000-a24.parquet")));
    assert_eq!(commit(25).await.version, 26);
}
