//! Many committers at once, and many commits: one table for all countries beside one for each, and how long a table with
//! a long history takes to open.
//!
//! usage: commit_rate [COMMITTERS] [COMMITS]

use std::sync::Arc;
use std::time::{Duration, Instant};

use manifests::commit::Replacement;
use manifests::{Artifact, PartFile, paths};
use object_store::DynObjectStore;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use workers::WorkerError;
use workers::stores::WorkStore;
use workers::tables::{Change, Tables};

const REQUEST: Duration = Duration::from_millis(30);

fn slow() -> Arc<DynObjectStore> {
    let config = ThrottleConfig {
        wait_delete_per_call: REQUEST,
        wait_get_per_call: REQUEST,
        wait_list_per_call: REQUEST,
        wait_list_with_delimiter_per_call: REQUEST,
        wait_put_per_call: REQUEST,
        ..ThrottleConfig::default()
    };
    Arc::new(ThrottledStore::new(InMemory::new(), config))
}

fn open(folder: &str, store: Arc<DynObjectStore>) -> Result<WorkStore, WorkerError> {
    Ok(WorkStore::open(folder, &Default::default())?.over(|_| store))
}

fn change(country: &str, shard: u32, generation: u64) -> Change {
    let part = |generation: u64| PartFile {
        shard,
        path: paths::part(country, shard, &format!("g{generation}")),
        size_bytes: 1,
        rows: 1,
    };
    let base = (generation > 0).then(|| part(generation - 1).path);
    Change {
        artifact: Artifact::Splits,
        country: country.to_owned(),
        replacements: vec![Replacement { base, part: part(generation) }],
    }
}

/// Each committer commits once; returns the time of the slowest.
async fn at_once(stores: Vec<WorkStore>) -> Result<(Duration, Duration), Box<dyn std::error::Error>> {
    let began = Instant::now();
    let commits = stores.iter().enumerate().map(|(i, store)| {
        let tables = Tables::new(store);
        tokio::spawn(async move {
            let began = Instant::now();
            let committed = tables.commit(change(&format!("country{i}"), 0, 0)).await;
            committed.map(|_| began.elapsed())
        })
    });
    let mut times = Vec::new();
    for commit in commits.collect::<Vec<_>>() {
        times.push(commit.await??);
    }
    times.sort();
    Ok((times[times.len() / 2], began.elapsed()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let committers = arguments.next().transpose()?.unwrap_or(64);
    let commits = arguments.next().transpose()?.unwrap_or(10_000) as u64;
    let folder = tempfile::tempdir()?;
    let address = folder.path().display().to_string();

    let shared = open(&address, slow())?;
    Tables::new(&shared).commit(change("first", 0, 0)).await?;
    let (middle, slowest) = at_once(vec![shared.clone(); committers]).await?;
    let countries = Tables::new(&shared).countries(Artifact::Splits).await?.len();
    assert_eq!(countries, committers + 1, "nothing is lost");
    println!("{committers} committers, {REQUEST:?} a request, one table: middle {middle:.1?}, all in {slowest:.1?}");
    let each: Vec<WorkStore> = (0..committers).map(|_| open(&address, slow())).collect::<Result<_, _>>()?;
    let (middle, slowest) = at_once(each).await?;
    println!("{committers} committers, {REQUEST:?} a request, a table each: middle {middle:.1?}, all in {slowest:.1?}");

    let long = open(&address, Arc::new(InMemory::new()))?;
    let tables = Tables::new(&long);
    let (began, mut next) = (Instant::now(), 10);
    for commit in 0..commits {
        let (shard, generation) = ((commit % 16) as u32, commit / 16);
        let committed = tables.commit(change("x", shard, generation)).await?;
        assert!(committed.overtaken.is_empty());
        if commit + 1 == next || commit + 1 == commits {
            let opened = Instant::now();
            let parts = Tables::new(&long).pin(Artifact::Splits, "x", None).await?.parts.len();
            println!("{:>6} commits: a fresh look takes {:.1?}, {parts} parts", commit + 1, opened.elapsed());
            next *= 10;
        }
    }
    println!("{:.1} commits/s", commits as f64 / began.elapsed().as_secs_f64());
    Ok(())
}
