//! The specs that come along, together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use manifests::{BuildSpec, PairSpec};

/// The specs in a folder and in those below it.
fn specs(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(specs(&path));
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            let table: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
            found.extend(manifests::is_spec(&table).then_some(path));
        }
    }
    found
}

/// Two builds of one country in one store replace each other's rows and model by turns.
#[test]
fn no_build_undoes_another() {
    let specs = specs(Path::new(env!("CARGO_MANIFEST_DIR")));
    let builds: Vec<PathBuf> = specs.into_iter().filter(|path| !PairSpec::is_at(path)).collect();
    let mut known = BTreeMap::new();
    for path in &builds {
        let spec = BuildSpec::read(path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let place = (spec.country, spec.work.url);
        let other = known.insert(place.clone(), path);
        assert_eq!(other, None, "{} is of {place:?}, too", path.display());
    }
    assert!(builds.len() >= 13, "{builds:?}");
}
