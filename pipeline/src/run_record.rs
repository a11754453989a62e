//! What is written down of a run by an engine: what was submitted, what was placed, and how processes ended. Hints, by
//! which people and drivers see what goes on; whether something is done the tables say.

use std::collections::BTreeSet;

use manifests::{BuildSpec, Digest, digest, paths};
use serde::{Deserialize, Serialize};
use workers::WorkerError;
use workers::claims::Claimant;
use workers::stores::WorkStore;

/// What a run was submitted with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// Name of the run.
    pub run: String,
    /// `slurm`, `kubernetes` or `ray`.
    pub engine: String,
    /// The whole spec as TOML.
    pub spec: String,
    /// The profile as TOML.
    pub profile: String,
    /// Options of all drivers.
    pub options: Vec<String>,
    /// The first job.
    pub first_job: String,
    /// Where logs are, in words.
    pub logs: String,
    /// Of a task of several: the run that its drivers drive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<String>,
}

impl Submission {
    /// The run, as jobs are named after it.
    pub fn run(&self, country: &str) -> engines::Run {
        let Submission { run, spec, options, whole, .. } = self.clone();
        engines::Run { id: run, country: country.to_owned(), spec, options, whole, beside: Vec::new() }
    }
}

/// A job that was placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Name of the stage or training.
    pub step: String,
    /// Key of the plan; empty for a training.
    pub plan: Digest,
    /// Which try of this step it is, from 1.
    pub attempt: u32,
    /// Workers or ranks.
    pub processes: u32,
    /// When, by the clock of the driver's machine.
    #[serde(default)]
    pub unix_seconds: u64,
    /// The engine's names of its jobs.
    pub jobs: Vec<String>,
}

/// How a worker or a rank ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEnd {
    /// Exit code.
    pub code: u8,
    /// Why, unless it is 0.
    pub message: String,
    /// Key of the plan, or the attempt of a training.
    pub of: String,
    /// Who it was.
    pub by: Claimant,
}

impl ProcessEnd {
    /// Whether its job ends with it: one that says that another try may help is queued again under the same name.
    pub fn is_last_word(&self) -> bool {
        [0, 65].contains(&self.code)
    }
}

/// Step and process under which the last driver says how it ended.
pub const DRIVER: (&str, &str) = ("drive", "last");
/// What a driver worked on that has nothing left to do.
pub const DONE: &str = "done";

/// When a run was last begun.
const BEGUN: &str = "begun.json";
/// What had been placed by then.
const EARLIER: &str = "earlier.json";

/// What is kept of the time before a run was begun anew.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Earlier {
    /// What had been placed: tries count from there.
    pub placed: Vec<Placement>,
    /// The engine's jobs whose processes had ended by their own word: where one of them is still in the queue, its node is only
    /// cleaned up.
    pub ended: BTreeSet<String>,
}

/// The records of one run.
pub struct RunRecord<'a> {
    work: &'a WorkStore,
    folder: String,
}

/// Name of the run that a spec, with the options of its drivers, asks for: the same names the same.
pub fn run_id(spec: &BuildSpec, options: &[String]) -> String {
    digest::of_value(&(spec.to_toml(), options))[..8].to_owned()
}

impl<'a> RunRecord<'a> {
    /// The records of a run of a country.
    pub fn new(work: &'a WorkStore, country: &str, run: &str) -> Self {
        Self { work, folder: paths::run(country, run) }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    /// Names of a country's runs.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn all(work: &WorkStore, country: &str) -> Result<Vec<String>, WorkerError> {
        let names = work.list(&paths::runs(country)).await?;
        let run = |name: &String| name.strip_suffix("/submission.json").map(str::to_owned);
        Ok(names.iter().filter_map(run).collect())
    }

    /// Writes down what was submitted.
    ///
    /// # Errors
    /// The store's.
    pub async fn submit(&self, submission: &Submission) -> Result<(), WorkerError> {
        self.work.put_json(&self.path("submission.json"), submission).await
    }

    /// What was submitted.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn submission(&self) -> Result<Option<Submission>, WorkerError> {
        self.work.get_hint(&self.path("submission.json")).await
    }

    /// All placements, in the order of their attempts.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn placements(&self) -> Result<Vec<Placement>, WorkerError> {
        let mut all = Vec::new();
        for name in self.work.list(&self.path("placed")).await? {
            all.extend(self.work.get_hint::<Placement>(&self.path(&format!("placed/{name}"))).await?);
        }
        all.sort_by_key(|placement: &Placement| placement.attempt);
        Ok(all)
    }

    /// Writes down what was placed.
    ///
    /// # Errors
    /// The store's.
    pub async fn place(&self, placement: &Placement) -> Result<(), WorkerError> {
        let Placement { step, plan, attempt, .. } = placement;
        let plan = &plan[..plan.len().min(8)];
        self.work.put_json(&self.path(&format!("placed/{step}.{plan}.{attempt:04}.json")), placement).await
    }

    /// Writes down how a process ended.
    ///
    /// # Errors
    /// The store's.
    pub async fn end(&self, step: &str, process: &str, end: &ProcessEnd) -> Result<(), WorkerError> {
        self.work.put_json(&self.path(&format!("ends/{step}/{process}.json")), end).await
    }

    /// How the processes of a step ended that worked on a plan or an attempt.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn ends(&self, step: &str, of: &str) -> Result<Vec<(String, ProcessEnd)>, WorkerError> {
        let folder = self.path(&format!("ends/{step}"));
        let mut ends = Vec::new();
        for name in self.work.list(&folder).await? {
            let end = self.work.get_hint::<ProcessEnd>(&format!("{folder}/{name}")).await?;
            ends.extend(end.filter(|end| end.of == of).map(|end| (name.trim_end_matches(".json").to_owned(), end)));
        }
        Ok(ends)
    }

    /// How the last driver ended; `None`: it runs, or none has.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn last_driver(&self) -> Result<Option<ProcessEnd>, WorkerError> {
        self.work.get_hint(&self.path(&format!("ends/{}/{}.json", DRIVER.0, DRIVER.1))).await
    }

    /// Ends a driver that its engine has started again in its place, `job`, though it had ended for good there: what it
    /// would place would end so, too. One that somebody starts has no such job, and is told nothing of it.
    ///
    /// # Errors
    /// How it ended, where trying again does not help; a store that does not answer.
    pub async fn check_last_driver(&self, job: Option<&str>) -> Result<(), WorkerError> {
        match self.last_driver().await? {
            Some(ProcessEnd { code: 65, message, by, .. }) if job.is_some() && by.engine_job.as_deref() == job => {
                Err(WorkerError::Broken(message))
            }
            _ => Ok(()),
        }
    }

    /// Forgets how processes ended, before they are started anew.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn forget_ends(&self, step: &str) -> Result<(), WorkerError> {
        let folder = self.path(&format!("ends/{step}"));
        for name in self.work.list(&folder).await? {
            self.work.delete(&format!("{folder}/{name}")).await?;
        }
        Ok(())
    }

    /// Forgets how all processes ended, since somebody begins the run once more: what kept them from their work may be mended. Tries
    /// count from now.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn begin_anew(&self, unix_seconds: u64) -> Result<(), WorkerError> {
        // not told by time: drivers that place jobs have other clocks
        let mut earlier = Earlier { placed: self.placements().await?, ..self.earlier().await? };
        let folder = self.path("ends");
        let names = self.work.list(&folder).await?;
        for name in &names {
            let end = self.work.get_hint::<ProcessEnd>(&format!("{folder}/{name}")).await?;
            earlier.ended.extend(end.filter(ProcessEnd::is_last_word).and_then(|end| end.by.engine_job));
        }
        self.work.put_json(&self.path(EARLIER), &earlier).await?;
        for name in names {
            self.work.delete(&format!("{folder}/{name}")).await?;
        }
        self.begin(unix_seconds).await
    }

    /// What is kept of the time before the run was last begun anew.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn earlier(&self) -> Result<Earlier, WorkerError> {
        Ok(self.work.get_hint(&self.path(EARLIER)).await?.unwrap_or_default())
    }

    /// Writes down when the run was begun.
    ///
    /// # Errors
    /// The store's.
    pub async fn begin(&self, unix_seconds: u64) -> Result<(), WorkerError> {
        self.work.put_json(&self.path(BEGUN), &unix_seconds).await
    }

    /// When the run was last begun, by the clock of who submitted it; 0: nobody has said.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn begun(&self) -> Result<u64, WorkerError> {
        Ok(self.work.get_hint(&self.path(BEGUN)).await?.unwrap_or(0))
    }

    /// Writes down that nobody is to go on with the run; or that somebody may again.
    ///
    /// # Errors
    /// The store's.
    pub async fn set_cancelled(&self, cancelled: bool) -> Result<(), WorkerError> {
        let path = self.path("cancelled");
        match cancelled {
            true => self.work.put(&path, Default::default()).await,
            false => self.work.delete(&path).await,
        }
    }

    /// Has somebody cancelled the run?
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn is_cancelled(&self) -> Result<bool, WorkerError> {
        Ok(self.work.head(&self.path("cancelled")).await?.is_some())
    }
}

/// What the ends of a step's processes come to, if one of them can never do its work.
///
/// # Errors
/// The first that ended with 65, and why.
pub fn verdict(step: &str, ends: &[(String, ProcessEnd)]) -> Result<(), WorkerError> {
    match ends.iter().find(|(_, end)| end.code == 65) {
        None => Ok(()),
        Some((process, end)) => Err(WorkerError::Broken(format!(
            "{step}: process {process} on {} cannot go on: {}",
            end.by.node, end.message
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(code: u8, of: &str) -> ProcessEnd {
        let by = Claimant { worker: "0".into(), node: "node1".into(), engine_job: None };
        ProcessEnd { code, message: "no weights".into(), of: of.into(), by }
    }

    #[tokio::test]
    async fn records_of_a_run_are_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(&folder.path().display().to_string(), &Default::default()).unwrap();
        let record = RunRecord::new(&work, "x", "1a2b3c4d");
        assert_eq!(record.placements().await.unwrap(), []);
        let placed = |attempt| Placement {
            step: "captions".into(),
            plan: "9f8e7d6c5b4a".into(),
            attempt,
            processes: 3,
            unix_seconds: 0,
            jobs: vec!["17".into()],
        };
        for attempt in [2, 1] {
            record.place(&placed(attempt)).await.unwrap();
        }
        assert_eq!(record.placements().await.unwrap(), [placed(1), placed(2)]);
        record.end("captions", "0", &end(65, "9f")).await.unwrap();
        record.end("captions", "1", &end(75, "9f")).await.unwrap();
        record.end("captions", "2", &end(65, "another plan")).await.unwrap();
        let ends = record.ends("captions", "9f").await.unwrap();
        assert_eq!(ends.len(), 2);
        let error = verdict("captions", &ends).unwrap_err();
        assert!(error.exit_code() == 65 && error.to_string().contains("node1 cannot go on: no weights"), "{error}");
        assert!(verdict("captions", &ends[1..]).is_ok());
        record.forget_ends("captions").await.unwrap();
        assert_eq!(record.ends("captions", "9f").await.unwrap(), []);
        // a driver that ended for good places nothing when it is started again in its place, until somebody begins anew
        record.end(DRIVER.0, DRIVER.1, &end(75, "")).await.unwrap();
        record.check_last_driver(Some("pod")).await.unwrap();
        let mut last = end(65, "");
        record.end(DRIVER.0, DRIVER.1, &last).await.unwrap();
        record.check_last_driver(None).await.unwrap();
        last.by.engine_job = Some("pod".into());
        record.end(DRIVER.0, DRIVER.1, &last).await.unwrap();
        let error = record.check_last_driver(Some("pod")).await.unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().as_str()), (65, "no weights"));
        record.check_last_driver(Some("another")).await.unwrap();
        record.forget_ends(DRIVER.0).await.unwrap();
        record.check_last_driver(Some("pod")).await.unwrap();
        // who begins anew knows of no end of any step
        assert_eq!(record.begun().await.unwrap(), 0);
        record.end("captions", "0", &end(65, "9f")).await.unwrap();
        let mut of_job = end(65, "1");
        of_job.by.engine_job = Some("17_0".into());
        record.end("pretrain", "0", &of_job).await.unwrap();
        of_job = ProcessEnd { code: 75, by: Claimant { engine_job: Some("17_1".into()), ..of_job.by }, ..of_job };
        record.end("pretrain", "1", &of_job).await.unwrap();
        record.begin_anew(7).await.unwrap();
        // and of those whose word was the last, whose nodes are only cleaned up
        assert_eq!(
            record.earlier().await.unwrap(),
            Earlier { placed: record.placements().await.unwrap(), ended: ["17_0".to_owned()].into() }
        );
        record.begin_anew(7).await.unwrap();
        assert_eq!(record.earlier().await.unwrap().ended.len(), 1, "however often it is begun");
        assert_eq!(record.begun().await.unwrap(), 7);
        assert_eq!(
            (record.ends("captions", "9f").await.unwrap(), record.ends("pretrain", "1").await.unwrap()),
            (vec![], vec![])
        );
        record.set_cancelled(true).await.unwrap();
        assert!(record.is_cancelled().await.unwrap());
        record.set_cancelled(false).await.unwrap();
        assert!(!record.is_cancelled().await.unwrap());
        assert!(RunRecord::all(&work, "x").await.unwrap().is_empty());
    }
}
