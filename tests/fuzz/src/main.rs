//! Damages the corpora at random for some time; what does harm is kept in a file.
//!
//! usage: fuzz SECONDS [SEED] [TARGET...]      SECONDS for each target

use std::path::Path;
use std::time::{Duration, Instant};

use fuzz::{TARGETS, Target, Watching, mutated, watched};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[global_allocator]
static ALLOCATOR: Watching = Watching;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().ok_or("usage: fuzz SECONDS [SEED] [TARGET...]")?.parse()?;
    let seed: u64 = arguments.next().map_or(Ok(1), |seed| seed.parse())?;
    let named: Vec<String> = arguments.collect();
    if let Some(unknown) = named.iter().find(|name| Target::named(name).is_none()) {
        return Err(format!("no target is called {unknown:?}; there are {:?}", TARGETS.map(|t| t.name)).into());
    }
    let mut failed = false;
    for target in TARGETS.iter().filter(|target| named.is_empty() || named.iter().any(|name| name == target.name)) {
        failed |= !fuzz(target, Duration::from_secs(seconds), seed)?;
    }
    if failed { Err("something fell; keep the file with the corpus once it is mended".into()) } else { Ok(()) }
}

/// `false`: something fell.
fn fuzz(target: &Target, time: Duration, seed: u64) -> std::io::Result<bool> {
    let corpus = target.corpus()?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (began, mut runs) = (Instant::now(), 0u64);
    while began.elapsed() < time {
        let [one, other] = [0, 1].map(|_| rng.random_range(0..corpus.len()));
        let input = mutated(&corpus[one].1, &corpus[other].1, &mut rng);
        if let Err(what) = watched(target.read, &input) {
            let folder = Path::new("target/fuzz");
            std::fs::create_dir_all(folder)?;
            let file = folder.join(format!("{}-{seed}-{runs}", target.name));
            std::fs::write(&file, input)?;
            println!("{}: {what}\n  the input is in {}", target.name, file.display());
            return Ok(false);
        }
        runs += 1;
    }
    println!("{}: {runs} inputs in {:.0?}", target.name, began.elapsed());
    Ok(true)
}
