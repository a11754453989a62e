//! An opened build: its spec, its two stores, and what its source offers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use manifests::plan::PinnedTable;
use manifests::weights::Weights;
use manifests::{Artifact, BuildSpec};
use workers::WorkerError;
use workers::assignment::{Assignment, assigned};
use workers::fetch::FetchSettings;
use workers::planning::VirtualInputs;
use workers::removals::Removals;
use workers::slices::{InputStores, Slices};
use workers::stores::{SourceStore, WorkStore};
use workers::tables::Tables;

use crate::settled_stages::SettledStages;

/// A build, opened.
///
/// It sees the store as it was when it was opened: the live parts of its tables are pinned one after the other, each
/// before the tables that it is made from, and the source is listed last. So whatever a stage computes from is at least
/// as new as everything that went into the parts it replaces; its own commits update the pins.
pub struct Build {
    /// What is built.
    pub spec: BuildSpec,
    /// Where images and captions come from.
    pub source: SourceStore,
    /// Where tables, checkpoints and reports go.
    pub work: WorkStore,
    /// Delta tables of the work store.
    pub tables: Tables,
    /// The listing of the source, and the split assignment once it is known.
    pub virtual_inputs: VirtualInputs,
    /// What the spec's fields name; fetched before the first step of a run.
    pub weights: Weights,
    /// Folder of this machine for checkpoints of work stores that are elsewhere.
    pub scratch: PathBuf,
    /// Set when the run is to end: what is finished stays.
    pub stop: std::sync::Arc<AtomicBool>,
    /// What earlier runs left with nothing to do.
    pub(crate) settled: SettledStages,
    /// Rows that leave the tables, once somebody has asked.
    pub(crate) removals: Option<Removals>,
    pins: BTreeMap<Artifact, PinnedTable>,
    /// Commits of this build since it was opened.
    commits: u64,
}

impl Build {
    /// Opens the stores and lists the source. Makes nothing.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] for stores or a source that the spec does not describe rightly,
    /// [`WorkerError::Broken`] for a source or tables that cannot be read; a store that does not answer.
    pub async fn open(spec: BuildSpec, stop: std::sync::Arc<AtomicBool>) -> Result<Build, WorkerError> {
        let mut build = Build::connect(spec, stop).await?;
        build.list_source().await?;
        Ok(build)
    }

    /// Opens the stores of a build that was run before: enough for `status` and `report`.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] if nothing was built there yet; otherwise as [`open`](Self::open).
    pub async fn open_work(spec: BuildSpec, stop: std::sync::Arc<AtomicBool>) -> Result<Build, WorkerError> {
        let build = Build::connect(spec, stop).await?;
        build.work.required().await?;
        Ok(build)
    }

    /// Lists what the source offers, after a look whether all live parts are there. Writes nothing.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn list_source(&mut self) -> Result<(), WorkerError> {
        self.removals = None;
        self.find_lost().await?;
        self.source.required()?;
        let mut slices = Slices::default();
        let listing = workers::listing::list(&self.source, &self.work, &self.spec, &mut slices).await?;
        self.virtual_inputs = VirtualInputs::new(listing, slices);
        crate::preflight::rows(&self.virtual_inputs.listing, &self.spec)
    }

    /// Spares the next listing what this one has read of archives; in a store that was made.
    pub(crate) async fn keep_listing(&mut self) -> Result<(), WorkerError> {
        self.virtual_inputs.listing.keep(&self.work).await
    }

    /// Opens the stores, whether or not anything is there.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] for addresses that name no stores; a store that does not answer.
    pub async fn connect(spec: BuildSpec, stop: std::sync::Arc<AtomicBool>) -> Result<Build, WorkerError> {
        let source = SourceStore::open(&spec.source.url, &spec.source.options)?;
        let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
        if work.url() == source.url() {
            let why = format!("work.url and source.url are both {}: a source is only ever read", work.url());
            return Err(WorkerError::Configuration(format!("{why}; name another folder in work.url")));
        }
        let tables = Tables::new(&work);
        let weights = workers::weights::known(&work, &spec).await?;
        // a folder for each work store: the same run in another store is another run
        let key = &manifests::digest::of_bytes(work.url().as_str().as_bytes())[..12];
        let scratch = std::env::temp_dir().join("urbancross").join(key);
        let (virtual_inputs, pins) = (VirtualInputs::default(), BTreeMap::new());
        let has_layout = workers::layout::check(&work, &spec).await?;
        let settled = SettledStages::read(&work, &spec.country).await?;
        let removals = None;
        let mut build = Build {
            spec,
            source,
            work,
            tables,
            virtual_inputs,
            weights,
            scratch,
            stop,
            settled,
            removals,
            pins,
            commits: 0,
        };
        build.pin_all().await?;
        if !has_layout {
            workers::layout::check_tables(&build.work, &build.spec, build.pins.values()).await?;
        }
        Ok(build)
    }

    /// Looks at the store and the source again, after somebody else changed what this build had pinned.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn refresh(&mut self) -> Result<(), WorkerError> {
        self.settled = SettledStages::read(&self.work, &self.spec.country).await?;
        self.pin_all().await?;
        self.list_source().await?;
        self.keep_listing().await
    }

    async fn pin_all(&mut self) -> Result<(), WorkerError> {
        let outputs: Vec<Artifact> = stages::map_stages(&self.spec).iter().map(|stage| stage.output).collect();
        // others write these at any time, and stages read them: after their outputs
        for artifact in outputs.into_iter().rev().chain([Artifact::CaptionReviews, Artifact::TagRefreshes]) {
            let pinned = self.tables.pin(artifact, &self.spec.country, None).await?;
            self.pins.insert(artifact, pinned);
        }
        Ok(())
    }

    /// Looks for parts that are live and not there: their rows are made again.
    async fn find_lost(&mut self) -> Result<(), WorkerError> {
        for table in self.pins.values_mut() {
            table.lost = workers::parts::lost(&self.work, table, &self.spec.country).await?;
        }
        Ok(())
    }

    /// Makes sure that this store may be written to with this spec.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] if another format, or another number of shards, is there.
    pub async fn claim_layout(&self) -> Result<(), WorkerError> {
        workers::layout::claim(&self.work, &self.spec).await
    }

    pub(crate) fn fetch_settings(&self) -> FetchSettings {
        FetchSettings { concurrency: self.spec.work.concurrency, request_bytes: self.spec.work.request_mib << 20 }
    }

    /// The live parts of this country in a table, as this build sees them; of what is no table, its slices.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for a log that cannot be read; a store that does not answer.
    pub async fn pin(&self, artifact: Artifact) -> Result<PinnedTable, WorkerError> {
        match self.pins.get(&artifact) {
            _ if !artifact.is_table() => Ok(self.virtual_inputs.slices.pin(artifact)),
            Some(pinned) => Ok(pinned.clone()),
            None => self.tables.pin(artifact, &self.spec.country, None).await,
        }
    }

    /// Where a planner reads the inputs of its stages.
    pub(crate) fn input_stores(&self) -> InputStores<'_> {
        InputStores { tables: &self.work, slices: self.virtual_inputs.slices.store() }
    }

    /// Commits that this build has made.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// Pins a table's parts after a commit of this build.
    pub fn after_commit(&mut self, live: PinnedTable) {
        self.commits += 1;
        if live.artifact == Artifact::Geotags {
            self.removals = None;
        }
        self.pins.insert(live.artifact, live);
    }

    /// Counts a commit after which the build is looked at anew.
    pub(crate) fn count_commit(&mut self) {
        self.commits += 1;
    }

    /// Reads these parts in place of those of the table, for as long as this build is open.
    pub(crate) fn pin_instead(&mut self, table: PinnedTable) {
        self.pins.insert(table.artifact, table);
    }

    /// Splits of all images of the published geo-tags, in parts of `ratio`.
    pub(crate) async fn assignment(&self, ratio: [u32; 3]) -> Result<Assignment, WorkerError> {
        let (geotags, images) = (self.pin(Artifact::Geotags).await?, self.pin(Artifact::Images).await?);
        assigned(&self.work, &self.spec, &geotags, &images, ratio).await
    }

    /// Assigns every image of the published geo-tags to a split; whether any assignment changed.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for parts that cannot be read; a store that does not answer.
    pub async fn assign_splits(&mut self) -> Result<bool, WorkerError> {
        let assignment = self.assignment(self.spec.split.ratio).await?;
        self.virtual_inputs.set_assignment(&self.spec.country, assignment).await
    }
}
