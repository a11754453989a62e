//! A run, and the jobs that an engine starts for it.

/// A run of a build by an engine, or one task of a run of several. All names of its jobs follow from it, so that whoever starts
/// one twice finds the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// Eight hexadecimal digits: of the spec that is built. A task has its number behind those of its run: `1a2b3c4d-2`.
    pub id: String,
    /// The country that is built, or `SOURCE_to_TARGET`.
    pub country: String,
    /// The whole spec as TOML, with all defaults.
    pub spec: String,
    /// What is said to every driver beside the spec, such as `--until images`.
    pub options: Vec<String>,
    /// Of a run of several tasks, and of each task: name of the run, all of which a driver drives. `None`: it is a build alone.
    pub whole: Option<String>,
    /// Files beside the spec, by name: those that the spec of a pair names, or the specs of all tasks.
    pub beside: Vec<(String, String)>,
}

impl Run {
    /// Name of the run that drivers drive.
    pub fn driven(&self) -> &str {
        self.whole.as_ref().unwrap_or(&self.id)
    }

    /// Name of one task of this run.
    pub fn task_id(&self, number: usize) -> String {
        format!("{}-{number}", self.driven())
    }

    /// All files of the run, by name.
    pub fn files(&self) -> Vec<(String, String)> {
        let spec = Some(("spec.toml".to_owned(), self.spec.clone())).filter(|(_, text)| !text.is_empty());
        spec.into_iter().chain(self.beside.iter().cloned()).collect()
    }
}

/// Step of an adaptation that a pair is given for.
pub const ADAPT: &str = "adapt";
/// Step of an adaptation under other settings: one run of an ablation or of a sweep.
pub const VARIANT: &str = "variant";
/// Steps of a build under other settings, which one run of a sweep has: by what these move, a training, the segments that it reads
/// (after a bootstrap, if need be), or the measure of its model.
pub const SWEPT: [&str; 4] = [SWEPT_BOOTSTRAP, "swept_training", "swept_segments", "swept_measure"];
/// The bootstrap of one run of a sweep.
pub const SWEPT_BOOTSTRAP: &str = "swept_bootstrap";
const SWEPT_PREFIX: &str = "swept_";

/// What `train` is told for a step of a sweep; nothing for others.
pub fn swept_words(step: &str) -> Vec<String> {
    let moved = match step {
        SWEPT_BOOTSTRAP => Some("training"),
        step => step.strip_prefix(SWEPT_PREFIX),
    };
    moved.into_iter().flat_map(|moved| ["--swept".to_owned(), moved.to_owned()]).collect()
}

/// The step of builds and pairs that one of an ablation or of a sweep is like: it needs as much, and its checkpoints lie there.
pub fn step_like(step: &str) -> &str {
    match step {
        VARIANT => ADAPT,
        SWEPT_BOOTSTRAP => "bootstrap",
        _ if SWEPT.contains(&step) => "pretrain",
        other => other,
    }
}

/// What a job's processes do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Workers share a plan.
    Map {
        /// Key of the plan.
        plan: String,
        /// How many there are.
        workers: u32,
        /// How long one that is not heard of keeps its shards.
        lease_seconds: u64,
    },
    /// Ranks share a training.
    Train {
        /// Which try it is, from 1: ranks of one try meet under one name.
        attempt: u32,
        /// Machines.
        nodes: u32,
        /// Ranks on each.
        ranks_per_node: u32,
    },
    /// One process that plans, publishes and starts the next job.
    Drive,
}

/// A job of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The stage, the training, or the step that a driver comes back to.
    pub step: String,
    /// What its processes do.
    pub work: Work,
}

impl Job {
    /// Name by which an engine knows it: `uc-1a2b3c4d-captions-9f8e7d6c`, at most 63 characters of a DNS label.
    pub fn name(&self, run: &Run) -> String {
        let step = self.step.replace('_', "-");
        let end = match &self.work {
            Work::Map { plan, .. } => plan.chars().take(8).collect(),
            Work::Train { attempt, .. } => format!("train{attempt}"),
            Work::Drive => "drive".to_owned(),
        };
        format!("uc-{}-{step}-{end}", run.id)
    }

    /// Name under which ranks of an attempt at a training meet in the work store.
    pub fn rendezvous(&self, run: &Run, attempt: u32) -> String {
        format!("{}-{}-{attempt}", run.id, self.step)
    }

    /// Arguments of `urbancross` for each of its processes, where the spec lies at `spec`: for a driver of several tasks, the
    /// folder of all of them. Which process it is says a variable of the engine.
    pub fn arguments(&self, run: &Run, spec: &str) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        match &self.work {
            Work::Map { plan, workers, lease_seconds } => words(&[
                "worker",
                spec,
                "--stage",
                &self.step,
                "--plan",
                plan,
                "--count",
                &workers.to_string(),
                "--lease-seconds",
                &lease_seconds.to_string(),
                "--run",
                &run.id,
            ]),
            Work::Train { attempt, .. } => {
                let mut all = match self.step.as_str() {
                    ADAPT => words(&["adapt", spec, "--whole"]),
                    VARIANT => words(&["adapt", spec]),
                    training => words(&["train", spec, step_like(training)]),
                };
                all.extend(swept_words(&self.step));
                all.extend(words(&["--run", &run.id, "--attempt", &attempt.to_string()]));
                all
            }
            Work::Drive => {
                let mut all = words(&["drive", spec, "--run", run.driven()]);
                all.extend(run.options.iter().cloned());
                all
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_and_say_what_runs() {
        let run = Run { id: "1a2b3c4d".into(), country: "x".into(), ..Run::default() };
        let map = Work::Map { plan: "9f8e7d6c5b4a".into(), workers: 3, lease_seconds: 60 };
        let job = |step: &str, work| Job { step: step.into(), work };
        assert_eq!(job("segment_scores", map).name(&run), "uc-1a2b3c4d-segment-scores-9f8e7d6c");
        let train = Work::Train { attempt: 2, nodes: 1, ranks_per_node: 8 };
        assert_eq!(job("pretrain", train).name(&run), "uc-1a2b3c4d-pretrain-train2");
        assert!(job("structured_captions", Work::Drive).name(&run).len() <= 52);
    }

    #[test]
    fn a_task_has_jobs_of_its_own_and_drivers_of_the_whole_run() {
        let run = Run { id: "1a2b3c4d".into(), whole: Some("1a2b3c4d".into()), ..Run::default() };
        let task = Run { id: run.task_id(2), ..run.clone() };
        let train =
            |step: &str| Job { step: step.into(), work: Work::Train { attempt: 1, nodes: 1, ranks_per_node: 2 } };
        assert_eq!(train(ADAPT).name(&task), "uc-1a2b3c4d-2-adapt-train1");
        let told = |step: &str| train(step).arguments(&task, "s.toml").join(" ");
        assert_eq!(told(ADAPT), "adapt s.toml --whole --run 1a2b3c4d-2 --attempt 1");
        assert_eq!(told(VARIANT), "adapt s.toml --run 1a2b3c4d-2 --attempt 1");
        assert_eq!(told("pretrain"), "train s.toml pretrain --run 1a2b3c4d-2 --attempt 1");
        assert_eq!(told("swept_segments"), "train s.toml pretrain --swept segments --run 1a2b3c4d-2 --attempt 1");
        assert_eq!(told(SWEPT_BOOTSTRAP), "train s.toml bootstrap --swept training --run 1a2b3c4d-2 --attempt 1");
        assert!(SWEPT[1..].iter().all(|step| step.starts_with(SWEPT_PREFIX) && step_like(step) == "pretrain"));
        let driver = Job { step: "captions".into(), work: Work::Drive };
        assert_eq!(driver.arguments(&task, "/all").join(" "), "drive /all --run 1a2b3c4d");
        assert_eq!(driver.name(&task), "uc-1a2b3c4d-2-captions-drive");
    }
}
