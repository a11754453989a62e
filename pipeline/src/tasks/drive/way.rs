//! What is done of one task, beside others that are under way.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use engines::{ADAPT, VARIANT};
use manifests::digest;
use tokio::sync::{Mutex, OnceCell};
use training::communicator::Solo;
use workers::WorkerError;
use workers::lease::{self, Held};
use workers::stores::WorkStore;

use super::runs::{adapt, swept};
use super::{Drive, Engines, Outcome, TaskEnd};
use crate::ablate::ablate;
use crate::build::Build;
use crate::given::GivenPair;
use crate::pair::Pair;
use crate::progress::Progress;
use crate::run::RunEnd;
use crate::sweep::{self, Opened, Swept};
use crate::tasks::{Task, What, adapted, finish_pair, page};

pub(super) struct Way<'d, E> {
    drive: &'d Drive<'d>,
    engines: &'d E,
    /// Pairs that were opened: opening one reads tables.
    pairs: RefCell<BTreeMap<String, Rc<OnceCell<Rc<Pair>>>>>,
    /// Leases that tasks hold, of which several may be at work on one pair or build.
    leases: RefCell<BTreeMap<String, Rc<Mutex<Weak<Held>>>>>,
    /// Held by the one that says what it came to.
    saying: Mutex<()>,
    /// Whether anything was made that was not there.
    worked: Cell<bool>,
}

impl<'d, E: Engines> Way<'d, E> {
    pub(super) fn new(drive: &'d Drive<'d>, engines: &'d E) -> Self {
        let (pairs, leases, saying) = (RefCell::default(), RefCell::default(), Mutex::default());
        Self { drive, engines, pairs, leases, saying, worked: Cell::new(false) }
    }

    pub(super) fn has_worked(&self) -> bool {
        self.worked.get()
    }

    pub(super) async fn task(&self, number: usize, task: &Task) -> Result<TaskEnd, WorkerError> {
        let (engines, stop) = (self.engines, self.drive.stop);
        let progress = &self.drive.progress.of_task(&task.name);
        match &task.what {
            What::Build(spec) => {
                let engine = engines.engine(number, task).await?;
                let mut build = Build::connect(spec.as_ref().clone(), stop.clone()).await?;
                build.source.required()?;
                build.list_source().await?;
                let ended = crate::run::drive(&mut build, self.drive.options, &engine, progress).await;
                self.worked.set(self.worked.get() || build.commits() > 0);
                match ended? {
                    RunEnd::Placed { step } => return Ok(TaskEnd::Placed(step)),
                    RunEnd::Done(out) => self.finished(task, Outcome::Built(&build, &out)).await?,
                }
            }
            What::Adapt(of) => {
                let _lease = self.lease(task, progress).await?;
                let pair = self.pair(of, true).await?;
                let record = match pair.finished(&of.spec).await? {
                    Some(record) => {
                        progress.note(&format!("{ADAPT:21} up to date ({})", record.trained.best_validation()));
                        record
                    }
                    None => {
                        self.worked.set(true);
                        match adapt(&pair, of, ADAPT, &engines.engine(number, task).await?, progress).await? {
                            Some(record) => record,
                            None => return Ok(TaskEnd::Placed(ADAPT)),
                        }
                    }
                };
                let finished = finish_pair(&pair, &record, progress).await?;
                self.finished(task, Outcome::Adapted(&pair, &finished)).await?;
            }
            What::Variant(of) => {
                let _lease = self.lease(task, progress).await?;
                let pair = self.pair(of, false).await?;
                let record = match pair.finished(&of.spec).await? {
                    Some(record) => record,
                    None => {
                        self.worked.set(true);
                        match adapt(&pair, of, VARIANT, &engines.engine(number, task).await?, progress).await? {
                            Some(record) => record,
                            None => return Ok(TaskEnd::Placed(VARIANT)),
                        }
                    }
                };
                adapted::figures(&pair, &record).await?;
                progress.note(&format!("{VARIANT:21} done ({})", record.trained.best_validation()));
                self.finished(task, Outcome::Learnt).await?;
            }
            What::Train(spec, moves) => {
                let _lease = self.lease(task, progress).await?;
                let (engine, allow_failed) = (engines.engine(number, task).await?, self.drive.options.allow_failed);
                let open = || Swept::open(spec.as_ref().clone(), *moves, (&engine, allow_failed), stop, progress);
                let ready = match open().await? {
                    Opened::Ready(ready) => ready,
                    Opened::Placed(step) => return Ok(TaskEnd::Placed(step)),
                };
                if let Some(key) = ready.unfinished().await? {
                    self.worked.set(true);
                    if let Some(step) = swept(ready.build(), &key, *moves, &engine, progress).await? {
                        return Ok(TaskEnd::Placed(step));
                    }
                    // by an engine that waits it is finished, or goes on here from its last checkpoint
                    match open().await? {
                        Opened::Ready(ready) => _ = ready.finish(&mut Solo, progress).await?,
                        Opened::Placed(step) => return Ok(TaskEnd::Placed(step)),
                    }
                }
                progress.note(&format!("{:21} done", moves.step()));
                self.finished(task, Outcome::Learnt).await?;
            }
            What::Ablation(of) => {
                let pair = self.pair(of, true).await?;
                let ablation = ablate(&pair, progress).await?;
                let path = manifests::paths::report(&format!("{}.ablation", pair.name));
                let make = async || {
                    let (pairs, all) = (std::slice::from_ref(pair.as_ref()), std::slice::from_ref(&ablation));
                    crate::page::ablation::make(pairs, all, &crate::clock::now()).await
                };
                let report = page::put(&pair.target.work, &path, &ablation, make).await?;
                self.finished(task, Outcome::Ablated(&ablation, &report)).await?;
            }
            What::Curves(of, axes) => {
                let curves = sweep::sweep(of, axes, self.drive.options.allow_failed, stop, progress).await?;
                let (build, name) = task.what.home();
                let work = WorkStore::open(&build.work.url, &build.work.options)?;
                let path = manifests::paths::report(&format!("{name}.sweep"));
                let make = async || Ok(crate::page::sweep::curves(&curves, &crate::clock::now()));
                let report = page::put(&work, &path, &curves, make).await?;
                self.finished(task, Outcome::Swept(&curves, &report)).await?;
            }
        }
        Ok(TaskEnd::Done)
    }

    /// Says what a task came to, when nobody else does.
    async fn finished(&self, task: &Task, outcome: Outcome<'_>) -> Result<(), WorkerError> {
        let _saying = self.saying.lock().await;
        self.engines.finished(task, outcome).await
    }

    /// Another driver of these runs waits meanwhile, so that neither begins what the other has begun. Builds have theirs.
    async fn lease(&self, task: &Task, progress: &Progress) -> Result<Rc<Held>, WorkerError> {
        let (spec, name) = task.what.home();
        let key = digest::of_value(&(&spec.work.url, &name));
        let of_tasks = self.leases.borrow_mut().entry(key).or_default().clone();
        let mut held = of_tasks.lock().await;
        if let Some(held) = held.upgrade() {
            return Ok(held);
        }
        let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
        let waits = |whom: &str| progress.note(&format!("waiting for {whom}"));
        let seconds = spec.work.lease_seconds;
        let taken = lease::take(&work, &name, "urbancross drive", seconds, self.drive.stop, waits).await?;
        let taken = Rc::new(taken.0);
        *held = Rc::downgrade(&taken);
        Ok(taken)
    }

    /// A pair, opened once for all runs that read the same tables; with its own settings where it is `whole`, and otherwise with
    /// those of any of these runs.
    async fn pair(&self, of: &GivenPair, whole: bool) -> Result<Rc<Pair>, WorkerError> {
        let tables = (of.spec.ratio, of.spec.adapt.segments_per_image > 0);
        let settings = whole.then(|| of.spec.to_toml());
        let key = digest::of_value(&(of.source.to_toml(), of.target.to_toml(), tables, settings));
        let opened = self.pairs.borrow_mut().entry(key).or_default().clone();
        let open = async || Ok::<_, WorkerError>(Rc::new(of.open(self.drive.stop).await?));
        let pair = opened.get_or_try_init(open).await?.clone();
        pair.check_batch(&of.spec)?;
        Ok(pair)
    }
}
