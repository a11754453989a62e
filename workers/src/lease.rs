//! Who runs a build just now: a courtesy between runs, on which nothing rests.
//!
//! Two runs of one country with other settings would undo each other's rows by turns, each commit correct by itself. So
//! a run takes a lease, and another one waits for it. A lease is an object under a rising number, put if absent; its
//! holder writes it again and again with a rising count. Whoever waits sees the count stand still and takes the next
//! number: no clock is compared with another machine's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::WorkerError;
use crate::stores::WorkStore;

/// What a holder writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    /// Process, host and what it does, for people.
    holder: String,
    process: ProcessName,
    /// Rises with each renewal.
    count: u64,
    released: bool,
}

/// Names a process so that another one on the same machine can look whether it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ProcessName {
    id: u32,
    /// When it began, by the clock of its boot: numbers are given again; 0: unknown.
    #[serde(default)]
    began: u64,
    /// This boot of this machine, and which processes can see each other on it; empty: unknown.
    machine: String,
}

impl ProcessName {
    fn own() -> Self {
        let read = |path| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let boot = read("/proc/sys/kernel/random/boot_id");
        let sees = std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default();
        let known = !boot.is_empty() && !sees.is_empty();
        let id = std::process::id();
        let machine = if known { format!("{boot} {sees}") } else { String::new() };
        Self { id, began: running_since(id).unwrap_or(0), machine }
    }

    /// Is it a process of this machine that has ended?
    fn has_ended(&self) -> bool {
        let own = Self::own();
        !self.machine.is_empty()
            && self.machine == own.machine
            && running_since(self.id).is_none_or(|began| self.began != 0 && self.began != began)
    }
}

/// When a process of this machine began; `None`: there is none of this number, or it has ended and nobody asked how.
fn running_since(id: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // behind the name, which is in parentheses and may hold anything: the state, and the 20th field from there
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    let began = fields.nth(18)?.parse().ok()?;
    (!ended).then_some(began)
}

/// A lease that is held; dropping it gives it back.
pub struct Held {
    stop: Option<Sender<()>>,
    renewing: Option<JoinHandle<()>>,
}

/// Does a run hold a country's lease, as far as one look can tell?
pub async fn is_held(work: &WorkStore, country: &str) -> Result<bool, WorkerError> {
    let folder = manifests::paths::leases(country);
    let Some(last) = work.list(&folder).await?.into_iter().next_back() else { return Ok(false) };
    let lease = work.get_hint::<Lease>(&format!("{folder}/{last}")).await?;
    Ok(lease.is_some_and(|lease| !lease.released && !lease.process.has_ended()))
}

/// What a lease that was found says.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Free,
    Held,
}

/// `since`: since when the count has been seen to stand still.
fn judge(lease: &Lease, since: Duration, seconds: Duration) -> Found {
    if lease.released || lease.process.has_ended() || since > seconds { Found::Free } else { Found::Held }
}

/// Takes the lease of a country, waiting while another run holds it. `seconds` without a renewal make it free; 0 asks
/// for none. `waits` is told by whom it is held, once. Returns whether it was waited for.
///
/// # Errors
/// [`WorkerError::Stopped`] while waiting; the store's.
pub async fn take(
    work: &WorkStore,
    country: &str,
    what: &str,
    seconds: u64,
    stop: &AtomicBool,
    mut waits: impl FnMut(&str),
) -> Result<(Held, bool), WorkerError> {
    let duration = Duration::from_secs(seconds);
    if duration.is_zero() {
        return Ok((Held { stop: None, renewing: None }, false));
    }
    let folder = manifests::paths::leases(country);
    let own = Lease {
        holder: format!("{} ({what})", name_of_process()),
        process: ProcessName::own(),
        count: 0,
        released: false,
    };
    let mut seen: Option<(u64, Lease, Instant)> = None;
    let mut told = false;
    loop {
        let names = work.list(&folder).await?;
        let last = names.iter().filter_map(|name| name.strip_suffix(".json")?.parse::<u32>().ok()).max().map(u64::from);
        let object = |number: u64| format!("{folder}/{number:08}.json");
        let found = match last {
            None => None,
            Some(number) => work.get_hint::<Lease>(&object(number)).await?.map(|lease| (number, lease)),
        };
        let free = match &found {
            // what cannot be read is as good as none
            None => true,
            Some((number, lease)) => {
                let since = match &seen {
                    Some((n, before, at)) if (n, before) == (number, lease) => at.elapsed(),
                    _ => {
                        seen = Some((*number, lease.clone(), Instant::now()));
                        Duration::ZERO
                    }
                };
                if !told && judge(lease, since, duration) == Found::Held {
                    told = true;
                    waits(&lease.holder);
                }
                judge(lease, since, duration) == Found::Free
            }
        };
        if free {
            let number = last.map_or(1, |number| number + 1);
            if work.put_json_if_absent(&object(number), &own).await? {
                for name in names.iter().filter(|name| **name != format!("{number:08}.json")) {
                    work.delete(&format!("{folder}/{name}")).await?;
                }
                return Ok((renew(work.clone(), object(number), own, duration), told));
            }
            continue;
        }
        if stop.load(Ordering::Relaxed) {
            return Err(WorkerError::Stopped);
        }
        tokio::time::sleep(duration.mul_f64(0.05).min(Duration::from_secs(1))).await;
    }
}

/// Renews a lease on a thread of its own: a long computation does not let it lapse.
fn renew(work: WorkStore, object: String, mut lease: Lease, duration: Duration) -> Held {
    let (stop, stopped) = channel();
    let runtime = tokio::runtime::Handle::current();
    let work = Arc::new(work);
    let renewing = std::thread::spawn(move || {
        while stopped.recv_timeout(duration / 4) == Err(RecvTimeoutError::Timeout) {
            lease.count += 1;
            if let Err(error) = runtime.block_on(work.put_json(&object, &lease)) {
                tracing::warn!(%error, "the lease of this build was not renewed");
            }
        }
        lease.released = true;
        if let Err(error) = runtime.block_on(work.put_json(&object, &lease)) {
            tracing::warn!(%error, "the lease of this build was not given back; it lapses");
        }
    });
    Held { stop: Some(stop), renewing: Some(renewing) }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.renewing.take() {
            // it writes one small object; on a runtime's thread, the others serve it meanwhile
            let wait = || _ = thread.join();
            match tokio::runtime::Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
                Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
                Ok(_) => {}
                Err(_) => wait(),
            }
        }
    }
}

/// How this process is called where another one reads of it.
pub(crate) fn name_of_process() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let host = host.trim();
    format!("process {} on {}", std::process::id(), if host.is_empty() { "another machine" } else { host })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(process: ProcessName) -> Lease {
        Lease { holder: "x".into(), process, count: 3, released: false }
    }

    #[test]
    fn a_lease_is_free_when_it_is_given_back_lapsed_or_its_holder_has_ended() {
        let (own, minute) = (ProcessName::own(), Duration::from_secs(60));
        assert_eq!(judge(&lease(own.clone()), Duration::ZERO, minute), Found::Held);
        assert_eq!(judge(&lease(own.clone()), minute * 2, minute), Found::Free);
        assert_eq!(judge(&Lease { released: true, ..lease(own.clone()) }, Duration::ZERO, minute), Found::Free);
        // process ids end far below this
        let ended = ProcessName { id: u32::MAX, ..own.clone() };
        assert_eq!(judge(&lease(ended.clone()), Duration::ZERO, minute), Found::Free);
        let elsewhere = ProcessName { machine: "another".into(), ..ended };
        assert_eq!(judge(&lease(elsewhere), Duration::ZERO, minute), Found::Held);
    }

    /// Its parent has not asked how it ended, or another process has its number: it holds nothing any more.
    #[test]
    fn a_holder_has_ended_also_where_its_number_is_still_there() {
        let own = ProcessName::own();
        assert!(own.began > 0 && !own.has_ended());
        assert!(ProcessName { began: own.began + 1, ..own.clone() }.has_ended());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let named = ProcessName { id: child.id(), began: 0, ..own };
        let waiting = Instant::now();
        while !named.has_ended() {
            assert!(waiting.elapsed() < Duration::from_secs(30), "it runs on");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(std::path::Path::new(&format!("/proc/{}", child.id())).exists(), "its number is still there");
        child.wait().unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_second_run_waits_and_is_told_for_whom() {
        let (work, go_on) = (WorkStore::in_memory(), AtomicBool::new(false));
        let first = take(&work, "x", "urbancross run", 60, &go_on, |_| panic!("nobody holds it")).await.unwrap().0;
        let mut told = String::new();
        let stopped = take(&work, "x", "run", 60, &AtomicBool::new(true), |by| told = by.to_owned()).await;
        assert!(matches!(stopped, Err(WorkerError::Stopped)));
        assert!(told.contains(&format!("process {}", std::process::id())) && told.contains("urbancross run"), "{told}");
        drop(first);
        let second = take(&work, "x", "run", 60, &go_on, |_| panic!("it was given back")).await.unwrap();
        drop(second);
        assert_eq!(work.list("leases/x").await.unwrap().len(), 1);
    }

    /// A holder that no longer renews, and whose end nobody can see, is passed after its time.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_lease_lapses() {
        let (work, go_on) = (WorkStore::in_memory(), AtomicBool::new(false));
        let gone = lease(ProcessName { id: 1, began: 0, machine: "another".into() });
        work.put_json("leases/x/00000004.json", &gone).await.unwrap();
        let (held, waited) = take(&work, "x", "run", 1, &go_on, |_| ()).await.unwrap();
        assert!(waited);
        drop(held);
        assert_eq!(work.list("leases/x").await.unwrap(), ["00000005.json"]);
    }
}
