//! Parquet files that others wrote, some to break readers, in the place of our parts: refused with their name.

use manifests::build::StoreOptions;
use manifests::{Artifact, PartFile};
use workers::parts::PartReader;
use workers::stores::WorkStore;

#[tokio::test(flavor = "multi_thread")]
async fn foreign_and_broken_parquet_is_refused() {
    let Some(data) = std::env::var_os("URBANCROSS_TEST_DATA") else {
        println!("skipped: URBANCROSS_TEST_DATA is unset");
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
