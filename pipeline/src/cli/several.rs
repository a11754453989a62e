//! What a command is given where it may be more than a build: read, and named as runs of an engine.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use engines::{ADAPT, Run, SWEPT, VARIANT};
use manifests::{BuildSpec, digest};
use stages::Step;
use workers::WorkerError;
use workers::stores::WorkStore;

use super::arguments::SpecArgs;
use crate::given::Given;
use crate::left_out::LeftOut;
use crate::sweep::Axis;
use crate::tasks::{Asked, Task, What, builds, tasks};

/// Names of runs are names of jobs, and a task has a number behind the name of its run.
const LONGEST_NAME: usize = 12;

/// What is compared beside what the specs say.
#[derive(Debug, Default, Args)]
pub(super) struct ExperimentArgs {
    #[arg(
        long,
        help = "Of the spec of a pair: adapt with each part of the method left out, as `ablate` does, one job a run"
    )]
    pub(super) ablate: bool,
    #[arg(
        long,
        value_name = "FIELD=VALUES",
        help = "Also train or adapt under other settings, as `sweep` does, one job a run; may be given several times"
    )]
    pub(super) over: Vec<String>,
}

impl ExperimentArgs {
    fn asked(&self) -> Result<Asked, WorkerError> {
        let over = self.over.iter().map(|text| Axis::parse(text)).collect::<Result<_, _>>()?;
        Ok(Asked { ablate: self.ablate, over })
    }

    /// As every driver of a run is given them.
    pub(super) fn options(&self) -> Vec<String> {
        let ablate = self.ablate.then(|| "--ablate".to_owned());
        ablate.into_iter().chain(self.over.iter().flat_map(|over| ["--over".to_owned(), over.clone()])).collect()
    }
}

/// A build, or several tasks.
pub(super) enum Whole {
    /// One build.
    Build(Box<BuildSpec>),
    /// Several tasks.
    Several(Several),
}

/// Several tasks, and what they follow from.
pub(super) struct Several {
    given: Vec<Given>,
    pub(super) tasks: Vec<Task>,
    /// Specs that cannot be used, of a command that only looks.
    pub(super) left_out: LeftOut,
}

impl Whole {
    /// Reads a spec, or a folder of specs that must all be sound: nothing is begun of it before.
    pub(super) fn read(path: &Path, set: &[String], experiment: &ExperimentArgs) -> Result<Whole, WorkerError> {
        let asked = experiment.asked()?;
        if path.is_dir() {
            let (given, left_out) = sound(path, set)?;
            left_out.refuse((given.len() + left_out.len(), "spec"))?;
            // a folder stays one: drivers are given theirs again
            return Ok(Whole::Several(Several { tasks: tasks(&given, &asked)?, given, left_out }));
        }
        match Given::read(path, set)? {
            Given::Build(spec) if asked == Asked::default() => Ok(Whole::Build(spec)),
            given => {
                let given = vec![given];
                Ok(Whole::Several(Several { tasks: tasks(&given, &asked)?, given, left_out: LeftOut::default() }))
            }
        }
    }

    /// The same of a command that only looks, or stops: of a folder it goes on with the specs that are sound, and says which are
    /// not.
    pub(super) fn of(spec: &SpecArgs) -> Result<Whole, WorkerError> {
        if !spec.spec.is_dir() {
            return Self::read(&spec.spec, &spec.set.set, &ExperimentArgs::default());
        }
        let (given, left_out) = sound(&spec.spec, &spec.set.set)?;
        if given.is_empty() {
            left_out.refuse((left_out.len(), "spec"))?;
        }
        left_out.say();
        Ok(Whole::Several(Several { tasks: tasks(&given, &Asked::default())?, given, left_out }))
    }

    /// The specs of a folder that a command goes on without.
    pub(super) fn left_out(&self) -> LeftOut {
        match self {
            Whole::Build(_) => LeftOut::default(),
            Whole::Several(several) => several.left_out.clone(),
        }
    }

    /// Ends a command that went on without some specs.
    pub(super) fn end(&self) -> Result<(), WorkerError> {
        self.left_out().end()
    }
}

/// The specs of a folder that can be used together, and what keeps the others from it.
fn sound(folder: &Path, set: &[String]) -> Result<(Vec<Given>, LeftOut), WorkerError> {
    let (read, mut left_out) = Given::read_folder(folder, set)?;
    let mut given = Vec::with_capacity(read.len());
    for (file, one) in read {
        given.push(one);
        // it may undo the rows of one before it, or its method may make no sense
        if let Err(error) = tasks(&given, &Asked::default()) {
            given.pop();
            left_out.add(file.display().to_string(), &error);
        }
    }
    Ok((given, left_out))
}

/// Where runs of a build or of a pair are written down.
pub(super) struct Home {
    /// The country, or `SOURCE_to_TARGET`.
    pub(super) name: String,
    /// The build in whose work store they are.
    pub(super) spec: BuildSpec,
    /// Names of the steps that there may be.
    pub(super) steps: Vec<String>,
    is_one_of_several: bool,
}

impl Home {
    /// Its store. That of a single build must be there; among several it may be one that nothing was built in yet.
    pub(super) async fn work(&self) -> Result<Option<WorkStore>, WorkerError> {
        let work = WorkStore::open(&self.spec.work.url, &self.spec.work.options)?;
        if self.is_one_of_several && !work.is_there().await? {
            return Ok(None);
        }
        work.required().await?;
        Ok(Some(work))
    }
}

impl Whole {
    /// The specs of all builds.
    pub(super) fn builds(&self) -> Vec<&BuildSpec> {
        match self {
            Whole::Build(spec) => vec![spec],
            Whole::Several(several) => builds(&several.tasks).collect(),
        }
    }

    /// Where the runs of all of it are written down: builds, then pairs.
    pub(super) fn homes(&self) -> Vec<Home> {
        let is_one_of_several = matches!(self, Whole::Several(_));
        let of_build = |spec: &BuildSpec| Home {
            is_one_of_several,
            name: spec.country.clone(),
            spec: spec.clone(),
            steps: steps_of(spec),
        };
        let mut homes: Vec<Home> = self.builds().into_iter().map(of_build).collect();
        if let Whole::Several(several) = self {
            for given in &several.given {
                let Given::Pair(pair) = given else { continue };
                if !homes.iter().any(|home| home.name == pair.name() && home.spec.work == pair.target.work) {
                    let steps = [ADAPT, VARIANT].map(str::to_owned).to_vec();
                    homes.push(Home { name: pair.name(), spec: pair.target.clone(), steps, is_one_of_several });
                }
            }
        }
        homes
    }
}

/// Steps of a build, and of sweeps over it.
fn steps_of(spec: &BuildSpec) -> Vec<String> {
    stages::steps(spec).iter().map(Step::name).chain(SWEPT).map(str::to_owned).collect()
}

impl Several {
    /// A build alone, as a run of one task.
    pub(super) fn of_build(spec: BuildSpec) -> Result<Self, WorkerError> {
        let given = vec![Given::Build(Box::new(spec))];
        Ok(Self { tasks: tasks(&given, &Asked::default())?, given, left_out: LeftOut::default() })
    }

    /// The run of all tasks, with the files that its drivers are given.
    pub(super) fn run(&self, id: Option<&str>, options: Vec<String>) -> Result<Run, WorkerError> {
        let beside = self.files();
        let id = id.map_or_else(|| digest::of_value(&(&beside, &options))[..8].to_owned(), str::to_owned);
        if id.len() > LONGEST_NAME {
            return Err(WorkerError::Configuration(format!(
                "--run {id}: a run of several tasks has a name of at most {LONGEST_NAME} characters, since each task has its \
                 number behind it"
            )));
        }
        let country = self.tasks.first().map_or_else(String::new, |task| task.name.clone());
        Ok(Run { whole: Some(id.clone()), id, country, spec: String::new(), options, beside })
    }

    /// All specs that were given, by names in their order: read from a folder they are the same tasks under the same numbers.
    fn files(&self) -> Vec<(String, String)> {
        let mut files = Vec::new();
        for (at, given) in self.given.iter().enumerate() {
            let mut file = |part: usize, text: String| {
                let name = format!("{at:03}-{part}.toml");
                files.push((name.clone(), text));
                name
            };
            match given {
                Given::Build(spec) => _ = file(0, spec.to_toml()),
                Given::Pair(pair) => {
                    let mut spec = pair.spec.clone();
                    spec.source = file(0, pair.source.to_toml()).into();
                    spec.target = file(1, pair.target.to_toml()).into();
                    file(2, spec.to_toml());
                }
            }
        }
        files
    }
}

/// One task of a run as jobs are named after it; `None`: no engine starts anything for it.
pub(super) fn run_of_task(whole: &Run, number: usize, task: &Task) -> Option<Run> {
    let (spec, beside) = match &task.what {
        What::Build(spec) | What::Train(spec, _) => (spec.to_toml(), Vec::new()),
        What::Adapt(pair) | What::Variant(pair) => {
            let (spec, beside) = pair.files();
            (spec, beside.to_vec())
        }
        What::Ablation(_) | What::Curves(..) => return None,
    };
    let (id, country) = (whole.task_id(number), task.what.home().1);
    Some(Run { id, country, spec, beside, ..whole.clone() })
}

/// Whether a run is the one that is asked for, or a task of it; without a question every run is.
pub(super) fn is_of(run: &str, asked: Option<&str>) -> bool {
    let is_task = |asked: &str| run.strip_prefix(asked).is_some_and(|rest| rest.starts_with('-'));
    asked.is_none_or(|asked| run == asked || is_task(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Drivers of a cluster read what `submit` has written: their tasks must be those that it has named.
    #[test]
    fn a_run_that_is_read_again_has_the_same_tasks() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        for country in ["a", "b", "c"] {
            let text = format!("country = \"{country}\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n");
            write(&format!("specs/{country}.toml"), &text);
        }
        let pair = write("specs/pair.toml", "source = \"b.toml\"\ntarget = \"a.toml\"\n");
        write("pairs/a.toml", "source = \"../specs/b.toml\"\ntarget = \"../specs/a.toml\"\n");
        write("pairs/b.toml", "source = \"../specs/a.toml\"\ntarget = \"../specs/c.toml\"\n[adapt]\nseed = 2\n");
        let ablate = ExperimentArgs { ablate: true, over: Vec::new() };
        let over = |over: &str| ExperimentArgs { ablate: false, over: over.split(' ').map(str::to_owned).collect() };
        let both = "pretrain.batch=8,16 adapt.batch=4,8";
        for (number, (path, experiment)) in [
            (pair.clone(), ExperimentArgs::default()),
            (pair, ablate),
            (folder.path().join("specs"), over(both)),
            (folder.path().join("pairs"), over("adapt.batch=4,8")),
            (folder.path().join("specs/a.toml"), over("pretrain.batch=8,16")),
        ]
        .into_iter()
        .enumerate()
        {
            let several = |path: &Path| match Whole::read(path, &[], &experiment).unwrap() {
                Whole::Several(several) => several,
                Whole::Build(_) => panic!("it is more than a build"),
            };
            let first = several(&path);
            let run = first.run(None, experiment.options()).unwrap();
            let written = folder.path().join(format!("written{number}"));
            for (name, text) in run.files() {
                write(&format!("written{number}/{name}"), &text);
            }
            let again = several(&written);
            let named = |tasks: &[Task]| -> Vec<(String, Vec<usize>, Option<String>)> {
                let of = |(at, task): (usize, &Task)| {
                    let spec = run_of_task(&run, at, task).map(|run| run.spec);
                    (task.name.clone(), task.after.clone(), spec)
                };
                tasks.iter().enumerate().map(of).collect()
            };
            assert_eq!(named(&first.tasks), named(&again.tasks), "{}", path.display());
        }
    }

    #[test]
    fn tasks_of_a_run_are_found_by_its_name() {
        assert!(is_of("1a2b3c4d-3", Some("1a2b3c4d")) && is_of("1a2b3c4d-3", Some("1a2b3c4d-3")));
        assert!(!is_of("1a2b3c4d-31", Some("1a2b3c4d-3")) && is_of("x", None));
    }
}
