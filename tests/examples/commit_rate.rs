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
    side_by_side(&address, committers, commits).await
}

/// Many committers, each with a country of its own, that commit to one table without a pause: nothing is lost or doubled.
async fn side_by_side(address: &str, committers: usize, commits: u64) -> Result<(), Box<dyn std::error::Error>> {
    let store = open(address, Arc::new(InMemory::new()))?;
    let (began, each) = (Instant::now(), commits.div_ceil(committers as u64));
    let tasks = (0..committers).map(|i| {
        let tables = Tables::new(&store);
        tokio::spawn(async move {
            let (mut generation, mut given_up) = (0, 0);
            while generation < each {
                match tables.commit(change(&format!("country{i}"), 0, generation)).await {
                    Ok(committed) => assert!(committed.overtaken.is_empty(), "nobody else has country{i}"),
                    // overtaken all the time until the deadline: a run ends with 75, and is started again
                    Err(WorkerError::Transient(_)) => {
                        given_up += 1;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
                generation += 1;
            }
            Ok::<_, WorkerError>(given_up)
        })
    });
    let mut given_up = 0;
    for task in tasks.collect::<Vec<_>>() {
        given_up += task.await??;
    }
    let (took, opened) = (began.elapsed(), Instant::now());
    let tables = Tables::new(&store);
    for i in 0..committers {
        let pinned = tables.pin(Artifact::Splits, &format!("country{i}"), None).await?;
        assert_eq!(pinned.parts, [change(&format!("country{i}"), 0, each - 1).replacements[0].part.clone()]);
        // each commit made one version, after that of the table itself
        assert_eq!(pinned.version, Some(each * committers as u64));
    }
    println!(
        "{committers} committers side by side, {} commits in {took:.0?}: none lost, none doubled, {given_up} given up at the \
         deadline and made again; a fresh look at all \
         {committers} countries takes {:.1?}",
        each * committers as u64,
        opened.elapsed()
    );
    Ok(())
}
