//! What of several cannot be used: specs of a folder with a fault, and tasks that cannot be looked at. Who begins work refuses
//! all of it because of them, and names all; who only looks goes on without, says so, and ends with their exit code.

use std::path::{Path, PathBuf};

use manifests::words::count;
use manifests::{BuildSpec, SpecError};
use serde::Serialize;
use workers::WorkerError;

/// One of several that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file of a spec, or the name of a task.
    pub left_out: String,
    /// What is wrong with it.
    pub error: String,
    #[serde(skip)]
    exit_code: u8,
}

/// Those of several that cannot be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut(Vec<Fault>);

impl LeftOut {
    /// Whether all can be used.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many cannot.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// One that an error keeps from being used.
    pub fn add(&mut self, of: impl Into<String>, error: &WorkerError) {
        self.0.push(Fault { left_out: of.into(), error: error.to_string(), exit_code: error.exit_code() });
    }

    /// A spec that cannot be read, or whose build cannot.
    ///
    /// # Errors
    /// An assignment of `--set` that is none: it is of no spec.
    pub fn add_spec(&mut self, file: &Path, error: SpecError) -> Result<(), WorkerError> {
        let (at, why) = match error {
            SpecError::Override { .. } => return Err(WorkerError::Configuration(error.to_string())),
            SpecError::Unreadable { path, cause } => (path, format!("it cannot be read: {cause}")),
            SpecError::Invalid { path, why } => (path, why),
        };
        let is_known = |fault: &Fault| is_same(Path::new(&fault.left_out), Path::new(&at));
        let why = match file.as_os_str() == at.as_str() {
            true => why,
            // of a folder the builds are read before their pairs
            false if self.0.iter().any(is_known) => format!("its build {at} cannot be used"),
            false => format!("its build {at} cannot be used: {why}"),
        };
        self.add(file.display().to_string(), &WorkerError::Configuration(why));
        Ok(())
    }

    /// Takes those of others in.
    pub fn append(&mut self, others: LeftOut) {
        self.0.extend(others.0);
    }

    /// Each as an object for programs, to stand among those that were looked at.
    pub fn json(&self) -> impl Iterator<Item = serde_json::Value> {
        self.0.iter().map(|fault| serde_json::json!(fault))
    }

    /// Says what is gone on without.
    pub fn say(&self) {
        for Fault { left_out, error, .. } in &self.0 {
            crate::aside!("warning: {left_out} is left out: {error}");
        }
    }

    /// Ends a command that went on without them.
    ///
    /// # Errors
    /// One that names all of them, if there are any.
    pub fn end(&self) -> Result<(), WorkerError> {
        let named: Vec<&str> = self.0.iter().map(|fault| fault.left_out.as_str()).collect();
        let were = if named.len() == 1 { "was" } else { "were" };
        self.fail(format!("{} of several {were} left out, for the reasons above: {}", named.len(), named.join(", ")))
    }

    /// Refuses all of `all` things, such as specs, because of them.
    ///
    /// # Errors
    /// One that names all of them with their reasons, if there are any.
    pub fn refuse(&self, (all, noun): (usize, &str)) -> Result<(), WorkerError> {
        if let ([one], 1) = (&self.0[..], all) {
            return self.fail(format!("{}: {}", one.left_out, one.error));
        }
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for Fault { left_out, error, .. } in &self.0 {
            match reasons.iter_mut().find(|(known, _)| known == error) {
                Some((_, named)) => named.push(left_out),
                None => reasons.push((error, vec![left_out])),
            }
        }
        // a reason may be a list
        let line =
            |(why, named): &(&str, Vec<&str>)| format!("\n  {}: {}", named.join(", "), why.replace('\n', "\n  "));
        let lines: String = reasons.iter().map(line).collect();
        self.fail(format!("{} of {} cannot be used, and nothing was begun:{lines}", self.0.len(), count(all, noun)))
    }

    fn fail(&self, why: String) -> Result<(), WorkerError> {
        match self.0.iter().find(|fault| fault.exit_code == 65).or(self.0.first()) {
            None => Ok(()),
            // what another try may cure is no reason to end for good, and no cure for the others
            Some(fault) if fault.exit_code != 65 => Err(WorkerError::Transient(why)),
            Some(_) => Err(WorkerError::Configuration(why)),
        }
    }
}

/// Looks at each of several builds before anything is begun.
///
/// # Errors
/// All that is wrong with any of them.
pub(crate) fn check_all<'s>(
    builds: impl IntoIterator<Item = &'s BuildSpec>,
    check: impl Fn(&BuildSpec) -> Result<(), WorkerError>,
) -> Result<(), WorkerError> {
    let (mut left_out, mut all) = (LeftOut::default(), 0);
    for spec in builds {
        all += 1;
        if let Err(error) = check(spec) {
            left_out.add(spec.country.clone(), &error);
        }
    }
    left_out.refuse((all, "build"))
}

/// Do two paths name one file?
fn is_same(one: &Path, other: &Path) -> bool {
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    whole(one) == whole(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalid(path: &str, why: &str) -> SpecError {
        SpecError::Invalid { path: path.into(), why: why.into() }
    }

    #[test]
    fn all_are_named_each_with_its_reason() {
        let mut left_out = LeftOut::default();
        assert!(left_out.refuse((2, "spec")).is_ok() && left_out.end().is_ok());
        left_out.add_spec(Path::new("b.toml"), invalid("b.toml", "2 fields are wrong:\n  x\n  y")).unwrap();
        left_out.add_spec(Path::new("c.toml"), invalid("c.toml", "z")).unwrap();
        left_out.add_spec(Path::new("d.toml"), invalid("d.toml", "z")).unwrap();
        left_out.add_spec(Path::new("b_to_x.toml"), invalid("b.toml", "2 fields are wrong:\n  x\n  y")).unwrap();
        left_out.add_spec(Path::new("x_to_y.toml"), invalid("elsewhere/y.toml", "w")).unwrap();
        let refused = left_out.refuse((7, "spec")).unwrap_err();
        assert_eq!(refused.exit_code(), 65);
        assert_eq!(
            refused.to_string(),
            "5 of 7 specs cannot be used, and nothing was begun:\n  b.toml: 2 fields are wrong:\n    x\n    y\n  c.toml, d.toml: z\n  \
             b_to_x.toml: its build b.toml cannot be used\n  x_to_y.toml: its build elsewhere/y.toml cannot be used: w"
        );
        let ended = left_out.end().unwrap_err();
        assert!(ended.exit_code() == 65 && ended.to_string().contains("b.toml, c.toml, d.toml"), "{ended}");
        let first = left_out.json().next().unwrap();
        assert_eq!(first, serde_json::json!({ "left_out": "b.toml", "error": "2 fields are wrong:\n  x\n  y" }));
        let of_none = SpecError::Override { assignment: "x".into(), why: "there is no `=`".into() };
        assert_eq!(left_out.add_spec(Path::new("b.toml"), of_none).unwrap_err().exit_code(), 65);
    }

    #[test]
    fn what_passes_ends_otherwise_only_where_nothing_lasts() {
        let mut left_out = LeftOut::default();
        left_out.add("a", &WorkerError::Transient("503".into()));
        assert_eq!(left_out.end().unwrap_err().exit_code(), 75);
        left_out.add("b", &WorkerError::Broken("torn".into()));
        assert_eq!(left_out.end().unwrap_err().exit_code(), 65);
    }
}
