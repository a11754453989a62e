//! One story on a work store of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use manifests::BuildSpec;
use serde_json::Value;

use super::Outcome;
use super::dice::Dice;
use super::oracle::Holdings;
use super::shim::Strike;
use super::worker::{End, Worker};
use crate::spec_below;

/// What all trials share.
pub struct Arsenal {
    pub program: PathBuf,
    pub shim: PathBuf,
    /// A world that nobody edits.
    pub world: PathBuf,
    /// Folder of the trials.
    pub folder: PathBuf,
}

/// What was done to workers, for the figures.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub kills: u32,
    pub pauses: u32,
    pub stops: u32,
    pub edits: u32,
    pub faults: u32,
    pub cuts: u32,
    /// The chosen point was not met.
    pub missed: u32,
}

pub struct Trial<'a> {
    pub arsenal: &'a Arsenal,
    pub dice: Dice,
    pub round: u64,
    pub counts: Counts,
    pub folder: PathBuf,
    /// Each step, for whoever looks into a failure.
    pub story: Vec<String>,
    workers: u32,
    edited: bool,
}

/// The share of images whose tags an edit changes.
const EDITED_SHARE: f64 = 0.3;

impl<'a> Trial<'a> {
    pub fn new(arsenal: &'a Arsenal, seed: u64, scenario: &str, round: u64) -> Result<Trial<'a>, String> {
        let folder = arsenal.folder.join(format!("{scenario}-{round}"));
        std::fs::create_dir_all(folder.join("keep")).map_err(|e| format!("{}: {e}", folder.display()))?;
        copy_folder(&arsenal.world, &folder.join("world")).map_err(|e| format!("{}: {e}", folder.display()))?;
        let dice = Dice::new(seed, scenario, round);
        let trial = Trial {
            arsenal,
            dice,
            round,
            counts: Counts::default(),
            folder,
            story: Vec::new(),
            workers: 0,
            edited: false,
        };
        for work in ["work", "wanted"] {
            std::fs::write(trial.spec_path(work), trial.spec(work).to_toml()).map_err(|e| e.to_string())?;
        }
        Ok(trial)
    }

    pub fn work(&self) -> PathBuf {
        self.folder.join("work")
    }

    pub fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    fn spec_path(&self, work: &str) -> PathBuf {
        self.folder.join(format!("{work}.toml"))
    }

    fn spec(&self, work: &str) -> BuildSpec {
        spec_below(&self.folder, work, &["score.clip=none", "pretrain.epochs=1"])
    }

    fn command(&self, verb: &str, work: &str) -> Command {
        let mut command = Command::new(&self.arsenal.program);
        command.arg(verb).arg(self.spec_path(work));
        command
    }

    /// Starts a worker, watched by the shim; `strike` says what happens to it, and where.
    pub fn start(&mut self, strike: Option<&Strike>) -> Result<Worker, String> {
        let mut command = self.command("run", "work");
        command
            .env("LD_PRELOAD", &self.arsenal.shim)
            .env("URBANCROSS_CHAOS_ROOT", self.work())
            .env("URBANCROSS_CHAOS_JOURNAL", self.journal())
            .env("URBANCROSS_CHAOS_KEEP", self.folder.join("keep"));
        if let Some(strike) = strike {
            strike.apply(&mut command);
        }
        self.workers += 1;
        let what = strike.map_or("undisturbed".to_owned(), ToString::to_string);
        self.story.push(format!("worker {}: {what}", self.workers));
        Worker::start(&mut command, &self.folder.join(format!("worker-{}.log", self.workers)))
    }

    /// Other tags for some images of the source.
    pub fn edit(&mut self) -> Outcome {
        let seed = self.dice.next();
        sandbox::edit_tags(&self.folder.join("world"), EDITED_SHARE, seed).map_err(|e| e.to_string())?;
        self.story.push("the source is edited".into());
        self.counts.edits += 1;
        self.edited = true;
        Ok(())
    }

    /// A run that nobody disturbs must end with 0, leave the right tables, and leave nothing to do.
    pub fn comes_to_the_right_end(&mut self) -> Outcome {
        let mut worker = self.start(None)?;
        match worker.end()? {
            End::Code(0) => {}
            other => return Err(format!("the undisturbed run ended with {other:?}: {}", worker.last_words())),
        }
        self.is_right()?;
        self.nothing_is_to_do()
    }

    /// The store holds what an undisturbed build from this source holds.
    pub fn is_right(&mut self) -> Outcome {
        let wanted = self.wanted()?;
        match Holdings::read(&self.spec("work"))?.difference(&wanted, !self.edited) {
            None => Ok(()),
            Some(difference) => Err(difference),
        }
    }

    fn wanted(&self) -> Result<Holdings, String> {
        // made again after every edit, from nothing: a standing training would not be that of these tables
        let store = self.folder.join("wanted");
        let _ = std::fs::remove_dir_all(&store);
        let mut worker = Worker::start(&mut self.command("run", "wanted"), &self.folder.join("wanted.log"))?;
        match worker.end()? {
            End::Code(0) => Holdings::read(&self.spec("wanted")),
            other => Err(format!("a build that nobody disturbs ended with {other:?}: {}", worker.last_words())),
        }
    }

    fn nothing_is_to_do(&self) -> Outcome {
        let output = self.command("plan", "work").arg("--json").output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<Value> = serde_json::from_slice(&output.stdout).map_err(|e| format!("plan: {e}: {said}"))?;
        match lines.iter().find(|line| line["rows"] != 0 || line["reasons"].as_object().is_some_and(|r| !r.is_empty()))
        {
            None => Ok(()),
            Some(line) => Err(format!("after the build there is still work: {line}")),
        }
    }
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
