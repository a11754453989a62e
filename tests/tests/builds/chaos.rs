//! The shim of the chaos suite does what it is told. The suite itself is `make chaos`.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use pipeline_tests::chaos::journal::{self, Change};
use pipeline_tests::chaos::shim::{self, Action, EIO, ENOSPC, Strike};

/// A shell that makes a folder and two files in it; each by one call or two.
const SCRIPT: &str = "mkdir w; echo one > w/a; echo two > w/b; mv w/b w/c; rm w/a; echo done";

/// Runs the script in a folder of its own; `None`: there is no shim on this machine.
fn run(strike: Option<Strike>) -> Option<(tempfile::TempDir, Output, Vec<Change>)> {
    let folder = tempfile::tempdir().unwrap();
    // as the kernel will name it
    let place = folder.path().canonicalize().unwrap();
    std::fs::create_dir(place.join("keep")).unwrap();
    let shim = match shim::build(&place) {
        Ok(shim) => shim,
        Err(why) => {
            pipeline_tests::skipped(why);
            return None;
        }
    };
    let mut command = Command::new("sh");
    command
        .args(["-c", SCRIPT])
        .current_dir(&place)
        .env("LD_PRELOAD", shim)
        .env("URBANCROSS_CHAOS_ROOT", place.join("w"))
        .env("URBANCROSS_CHAOS_JOURNAL", place.join("journal"))
        .env("URBANCROSS_CHAOS_KEEP", place.join("keep"));
    if let Some(strike) = strike {
        strike.apply(&mut command);
    }
    let output = command.output().unwrap();
    let changes = journal::read(&place.join("journal")).unwrap();
    Some((folder, output, changes))
}

fn calls(changes: &[Change]) -> Vec<&str> {
    changes.iter().map(|change| change.call.as_str()).collect()
}

fn exists(folder: &tempfile::TempDir, name: &str) -> bool {
    Path::new(folder.path()).join("w").join(name).exists()
}

#[test]
fn changes_are_written_down_and_bytes_are_kept() {
    let Some((folder, output, changes)) = run(None) else { return };
    assert!(output.status.success(), "{output:?}");
    assert_eq!(calls(&changes), ["mkdir", "create", "write", "create", "write", "rename", "unlink"]);
    let [first, renamed] = [&changes[1], &changes[5]];
    assert!(renamed.path.ends_with("/w/b") && renamed.to.ends_with("/w/c"), "{renamed:?}");
    // the removed file's bytes outlive it
    let kept = folder.path().join("keep").join(first.inode.to_string());
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "one\n");
}

#[test]
fn a_program_is_killed_before_or_after_the_chosen_call() {
    let second_file = Strike { call: Some("create".into()), path: Some("/b".into()), ..Strike::at(Action::Kill, 1) };
    for after in [false, true] {
        let Some((folder, output, _)) = run(Some(Strike { after, ..second_file.clone() })) else { return };
        assert_eq!(output.status.signal(), Some(9), "{output:?}");
        assert!(exists(&folder, "a"));
        assert_eq!(exists(&folder, "b"), after);
    }
}

#[test]
fn a_call_fails_once_or_from_then_on() {
    let once = Action::Fail { errno: EIO, from_then_on: false };
    let Some((folder, output, _)) = run(Some(Strike { call: Some("write".into()), ..Strike::at(once, 1) })) else {
        return;
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("rror"), "{output:?}");
    assert!(exists(&folder, "c"));
    let full = Action::Fail { errno: ENOSPC, from_then_on: true };
    let Some((folder, _, changes)) = run(Some(Strike { call: Some("create".into()), ..Strike::at(full, 1) })) else {
        return;
    };
    assert!(!exists(&folder, "a") && !exists(&folder, "c"));
    assert_eq!(calls(&changes), ["mkdir"]);
}
