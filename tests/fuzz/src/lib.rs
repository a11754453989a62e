//! Every reader of bytes that others wrote, as a function of bytes: it may refuse them, and must do no more than that.
//!
//! `make fuzz` damages the corpora at random; a test replays them; `libfuzzer/` has the same functions for cargo-fuzz.

mod files;
mod mutate;
mod osm_files;
#[path = "../../../pipeline/sandbox/src/extract/pbf.rs"]
mod pbf_writer;
mod stored;
#[path = "../../../stages/models/tests/support/torch_writer.rs"]
mod torch_writer;
mod watch;

use std::path::{Path, PathBuf};

pub use mutate::mutated;
pub use watch::{Watching, watched};

/// One reader.
pub struct Target {
    /// As `TARGETS=…` of `make fuzz` has it.
    pub name: &'static str,
    /// Reads the bytes; whatever it makes of them is dropped.
    pub read: fn(&[u8]),
    /// Folders below the root of the repository, and what the names of its files there begin or end with.
    corpora: &'static [(&'static str, &'static str)],
    /// Sound inputs that are made rather than kept.
    made: fn() -> Vec<Vec<u8>>,
}

const SOURCES: &str = "stages/sources/tests/corpus";
const MODELS: &str = "stages/models/tests/hostile";

/// All readers of foreign bytes.
pub const TARGETS: [Target; 18] = [
    Target { name: "pickle", read: files::pickle, corpora: &[(SOURCES, "meta-")], made: Vec::new },
    Target { name: "zip", read: files::zip, corpora: &[(SOURCES, "zip-")], made: Vec::new },
    Target { name: "tar", read: files::tar, corpora: &[], made: files::tars },
    Target { name: "csv", read: files::csv, corpora: &[(SOURCES, "csv-"), (SOURCES, "captions-")], made: Vec::new },
    Target { name: "json", read: files::json, corpora: &[(SOURCES, "jsonl-"), (SOURCES, "karpathy-")], made: Vec::new },
    Target { name: "osm_pbf", read: osm_files::pbf, corpora: &[], made: osm_files::extracts },
    Target { name: "osm_xml", read: osm_files::xml, corpora: &[("tests/fuzz/corpus/osm", ".osm")], made: Vec::new },
    Target { name: "osc", read: osm_files::diff, corpora: &[("tests/fuzz/corpus/osm", ".osc")], made: Vec::new },
    Target { name: "osm_state", read: osm_files::state, corpora: &[], made: osm_files::states },
    Target { name: "rle", read: files::rle, corpora: &[("tests/fuzz/corpus/rle", "")], made: Vec::new },
    Target {
        name: "gguf",
        read: files::gguf,
        corpora: &[(MODELS, ".gguf"), ("tests/fuzz/corpus/gguf", "")],
        made: Vec::new,
    },
    Target {
        name: "safetensors",
        read: files::safetensors,
        corpora: &[(MODELS, ".safetensors"), ("tests/fuzz/corpus/safetensors", "")],
        made: Vec::new,
    },
    Target {
        name: "torch",
        read: files::torch,
        corpora: &[(MODELS, ".pth")],
        made: || files::state_dicts().iter().map(|pickle| torch_writer::archive(pickle, &[(0, vec![0; 32])])).collect(),
    },
    Target { name: "state_dict", read: files::state_dict, corpora: &[], made: files::state_dicts },
    Target {
        name: "spec",
        read: files::spec,
        corpora: &[("manifests", ".toml"), ("deploy", "pair.toml"), ("tests/fuzz/corpus/spec", "")],
        made: Vec::new,
    },
    Target { name: "record", read: stored::record, corpora: &[("tests/fuzz/corpus/record", "")], made: Vec::new },
    Target { name: "delta_log", read: stored::log, corpora: &[("tests/fuzz/corpus/delta_log", "")], made: Vec::new },
    Target { name: "part", read: stored::part, corpora: &[("tests/fuzz/corpus/part", "")], made: stored::parts },
];

impl Target {
    /// The target of a name.
    pub fn named(name: &str) -> Option<&'static Target> {
        const { &TARGETS }.iter().find(|target| target.name == name)
    }

    /// What is kept or made for it, each with a name.
    ///
    /// # Errors
    /// A folder or file of the repository that cannot be read.
    pub fn corpus(&self) -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let made = (self.made)().into_iter().enumerate();
        let mut corpus: Vec<_> = made.map(|(i, bytes)| (PathBuf::from(format!("made {i}")), bytes)).collect();
        for (folder, part) in self.corpora {
            for entry in std::fs::read_dir(root.join(folder))? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if path.is_file() && (name.starts_with(part) || name.ends_with(part)) {
                    corpus.push((path.clone(), std::fs::read(&path)?));
                }
            }
        }
        corpus.sort();
        Ok(corpus)
    }
}
