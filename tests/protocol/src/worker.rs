//! A worker's life, step by step; each step is one thing that the store does.

use manifests::commit::{self, Verdict};

use crate::world::{A, B, Id, Input, Live, Marker, NO_ROWS, Part, SHARDS, Step, Worker, World};
use crate::{Rules, Scenario};

/// A step's words, and what it does.
type Change = (&'static str, fn(&mut Turn<'_>));

/// What worker `me` can do next, and how the world is then.
pub fn moves(world: &World, me: usize, rules: &Rules, scenario: &Scenario) -> Vec<(&'static str, World)> {
    let worker = &world.workers[me];
    let mut found: Vec<Change> = Vec::new();
    // of two workers that are alike it does not matter which comes first
    let is_turn = me == 0 || world.workers[0].runs < scenario.runs[0] || scenario.runs[0] != scenario.runs[1];
    if worker.runs > 0 && is_turn {
        let what = if worker.step == Step::Idle { "starts" } else { "is killed and started again" };
        found.push((what, |turn| turn.start()));
    }
    match worker.step {
        Step::Idle => {}
        Step::Pin => found.push(("pins the live parts of its output", |turn| turn.pin())),
        Step::Read => found.push(("reads its inputs", |turn| turn.read())),
        Step::Look => found.push(("takes what a marker names, or writes a part", |turn| turn.look())),
        Step::Mark => found.push(("puts a marker", |turn| turn.mark())),
        Step::ReadLog => found.push(("reads the log", |turn| turn.read_log())),
        Step::Put if !worker.current => {
            found.push(("puts a commit, too late", |turn| turn.worker().step = Step::ReadLog))
        }
        Step::Put => {
            found.push(("puts a commit", |turn| turn.put_with_answer()));
            if world.lost_answers > 0 {
                found.push(("puts a commit, and the answer is lost", |turn| turn.put_without_answer()));
            }
        }
    }
    if !rules.stop_in_silence && worker.stale.contains(&true) {
        found.push(("is stopped and publishes what it had", |turn| turn.stop_and_publish()));
    }
    let take = |(what, change): Change| {
        let mut turn = Turn { world: world.clone(), me, rules, scenario };
        change(&mut turn);
        (what, turn.world)
    };
    found.into_iter().map(take).collect()
}

struct Turn<'a> {
    world: World,
    me: usize,
    rules: &'a Rules,
    scenario: &'a Scenario,
}

impl Turn<'_> {
    fn worker(&mut self) -> &mut Worker {
        &mut self.world.workers[self.me]
    }

    /// The worker as it is.
    fn now(&self) -> Worker {
        self.world.workers[self.me]
    }

    fn start(&mut self) {
        if self.scenario.content_returns && self.now().owes {
            self.world.changed_outside();
        }
        let runs = self.now().runs - 1;
        *self.worker() = Worker { runs, fresh: true, ..Default::default() };
        self.begin(A);
    }

    /// Begins a stage, from its first step.
    fn begin(&mut self, table: usize) {
        let step = if self.rules.pin_before_reading { Step::Pin } else { Step::Read };
        let Worker { runs, fresh, owes, .. } = self.now();
        *self.worker() = Worker { runs, fresh, owes, table, step, ..Default::default() };
    }

    fn finish_stage(&mut self) {
        if self.now().table == A {
            return self.begin(B);
        }
        self.world.settled |= self.now().fresh;
        let runs = self.now().runs;
        *self.worker() = Worker { runs, ..Default::default() };
    }

    fn pin(&mut self) {
        let table = self.now().table;
        self.worker().bases = self.world.live[table];
        if self.rules.pin_before_reading { self.worker().step = Step::Read } else { self.plan() }
    }

    fn read(&mut self) {
        let source = self.world.source;
        for shard in 0..self.scenario.shards {
            let input = if self.now().table == A {
                Some(Input { rows: self.scenario.rows(source)[shard], source, part: None })
            } else {
                self.world.live[A][shard].map(|id| {
                    let part = self.world.part(id);
                    Input { rows: part.rows, source: part.source, part: Some(id) }
                })
            };
            match input {
                None if self.rules.keep_empty_parts => return self.begin(A),
                None => self.worker().inputs[shard] = Some(Input { rows: NO_ROWS, source, part: None }),
                input => self.worker().inputs[shard] = input,
            }
        }
        if self.rules.pin_before_reading { self.plan() } else { self.worker().step = Step::Pin }
    }

    /// Finds the shards whose base is not what is wanted.
    fn plan(&mut self) {
        for shard in 0..self.scenario.shards {
            let wanted = self.input(shard).rows;
            let stands = match self.now().bases[shard] {
                Some(base) => {
                    let Part { rows, exists, .. } = *self.world.part(base);
                    rows == wanted && (exists || !self.rules.look_behind_bases)
                }
                None => !self.rules.keep_empty_parts && wanted == NO_ROWS,
            };
            self.worker().stale[shard] = !stands;
        }
        if self.now().stale.contains(&true) { self.next_shard(0) } else { self.finish_stage() }
    }

    fn input(&self, shard: usize) -> Input {
        self.now().inputs[shard].expect("a plan is made of inputs")
    }

    /// Turns to the next stale shard, or to the commit.
    fn next_shard(&mut self, from: usize) {
        let next = (from..SHARDS).find(|&shard| self.now().stale[shard]);
        self.worker().shard = next.unwrap_or(0);
        if next.is_some() {
            self.worker().step = Step::Look;
        } else {
            self.worker().step = Step::ReadLog;
            self.worker().inputs = [None; SHARDS];
        }
    }

    fn look(&mut self) {
        match self.marked() {
            Some(part) if self.world.is_sound(part) || !self.rules.look_behind_markers => self.take(part),
            _ => self.write(),
        }
    }

    /// The part that a marker names for the work at hand.
    fn marked(&self) -> Option<Id> {
        let worker = self.now();
        let input = self.input(worker.shard);
        self.world.marker(worker.table, worker.shard, worker.bases[worker.shard], input).map(|m| m.part)
    }

    fn take(&mut self, part: Id) {
        let shard = self.now().shard;
        if self.world.part(part).rows != self.input(shard).rows {
            self.world.broken = Some("a marker names a part of other rows than its key says");
        }
        self.worker().made[shard] = Some(part);
        self.next_shard(shard + 1);
    }

    /// Nobody sees a part before something names it, so that looking and writing may count as one step.
    fn write(&mut self) {
        let shard = self.now().shard;
        let Input { rows, source, part } = self.input(shard);
        if part.is_some_and(|id| !self.world.part(id).exists) {
            return self.begin(A);
        }
        let id = self.new_part(rows, source);
        self.worker().made[shard] = Some(id);
        self.worker().step = Step::Mark;
    }

    fn new_part(&mut self, rows: u8, source: u8) -> Id {
        let part = Part { rows, source, exists: true, old: false, doomed: false, condemned: false, vacuumed: false };
        self.world.parts.push(part);
        (self.world.parts.len() - 1) as Id
    }

    fn mark(&mut self) {
        let worker = self.now();
        let own = worker.made[worker.shard].expect("a part is written before it is marked");
        let part = match self.marked() {
            Some(winner) if self.world.is_sound(winner) || !self.rules.look_behind_markers => winner,
            Some(_) => own,
            None => {
                let input = self.input(worker.shard);
                let base = worker.bases[worker.shard];
                let marker = Marker { table: worker.table, shard: worker.shard, base, input, part: own, old: false };
                self.world.markers.push(marker);
                own
            }
        };
        self.take(part);
    }

    /// What the commit would do with each stale shard now.
    fn verdicts(&self) -> Vec<(usize, Id, Verdict)> {
        let worker = self.now();
        let live = self.world.live[worker.table];
        let name = |id: Option<Id>| id.map(|id| format!("part-{id}"));
        let judge = |shard: usize| {
            let part = worker.made[shard].expect("every stale shard has a part by now");
            let base = if self.rules.compare_base { worker.bases[shard] } else { live[shard] };
            let verdict =
                match commit::verdict(name(live[shard]).as_deref(), name(base).as_deref(), &format!("part-{part}")) {
                    Verdict::Apply if self.world.part(part).doomed => Verdict::Overtaken,
                    verdict => verdict,
                };
            (shard, part, verdict)
        };
        (0..SHARDS).filter(|&shard| worker.stale[shard]).map(judge).collect()
    }

    fn read_log(&mut self) {
        if self.verdicts().iter().any(|(.., verdict)| *verdict == Verdict::Apply) {
            self.worker().step = Step::Put;
            self.worker().current = true;
        } else {
            self.after_commit();
        }
    }

    fn put_with_answer(&mut self) {
        self.put();
        self.after_commit();
    }

    fn put_without_answer(&mut self) {
        self.put();
        self.world.lost_answers -= 1;
        self.worker().step = Step::ReadLog;
    }

    fn put(&mut self) {
        let table = self.now().table;
        let mut live = self.world.live[table];
        for (shard, part, _) in self.verdicts().into_iter().filter(|(.., verdict)| *verdict == Verdict::Apply) {
            if live[shard] != self.now().bases[shard] {
                self.world.broken = Some("a commit removes a part that its plan did not read");
            }
            live[shard] = Some(part).filter(|id| self.rules.keep_empty_parts || self.world.part(*id).rows != NO_ROWS);
        }
        self.worker().owes = true;
        self.publish(table, live);
    }

    fn publish(&mut self, table: usize, live: Live) {
        let source = |id: Option<Id>| id.map_or(0, |id| self.world.part(id).source);
        let falls = (0..SHARDS).any(|s| live[s].is_some() && source(live[s]) < source(self.world.live[table][s]));
        if falls && !self.world.disturbed {
            self.world.broken = self.world.broken.or(Some("a live part is of an older source than the one before"));
        }
        self.world.log(table, live);
    }

    /// A stage is done when a plan finds nothing to do.
    fn after_commit(&mut self) {
        let overtaken = self.verdicts().iter().any(|(.., verdict)| *verdict == Verdict::Overtaken);
        if self.rules.look_again || overtaken {
            let table = self.now().table;
            self.begin(table);
        } else {
            self.finish_stage();
        }
    }

    /// The known-bad stop: stale rows are copied as they were, over whatever is live.
    fn stop_and_publish(&mut self) {
        let worker = self.now();
        let mut live = self.world.live[worker.table];
        for shard in (0..SHARDS).filter(|&shard| worker.stale[shard]) {
            if let Some(base) = worker.bases[shard] {
                let Part { rows, source, .. } = *self.world.part(base);
                live[shard] = Some(self.new_part(rows, source));
            }
        }
        self.publish(worker.table, live);
        *self.worker() = Worker { runs: worker.runs, ..Default::default() };
    }
}
