//! The ranks of a training: this process among those that a launcher has started.

use std::time::Duration;

use manifests::BuildSpec;
use manifests::spec::Backend;
pub use ranks::SECRET;
use ranks::{RankInfo, RanksError};
use training::communicator::{Communicator, Solo};

use crate::error::WorkerError;
use crate::rendezvous_store::RendezvousInStore;
use crate::stores::WorkStore;

/// Name of an attempt: ranks that have it meet in the work store, and need no address of rank 0.
pub const RENDEZVOUS: &str = "URBANCROSS_RENDEZVOUS";

/// Names under which ranks that are all there may not reach each other, before it is no matter of one that has ended.
const MOST_UNREACHABLE: u32 = 3;
/// Times that one rank of an attempt may come back.
const MOST_TRIES: u32 = 1000;

/// This process's place, if a launcher has started it as one of several ranks.
///
/// # Errors
/// Variables that contradict each other.
pub fn rank_info() -> Result<Option<RankInfo>, WorkerError> {
    place_of(&|name| std::env::var(name).ok())
}

fn place_of(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<RankInfo>, WorkerError> {
    let place = match variable(RENDEZVOUS) {
        Some(_) => RankInfo::without_master(variable),
        None => RankInfo::from_environment(variable),
    };
    let place = place.map_err(configuration)?;
    Ok(place.filter(|place| place.world_size > 1))
}

/// The spec as this rank runs it: on a node with several GPUs, a rank has the one of its local number.
///
/// # Errors
/// No GPU of that number is visible.
pub fn for_rank(mut spec: BuildSpec, place: Option<&RankInfo>) -> Result<BuildSpec, WorkerError> {
    if let Some(place) = place
        && spec.model.device.starts_with("cuda")
    {
        let gpu = stages::device::visible_gpus().and_then(|visible| gpu_of(place.local_rank, visible));
        let gpu = gpu.map_err(|why| WorkerError::Configuration(format!("rank {}: {why}", place.rank)))?;
        spec.model.device = format!("cuda:{gpu}");
    }
    Ok(spec)
}

/// Which of the visible GPUs a rank takes: a launcher either shows each rank its own, or all of them all ranks.
fn gpu_of(local_rank: Option<usize>, visible: usize) -> Result<usize, String> {
    match (visible, local_rank) {
        (0, _) => Err("this machine shows no GPU; see `nvidia-smi` and CUDA_VISIBLE_DEVICES".to_owned()),
        (1, _) => Ok(0),
        (_, Some(local_rank)) if local_rank < visible => Ok(local_rank),
        (_, None) => Err(format!(
            "{visible} GPUs are visible and no LOCAL_RANK says which is this rank's: let the launcher set it, or show each \
             rank its own by CUDA_VISIBLE_DEVICES"
        )),
        (_, Some(local_rank)) => Err(format!(
            "local rank {local_rank} has no GPU, {visible} are visible: start as many ranks on a machine as it has GPUs"
        )),
    }
}

/// Divides this machine's cores among its ranks, unless somebody has said how many threads there are to be. Call it before
/// anything is computed.
pub fn share_cores(place: Option<&RankInfo>) {
    let Some(place) = place else { return };
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // an error would be that the threads are there already
        _ = rayon::ThreadPoolBuilder::new().num_threads(place.sharing.threads(cores)).build_global();
    }
}

/// Whether this program has what a spec wants to carry tensors by.
///
/// # Errors
/// NCCL, where the program has none.
pub fn check_program(spec: &BuildSpec) -> Result<(), WorkerError> {
    if spec.ranks.backend == Backend::Nccl && !cfg!(feature = "nccl") {
        return Err(WorkerError::Configuration(
            "ranks.backend = \"nccl\": this binary has no NCCL; build one with --features cuda,nccl, or set \
             ranks.backend = \"auto\""
                .into(),
        ));
    }
    Ok(())
}

/// Meets the other ranks, at rank 0 or in the work store; alone where there are none. Blocks until all are there: call
/// it from where the runtime lets a thread wait.
///
/// # Errors
/// Ranks that did not come, by number.
pub fn meet(
    spec: &BuildSpec,
    place: Option<&RankInfo>,
    work: &WorkStore,
) -> Result<Box<dyn Communicator>, WorkerError> {
    meet_as(spec, place, work, std::env::var(RENDEZVOUS).ok().as_deref())
}

fn meet_as(
    spec: &BuildSpec,
    place: Option<&RankInfo>,
    work: &WorkStore,
    attempt: Option<&str>,
) -> Result<Box<dyn Communicator>, WorkerError> {
    let Some(place) = place else { return Ok(Box::new(Solo)) };
    let backend = match spec.ranks.backend {
        Backend::Auto => ranks::Backend::Auto,
        Backend::Tcp => ranks::Backend::Tcp,
        Backend::Nccl => ranks::Backend::Nccl,
    };
    let device = stages::device::device("train", spec)?;
    let time_out = Duration::from_secs(spec.ranks.timeout_seconds);
    let met = match attempt {
        None => ranks::open(place, backend, &device, time_out),
        Some(attempt) => {
            let board = RendezvousInStore::new(work.clone(), tokio::runtime::Handle::current());
            let ip = ranks::announced_address(std::env::var(ranks::ADDRESS).ok().as_deref()).map_err(configuration)?;
            let rank = (place.rank, place.world_size);
            let meet = |key: &str, have_gone_on: &dyn Fn() -> Result<bool, RanksError>| {
                ranks::meet_in_store_unless(&board, key, rank, ip, time_out, time_out, have_gone_on)
            };
            let is_begun = |key: &str| {
                let listed = tokio::runtime::Handle::current().block_on(work.list(key));
                let fault =
                    |cause: WorkerError| RanksError::RendezvousStore { key: key.to_owned(), cause: cause.into() };
                listed.map(|ranks| !ranks.is_empty()).map_err(fault)
            };
            first_free_try(attempt, is_begun, meet).and_then(|mesh| ranks::over(mesh, backend, &device))
        }
    };
    met.map_err(|error| match error {
        // others may come yet, and an engine starts this rank again
        RanksError::Collective(_)
        | RanksError::Rendezvous(_)
        | RanksError::Unreachable(_)
        | RanksError::RendezvousStore { .. } => WorkerError::Transient(error.to_string()),
        _ => configuration(error),
    })
}

/// The name under which ranks of an attempt meet for the how manieth time.
fn name_of(attempt: &str, number: u32) -> String {
    format!("ranks/{}", manifests::digest::of_bytes(format!("{attempt} {number}").as_bytes()))
}

/// Meets under the newest name of an attempt that any rank has begun with, or the next one, where this rank has used
/// that or somebody who was there has ended. An engine that starts single ranks again gives them the same attempt; those
/// that were not started again lose their peers and follow, and one that comes late does not wait for ranks that have
/// gone on. Nor does one that came before them: `meet` gives a name up, as one that is taken, when its second argument
/// says that the next one is begun.
fn first_free_try<T>(
    attempt: &str,
    is_begun: impl Fn(&str) -> Result<bool, RanksError>,
    meet: impl Fn(&str, &dyn Fn() -> Result<bool, RanksError>) -> Result<T, RanksError>,
) -> Result<T, RanksError> {
    let mut number = 0;
    while number < MOST_TRIES && is_begun(&name_of(attempt, number + 1))? {
        number += 1;
    }
    let mut unreachable = 0;
    loop {
        let next = name_of(attempt, number + 1);
        let met = meet(&name_of(attempt, number), &|| is_begun(&next));
        match met {
            Err(RanksError::Taken(_)) if number < MOST_TRIES => number += 1,
            // whoever has ended is not there the next time; where nobody is, the network is wrong
            Err(RanksError::Unreachable(why)) if unreachable < MOST_UNREACHABLE => {
                tracing::warn!("{why}; meeting under another name");
                (number, unreachable) = (number + 1, unreachable + 1);
            }
            met => return met,
        }
    }
}

/// A new secret for ranks that this program starts.
///
/// # Errors
/// The operating system has no random numbers.
pub fn new_secret() -> Result<String, WorkerError> {
    ranks::new_secret().map_err(configuration)
}

/// Whether this program has NCCL, in words.
pub fn nccl() -> String {
    #[cfg(feature = "nccl")]
    return match ranks::nccl::library_problem() {
        None => "NCCL can be loaded".to_owned(),
        Some(problem) => format!("NCCL cannot be used: {problem}"),
    };
    #[cfg(not(feature = "nccl"))]
    "tensors travel over TCP (NCCL: build with --features cuda,nccl)".to_owned()
}

fn configuration(error: RanksError) -> WorkerError {
    WorkerError::Configuration(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use manifests::spec::StoreOptions;
    use ranks::RendezvousStore;

    fn variables(rank: usize, attempt: &'static str) -> impl Fn(&str) -> Option<String> {
        move |name| match name {
            "RANK" => Some(rank.to_string()),
            "WORLD_SIZE" => Some("2".into()),
            RENDEZVOUS if !attempt.is_empty() => Some(attempt.into()),
            _ => None,
        }
    }

    #[test]
    fn a_rank_takes_what_is_visible() {
        // Slurm shows each task its own, torchrun all of them all
        assert_eq!([gpu_of(Some(3), 1), gpu_of(Some(3), 4), gpu_of(None, 1)], [Ok(0), Ok(3), Ok(0)]);
        assert!(gpu_of(None, 2).unwrap_err().contains("LOCAL_RANK"));
        assert!(gpu_of(Some(0), 0).unwrap_err().contains("no GPU"));
        assert!(gpu_of(Some(4), 2).unwrap_err().contains("local rank 4"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn ranks_without_a_master_meet_in_the_work_store() {
        let error = place_of(&variables(0, "")).unwrap_err().to_string();
        assert!(error.contains("MASTER_ADDR"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(&folder.path().display().to_string(), &StoreOptions::default()).unwrap();
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n[ranks]\ntimeout_seconds = 60\n";
        let spec = BuildSpec::parse(text, "t", &[]).unwrap();
        let ranks = [0, 1].map(|rank| {
            let (work, spec) = (work.clone(), spec.clone());
            tokio::task::spawn_blocking(move || {
                let place = place_of(&variables(rank, "first try")).unwrap();
                let mut ranks = meet_as(&spec, place.as_ref(), &work, Some("first try")).unwrap();
                ranks.barrier().unwrap();
                (ranks.rank(), ranks.world_size())
            })
        });
        for (number, rank) in ranks.into_iter().enumerate() {
            assert_eq!(rank.await.unwrap(), (number, 2));
        }
    }

    #[test]
    fn a_rank_that_comes_back_takes_the_next_free_name_and_the_others_follow() {
        let used = std::cell::RefCell::new(std::collections::BTreeSet::new());
        let is_begun = |key: &str| Ok(used.borrow().iter().any(|(begun, _)| begun == key));
        let meet_but = |rank: usize, gone: &str| {
            let key = first_free_try("run-pretrain-1", is_begun, |key, _| {
                match used.borrow_mut().insert((key.to_owned(), rank)) {
                    true if key == gone => Err(RanksError::Unreachable("gone".into())),
                    true => Ok(key.to_owned()),
                    false => Err(RanksError::Taken("taken".into())),
                }
            });
            key.unwrap()
        };
        let meet = |rank: usize| meet_but(rank, "");
        assert_eq!(meet(0), meet(1));
        // rank 0 was started twice before rank 1 noticed: it is where rank 0 is now
        let (second, third) = (meet(0), meet(0));
        assert!(second != third && meet(1) == third);
        // rank 0 has ended before rank 1 came, and both go on to the next
        let fourth = meet(0);
        let fifth = meet_but(1, &fourth);
        assert!(fifth != fourth && meet(0) == fifth);
        let tries = std::cell::Cell::new(0);
        let blocked = |_: &str, _: &dyn Fn() -> Result<bool, RanksError>| {
            tries.set(tries.get() + 1);
            Err::<(), _>(RanksError::Unreachable("blocked".into()))
        };
        assert!(matches!(first_free_try("x", |_| Ok(false), blocked), Err(RanksError::Unreachable(_))));
        assert_eq!(tries.get(), 1 + MOST_UNREACHABLE);
        let never =
            |_: &str, _: &dyn Fn() -> Result<bool, RanksError>| Err::<(), _>(RanksError::Taken("always".into()));
        assert!(first_free_try("x", |_| Ok(false), never).is_err());
    }

    #[test]
    fn a_rank_that_waits_follows_those_that_have_gone_on() {
        let (board, loopback) = (ranks::MemoryBoard::default(), std::net::Ipv4Addr::LOCALHOST.into());
        let is_there = |key: &str, rank: usize| board.get(&format!("{key}/rank-{rank}")).unwrap().is_some();
        let is_begun = |key: &str| Ok((0..3).any(|rank| is_there(key, rank)));
        let meet = |rank: usize, wait: Duration| {
            first_free_try("run", is_begun, |key, have_gone_on| {
                let place = (rank, 3);
                let mesh = ranks::meet_in_store_unless(&board, key, place, loopback, wait, wait, have_gone_on);
                mesh.map(|mesh| (key.to_owned(), mesh))
            })
        };
        let until_there = |number: u32, rank: usize| {
            while !is_there(&name_of("run", number), rank) {
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        // rank 0 begins, and ends before the others are there
        assert!(meet(0, Duration::from_millis(100)).is_err());
        let (began, minute) = (std::time::Instant::now(), Duration::from_secs(60));
        std::thread::scope(|scope| {
            let rank_1 = scope.spawn(|| meet(1, minute));
            until_there(0, 1);
            // it is started again, and the last one comes later
            let rank_0 = scope.spawn(|| meet(0, minute));
            until_there(1, 0);
            let rank_2 = scope.spawn(|| meet(2, minute));
            let met = [rank_0, rank_1, rank_2].map(|rank| rank.join().unwrap().unwrap());
            assert!(met.iter().all(|(key, _)| *key == name_of("run", 1)));
        });
        assert!(began.elapsed() < minute / 2, "{:?}", began.elapsed());
    }

    #[test]
    fn ranks_that_do_not_come_may_come_later() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let work = WorkStore::open(&folder.path().display().to_string(), &StoreOptions::default()).unwrap();
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n[ranks]\ntimeout_seconds = 1\n";
        let spec = BuildSpec::parse(text, "t", &[]).unwrap();
        let place = place_of(&variables(0, "alone")).unwrap();
        let error = meet_as(&spec, place.as_ref(), &work, Some("alone")).err().unwrap();
        assert!(error.exit_code() == 75 && error.to_string().contains("rank 1"), "{error}");
    }
}
