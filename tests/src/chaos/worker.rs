//! A running `urbancross run`, and what can be done to it.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A build takes a second, a minute over a store that fails, more where others work on the machine: who needs this long
/// hangs.
const PATIENCE: Duration = Duration::from_secs(240);
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Code(i32),
    Signal(i32),
}

impl End {
    pub fn was_killed(self) -> bool {
        self == End::Signal(9)
    }
}

pub struct Worker {
    child: Child,
    log: PathBuf,
    /// It may stand still no longer, also where it comes by the place only now.
    released: bool,
}

impl Worker {
    /// Starts a command whose output goes into a file.
    pub fn start(command: &mut Command, log: &Path) -> Result<Worker, String> {
        let said = |e: std::io::Error| format!("{}: {e}", log.display());
        let file = std::fs::File::create(log).map_err(said)?;
        let copy = file.try_clone().map_err(said)?;
        let child = command.stdin(Stdio::null()).stdout(file).stderr(copy).spawn().map_err(said)?;
        Ok(Worker { child, log: log.to_owned(), released: false })
    }

    pub fn signal(&self, name: &str) {
        let mut command = Command::new("kill");
        command.args([format!("-{name}"), self.child.id().to_string()]).stderr(Stdio::null());
        let _ = command.status();
    }

    /// Lets it go on where it stands still.
    pub fn release(&mut self) {
        self.released = true;
    }

    fn stands_still(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // the state stands after the name, which is in parentheses
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    }

    fn has_ended(&mut self) -> Result<Option<ExitStatus>, String> {
        self.child.try_wait().map_err(|e| format!("{}: {e}", self.log.display()))
    }

    /// Waits until the worker stands still, no longer than `most`; `false`: it ended, or runs on.
    pub fn stops_within(&mut self, most: Duration) -> Result<bool, String> {
        let began = Instant::now();
        while began.elapsed() < most && self.has_ended()?.is_none() {
            if self.stands_still() {
                return Ok(true);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(false)
    }

    /// Waits for the end, no longer than `most`; `None`: it runs on.
    pub fn end_within(&mut self, most: Duration) -> Result<Option<End>, String> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.has_ended()? {
                return self.judged(status).map(Some);
            }
            if began.elapsed() > most {
                return Ok(None);
            }
            if self.released && self.stands_still() {
                self.signal("CONT");
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Waits for the end; a worker that does not come to one is an error.
    pub fn end(&mut self) -> Result<End, String> {
        if let Some(end) = self.end_within(PATIENCE)? {
            return Ok(end);
        }
        let _ = self.child.kill();
        Err(format!("hangs: no end after {PATIENCE:?}; {}", self.last_words()))
    }

    /// Waits for the end, which must be one of these codes.
    pub fn ends_with(&mut self, codes: &[i32]) -> Result<End, String> {
        let end = self.end()?;
        match end {
            End::Code(code) if codes.contains(&code) => Ok(end),
            _ => Err(format!("ended with {end:?} instead of one of {codes:?}; {}", self.last_words())),
        }
    }

    /// Waits for the end of a worker that got a SIGTERM, which may come before the program listens.
    pub fn ends_after_term(&mut self) -> Result<(), String> {
        match self.end()? {
            End::Code(0 | 75 | 143) | End::Signal(15) => Ok(()),
            end => Err(format!("ended with {end:?} after a SIGTERM; {}", self.last_words())),
        }
    }

    /// A panic is never an end.
    fn judged(&self, status: ExitStatus) -> Result<End, String> {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        if said.contains("panicked at") {
            return Err(format!("panicked: {}", self.last_words()));
        }
        Ok(match (status.code(), status.signal()) {
            (Some(code), _) => End::Code(code),
            (None, signal) => End::Signal(signal.unwrap_or_default()),
        })
    }

    /// The last lines of what it wrote.
    pub fn last_words(&self) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        format!("{}: {}", self.log.display(), lines[lines.len().saturating_sub(4)..].join(" | "))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
