//! Names of processes that hold something, and whether one of this machine runs, is stopped or has ended.

use serde::{Deserialize, Serialize};

/// Names a process so that another one on the same machine can look how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessName {
    pub(crate) id: u32,
    /// When it began, by the clock of its boot: numbers are given again; 0: unknown.
    #[serde(default)]
    pub(crate) began: u64,
    /// This boot of this machine, and which processes can see each other on it; empty: unknown.
    pub(crate) machine: String,
}

/// What can be seen of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Ended,
    /// By SIGSTOP, a terminal or a debugger: it does nothing until somebody wakes it.
    Stopped,
    Runs,
    /// It is on another machine, or this one does not tell.
    Nothing,
}

impl ProcessName {
    pub(crate) fn own() -> Self {
        let read = |path| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let boot = read("/proc/sys/kernel/random/boot_id");
        let sees = std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default();
        let known = !boot.is_empty() && !sees.is_empty();
        let id = std::process::id();
        let machine = if known { format!("{boot} {sees}") } else { String::new() };
        Self { id, began: state_of(id).map_or(0, |(_, began)| began), machine }
    }

    pub(crate) fn seen(&self) -> Seen {
        if self.machine.is_empty() || self.machine != Self::own().machine {
            return Seen::Nothing;
        }
        match state_of(self.id) {
            None => Seen::Ended,
            Some((_, began)) if self.began != 0 && self.began != began => Seen::Ended,
            Some((true, _)) => Seen::Stopped,
            Some((false, _)) => Seen::Runs,
        }
    }
}

/// Waits for a thread that asks the runtime for something: on one of the runtime's own threads, the others serve it
/// meanwhile; where there is only that one, nobody waits.
pub(crate) fn join(thread: std::thread::JoinHandle<()>) {
    let wait = || _ = thread.join();
    match tokio::runtime::Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        Ok(_) => {}
        Err(_) => wait(),
    }
}

/// Whether a process of this machine is stopped, and when it began; `None`: there is none of this number, or it has ended
/// and nobody asked how.
fn state_of(id: u32) -> Option<(bool, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // behind the name, which is in parentheses and may hold anything: the state, and the 20th field from there
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    let stopped = match fields.next()? {
        "Z" | "X" => return None,
        state => matches!(state, "T" | "t"),
    };
    Some((stopped, fields.nth(18)?.parse().ok()?))
}

/// How this process is called where another one reads of it.
pub(crate) fn name_of_process() -> String {
    format!("process {} on {}", std::process::id(), host())
}

/// Name of this machine, for people.
pub fn host() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let host = host.trim();
    if host.is_empty() { "another machine".to_owned() } else { host.to_owned() }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    fn comes_to(process: &ProcessName, state: Seen) {
        let waiting = Instant::now();
        while process.seen() != state {
            assert!(waiting.elapsed() < Duration::from_secs(30), "{:?} instead of {state:?}", process.seen());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its parent has not asked how it ended, or another process has its number: it holds nothing any more.
    #[test]
    fn a_process_has_ended_also_where_its_number_is_still_there() {
        let own = ProcessName::own();
        assert!(own.began > 0 && own.seen() == Seen::Runs);
        assert_eq!(ProcessName { began: own.began + 1, ..own.clone() }.seen(), Seen::Ended);
        assert_eq!(ProcessName { machine: "another".into(), ..own.clone() }.seen(), Seen::Nothing);
        let mut child = Command::new("true").spawn().unwrap();
        let named = ProcessName { id: child.id(), began: 0, ..own };
        comes_to(&named, Seen::Ended);
        assert!(std::path::Path::new(&format!("/proc/{}", child.id())).exists(), "its number is still there");
        child.wait().unwrap();
    }

    #[test]
    fn a_stopped_process_is_seen_to_be_stopped() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let named = ProcessName { id: child.id(), began: 0, ..ProcessName::own() };
        let signal = |name: &str| Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
        signal("-STOP");
        comes_to(&named, Seen::Stopped);
        signal("-CONT");
        comes_to(&named, Seen::Runs);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
