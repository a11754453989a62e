//! A training on a thread of its own, with its folder here and in the work store.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use stages::StageError;
use stages::fit::{RESULT_FOLDER, Trained};
use training::communicator::Communicator;
use training::trainer::Event;

use bytes::Bytes;

use super::claim::Claim;
use super::mirror::Mirror;
use super::{RECORD_FILE, ROWS_FILE};
use crate::durable;
use crate::error::WorkerError;
use crate::stores::{WorkStore, identity};

/// Seconds that a run has spent on what is saved of it, and those of them that its steps waited for data.
const SPENT_FILE: &str = "spent-seconds";
const WAITED_FILE: &str = "waited-seconds";

/// Where a run keeps what it has.
pub(crate) struct RunDir<'a> {
    pub(crate) work: &'a WorkStore,
    /// Folder of this machine for runs of work stores that are elsewhere, and for ranks other than 0.
    pub(crate) scratch: &'a Path,
    /// The run, below the work store.
    pub(crate) run: &'a str,
    /// For messages.
    pub(crate) name: &'static str,
    /// Ends the training.
    pub(crate) stop: &'a AtomicBool,
}

impl RunDir<'_> {
    /// Folder of a rank other than 0. It lies outside of the run's own, which is copied to the work store, and whose
    /// being there says that nothing has to be brought.
    fn folder_of(&self, rank: usize) -> PathBuf {
        self.scratch.join("ranks").join(rank.to_string()).join(self.run)
    }

    /// The right to train this run on this machine. A process on its own waits for one that has it and lives; several
    /// ranks, of which the others would wait in vain, are told.
    ///
    /// # Errors
    /// [`WorkerError::Stopped`] while waiting, [`WorkerError::Transient`] for several ranks or a holder that does not
    /// live.
    pub(crate) async fn claim(&self, ranks: &dyn Communicator, stop: &AtomicBool) -> Result<Claim, WorkerError> {
        let folder = match ranks.rank() {
            0 => Mirror::new(self.work, self.scratch, self.run).folder().to_owned(),
            rank => self.folder_of(rank),
        };
        Claim::take(&folder, self.name, ranks.world_size() == 1, stop).await
    }

    /// The object that says that the run is done; one that cannot be read says nothing, but is there.
    async fn recorded(&self) -> Result<Option<String>, WorkerError> {
        let record = self.work.head(&format!("{}/{RECORD_FILE}", self.run)).await?;
        Ok(record.map(|meta| identity(&meta)))
    }

    /// Brings the run's saved state here, calls `train` on a thread of its own, copies every checkpoint to the work
    /// store and, at the end, the result, with the `rows` that it saw. Only rank 0 keeps a run; the others have a folder
    /// of their own to work in.
    pub(crate) async fn run<F>(
        &self,
        claim: &Claim,
        ranks: &mut dyn Communicator,
        rows: &Bytes,
        mut observe: impl FnMut(&Event) + Send,
        train: F,
    ) -> Result<Option<Trained>, WorkerError>
    where
        F: FnOnce(&mut dyn Communicator, &Path, &mut dyn FnMut(&Event)) -> Result<Option<Trained>, StageError> + Send,
    {
        let rank = ranks.rank();
        let mut mirror = Mirror::new(self.work, self.scratch, self.run);
        let mut recorded = None;
        if rank == 0 {
            recorded = self.recorded().await?;
            mirror.restore().await?;
        }
        let folder = match rank {
            0 => mirror.folder().to_owned(),
            rank => self.folder_of(rank),
        };
        // with every folder above it: a result that lies in it must not be lost with its name
        durable::create_folder(&folder)?;
        // what earlier starts spent on what is saved
        let [spent_file, waited_file] = [SPENT_FILE, WAITED_FILE].map(|name| folder.join(name));
        let [spent, waited] = [&spent_file, &waited_file].map(|file| seconds_in(file));
        let began = Instant::now();
        let runtime = tokio::runtime::Handle::current();
        let (saving, mut lost) = (&mut mirror, None);
        let (stop, overtaken) = (self.stop, &mut lost);
        let trained = std::thread::scope(|scope| {
            let folder = &folder;
            let mut waited = waited;
            let mut observe = move |event: &Event| {
                if let Event::Step(step) = event {
                    waited += step.wait_seconds;
                }
                // on the training's own thread: the next step waits for a store that is slow
                if matches!(event, Event::Saved) {
                    for (file, seconds) in
                        [(&spent_file, spent + began.elapsed().as_secs_f64()), (&waited_file, waited)]
                    {
                        if let Err(error) = durable::write(file, seconds.to_string().as_bytes()) {
                            tracing::warn!(%error, "the time of this training will lack this start");
                        }
                    }
                    match runtime.block_on(saving.save()) {
                        Ok(()) => {}
                        // somebody else trains this run from here on
                        Err(error @ WorkerError::Conflict(_)) => {
                            overtaken.get_or_insert(error);
                            stop.store(true, Ordering::Relaxed);
                        }
                        Err(error) => {
                            tracing::warn!(%error, "the checkpoint is on this machine only; the next one is tried again");
                        }
                    }
                }
                claim.note(event);
                observe(event);
            };
            let thread = scope.spawn(move || train(ranks, folder, &mut observe));
            // the calling thread waits in `block_in_place`: the runtime's other threads serve the reads
            tokio::task::block_in_place(|| thread.join())
        });
        if let Some(conflict) = lost {
            return Err(conflict);
        }
        let mut trained = trained.map_err(|_| {
            WorkerError::Broken(format!("{}: the training thread failed; its message is above", self.name))
        })??;
        if let Some(trained) = &mut trained {
            trained.seconds += spent;
            trained.wait_seconds += waited;
        }
        if trained.is_some() {
            // paused for long, it may have been overtaken by one that is done and whose states were cleared away
            if self.recorded().await? != recorded {
                return Err(WorkerError::Conflict(format!("the record of the training {}", self.run)));
            }
            // whoever starts from these weights, here or elsewhere, learns what they saw
            durable::write(&folder.join(RESULT_FOLDER).join(ROWS_FILE), rows)?;
            mirror.publish(RESULT_FOLDER).await?;
        }
        Ok(trained)
    }
}

/// What earlier starts wrote down; 0: nothing, or nothing that can be read.
fn seconds_in(file: &Path) -> f64 {
    std::fs::read_to_string(file).ok().and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use manifests::spec::StoreOptions;
    use training::communicator::Solo;
    use training::trainer::Progress;

    fn trained() -> Trained {
        Trained {
            model_digest: String::new(),
            parameters: 1,
            train_rows: 4,
            validation_rows: 1,
            epochs: 1,
            best_epoch: 0,
            best_validation_mean_recall: 50.0,
            validation_chance: None,
            samples: 4,
            seconds: 1.0,
            wait_seconds: 0.5,
        }
    }

    /// A machine that slept while another one trained the run to its end leaves what that one published.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_result_that_somebody_else_has_published_stands() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(&folder.path().display().to_string(), &StoreOptions::default()).unwrap();
        let (stop, run) = (AtomicBool::new(false), "checkpoints/x/pretrain/key");
        let place = RunDir { work: &work, scratch: folder.path(), run, name: "pretrain", stop: &stop };
        let claim = place.claim(&Solo, &stop).await.unwrap();
        let (rows, mut ranks) = (Bytes::new(), Solo);
        let ran = place.run(
            &claim,
            &mut ranks,
            &rows,
            |_| (),
            |_, folder, _| {
                durable::write(&folder.join(RECORD_FILE), b"{}").unwrap();
                Ok(Some(trained()))
            },
        );
        let Err(overtaken) = ran.await else { panic!("it was overtaken") };
        assert!(overtaken.exit_code() == 75 && overtaken.to_string().contains("pretrain/key"), "{overtaken}");
        assert!(!folder.path().join(run).join(RESULT_FOLDER).exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_that_goes_on_counts_the_time_of_its_earlier_starts() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(&folder.path().display().to_string(), &StoreOptions::default()).unwrap();
        let stop = AtomicBool::new(false);
        let run = "checkpoints/x/pretrain/key";
        let place = RunDir { work: &work, scratch: folder.path(), run, name: "pretrain", stop: &stop };
        let claim = place.claim(&Solo, &stop).await.unwrap();
        let step = Event::Step(Progress {
            epoch: 0,
            step: 0,
            loss: 1.0,
            parts: Vec::new(),
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            samples_per_second: 4.0,
            seconds: 3.0,
            wait_seconds: 2.0,
        });
        let (rows, mut ranks) = (Bytes::new(), Solo);
        for _ in 0..2 {
            let stopped = place.run(
                &claim,
                &mut ranks,
                &rows,
                |_| (),
                |_, _, observe| {
                    // what is not saved is done again, and counts then
                    for event in [&step, &Event::Saved, &step] {
                        observe(event);
                    }
                    Err(StageError::Stopped)
                },
            );
            assert!(matches!(stopped.await, Err(WorkerError::Stopped)));
        }
        let spent = seconds_in(&folder.path().join(run).join(SPENT_FILE));
        let trained = place.run(&claim, &mut ranks, &rows, |_| (), |_, _, _| Ok(Some(trained())));
        let trained = trained.await.unwrap().unwrap();
        assert_eq!((trained.wait_seconds, trained.seconds), (2.0 + 2.0 + 0.5, spent + 1.0));
    }

    #[test]
    fn ranks_do_not_work_in_the_folder_of_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(&folder.path().display().to_string(), &StoreOptions::default()).unwrap();
        let stop = AtomicBool::new(false);
        for scratch in [folder.path(), Path::new("/scratch")] {
            let place =
                RunDir { work: &work, scratch, run: "checkpoints/x/pretrain/key", name: "pretrain", stop: &stop };
            let own = Mirror::new(&work, scratch, place.run).folder().to_owned();
            let [one, two] = [1, 2].map(|rank| place.folder_of(rank));
            assert!(!one.starts_with(&own) && !own.starts_with(&one) && one != two);
        }
    }
}
