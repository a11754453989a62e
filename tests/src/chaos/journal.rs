//! What the shim wrote down.

use std::path::Path;

/// One change of the work store that took place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `create`, `write`, `truncate`, `fsync`, `sync`, `rename`, `link`, `unlink` or `mkdir`.
    pub call: String,
    /// Of the file or folder that it is about; 0 where it is gone.
    pub inode: u64,
    pub path: String,
    /// The new name, of `rename` and `link`.
    pub to: String,
}

/// The changes, in order. What the shim did itself is no change.
pub fn read(journal: &Path) -> Result<Vec<Change>, String> {
    let text = std::fs::read_to_string(journal).map_err(|e| format!("{}: {e}", journal.display()))?;
    text.lines().filter_map(|line| parse(line).transpose()).collect()
}

fn parse(line: &str) -> Result<Option<Change>, String> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [_, call, inode, path, to] = fields[..] else { return Err(format!("no line of a journal: {line:?}")) };
    if ["killed", "stopped", "failed"].contains(&call) {
        return Ok(None);
    }
    let inode = inode.parse().map_err(|e| format!("inode in {line:?}: {e}"))?;
    Ok(Some(Change { call: call.into(), inode, path: path.into(), to: to.into() }))
}

/// A place in a build where something becomes visible to others: the `at`-th link or rename below a path that does not
/// depend on chance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub call: String,
    pub path: String,
    pub at: usize,
}

/// All steps of a build in the store at `root`; their paths begin below it.
pub fn steps(changes: &[Change], root: &Path) -> Vec<Step> {
    let below = |path: &str| path.strip_prefix(root.to_string_lossy().as_ref()).unwrap_or(path).to_owned();
    let mut steps: Vec<Step> = Vec::new();
    for change in changes.iter().filter(|c| c.call == "link" || c.call == "rename") {
        let path = certain(&below(&change.to)).to_owned();
        let at = 1 + steps.iter().filter(|s| s.call == change.call && s.path.contains(&path)).count();
        steps.push(Step { call: change.call.clone(), path, at });
    }
    steps
}

/// A path up to its first random or content-made part.
fn certain(path: &str) -> &str {
    const LONG: usize = 32;
    let mut run = 0;
    for (at, byte) in path.bytes().enumerate() {
        run = if byte.is_ascii_hexdigit() { run + 1 } else { 0 };
        if run == LONG {
            return &path[..=at - LONG];
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_changes_and_steps() {
        let hex = "0123456789abcdef0123456789abcdef";
        let lines = [
            format!("1\tcreate\t7\t/w/p-{hex}#1\t"),
            format!("2\trename\t7\t/w/p-{hex}#1\t/w/p-{hex}"),
            "3\tstopped\t0\t/w/x\t".to_owned(),
            format!("4\trename\t8\t/w/p-{hex}#1\t/w/p-{hex}"),
            "5\tlink\t9\t/w/log/00000000000000000001.json#1\t/w/log/00000000000000000001.json".to_owned(),
        ];
        let changes: Vec<Change> = lines.iter().filter_map(|l| parse(l).unwrap()).collect();
        assert_eq!(changes.len(), 4);
        let step = |call: &str, path: &str, at| Step { call: call.into(), path: path.into(), at };
        assert_eq!(
            steps(&changes, Path::new("/w")),
            [step("rename", "/p-", 1), step("rename", "/p-", 2), step("link", "/log/00000000000000000001.json", 1)]
        );
        assert!(parse("nonsense").is_err());
    }
}
