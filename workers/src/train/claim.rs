//! A run's folder belongs to one process of this machine at a time.
//!
//! The lock is the system's and ends with its holder, however that dies. In the file its holder writes who it is and,
//! again and again, how far it is: whoever waits tells one that works from one that is stopped or hangs.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use training::trainer::Event;

use crate::durable;
use crate::error::WorkerError;
use crate::lease::MOMENT;
use crate::process::{ProcessName, Seen, name_of_process};

/// How often a waiting process looks whether the folder has become free.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A holder writes less into the lock's file.
const MOST_BYTES: u64 = 4096;

/// The times of a claim: shorter in tests.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// How often a holder shows that it lives.
    beat: Duration,
    /// After so long without a sign of life nobody waits any more. Also how often whoever waits says for what.
    patience: Duration,
}

const TIMES: Times = Times { beat: Duration::from_secs(5), patience: Duration::from_secs(60) };

/// What a holder writes into the lock's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    /// Process and host, for people.
    name: String,
    process: ProcessName,
    /// Seconds since 1970, by the holder's clock, as all of them.
    since: u64,
    /// Where it is, in words, and when it came there.
    progress: String,
    progressed: u64,
    /// When it wrote this, and how often it did before.
    written: u64,
    beats: u64,
}

impl Holder {
    fn new() -> Self {
        let (name, process, now) = (name_of_process(), ProcessName::own(), unix_seconds());
        Holder { name, process, since: now, progress: "its beginning".into(), progressed: now, written: now, beats: 0 }
    }

    /// What it says of itself, read at `now`.
    fn in_words(&self, now: u64) -> String {
        let [held, quiet] = [self.since, self.written].map(|then| now.saturating_sub(then));
        let (at, stood) = (&self.progress, self.written.saturating_sub(self.progressed));
        format!("{} has held it for {held} s, and said {quiet} s ago that it had been at {at} for {stood} s", self.name)
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The right to write to a run's folder. The system takes it back when the process ends, however it ends.
pub(crate) struct Claim {
    holder: Arc<Mutex<Holder>>,
    beating: Option<(Sender<()>, JoinHandle<()>)>,
    /// Dropping it, and the thread's, frees the lock. `None` where the file system has no locks.
    _lock: Option<File>,
}

impl Claim {
    fn held(lock: Option<File>) -> Self {
        Claim { holder: Arc::new(Mutex::new(Holder::new())), beating: None, _lock: lock }
    }

    /// Shows from here on that the holder lives.
    fn beat(mut self, every: Duration) -> Self {
        let Some(mut file) = self._lock.as_ref().and_then(|lock| lock.try_clone().ok()) else { return self };
        let (stop, stopped) = channel();
        let holder = self.holder.clone();
        let thread = std::thread::spawn(move || {
            loop {
                let words = holder.lock().ok().map(|mut holder| {
                    (holder.written, holder.beats) = (unix_seconds(), holder.beats + 1);
                    serde_json::to_vec(&*holder).unwrap_or_default()
                });
                // in place: the lock belongs to this file, not to its name; where it fails, others give up waiting
                _ = words.map(|words| rewrite(&mut file, &words));
                if stopped.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        self.beating = Some((stop, thread));
        self
    }

    /// Takes note of what the training has done.
    pub(super) fn note(&self, event: &Event) {
        if let (Event::Step(step), Ok(mut holder)) = (event, self.holder.lock()) {
            holder.progress = format!("epoch {}, step {}", step.epoch + 1, step.step + 1);
            holder.progressed = unix_seconds();
        }
    }

    /// Takes the folder of a run at once, to clear it away; `None`: a process of this machine trains it.
    pub(crate) fn at_once(folder: &Path) -> Result<Option<Claim>, WorkerError> {
        let path = folder.with_extension("lock");
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Some(Claim::held(None))),
            opened => opened.map_err(|e| WorkerError::of_io(&path, &e))?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(Claim::held(Some(file)))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(_)) => Ok(Some(Claim::held(None))),
        }
    }

    /// Takes the folder of the run `name`, waiting while another process works on it if `may_wait`.
    ///
    /// # Errors
    /// [`WorkerError::Stopped`] while waiting, [`WorkerError::Transient`] where the folder is taken and `may_wait` is
    /// not set, or its holder shows no sign of life.
    pub(super) async fn take(
        folder: &Path,
        name: &str,
        may_wait: bool,
        stop: &AtomicBool,
    ) -> Result<Claim, WorkerError> {
        Claim::take_in(TIMES, folder, name, may_wait, stop).await
    }

    async fn take_in(
        times: Times,
        folder: &Path,
        name: &str,
        may_wait: bool,
        stop: &AtomicBool,
    ) -> Result<Claim, WorkerError> {
        // beside the folder: whether the folder is there decides whether a saved state is brought
        let path = folder.with_extension("lock");
        path.parent().map_or(Ok(()), durable::create_folder)?;
        // what its holder has written stays
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| WorkerError::of_io(&path, &e))?;
        let (mut seen, mut alive, mut told) = (Vec::new(), Instant::now(), None::<(Instant, bool)>);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Claim::held(Some(file)).beat(times.beat)),
                Err(TryLockError::Error(error)) => {
                    tracing::warn!(path = %path.display(), %error, "no locks here: only one process may train this run");
                    return Ok(Claim::held(None));
                }
                Err(TryLockError::WouldBlock) => {}
            }
            let mut said = Vec::new();
            _ = File::open(&path).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut said));
            if said != seen {
                (seen, alive) = (said, Instant::now());
            }
            let holder = Occupant::of(&path, &seen);
            let patience = if holder.is_stopped { times.patience.min(MOMENT) } else { times.patience };
            let silent = alive.elapsed() > patience;
            if silent || !may_wait {
                return Err(taken(name, &holder, silent.then_some(patience)));
            }
            if told.is_none_or(|(at, stopped)| at.elapsed() > times.patience || stopped != holder.is_stopped) {
                told = Some((Instant::now(), holder.is_stopped));
                let then = if holder.is_stopped {
                    format!("; it is stopped: `kill -CONT {}` wakes it", holder.process)
                } else {
                    String::new()
                };
                tracing::warn!(
                    "{name}: another process trains this run; its result is waited for: {}{then}",
                    holder.who
                );
            }
            if stop.load(Ordering::Relaxed) {
                return Err(WorkerError::Stopped);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.beating.take() {
            drop(stop);
            _ = thread.join();
        }
    }
}

fn rewrite(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    file.rewind()?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)
}

/// Who holds a lock, by what it wrote into the lock's file.
struct Occupant {
    who: String,
    /// Its number, as it stands in a command.
    process: String,
    is_stopped: bool,
}

impl Occupant {
    fn of(path: &Path, said: &[u8]) -> Occupant {
        let path = path.display();
        match serde_json::from_slice::<Holder>(said) {
            Ok(holder) => Occupant {
                who: format!("{} ({path})", holder.in_words(unix_seconds())),
                process: holder.process.id.to_string(),
                is_stopped: holder.process.seen() == Seen::Stopped,
            },
            Err(_) => Occupant {
                who: format!("a process that does not say who it is holds {path} (`fuser {path}` names it)"),
                process: "PROCESS".to_owned(),
                is_stopped: false,
            },
        }
    }
}

/// `silent_for`: it showed no sign of life for so long.
fn taken(name: &str, holder: &Occupant, silent_for: Option<Duration>) -> WorkerError {
    let Occupant { who, process, is_stopped } = holder;
    let silence = match silent_for {
        _ if *is_stopped => " and is stopped".to_owned(),
        Some(time) => {
            format!(" and has shown no sign of life for {} s: it is stopped or hangs", time.as_secs())
        }
        None => String::new(),
    };
    // it cannot be passed by: once it is woken it would write into the same folder
    let end = if *is_stopped || silent_for.is_some() {
        format!("wake it there by `kill -CONT {process}`, or end it by `kill -9 {process}`")
    } else {
        format!("wait for its end, or end it there by `kill {process}`")
    };
    WorkerError::Transient(format!(
        "{name}: another process trains this run{silence}: {who}; {end}; this run then goes on from what that one has saved"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Times = Times { beat: Duration::from_millis(20), patience: Duration::from_millis(600) };

    #[tokio::test]
    async fn a_folder_is_one_owners_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, go_on) = (parent.path().join("runs/key"), AtomicBool::new(false));
        let first = Claim::take_in(QUICK, &folder, "pretrain", true, &go_on).await.unwrap();
        assert!(!folder.exists());
        std::thread::sleep(QUICK.beat * 5);
        let refused = Claim::take(&folder, "pretrain", false, &go_on).await.err().expect("taken").to_string();
        let own = std::process::id();
        for words in ["key.lock", &format!("process {own} on "), &format!("`kill {own}`"), "at its beginning"] {
            assert!(refused.contains(words), "{refused}");
        }
        let stopped = Claim::take(&folder, "pretrain", true, &AtomicBool::new(true)).await;
        assert!(matches!(stopped, Err(WorkerError::Stopped)));
        // a holder that lives is waited for, longer than one that does not
        let (second, ()) = tokio::join!(Claim::take_in(QUICK, &folder, "pretrain", true, &go_on), async {
            tokio::time::sleep(QUICK.patience * 2).await;
            drop(first);
        });
        drop(second.unwrap());
        assert!(Claim::at_once(&folder).unwrap().is_some(), "the thread that beats holds the lock no longer");
    }

    /// It is stopped or hangs, and its lock is held for ever: whoever waits says who it is, and ends.
    #[tokio::test]
    async fn a_holder_without_a_sign_of_life_is_waited_for_no_longer() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, go_on) = (parent.path().join("key"), AtomicBool::new(false));
        let times = Times { beat: Duration::from_secs(1000), ..QUICK };
        let holder = Claim::take_in(times, &folder, "pretrain", true, &go_on).await.unwrap();
        let waiting = Instant::now();
        let given_up = Claim::take_in(QUICK, &folder, "pretrain", true, &go_on).await.err().expect("it is taken");
        assert!(waiting.elapsed() < QUICK.patience * 10 && given_up.exit_code() == 75, "{given_up}");
        let own = std::process::id();
        for words in [&format!("process {own} on "), "no sign of life", &format!("kill -CONT {own}"), "has held it for"]
        {
            assert!(given_up.to_string().contains(words), "{words}: {given_up}");
        }
        // what wrote nothing, an older version say, is found by its file
        drop(holder);
        let path = folder.with_extension("lock");
        std::fs::write(&path, "").unwrap();
        let file = File::open(&path).unwrap();
        file.try_lock().unwrap();
        let given_up = Claim::take_in(QUICK, &folder, "pretrain", true, &go_on).await.err().expect("taken").to_string();
        assert!(given_up.contains("fuser"), "{given_up}");
    }
}
