//! One story on a work store of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use manifests::BuildSpec;
use serde_json::Value;

use super::Outcome;
use super::dice::Dice;
use super::figures::Counts;
use super::journal::{self, Step};
use super::oracle::Holdings;
use super::shim::{self, Strike};
use super::worker::Worker;
use crate::{python_with, s3, spec_below};

/// What all trials share.
pub struct Arsenal {
    pub program: PathBuf,
    shim: PathBuf,
    /// A Python with `deltalake`.
    pub python: Option<&'static str>,
    /// A Python with an S3-compatible server.
    pub python_with_s3: Option<&'static str>,
    /// Folder of the trials.
    pub folder: PathBuf,
    /// What a build of the unedited world leaves.
    wanted: Holdings,
    /// Changes of a build that finds nothing.
    pub changes: usize,
    /// Its steps.
    pub first_steps: Vec<Step>,
    /// Steps of a build after an edit.
    pub later_steps: Vec<Step>,
}

/// Why there is no arsenal.
pub enum Unarmed {
    /// This machine cannot.
    Here(String),
    /// The program does not even build undisturbed.
    Program(String),
}

impl From<String> for Unarmed {
    fn from(why: String) -> Unarmed {
        Unarmed::Program(why)
    }
}

impl Arsenal {
    /// Makes a world and watches undisturbed builds of it.
    pub fn new(program: PathBuf, folder: PathBuf) -> Result<Arsenal, Unarmed> {
        let shim = shim::build(&folder).map_err(Unarmed::Here)?;
        let settings = sandbox::Settings { tiles_per_country: 24, side_px: 80, seed: 7 };
        sandbox::generate(&folder.join("world"), &settings, &mut |_, _| {}).map_err(|e| e.to_string())?;
        let (first_steps, later_steps) = (Vec::new(), Vec::new());
        let (python, python_with_s3) = (python_with(&["deltalake"]), python_with(&s3::MODULES));
        let mut arsenal = Arsenal {
            program,
            shim,
            python,
            python_with_s3,
            folder,
            wanted: Holdings::default(),
            changes: 0,
            first_steps,
            later_steps,
        };
        let mut trial = Trial::new(&arsenal, 0, "undisturbed", (0, 1))?;
        trial.start(None)?.ends_with(&[0])?;
        let wanted = Holdings::read(&trial.spec("work"))?;
        let first = journal::read(&trial.journal())?;
        trial.edit()?;
        trial.forget_journal();
        trial.start(None)?.ends_with(&[0])?;
        let later = journal::read(&trial.journal())?;
        let steps = |changes: &[journal::Change]| journal::steps(changes, &trial.work());
        let (first_steps, later_steps) = (steps(&first), steps(&later));
        trial.remove();
        arsenal.wanted = wanted;
        arsenal.changes = first.len();
        arsenal.first_steps = first_steps;
        arsenal.later_steps = later_steps;
        Ok(arsenal)
    }
}

pub struct Trial<'a> {
    pub arsenal: &'a Arsenal,
    pub dice: Dice,
    /// Which trial of its scenario, of how many.
    round: (u64, u64),
    pub counts: Counts,
    pub folder: PathBuf,
    /// Each step, for whoever looks into a failure.
    pub story: Vec<String>,
    workers: u32,
    /// By how many seconds the clocks of the next workers are wrong.
    pub clock: i64,
    /// Whether the next workers wait for each other by courtesy; nothing may rest on it.
    pub leases: bool,
    /// Where the work store is, if not in the trial's folder.
    settings: Vec<String>,
}

/// The share of images whose tags an edit changes.
const EDITED_SHARE: f64 = 0.3;

impl<'a> Trial<'a> {
    pub fn new(arsenal: &'a Arsenal, seed: u64, scenario: &str, round: (u64, u64)) -> Result<Trial<'a>, String> {
        let folder = arsenal.folder.join(format!("{scenario}-{}", round.0));
        let said = |e: std::io::Error| format!("{}: {e}", folder.display());
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("keep")).map_err(said)?;
        link_folder(&arsenal.folder.join("world"), &folder.join("world")).map_err(said)?;
        let dice = Dice::new(seed, scenario, round.0);
        let settings = Vec::new();
        let trial = Trial {
            settings,
            arsenal,
            dice,
            round,
            counts: Counts::default(),
            folder,
            story: Vec::new(),
            workers: 0,
            clock: 0,
            leases: true,
        };
        trial.write_specs()?;
        Ok(trial)
    }

    fn write_specs(&self) -> Outcome {
        for work in ["work", "wanted"] {
            let path = self.folder.join(format!("{work}.toml"));
            std::fs::write(&path, self.spec(work).to_toml()).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    }

    /// The work store is addressed otherwise from now on.
    pub fn moves_to(&mut self, settings: &[String]) -> Outcome {
        self.settings = settings.to_vec();
        self.write_specs()
    }

    pub fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }

    pub fn work(&self) -> PathBuf {
        self.folder.join("work")
    }

    pub fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    pub fn forget_journal(&self) {
        let _ = std::fs::remove_file(self.journal());
    }

    pub fn tell(&mut self, what: impl Into<String>) {
        self.story.push(what.into());
    }

    fn spec(&self, work: &str) -> BuildSpec {
        let mut settings: Vec<&str> = SETTINGS.to_vec();
        if work == "work" {
            settings.extend(self.settings.iter().map(String::as_str));
        }
        spec_below(&self.folder, work, &settings)
    }

    fn command(&self, verb: &str, work: &str) -> Command {
        let mut command = Command::new(&self.arsenal.program);
        command.arg(verb).arg(self.folder.join(format!("{work}.toml")));
        // what belongs to the machine and not to the store
        command.env("TMPDIR", &self.folder);
        command
    }

    /// Where this trial is on its scenario's way through `all` places, which are counted from 1.
    pub fn walk(&mut self, all: usize) -> usize {
        let (round, rounds) = self.round;
        let stride = all.div_ceil(rounds.max(1) as usize).max(1);
        1 + (round as usize * stride + self.dice.below(stride)) % all.max(1)
    }

    /// Starts a worker, watched by the shim; `strike` says what happens to it, and where.
    pub fn start(&mut self, strike: Option<&Strike>) -> Result<Worker, String> {
        let args = ["--set", "work.lease_seconds=0"];
        self.start_verb("run", if self.leases { &[] } else { &args }, strike)
    }

    /// The same for any command of the program that takes a spec.
    pub fn start_verb(&mut self, verb: &str, args: &[&str], strike: Option<&Strike>) -> Result<Worker, String> {
        let mut command = self.command(verb, "work");
        command
            .args(args)
            .env("LD_PRELOAD", &self.arsenal.shim)
            .env("URBANCROSS_CHAOS_ROOT", self.work())
            .env("URBANCROSS_CHAOS_JOURNAL", self.journal())
            .env("URBANCROSS_CHAOS_KEEP", self.folder.join("keep"));
        if let Some(strike) = strike {
            strike.apply(&mut command);
        }
        if self.clock != 0 {
            command.env("URBANCROSS_CHAOS_CLOCK", self.clock.to_string());
            self.tell(format!("the next worker's clock is wrong by {} s", self.clock));
        }
        self.workers += 1;
        let what = strike.map_or("undisturbed".to_owned(), ToString::to_string);
        self.tell(format!("worker {}: {verb} {}, {what}", self.workers, args.join(" ")));
        Worker::start(&mut command, &self.folder.join(format!("worker-{}.log", self.workers)))
    }

    /// Other tags for some images of the source.
    pub fn edit(&mut self) -> Outcome {
        let seed = self.dice.draw();
        sandbox::edit_tags(&self.folder.join("world"), EDITED_SHARE, seed).map_err(|e| e.to_string())?;
        self.tell("the source is edited");
        self.counts.edits += 1;
        Ok(())
    }

    /// A run that nobody disturbs must end with 0, leave the right tables, and leave nothing to do.
    pub fn comes_to_the_right_end(&mut self) -> Outcome {
        self.start(None)?.ends_with(&[0]).map_err(|why| format!("the last run {why}"))?;
        self.is_right()?;
        self.nothing_is_to_do()
    }

    /// The store holds what an undisturbed build from this source holds.
    pub fn is_right(&mut self) -> Outcome {
        let found = Holdings::read(&self.spec("work"))?;
        let edited = self.counts.edits > 0;
        let difference = match edited {
            false => found.difference(&self.arsenal.wanted, true),
            // the model depends on what it started from
            true => found.difference(&self.wanted()?, false),
        };
        difference.map_or(Ok(()), Err)
    }

    /// What a build from nothing leaves of the source as it is now.
    fn wanted(&self) -> Result<Holdings, String> {
        let _ = std::fs::remove_dir_all(self.folder.join("wanted"));
        Worker::start(&mut self.command("run", "wanted"), &self.folder.join("wanted.log"))?.ends_with(&[0])?;
        Holdings::read(&self.spec("wanted"))
    }

    fn nothing_is_to_do(&self) -> Outcome {
        let output = self.command("plan", "work").arg("--json").output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<Value> = serde_json::from_slice(&output.stdout).map_err(|e| format!("plan: {e}: {said}"))?;
        let moves = |line: &&Value| line["rows"] != 0 || line["reasons"].as_object().is_some_and(|r| !r.is_empty());
        match lines.iter().find(moves) {
            None => Ok(()),
            Some(line) => Err(format!("after the last run there is work left: {line}")),
        }
    }
}

const SETTINGS: [&str; 2] = ["score.clip=none", "pretrain.epochs=1"];

/// The same files under other names: an edit replaces files and does not write into them.
fn link_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link_folder(&entry.path(), &target)?;
        } else {
            std::fs::hard_link(entry.path(), target)?;
        }
    }
    Ok(())
}
