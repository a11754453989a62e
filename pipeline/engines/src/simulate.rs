//! How long a stage takes on a cluster: a simulation of workers that share a plan, event by event.
//!
//! A worker takes its home shards, largest first, and then those that nobody works on; it holds leases, loads its network
//! once in a life, and loses what it had under way when its node fails, but for what it had put aside. The rules are those
//! of real workers (`workers::pull`), with one simplification: a failed node is back after one fixed delay. Everything is a function of the numbers given and of a seed.

mod events;
mod random;
mod worker;

use manifests::attempts::MOST_ATTEMPTS;
use serde::Serialize;

use events::Events;
use random::Random;
use worker::{Held, SLOTS, Worker};

/// Fewest shards of others that are tried after one look.
const STOLEN_PER_LOOK: usize = 4;
/// Longest and shortest pause between two looks at shards that others work on, where a look takes no time.
const LONGEST_WAIT: f64 = 2.0;
const SHORTEST_WAIT: f64 = 0.2;
/// A look takes at most one of so many parts of an idle worker, as far as that goes within so many seconds.
const LOOKS_SHARE: usize = 10;
const LONGEST_APART: f64 = 30.0;
/// Beats of a lease.
const BEATS: f64 = 4.0;
/// After so long a worker puts aside what it has made of a shard, for whoever goes on: before its next chunk.
const PUT_ASIDE: f64 = 600.0;
/// Rows of a chunk.
const CHUNK_ROWS: u64 = 128;

/// Workers, with one device each, and how many of them a failing node takes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// All of them.
    pub workers: usize,
    /// Those of one node.
    pub per_node: usize,
}

/// A shard of the plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shard {
    /// By which workers order shards: they know no durations.
    pub rows: u64,
    /// What it takes a device.
    pub seconds: f64,
}

/// What things take, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Times {
    /// From a worker's start to its first claim.
    pub load: f64,
    /// One claim, won or lost.
    pub claim: f64,
    /// One look at all attempts.
    pub look: f64,
    /// How long a silent worker keeps its shards.
    pub lease: f64,
    /// Mean time between failures of one node; infinite where none fails.
    pub node_mtbf: f64,
    /// From a node's failure to the start of its workers elsewhere.
    pub requeue: f64,
}

/// How shards come to workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// Each worker does its own; nobody takes those of others.
    Static,
    /// Who has done its own takes those of others.
    Stealing,
}

/// What came out.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// From the first start until all shards are closed.
    pub seconds: f64,
    /// How often each shard was finished: once, or never where it is closed as failed.
    #[serde(skip)]
    pub finishes: Vec<u32>,
    /// Shards that were lost with their workers too often.
    pub failed: usize,
    /// Nodes that failed.
    pub node_failures: usize,
    /// Claims of workers on their own shards.
    pub home_claims: u64,
    /// Claims on those of others.
    pub stolen_claims: u64,
    /// Claims that came too late.
    pub lost_claims: u64,
    /// Looks at all attempts.
    pub looks: u64,
    /// What all devices computed.
    pub busy_seconds: f64,
    /// What of it was lost with its workers.
    pub lost_seconds: f64,
}

/// Shards of equal rows whose durations differ: lognormal with deviation `spread` of the logarithm, and `total_seconds`
/// together.
pub fn shards(count: usize, rows: u64, total_seconds: f64, spread: f64, seed: u64) -> Vec<Shard> {
    let mut random = Random::new(seed, u64::MAX);
    let drawn: Vec<f64> = (0..count).map(|_| (spread * random.normal()).exp()).collect();
    let scale = total_seconds / drawn.iter().sum::<f64>();
    let of_each = rows.div_ceil(count.max(1) as u64);
    drawn.into_iter().map(|seconds| Shard { rows: of_each, seconds: seconds * scale }).collect()
}

/// Simulates a stage from the start of its workers until each shard is closed.
pub fn simulate(shards: &[Shard], cluster: Cluster, times: &Times, sharing: Sharing, seed: u64) -> Outcome {
    World::new(shards, cluster, times, sharing, seed).run()
}

/// Simulates a stage whose nodes fail when they are told to, and never else: seconds, and the number of the node.
pub fn replay(
    shards: &[Shard],
    cluster: Cluster,
    times: &Times,
    sharing: Sharing,
    failures: &[(f64, usize)],
) -> Outcome {
    let times = Times { node_mtbf: f64::INFINITY, ..*times };
    let mut world = World::new(shards, cluster, &times, sharing, 0);
    for (at, node) in failures.iter().filter(|(_, node)| *node < world.fates.len()) {
        world.events.add(*at, Event::NodeFails(*node));
    }
    world.run()
}

#[derive(Debug)]
enum Event {
    NodeFails(usize),
    /// The network of a worker is loaded.
    Starts(usize, u32),
    Looked(usize, u32, usize),
    Claimed(usize, u32, usize, usize),
    /// The next of a worker's shards is done, if none came or went meanwhile.
    Finishes(usize, u32, u32),
    /// The lease of a shard's lost owner is over.
    Opens(usize),
    /// An idle worker looks again.
    Wakes(usize, u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Open,
    Held,
    Closed,
}

struct World<'a> {
    shards: &'a [Shard],
    cluster: Cluster,
    times: &'a Times,
    sharing: Sharing,
    now: f64,
    events: Events<Event>,
    workers: Vec<Worker>,
    turns: Vec<Turn>,
    lost_attempts: Vec<usize>,
    /// Seconds that each shard still takes whoever begins with it.
    left: Vec<f64>,
    /// Shards in the order in which workers want them; some of them are closed.
    largest_first: Vec<usize>,
    /// Those of each worker, in the same order.
    homes: Vec<Vec<usize>>,
    /// Shards that are not closed.
    open: usize,
    /// Failures of each node, whoever works on what.
    fates: Vec<Random>,
    pauses: Random,
    outcome: Outcome,
}

impl<'a> World<'a> {
    fn new(shards: &'a [Shard], cluster: Cluster, times: &'a Times, sharing: Sharing, seed: u64) -> Self {
        let cluster = Cluster { workers: cluster.workers.max(1), per_node: cluster.per_node.max(1) };
        let nodes = cluster.workers.div_ceil(cluster.per_node);
        let mut largest_first: Vec<usize> = (0..shards.len()).collect();
        largest_first.sort_by_key(|&shard| (std::cmp::Reverse(shards[shard].rows), shard));
        let mut homes = vec![Vec::new(); cluster.workers];
        largest_first.iter().for_each(|&shard| homes[shard % cluster.workers].push(shard));
        let mut world = Self {
            shards,
            cluster,
            times,
            sharing,
            now: 0.0,
            events: Events::new(),
            workers: (0..cluster.workers).map(|_| Worker::default()).collect(),
            turns: vec![Turn::Open; shards.len()],
            lost_attempts: vec![0; shards.len()],
            left: shards.iter().map(|shard| shard.seconds).collect(),
            largest_first,
            homes,
            open: shards.len(),
            fates: (0..nodes).map(|node| Random::new(seed, node as u64)).collect(),
            pauses: Random::new(seed, u64::MAX - 1),
            outcome: Outcome { finishes: vec![0; shards.len()], ..Outcome::default() },
        };
        (0..nodes).for_each(|node| world.draw_failure(node, 0.0));
        (0..cluster.workers).for_each(|worker| world.events.add(times.load, Event::Starts(worker, 0)));
        world
    }

    fn run(mut self) -> Outcome {
        while self.open > 0 {
            let Some((now, event)) = self.events.next() else { break };
            self.now = now;
            self.happen(event);
        }
        self.outcome.seconds = self.now;
        self.outcome.busy_seconds = self.workers.iter().map(|worker| worker.busy).sum();
        self.outcome
    }

    fn draw_failure(&mut self, node: usize, from: f64) {
        if self.times.node_mtbf.is_finite() {
            let at = from + self.fates[node].exponential(self.times.node_mtbf);
            self.events.add(at, Event::NodeFails(node));
        }
    }

    fn is_home(&self, worker: usize, shard: usize) -> bool {
        shard % self.cluster.workers == worker
    }

    fn happen(&mut self, event: Event) {
        let is_past = |worker: &usize, life: &u32| self.workers[*worker].life != *life;
        match &event {
            Event::Starts(worker, life)
            | Event::Looked(worker, life, _)
            | Event::Claimed(worker, life, ..)
            | Event::Finishes(worker, life, _)
            | Event::Wakes(worker, life)
                if is_past(worker, life) => {}
            Event::NodeFails(node) => self.fail_node(*node),
            Event::Starts(worker, _) => {
                self.workers[*worker].began = self.now;
                self.workers[*worker].takers = (0..SLOTS).collect();
                self.take(*worker);
            }
            Event::Looked(worker, _, slot) => self.looked(*worker, *slot),
            Event::Claimed(worker, _, slot, shard) => self.claimed(*worker, *slot, *shard),
            Event::Finishes(worker, _, turn) if self.workers[*worker].turn == *turn => self.finish(*worker),
            Event::Finishes(..) => {}
            Event::Opens(shard) => self.open_again(*shard),
            Event::Wakes(worker, _) => {
                self.workers[*worker].takers.push_back(0);
                self.take(*worker);
            }
        }
    }

    /// Lets the next slot of a worker take a shard, unless one is about to.
    fn take(&mut self, worker: usize) {
        while !self.workers[worker].taking {
            let of = &mut self.workers[worker];
            let Some(slot) = of.takers.pop_front() else { return };
            // only the first slot goes on when there are few shards left: the others read ahead
            if slot == 0 || of.queue.len() >= SLOTS {
                of.taking = true;
                self.claim_or_look(worker, slot);
            }
        }
    }

    fn claim_or_look(&mut self, worker: usize, slot: usize) {
        let (now, of) = (self.now, &mut self.workers[worker]);
        match of.queue.pop_front() {
            Some(shard) => self.events.add(now + self.times.claim, Event::Claimed(worker, of.life, slot, shard)),
            None => self.events.add(now + self.times.look, Event::Looked(worker, of.life, slot)),
        }
    }

    fn looked(&mut self, worker: usize, slot: usize) {
        self.outcome.looks += 1;
        let is_open = |shard: &usize| self.turns[*shard] == Turn::Open;
        let mut found: Vec<usize> = self.homes[worker].iter().copied().filter(is_open).collect();
        if found.is_empty() && self.sharing == Sharing::Stealing {
            found = self.largest_first.iter().copied().filter(is_open).collect();
            let begin = found.len() * worker / self.cluster.workers;
            found.rotate_left(begin);
            found.truncate((found.len() / self.cluster.workers).max(STOLEN_PER_LOOK));
        }
        let of = &mut self.workers[worker];
        of.queue = found.into();
        if of.queue.is_empty() {
            (of.taking, of.idle) = (false, true);
            self.take(worker);
        } else {
            self.claim_or_look(worker, slot);
        }
    }

    fn claimed(&mut self, worker: usize, slot: usize, shard: usize) {
        if self.turns[shard] != Turn::Open {
            self.outcome.lost_claims += 1;
            return self.claim_or_look(worker, slot);
        }
        match self.is_home(worker, shard) {
            true => self.outcome.home_claims += 1,
            false => self.outcome.stolen_claims += 1,
        }
        self.turns[shard] = Turn::Held;
        let of = &mut self.workers[worker];
        of.hold(self.now, Held { slot, shard, left: self.left[shard], claimed: self.now });
        of.taking = false;
        self.await_finish(worker);
        self.take(worker);
    }

    fn await_finish(&mut self, worker: usize) {
        let of = &mut self.workers[worker];
        of.turn += 1;
        if let Some(at) = of.next_finish() {
            self.events.add(at.max(self.now), Event::Finishes(worker, of.life, of.turn));
        }
    }

    fn finish(&mut self, worker: usize) {
        let of = &mut self.workers[worker];
        let Some(Held { slot, shard, .. }) = of.finish(self.now) else { return };
        of.takers.push_back(slot);
        self.outcome.finishes[shard] += 1;
        self.close(shard);
        self.await_finish(worker);
        self.take(worker);
    }

    fn close(&mut self, shard: usize) {
        self.turns[shard] = Turn::Closed;
        self.open -= 1;
        // looks at the end, which are many, find few that are open
        if self.largest_first.len() > 2 * self.open {
            self.largest_first.retain(|shard| self.turns[*shard] != Turn::Closed);
        }
    }

    fn fail_node(&mut self, node: usize) {
        self.outcome.node_failures += 1;
        let first = node * self.cluster.per_node;
        let back = self.now + self.times.requeue;
        let beat = self.times.lease / BEATS;
        for worker in first..(first + self.cluster.per_node).min(self.cluster.workers) {
            // a lease is from the last sign of life: the claim, or a beat of those that began with the worker
            let began = self.workers[worker].began;
            let last_beat = began + ((self.now - began) / beat).floor() * beat;
            for Held { shard, left, claimed, .. } in self.workers[worker].die(self.now) {
                let (done, held) = (self.left[shard] - left, self.now - claimed);
                let kept = put_aside(&self.shards[shard], done, held);
                self.left[shard] -= kept;
                self.outcome.lost_seconds += done - kept;
                // an attempt that left rows was not in vain, nor were those before it
                self.lost_attempts[shard] = if kept > 0.0 { 1 } else { self.lost_attempts[shard] + 1 };
                match self.sharing {
                    _ if self.lost_attempts[shard] >= MOST_ATTEMPTS => {
                        self.outcome.failed += 1;
                        self.outcome.lost_seconds += self.shards[shard].seconds - self.left[shard];
                        self.close(shard);
                    }
                    Sharing::Static => self.turns[shard] = Turn::Open,
                    Sharing::Stealing => {
                        self.events.add(last_beat.max(claimed) + self.times.lease, Event::Opens(shard))
                    }
                }
            }
            self.events.add(back + self.times.load, Event::Starts(worker, self.workers[worker].life));
        }
        self.draw_failure(node, back);
    }

    fn open_again(&mut self, shard: usize) {
        self.turns[shard] = Turn::Open;
        // the more there are, and the longer a look takes them, the longer they wait between two
        let apart = self.times.look * self.cluster.workers.max(LOOKS_SHARE) as f64;
        let pause = LONGEST_WAIT.max(apart.min(LONGEST_APART)).min(self.times.lease / 2.0);
        for (number, worker) in self.workers.iter_mut().enumerate() {
            if std::mem::take(&mut worker.idle) {
                let after = (pause * self.pauses.share()).max(SHORTEST_WAIT);
                self.events.add(self.now + after, Event::Wakes(number, worker.life));
            }
        }
    }
}

/// Seconds of the device that are not lost of those that a worker has `done` on a shard in the seconds that it `held` it.
fn put_aside(shard: &Shard, done: f64, held: f64) -> f64 {
    let chunk = shard.seconds / shard.rows.div_ceil(CHUNK_ROWS).max(1) as f64;
    if !(done > 0.0 && chunk > 0.0) {
        return 0.0;
    }
    // shards that are under way side by side have a share of the device
    let share = done / held;
    let between = (PUT_ASIDE * share / chunk).ceil().max(1.0) * chunk;
    (done / between).floor() * between
}

#[cfg(test)]
mod tests;
