//! Which models and which images the specs of a command line name. Pure, but for reading the specs.

use std::path::{Path, PathBuf};

use manifests::spec::SpecError;
use manifests::{BuildSpec, PairSpec};
use workers::WorkerError;

use crate::left_out::LeftOut;

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
    /// Reads specs of builds and of pairs: those that can be read, and what keeps the others from it.
    ///
    /// # Errors
    /// Files of which none is a spec; overrides that are none.
    pub fn read(paths: &[PathBuf], overrides: &[String]) -> Result<(Self, LeftOut), WorkerError> {
        let (mut specs, mut left_out) = (Self::default(), LeftOut::default());
        for path in paths {
            let read = match PairSpec::is_at(path) {
                true => specs.read_pair(path, overrides),
                false => specs.read_build(path, overrides),
            };
            if let Err(error) = read {
                left_out.add_spec(path, error)?;
            }
        }
        if specs.models.is_empty() {
            left_out.refuse((paths.len(), "spec"))?;
        }
        Ok((specs, left_out))
    }

    fn read_pair(&mut self, path: &Path, overrides: &[String]) -> Result<(), SpecError> {
        let (pair, source, target) = PairSpec::read(path, overrides)?;
        self.add_build(&target);
        let (id, pair) = (self.free_id(path), Box::new(pair));
        self.models.push(Origin::Pair { id, pair, source: Box::new(source), target: Box::new(target) });
        Ok(())
    }

    fn read_build(&mut self, path: &Path, overrides: &[String]) -> Result<(), SpecError> {
        let spec = Box::new(BuildSpec::read(path, overrides)?);
        self.add_build(&spec);
        self.models.push(Origin::Build { id: self.free_id(path), spec });
        Ok(())
    }

    fn add_build(&mut self, spec: &BuildSpec) {
        if !self.builds.iter().any(|known| known.country == spec.country) {
            self.builds.push(spec.clone());
        }
    }

    /// A name for addresses that no other model has, after the file of its spec.
    fn free_id(&self, path: &Path) -> String {
        let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
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
