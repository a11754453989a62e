//! The preloaded shim: how it is built, and what it is told.

use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/chaos/shim.c");

/// Compiles the shim into a folder.
///
/// # Errors
/// Why it cannot be used here: no C compiler, another processor, or a kernel that filters no calls.
pub fn build(folder: &Path) -> Result<PathBuf, String> {
    let library = folder.join("shim.so");
    let output = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(SOURCE)
        .output()
        .map_err(|e| format!("no C compiler: {e}"))?;
    if !output.status.success() {
        return Err(format!("the shim does not compile: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let tried = Command::new("true").env("LD_PRELOAD", &library).env("URBANCROSS_CHAOS_ROOT", folder).status();
    match tried {
        Ok(status) if status.success() => Ok(library),
        other => Err(format!("the shim does not run here: {other:?}")),
    }
}

/// What happens at the chosen call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Kill,
    /// The whole process stands still until it is continued.
    Stop,
    Fail {
        errno: i32,
        /// All later calls fail as well.
        from_then_on: bool,
    },
}

pub const ENOSPC: i32 = 28;
pub const EIO: i32 = 5;

/// A change of the work store, by its order among those that match, and what happens there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strike {
    pub action: Action,
    /// From 1.
    pub at: usize,
    /// Only calls of this name: `create`, `write`, `fsync`, `rename`, `link`, `unlink`, `mkdir`, `truncate`, `sync`.
    pub call: Option<String>,
    /// Only calls with this text in their path.
    pub path: Option<String>,
    /// After the call took place instead of before it.
    pub after: bool,
}

impl Strike {
    /// At the `at`-th change of any kind.
    pub fn at(action: Action, at: usize) -> Strike {
        Strike { action, at, call: None, path: None, after: false }
    }

    pub fn apply(&self, command: &mut Command) {
        let action = match self.action {
            Action::Kill => "kill".to_owned(),
            Action::Stop => "stop".to_owned(),
            Action::Fail { errno, from_then_on: false } => errno.to_string(),
            Action::Fail { errno, from_then_on: true } => format!("-{errno}"),
        };
        command.env("URBANCROSS_CHAOS_ACTION", action).env("URBANCROSS_CHAOS_AT", self.at.to_string());
        for (name, value) in [("URBANCROSS_CHAOS_CALL", &self.call), ("URBANCROSS_CHAOS_PATH", &self.path)] {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        if self.after {
            command.env("URBANCROSS_CHAOS_AFTER", "1");
        }
    }
}

impl std::fmt::Display for Strike {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let when = if self.after { "after" } else { "before" };
        let call = self.call.as_deref().unwrap_or("change");
        write!(f, "{:?} {when} {call} {} of {}", self.action, self.at, self.path.as_deref().unwrap_or("any path"))
    }
}
