//! Which models and which images the specs of a command line name. Pure, but for reading the specs.

use std::path::PathBuf;

use manifests::spec::SpecError;
use manifests::{BuildSpec, PairSpec};

/// Specs that are served together.
#[derive(Debug, Clone, Default)]
pub struct Specs {
    /// Builds whose images are searched: of each country the first that is named.
    pub(super) builds: Vec<BuildSpec>,
    /// Models to search them with, in the order of the command line.
    pub(super) models: Vec<Origin>,
}

/// Where a model comes from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// A build's own.
    Build { id: String, spec: Box<BuildSpec> },
    /// Of a pair: the source's as it was, and as it was adapted to the target.
    Pair { id: String, pair: Box<PairSpec>, source: Box<BuildSpec>, target: Box<BuildSpec> },
}

impl Specs {
    /// Reads specs of builds and of pairs.
    ///
    /// # Errors
    /// Files that are no specs.
    pub fn read(paths: &[PathBuf], overrides: &[String]) -> Result<Self, SpecError> {
        let mut specs = Self::default();
        for path in paths {
            let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
            if PairSpec::is_at(path) {
                let (pair, source, target) = PairSpec::read(path, overrides)?;
                specs.add_build(&target);
                let id = specs.free_id(&stem);
                specs.models.push(Origin::Pair {
                    id,
                    pair: Box::new(pair),
                    source: Box::new(source),
                    target: Box::new(target),
                });
            } else {
                let spec = BuildSpec::read(path, overrides)?;
                specs.add_build(&spec);
                let id = specs.free_id(&stem);
                specs.models.push(Origin::Build { id, spec: Box::new(spec) });
            }
        }
        Ok(specs)
    }

    fn add_build(&mut self, spec: &BuildSpec) {
        if !self.builds.iter().any(|known| known.country == spec.country) {
            self.builds.push(spec.clone());
        }
    }

    /// A name for addresses that no other model has.
    fn free_id(&self, stem: &str) -> String {
        let plain: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
        let numbered = (2..).map(|number| format!("{plain}-{number}"));
        let is_free = |id: &String| !self.models.iter().any(|origin| origin.id() == id);
        std::iter::once(plain.clone()).chain(numbered).find(is_free).unwrap_or(plain)
    }
}

impl Origin {
    pub(super) fn id(&self) -> &str {
        match self {
            Origin::Build { id, .. } | Origin::Pair { id, .. } => id,
        }
    }
}
