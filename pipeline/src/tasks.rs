//! A run of several parts as a list of tasks: builds, adaptations, single runs of ablations and sweeps, and what is made of
//! all of these. What a task needs stands before it. Whether one is finished its store says, and nobody remembers it.

mod adapted;
mod drive;
mod page;

use manifests::{BuildSpec, PairSpec, are_two};
use workers::WorkerError;

use crate::ablate::{self, Variant};
use crate::given::{Given, GivenPair};
use crate::sweep::{self, Axis, Moves};

pub use adapted::{Finished, finish_pair};
pub(crate) use drive::builds;
pub use drive::{Drive, Engines, Outcome, TaskEnd, drive_all};

/// What is asked beside the specs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    /// Each part of the adaptation left out, over several seeds, instead of the adaptation alone.
    pub ablate: bool,
    /// Settings that are moved.
    pub over: Vec<Axis>,
}

impl Asked {
    fn is_nothing(&self) -> bool {
        !self.ablate && self.over.is_empty()
    }
}

/// One part of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// For people, such as `finland` or `finland_to_spain: full, seed 0`.
    pub name: String,
    /// Places of the tasks that must be finished first; all stand before this one.
    pub after: Vec<usize>,
    /// What is done.
    pub what: What,
}

/// What a task does.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A whole build.
    Build(Box<BuildSpec>),
    /// The adaptation of a pair with its figures, vectors and report.
    Adapt(Box<GivenPair>),
    /// An adaptation under other settings, with its figures.
    Variant(Box<GivenPair>),
    /// A finished build under other settings, which move its training, the segments that this reads, or its measure.
    Train(Box<BuildSpec>, Moves),
    /// The table and the page of an ablation.
    Ablation(Box<GivenPair>),
    /// The curves and the page of a sweep.
    Curves(Box<Given>, Vec<Axis>),
}

impl What {
    /// Is it one job of an engine, that others may run beside?
    pub fn is_job(&self) -> bool {
        matches!(self, What::Variant(_) | What::Train(..))
    }

    /// The build in whose store the task's records lie, and the name under which they do.
    pub fn home(&self) -> (&BuildSpec, String) {
        let pair = |pair: &GivenPair| pair.name();
        match self {
            What::Build(spec) | What::Train(spec, _) => (spec, spec.country.clone()),
            What::Adapt(of) | What::Variant(of) | What::Ablation(of) => (&of.target, pair(of)),
            What::Curves(of, _) => match of.as_ref() {
                Given::Build(spec) => (spec, spec.country.clone()),
                Given::Pair(of) => (&of.target, pair(of)),
            },
        }
    }
}

/// The tasks of what was given, in an order in which they can be done.
///
/// # Errors
/// Two builds that would undo each other's rows; an ablation or a sweep of what cannot be one; settings that make no sense.
pub fn tasks(given: &[Given], asked: &Asked) -> Result<Vec<Task>, WorkerError> {
    let mut tasks = Tasks::default();
    for one in given {
        match one {
            Given::Build(spec) => _ = tasks.build(spec)?,
            Given::Pair(pair) => _ = (tasks.build(&pair.source)?, tasks.build(&pair.target)?),
        }
    }
    let (of_pairs, of_builds): (Vec<Axis>, Vec<Axis>) =
        asked.over.iter().cloned().partition(|axis| axis.moves == Moves::Adaptation);
    let has_pair = given.iter().any(|one| matches!(one, Given::Pair(_)));
    let has_build = given.iter().any(|one| matches!(one, Given::Build(_)));
    if asked.ablate && !has_pair {
        return Err(WorkerError::Configuration(
            "--ablate: this is the spec of a build; name the spec of a pair".into(),
        ));
    }
    for one in given {
        match one {
            Given::Pair(pair) => {
                // beside builds a field of theirs is moved in all of them; with pairs alone it is a mistake
                if !has_build {
                    of_builds.iter().try_for_each(|axis| sweep::check_pair(axis, &pair.name()))?;
                }
                tasks.pair(pair, asked, &of_pairs)?;
            }
            Given::Build(spec) if !has_pair => of_pairs.iter().try_for_each(|axis| sweep::check(axis, spec))?,
            Given::Build(_) => {}
        }
    }
    let all: Vec<BuildSpec> = builds(&tasks.all).cloned().collect();
    all.iter().try_for_each(|spec| tasks.sweep(spec, &of_builds))?;
    Ok(tasks.all)
}

#[derive(Default)]
struct Tasks {
    all: Vec<Task>,
}

impl Tasks {
    fn add(&mut self, name: String, after: Vec<usize>, what: What) -> usize {
        self.all.push(Task { name, after, what });
        self.all.len() - 1
    }

    /// The task of a build, which may be there already.
    fn build(&mut self, spec: &BuildSpec) -> Result<usize, WorkerError> {
        for (at, task) in self.all.iter().enumerate() {
            let What::Build(known) = &task.what else { continue };
            if known.as_ref() == spec {
                return Ok(at);
            }
            if (&known.country, &known.work.url) == (&spec.country, &spec.work.url) {
                return Err(WorkerError::Configuration(format!(
                    "two specs of {} have the work store {}, and would undo each other's rows: leave one out, or give it \
                     another work.url",
                    spec.country, spec.work.url
                )));
            }
        }
        Ok(self.add(spec.country.clone(), Vec::new(), What::Build(Box::new(spec.clone()))))
    }

    fn pair(&mut self, pair: &GivenPair, asked: &Asked, over: &[Axis]) -> Result<(), WorkerError> {
        are_two(&pair.source, &pair.target).map_err(WorkerError::Configuration)?;
        stages::adapt::settings(&pair.spec)?;
        let (name, of_builds) = (pair.name(), vec![self.build(&pair.source)?, self.build(&pair.target)?]);
        let boxed = |spec| Box::new(GivenPair { spec, ..pair.clone() });
        let own = self.add(name.clone(), of_builds.clone(), What::Adapt(Box::new(pair.clone())));
        if asked.is_nothing() {
            return Ok(());
        }
        // the pair's own adaptation may be one of those that are compared
        let run = |tasks: &mut Self, words: String, spec: PairSpec| match spec == pair.spec {
            true => own,
            false => tasks.add(format!("{name}: {words}"), of_builds.clone(), What::Variant(boxed(spec))),
        };
        if asked.ablate {
            ablate::check(&pair.spec)?;
            let mut runs = vec![own];
            for variant in Variant::ALL {
                for &seed in &pair.spec.ablation.seeds {
                    let Some(spec) = variant.spec(&pair.spec, seed) else { continue };
                    runs.push(run(self, format!("{}, seed {seed}", variant.words()), spec));
                }
            }
            self.after(format!("{name}: ablation"), &of_builds, runs, What::Ablation(Box::new(pair.clone())));
        }
        if !over.is_empty() {
            let mut runs = vec![own];
            for axis in over {
                for (spec, change) in sweep::of_pair_axis(&pair.spec, axis)? {
                    runs.push(run(self, change, spec));
                }
            }
            let of = Given::Pair(Box::new(pair.clone()));
            self.after(format!("{name}: sweep"), &of_builds, runs, What::Curves(Box::new(of), over.to_vec()));
        }
        Ok(())
    }

    /// What is made of runs.
    fn after(&mut self, name: String, of_builds: &[usize], runs: Vec<usize>, what: What) {
        let mut after: Vec<usize> = of_builds.iter().copied().chain(runs).collect();
        after.sort_unstable();
        after.dedup();
        self.add(name, after, what);
    }

    fn sweep(&mut self, spec: &BuildSpec, over: &[Axis]) -> Result<(), WorkerError> {
        if over.is_empty() {
            return Ok(());
        }
        let (country, build) = (&spec.country, self.build(spec)?);
        let mut runs = vec![build];
        for axis in over {
            sweep::check(axis, spec)?;
            let specs = sweep::of_axis(spec, axis)?;
            sweep::check_values(axis, &specs)?;
            for (spec, change) in specs {
                let what = What::Train(Box::new(spec), axis.moves);
                runs.push(self.add(format!("{country}: {change}"), vec![build], what));
            }
        }
        let of = Box::new(Given::Build(Box::new(spec.clone())));
        self.add(format!("{country}: sweep"), runs, What::Curves(of, over.to_vec()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(country: &str) -> BuildSpec {
        let text =
            format!("country = \"{country}\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n[work]\nurl = \"/work\"\n");
        BuildSpec::parse(&text, country, &[]).unwrap()
    }

    fn given(country: &str) -> Given {
        Given::Build(Box::new(build(country)))
    }

    fn pair(source: &str, target: &str) -> Given {
        let spec = PairSpec::parse("source = \"s\"\ntarget = \"t\"\n[ablation]\nseeds = [0, 1]\n", "t", &[]).unwrap();
        Given::Pair(Box::new(GivenPair { spec, source: build(source), target: build(target) }))
    }

    fn over(axes: &[&str]) -> Asked {
        Asked { ablate: false, over: axes.iter().map(|axis| Axis::parse(axis).unwrap()).collect() }
    }

    fn names(tasks: &[Task]) -> Vec<(&str, &[usize])> {
        for (at, task) in tasks.iter().enumerate() {
            assert!(task.after.iter().all(|before| *before < at), "what a task needs stands before it");
        }
        tasks.iter().map(|task| (task.name.as_str(), &task.after[..])).collect()
    }

    #[test]
    fn a_build_is_not_adapted_to_itself() {
        let error = tasks(&[pair("a", "a")], &Asked::default()).unwrap_err();
        assert!(error.exit_code() == 65 && error.to_string().contains("one build, of a in /work"), "{error}");
    }

    #[test]
    fn a_pair_is_two_builds_and_their_adaptation() {
        let all = tasks(&[pair("a", "b")], &Asked::default()).unwrap();
        assert_eq!(names(&all), [("a", &[][..]), ("b", &[]), ("a_to_b", &[0, 1])]);
        assert_eq!(all[2].what.home().1, "a_to_b");
        // a folder with the builds, too, is no more
        assert_eq!(tasks(&[given("a"), pair("a", "b"), given("b")], &Asked::default()).unwrap(), all);
    }

    #[test]
    fn every_build_of_a_folder_is_one_task_and_all_come_before_adaptations() {
        let all = tasks(&[pair("a", "b"), given("c"), pair("c", "b"), given("c")], &Asked::default()).unwrap();
        let wanted = [("a", &[][..]), ("b", &[]), ("c", &[]), ("a_to_b", &[0, 1]), ("c_to_b", &[2, 1])];
        assert_eq!(names(&all), wanted);
        let mut other = build("a");
        other.pretrain.epochs += 1;
        let error = tasks(&[given("a"), Given::Build(Box::new(other))], &Asked::default()).unwrap_err();
        assert!(error.exit_code() == 65 && error.to_string().contains("two specs of a"), "{error}");
    }

    #[test]
    fn an_ablation_is_a_job_for_each_variant_and_seed_and_a_table() {
        let all = tasks(&[pair("a", "b")], &Asked { ablate: true, over: Vec::new() }).unwrap();
        // the full one with the pair's own seed is its own adaptation, which has a report
        assert_eq!(all.iter().filter(|task| task.what.is_job()).count(), 11);
        assert_eq!(all.len(), 2 + 1 + 11 + 1);
        assert_eq!(names(&all)[2], ("a_to_b", &[0, 1][..]));
        let last = all.last().unwrap();
        assert_eq!((last.name.as_str(), last.after.len()), ("a_to_b: ablation", 14));
        assert!(all.iter().any(|task| task.name == "a_to_b: w/o CL, seed 1" && task.after == [0, 1]));
        let error = tasks(&[given("a")], &Asked { ablate: true, over: Vec::new() }).unwrap_err();
        assert!(error.exit_code() == 65 && error.to_string().contains("--ablate"), "{error}");
    }

    #[test]
    fn a_sweep_is_a_job_for_each_value() {
        let all = tasks(&[given("a")], &over(&["pretrain.batch=16,32", "evaluate.protocol=dedup"])).unwrap();
        let wanted = [
            ("a", &[][..]),
            ("a: pretrain.batch=16", &[0]),
            ("a: pretrain.batch=32", &[0]),
            ("a: evaluate.protocol=dedup", &[0]),
        ];
        assert_eq!(names(&all)[..4], wanted);
        assert!(matches!(all[1].what, What::Train(_, Moves::Training)));
        assert!(matches!(all[3].what, What::Train(_, Moves::Measure)));
        assert_eq!((all[4].name.as_str(), &all[4].after[..], all.len()), ("a: sweep", &[0, 1, 2, 3][..], 5));
        let all = tasks(&[pair("a", "b")], &over(&["adapt.method.beta=0.5,1"])).unwrap();
        assert_eq!((all[2].name.as_str(), all[5].name.as_str()), ("a_to_b", "a_to_b: sweep"));
        assert!(matches!(&all[3].what, What::Variant(of) if of.spec.adapt.method["beta"].as_float() == Some(0.5)));
        for (of, axis, words) in [
            (given("a"), "adapt.method.beta=1", "name the spec of a pair"),
            (pair("a", "b"), "pretrain.batch=16", "name the spec of a build"),
            (pair("a", "b"), "adapt.method.bta=1", "did you mean `beta`"),
            (given("a"), "pretrain.batch=0", "pretrain.batch = 0"),
            (given("a"), "pretrain.micro_batches=1,2", "every value has the same training"),
            (given("a"), "evaluate.rerank.share_weight=1,2", "evaluate.protocol and evaluate.average_over_turns"),
        ] {
            let error = tasks(&[of], &over(&[axis])).unwrap_err();
            assert!(error.exit_code() == 65 && error.to_string().contains(words), "{error}");
        }
    }
}
