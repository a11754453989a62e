//! A breadth-first visit of every state that can be reached: what it finds first is a shortest way there.

use std::collections::{HashSet, VecDeque};
use std::fmt::{self, Display};
use std::hash::{BuildHasherDefault, Hasher};

use crate::world::{SHARDS, Step, Worker, World};
use crate::{Rules, Scenario, others, worker};

/// More steps than a worker alone can need.
const ALONE: usize = 100;

/// Most of the time goes into hashing, and nobody chooses these keys to do harm.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u8(byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(byte)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u8(number as u8);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u8(number as u8);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

type Worlds = HashSet<World, BuildHasherDefault<Quick>>;

pub struct Outcome {
    /// How many were seen.
    pub states: usize,
    pub violation: Option<Violation>,
}

/// What went wrong, and a shortest way to it.
pub struct Violation {
    pub what: &'static str,
    pub trace: Vec<String>,
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        write!(f, "  => {}", self.what)
    }
}

/// Visits all states of a scenario under these rules, or those up to the first that is wrong.
pub fn search(scenario: &Scenario, rules: &Rules) -> Outcome {
    let start = World::new(scenario);
    let mut seen = Worlds::from_iter([start.clone()]);
    let mut alone = Worlds::default();
    // of each state the one before it and which of that one's moves leads here
    let mut origins: Vec<(usize, usize)> = vec![(0, 0)];
    let mut queue = VecDeque::from([(0, start)]);
    while let Some((at, world)) = queue.pop_front() {
        let what = world.violation(scenario, rules).or_else(|| dead_end(&world, &mut alone, rules, scenario));
        if let Some(what) = what {
            let trace = trace(at, &origins, rules, scenario);
            return Outcome { states: seen.len(), violation: Some(Violation { what, trace }) };
        }
        for (nth, (.., next)) in moves(&world, rules, scenario).into_iter().enumerate() {
            if seen.insert(next.clone()) {
                queue.push_back((origins.len(), next));
                origins.push((at, nth));
            }
        }
    }
    Outcome { states: seen.len(), violation: None }
}

/// Whoever moves (a worker by its number), what it does, and how the world is then.
type Move = (Option<usize>, &'static str, World);

fn moves(world: &World, rules: &Rules, scenario: &Scenario) -> Vec<Move> {
    let by = |who: Option<usize>| move |(what, next): (&'static str, World)| (who, what, next.canonical());
    let mut found: Vec<Move> =
        (0..2).flat_map(|me| worker::moves(world, me, rules, scenario).into_iter().map(by(Some(me)))).collect();
    found.extend(others::moves(world, rules, scenario).into_iter().map(by(None)));
    found
}

/// Whether a new worker, with nobody else moving, fails to bring the tables to where they belong.
fn dead_end(world: &World, known: &mut Worlds, rules: &Rules, scenario: &Scenario) -> Option<&'static str> {
    let mut world = world.clone();
    world.workers = [Worker { runs: 1, ..Worker::default() }, Worker::default()];
    world.lost_answers = 0;
    let mut world = world.canonical();
    if !known.insert(world.clone()) {
        return None;
    }
    for _ in 0..ALONE {
        let Some((_, next)) = worker::moves(&world, 0, rules, scenario).into_iter().next() else { break };
        world = next;
        if world.workers[0].step == Step::Idle {
            break;
        }
    }
    if world.workers[0].step != Step::Idle {
        Some("a worker alone does not come to an end")
    } else if !world.is_right(scenario, rules) {
        Some("a worker alone does not bring the tables to where they belong")
    } else {
        None
    }
}

/// Tells the way to a state, from the start.
fn trace(mut at: usize, origins: &[(usize, usize)], rules: &Rules, scenario: &Scenario) -> Vec<String> {
    let mut turns = Vec::new();
    while at != 0 {
        turns.push(origins[at].1);
        at = origins[at].0;
    }
    let mut world = World::new(scenario);
    let mut lines = Vec::new();
    for &turn in turns.iter().rev() {
        let (who, what, next) = moves(&world, rules, scenario).swap_remove(turn);
        let what = who.map_or(what.to_owned(), |me| {
            format!("worker {} ({}) {what}", me + 1, ["A", "B"][world.workers[me].table])
        });
        world = next;
        lines.push(format!("{what:<58} {}", state(&world, scenario)));
    }
    lines
}

fn state(world: &World, scenario: &Scenario) -> String {
    let show = |live: [Option<u8>; SHARDS]| -> String {
        let one = |id: Option<u8>| match id.map(|id| world.part(id)) {
            None => " none".to_owned(),
            Some(part) => {
                format!(" {}{}{}", char::from(part.rows), part.source, if part.exists { "" } else { " (gone)" })
            }
        };
        live.into_iter().take(scenario.shards).map(one).collect()
    };
    let rows = scenario.rows(world.source).map(char::from);
    let rows: String = rows[..scenario.shards].iter().collect();
    format!("source {rows} A{} B{}", show(world.live[0]), show(world.live[1]))
}
