//! What a command is given: the spec of a build, the spec of a pair with both of its builds, or a folder of either.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use manifests::{BuildSpec, PairSpec, SpecError};
use workers::WorkerError;

use crate::left_out::LeftOut;
use crate::pair::Pair;

/// One spec that was read.
#[derive(Debug, Clone, PartialEq)]
pub enum Given {
    /// A build.
    Build(Box<BuildSpec>),
    /// A pair of builds.
    Pair(Box<GivenPair>),
}

/// A pair with the builds that it names.
#[derive(Debug, Clone, PartialEq)]
pub struct GivenPair {
    /// How the model is adapted.
    pub spec: PairSpec,
    /// The build whose model is adapted.
    pub source: BuildSpec,
    /// The build of the country that it is adapted to.
    pub target: BuildSpec,
}

/// Names of the files that the spec of a pair stands beside when it is given on.
const BESIDE: [&str; 2] = ["source.toml", "target.toml"];

impl GivenPair {
    /// `SOURCE_to_TARGET`.
    pub fn name(&self) -> String {
        format!("{}_to_{}", self.source.country, self.target.country)
    }

    /// Opens both builds, which must be finished.
    ///
    /// # Errors
    /// As [`Pair::open`].
    pub async fn open(&self, stop: &Arc<AtomicBool>) -> Result<Pair, WorkerError> {
        Pair::of(self.spec.clone(), self.source.clone(), self.target.clone(), stop.clone()).await
    }

    /// The pair's spec for another folder, with the builds' specs that stand beside it there, by name.
    pub fn files(&self) -> (String, [(String, String); 2]) {
        let [source, target] = BESIDE.map(PathBuf::from);
        let spec = PairSpec { source, target, ..self.spec.clone() };
        let [source, target] = BESIDE.map(str::to_owned);
        (spec.to_toml(), [(source, self.source.to_toml()), (target, self.target.to_toml())])
    }
}

impl Given {
    /// Reads a spec, of a build or of a pair. `set` is of that spec.
    ///
    /// # Errors
    /// A file that cannot be read or contradicts itself.
    pub fn read(path: &Path, set: &[String]) -> Result<Given, WorkerError> {
        let configuration = |error: SpecError| WorkerError::Configuration(error.to_string());
        if !PairSpec::is_at(path) {
            return Ok(Given::Build(Box::new(BuildSpec::read(path, set).map_err(configuration)?)));
        }
        let (spec, source, target) = PairSpec::read(path, set).map_err(configuration)?;
        Ok(Given::Pair(Box::new(GivenPair { spec, source, target })))
    }

    /// Reads every spec of a folder, with its file, in the order of their names: those that can be read, and what keeps the others
    /// from it. `set` is of every build.
    ///
    /// # Errors
    /// A folder without specs; an assignment of `set` that is none.
    pub fn read_folder(folder: &Path, set: &[String]) -> Result<(Vec<(PathBuf, Given)>, LeftOut), WorkerError> {
        let (mut read, mut left_out) = (Vec::new(), LeftOut::default());
        // a build with a fault is told by itself, before the pairs that need it
        let (pairs, builds): (Vec<_>, Vec<_>) = specs_of(folder)?.into_iter().partition(|file| PairSpec::is_at(file));
        for file in builds.into_iter().chain(pairs) {
            match Self::of_folder(&file, set) {
                Ok(given) => read.push((file, given)),
                Err(error) => left_out.add_spec(&file, error)?,
            }
        }
        read.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok((read, left_out))
    }

    /// A spec among those of a folder.
    fn of_folder(file: &Path, set: &[String]) -> Result<Given, SpecError> {
        if !PairSpec::is_at(file) {
            return Ok(Given::Build(Box::new(BuildSpec::read(file, set)?)));
        }
        let (spec, ..) = PairSpec::read(file, &[])?;
        let [source, target] = [&spec.source, &spec.target].map(|path| BuildSpec::read(path, set));
        let (source, target) = (source?, target?);
        Ok(Given::Pair(Box::new(GivenPair { spec, source, target })))
    }
}

/// Reads the specs of builds that a command looks at together, with their files: those that can be read, and what keeps the others
/// from it.
///
/// # Errors
/// An assignment of `set` that is none.
pub fn read_builds(files: Vec<PathBuf>, set: &[String]) -> Result<(Vec<(PathBuf, BuildSpec)>, LeftOut), WorkerError> {
    let (mut read, mut left_out) = (Vec::with_capacity(files.len()), LeftOut::default());
    for file in files {
        match BuildSpec::read(&file, set) {
            Ok(spec) => read.push((file, spec)),
            Err(error) => left_out.add_spec(&file, error)?,
        }
    }
    Ok((read, left_out))
}

/// The same of pairs. `set` is of the pairs.
///
/// # Errors
/// As [`read_builds`].
pub fn read_pairs(files: Vec<PathBuf>, set: &[String]) -> Result<(Vec<GivenPair>, LeftOut), WorkerError> {
    let (mut read, mut left_out) = (Vec::with_capacity(files.len()), LeftOut::default());
    for file in files {
        match PairSpec::read(&file, set) {
            Ok((spec, source, target)) => read.push(GivenPair { spec, source, target }),
            Err(error) => left_out.add_spec(&file, error)?,
        }
    }
    Ok((read, left_out))
}

/// The specs that a command is given several of, where a folder stands for those in it.
///
/// # Errors
/// A folder that cannot be read, or has no spec.
pub fn spread(given: &[PathBuf]) -> Result<Vec<PathBuf>, WorkerError> {
    let mut all = Vec::with_capacity(given.len());
    for path in given {
        if path.is_dir() {
            all.append(&mut specs_of(path)?);
        } else {
            all.push(path.clone());
        }
    }
    // one that is given twice is told once
    let mut seen = BTreeSet::new();
    all.retain(|path| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    Ok(all)
}

/// The specs of a folder, by name: at least one.
fn specs_of(folder: &Path) -> Result<Vec<PathBuf>, WorkerError> {
    let mut files = files_of(folder)?;
    files.retain(|file| is_spec(file));
    if files.is_empty() {
        return Err(WorkerError::Configuration(format!(
            "{}: there is no spec of a build in this folder; name a folder with some, or one spec",
            folder.display()
        )));
    }
    Ok(files)
}

/// The TOML files of a folder, by name.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>, WorkerError> {
    let of_io = |error: std::io::Error| WorkerError::of_io(folder, &error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(of_io)? {
        let path = entry.map_err(of_io)?.path();
        // what a volume of a cluster hides begins with a dot
        let is_hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let is_toml = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
        // a link that leads nowhere is told with what cannot be read
        if !is_hidden && is_toml && (path.is_file() || path.is_symlink() && !path.exists()) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a file of a folder is meant as a spec: a profile of a cluster may lie there too.
fn is_spec(path: &Path) -> bool {
    let table = std::fs::read_to_string(path).ok().and_then(|text| text.parse::<toml::Table>().ok());
    // one that is no TOML at all is read, and refused with the place of its fault
    table.is_none_or(|table| manifests::is_spec(&table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(country: &str) -> String {
        format!("country = \"{country}\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n")
    }

    #[test]
    fn a_folder_is_all_of_its_specs_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let read = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
            Given::read_folder(folder.path(), &set)
        };
        assert!(read(&[]).unwrap_err().to_string().contains("there is no spec of a build in this folder"));
        write("pyproject.toml", "[project]\nname = \"x\"\n");
        write("profile.toml", "lease_seconds = 8\n[stage.images]\nworkers = 2\n");
        write("notes.txt", "country");
        write("b.toml", &build("b"));
        write("a.toml", &build("a"));
        write("a_to_b.toml", "source = \"a.toml\"\ntarget = \"b.toml\"\n");
        let (all, left_out) = read(&["pretrain.epochs=3"]).unwrap();
        let [(_, Given::Build(a)), (_, Given::Pair(pair)), (_, Given::Build(b))] = &all[..] else { panic!("{all:?}") };
        assert!(left_out.is_empty());
        assert_eq!((a.country.as_str(), b.country.as_str(), pair.name().as_str()), ("a", "b", "a_to_b"));
        assert!(**a == pair.source && **b == pair.target && a.pretrain.epochs == 3, "--set is of all builds");
        assert_eq!(read(&["pretrain.epochs"]).unwrap_err().exit_code(), 65, "that is no spec's fault");
        // a spec with a fault is no file to pass over, and neither is a pair that needs it
        write("a.toml", "country = \"a\"\n[sorce]\n");
        write("c.toml", "country = ");
        write("d.toml", "soruce = \"b.toml\"\ntaget = \"b.toml\"\n");
        write("e.TOML", "");
        std::os::unix::fs::symlink("nowhere", folder.path().join("f.toml")).unwrap();
        let (all, left_out) = read(&[]).unwrap();
        assert!(matches!(&all[..], [(file, Given::Build(_))] if file.ends_with("b.toml")), "{all:?}");
        let refused = left_out.refuse((7, "spec")).unwrap_err().to_string();
        let lines: Vec<&str> = refused.lines().filter(|line| line.to_lowercase().contains(".toml: ")).collect();
        for (line, words) in lines.iter().zip([
            ["a.toml: ", "sorce"],
            ["c.toml: ", "TOML"],
            ["d.toml: ", ""],
            ["e.TOML: ", ""],
            ["f.toml: ", "cannot be read"],
            ["a_to_b.toml: its build ", "a.toml cannot be used"],
        ]) {
            assert!(words.iter().all(|words| line.contains(words)), "{words:?}: {refused}");
        }
        assert_eq!(lines.len(), 6, "{refused}");
    }

    /// What comes along can be driven and submitted folder by folder.
    #[test]
    fn shipped_folders_are_sound() {
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
        for folder in ["", "countries", "pairs", "light/countries", "light/pairs", "datasets"] {
            let (read, left_out) = Given::read_folder(&manifests.join(folder), &[]).unwrap();
            left_out.refuse((read.len() + left_out.len(), "spec")).unwrap();
            let given: Vec<Given> = read.into_iter().map(|(_, given)| given).collect();
            crate::tasks::tasks(&given, &Default::default()).unwrap_or_else(|error| panic!("{folder}: {error}"));
        }
    }

    #[test]
    fn a_pair_is_given_on_with_its_builds() {
        let folder = tempfile::tempdir().unwrap();
        for country in ["a", "b"] {
            std::fs::write(folder.path().join(format!("{country}.toml")), build(country)).unwrap();
        }
        let path = folder.path().join("pair.toml");
        std::fs::write(&path, "source = \"a.toml\"\ntarget = \"b.toml\"\n[adapt]\nseed = 7\n").unwrap();
        let Given::Pair(pair) = Given::read(&path, &[]).unwrap() else { panic!("it is a pair") };
        let elsewhere = tempfile::tempdir().unwrap();
        let (spec, beside) = pair.files();
        for (name, text) in std::iter::once(("spec.toml".to_owned(), spec)).chain(beside) {
            std::fs::write(elsewhere.path().join(name), text).unwrap();
        }
        let Given::Pair(read) = Given::read(&elsewhere.path().join("spec.toml"), &[]).unwrap() else { panic!("too") };
        assert_eq!((&read.source, &read.target), (&pair.source, &pair.target));
        assert_eq!(read.spec.adapt, pair.spec.adapt);
    }
}
