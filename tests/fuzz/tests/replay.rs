//! The corpora through every reader, as they are and with a little damage.

use fuzz::{TARGETS, Watching, mutated, watched};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// Damaged inputs for each target: few, for the gate.
const DAMAGED: usize = 150;

/// One test: the watch is on the whole process.
#[test]
fn every_reader_survives_its_corpus_and_damage_to_it() {
    let mut failures = Vec::new();
    for target in &TARGETS {
        let corpus = target.corpus().unwrap();
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        for (path, bytes) in &corpus {
            failures.extend(watched(target.read, bytes).err().map(|what| format!("{}: {what}", path.display())));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(24);
        for run in 0..DAMAGED {
            let [one, other] = [0, 1].map(|_| rng.random_range(0..corpus.len()));
            let input = mutated(&corpus[one].1, &corpus[other].1, &mut rng);
            failures.extend(watched(target.read, &input).err().map(|what| format!("{} {run}: {what}", target.name)));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
