//! A running `urbancross run`, and what can be done to it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A build takes a second: who needs this long hangs.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Code(i32),
    /// Killed by a signal.
    Killed,
}

pub struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts a command whose output goes into a file.
    pub fn start(command: &mut Command, log: &Path) -> Result<Worker, String> {
        let said = |e: std::io::Error| format!("{}: {e}", log.display());
        let file = std::fs::File::create(log).map_err(said)?;
        let copy = file.try_clone().map_err(said)?;
        let child = command.stdin(Stdio::null()).stdout(file).stderr(copy).spawn().map_err(said)?;
        Ok(Worker { child, log: log.to_owned() })
    }

    pub fn signal(&self, name: &str) {
        let _ = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
    }

    pub fn has_ended(&mut self) -> Result<Option<ExitStatus>, String> {
        self.child.try_wait().map_err(|e| format!("{}: {e}", self.log.display()))
    }

    /// Waits until the worker stands still; `false`: it ended instead.
    pub fn until_stopped(&mut self) -> Result<bool, String> {
        let state = format!("/proc/{}/stat", self.child.id());
        let began = Instant::now();
        while self.has_ended()?.is_none() {
            let stat = std::fs::read_to_string(&state).unwrap_or_default();
            // the state stands after the name, which is in parentheses
            if stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')) {
                return Ok(true);
            }
            self.give_up_after(began, PATIENCE)?;
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
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Waits for the end; a worker that does not come to one is an error.
    pub fn end(&mut self) -> Result<End, String> {
        match self.end_within(PATIENCE)? {
            Some(end) => Ok(end),
            None => self.give_up_after(Instant::now(), Duration::ZERO).map(|()| End::Killed),
        }
    }

    fn give_up_after(&mut self, began: Instant, most: Duration) -> Result<(), String> {
        if began.elapsed() < most {
            return Ok(());
        }
        let _ = self.child.kill();
        Err(format!("hangs: no end after {PATIENCE:?}; {}", self.last_words()))
    }

    /// A panic is never an end.
    fn judged(&self, status: ExitStatus) -> Result<End, String> {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        if said.contains("panicked at") {
            return Err(format!("panicked: {}", self.last_words()));
        }
        Ok(status.code().map_or(End::Killed, End::Code))
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
