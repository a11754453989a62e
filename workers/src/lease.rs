//! Leases: which run is at work on a country. A courtesy between runs; correctness never rests on them.
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
use crate::process::{ProcessName, Seen, name_of_process};
use crate::stores::WorkStore;

/// More leases than a country ever has: a greater number is somebody else's object.
const MOST_NUMBERS: u64 = 99_999_990;

/// What a holder writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    /// Process, host and what it does, for people.
    holder: String,
    process: ProcessName,
    /// Rises with each renewal.
    count: u64,
    released: bool,
    /// Without a renewal for so long it is free. Leases of earlier programs do not say.
    #[serde(default = "an_hour")]
    seconds: u64,
}

fn an_hour() -> u64 {
    3600
}

impl Lease {
    fn in_words(&self, found: Found) -> String {
        match found {
            Found::Stopped => format!(
                "{}, which runs a build of this country and is stopped: `kill -CONT {}` wakes it, and if it is not \
                 woken this run goes on in {} s",
                self.holder,
                self.process.id,
                MOMENT.as_secs()
            ),
            Found::Free | Found::Held => format!("{}, which runs a build of this country", self.holder),
        }
    }
}

/// A lease that is held; dropping it gives it back.
pub struct Held {
    stop: Option<Sender<()>>,
    renewing: Option<JoinHandle<()>>,
}

/// A holder that nobody can see and that has not renewed its lease for so many times its seconds has ended, as with the
/// power of its machine. Whoever looks once has only a clock to tell, so there is ample room.
const LAPSES: u64 = 4;
/// No lease lapses sooner for who looks once: a store may fail for a while, and clocks differ.
const SOONEST: Duration = Duration::from_secs(600);

/// Does a run hold a country's lease, as far as one look can tell? `now_millis` is by the store's clock, or one much
/// like it.
///
/// # Errors
/// A store that does not answer.
pub async fn is_held(work: &WorkStore, country: &str, now_millis: i64) -> Result<bool, WorkerError> {
    let folder = manifests::paths::leases(country);
    let Some((last, meta)) = work.list_metas(&folder).await?.into_iter().next_back() else { return Ok(false) };
    let Some(lease) = work.get_hint::<Lease>(&format!("{folder}/{last}")).await? else { return Ok(false) };
    let silent_millis = now_millis.saturating_sub(meta.last_modified.timestamp_millis());
    let lapsed = Duration::from_secs(lease.seconds.saturating_mul(LAPSES)).max(SOONEST);
    Ok(!lease.released
        && match lease.process.seen() {
            Seen::Ended => false,
            Seen::Runs | Seen::Stopped => true,
            Seen::Nothing => i128::from(silent_millis) < lapsed.as_millis() as i128,
        })
}

/// What a lease that was found says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Free,
    Held,
    /// By a process of this machine that is stopped.
    Stopped,
}

/// A stopped process may be woken at once, as whoever moves it into the background does. Longer nobody waits for one: it
/// renews nothing, and nothing rests on its lease.
pub(crate) const MOMENT: Duration = Duration::from_secs(5);

/// `since`: since when the count has been seen to stand still.
fn judge(lease: &Lease, since: Duration, seconds: Duration) -> Found {
    match lease.process.seen() {
        _ if lease.released || since > seconds => Found::Free,
        Seen::Ended => Found::Free,
        Seen::Stopped if since > MOMENT => Found::Free,
        Seen::Stopped => Found::Stopped,
        Seen::Runs | Seen::Nothing => Found::Held,
    }
}

/// Takes the lease of a country, waiting while another run holds it. `seconds` without a renewal make it free; 0 asks
/// for none. `waits` is told for whom, and again when that is stopped or woken. Returns whether it was waited for.
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
        seconds,
    };
    let mut seen: Option<((u64, Lease, Seen), Instant)> = None;
    let mut told = None;
    loop {
        let names = work.list(&folder).await?;
        let last = names.iter().filter_map(|name| name.strip_suffix(".json")?.parse::<u64>().ok()).max();
        let object = |number: u64| format!("{folder}/{number:08}.json");
        if let Some(number) = last.filter(|number| *number > MOST_NUMBERS) {
            return Err(WorkerError::Configuration(format!(
                "{}{}: no run has come to a lease of this number; remove the object",
                work.url(),
                object(number)
            )));
        }
        let found = match last {
            None => None,
            Some(number) => work.get_hint::<Lease>(&object(number)).await?.map(|lease| (number, lease)),
        };
        let free = match &found {
            // what cannot be read is as good as none
            None => true,
            Some((number, lease)) => {
                let now = (*number, lease.clone(), lease.process.seen());
                let since = match &seen {
                    Some((before, at)) if *before == now => at.elapsed(),
                    _ => {
                        seen = Some((now, Instant::now()));
                        Duration::ZERO
                    }
                };
                let found = judge(lease, since, duration);
                if found != Found::Free && told != Some(found) {
                    told = Some(found);
                    waits(&lease.in_words(found));
                }
                found == Found::Free
            }
        };
        if free {
            let number = last.map_or(1, |number| number + 1);
            if work.put_json_if_absent(&object(number), &own).await? {
                for name in names.iter().filter(|name| **name != format!("{number:08}.json")) {
                    work.delete(&format!("{folder}/{name}")).await?;
                }
                return Ok((renew(work.clone(), object(number), own, duration), told.is_some()));
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
            // it writes one small object
            crate::process::join(thread);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(process: ProcessName) -> Lease {
        Lease { holder: "x".into(), process, count: 3, released: false, seconds: 60 }
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

    #[tokio::test(flavor = "multi_thread")]
    async fn a_second_run_waits_and_is_told_for_whom() {
        let (work, go_on) = (WorkStore::in_memory(), AtomicBool::new(false));
        let first = take(&work, "x", "urbancross run", 60, &go_on, |_| panic!("nobody holds it")).await.unwrap().0;
        let mut told = String::new();
        let stopped = take(&work, "x", "run", 60, &AtomicBool::new(true), |by| told = by.to_owned()).await;
        assert!(matches!(stopped, Err(WorkerError::Stopped)));
        assert!(told.contains(&format!("process {}", std::process::id())) && told.contains("urbancross run"), "{told}");
        // who does not want to wait asks for no lease
        let (_, waited) = take(&work, "x", "run", 0, &go_on, |_| panic!("it does not wait")).await.unwrap();
        assert!(!waited);
        drop(first);
        let second = take(&work, "x", "run", 60, &go_on, |_| panic!("it was given back")).await.unwrap();
        drop(second);
        assert_eq!(work.list("leases/x").await.unwrap().len(), 1);
    }

    /// A machine that lost its power gives nothing back, and after it has booted nobody sees the process.
    #[tokio::test]
    async fn a_lease_that_nobody_renews_is_not_held_for_ever() {
        let (work, hour) = (WorkStore::in_memory(), 3_600_000);
        let gone = lease(ProcessName { id: 1, began: 0, machine: "another".into() });
        let own = Lease { process: ProcessName::own(), ..gone.clone() };
        work.put_json("leases/x/00000004.json", &gone).await.unwrap();
        let now = work.now_millis().await.unwrap();
        assert!(is_held(&work, "x", now).await.unwrap());
        assert!(!is_held(&work, "x", now + hour).await.unwrap());
        // one that somebody asked to last
        work.put_json("leases/x/00000004.json", &Lease { seconds: 7200, ..gone }).await.unwrap();
        assert!(is_held(&work, "x", now + hour).await.unwrap());
        work.put_json("leases/x/00000004.json", &own).await.unwrap();
        assert!(is_held(&work, "x", now + hour).await.unwrap(), "it is seen to run");
        // one of an earlier program
        let earlier = json!({ "holder": "x", "process": { "id": 1, "machine": "a" }, "count": 3, "released": false });
        work.put_json("leases/x/00000004.json", &earlier).await.unwrap();
        assert!(is_held(&work, "x", now + hour).await.unwrap());
        assert!(!is_held(&work, "x", now + 5 * hour).await.unwrap());
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
        // a number behind which there is none
        work.put_json("leases/x/4294967295.json", &gone).await.unwrap();
        let refused = take(&work, "x", "run", 1, &go_on, |_| ()).await.err().unwrap();
        assert!(refused.exit_code() == 65 && refused.to_string().contains("4294967295.json"), "{refused}");
    }
}
