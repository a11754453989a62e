//! Counting what a stage has to do: which rows of which shards are stale, and why.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use manifests::attempts::Object;
use manifests::recipe::RowAction;
use manifests::{Artifact, Digest, Plan, PlanCounts, Reason, ShardPlan, paths};
use sources::split::DropReason;
use stages::stage::Stage;
use stages::table::{Columns, option_text};

use crate::assignment::{self, AssignedCounts, Assignment};
use crate::claims::ClaimBoard;
use crate::concurrently::in_order;
use crate::error::WorkerError;
use crate::join::ShardJoin;
use crate::listing::Listing;
use crate::map::shard::sound_marker;
use crate::slices::{InputStores, Slices};
use crate::stores::WorkStore;
use crate::tables::Tables;

/// Inputs that are no tables, as a planner knows them.
#[derive(Default)]
pub struct VirtualInputs {
    /// What the source offers.
    pub listing: Listing,
    assigned: AssignedCounts,
    /// The listing and the splits, cut by shard.
    pub slices: Slices,
}

impl VirtualInputs {
    /// A listing whose splits are not known yet.
    pub fn new(listing: Listing, slices: Slices) -> Self {
        Self { listing, assigned: AssignedCounts::default(), slices }
    }

    /// How many images each split has; of none until they are assigned.
    pub fn assigned(&self) -> &AssignedCounts {
        &self.assigned
    }

    /// The split that an image is assigned to, and why it is dropped from it, if it is.
    ///
    /// # Errors
    /// Slices that are no assignment.
    pub async fn split_of(
        &self,
        shard: u32,
        image_id: &str,
    ) -> Result<Option<(String, Option<DropReason>)>, WorkerError> {
        let names = ["image_id", "split", "split_reason"];
        let Some(rows) = self.slices.read(Artifact::Assignment, shard, &names).await? else { return Ok(None) };
        let columns = Columns::new(Artifact::Assignment, &rows);
        let column = |name| columns.text(name).map_err(|e| WorkerError::Broken(e.to_string()));
        let (ids, splits, reasons) = (column(names[0])?, column(names[1])?, column(names[2])?);
        let row = ids.iter().position(|id| id == Some(image_id));
        Ok(row.map(|row| (splits.value(row).to_owned(), option_text(reasons, row).and_then(DropReason::parse))))
    }

    /// Replaces the split assignment; whether it is another than before.
    ///
    /// # Errors
    /// Rows that make no table.
    pub async fn set_assignment(&mut self, country: &str, assignment: Assignment) -> Result<bool, WorkerError> {
        let assigned = AssignedCounts::of(&assignment);
        if assigned == self.assigned {
            return Ok(false);
        }
        // shard by shard: of a large country neither rows nor batches lie in memory beside their slices
        let batches = (0..).zip(assignment).map(|(shard, rows)| Ok((shard, assignment::batch(&rows)?)));
        self.slices.replace(Artifact::Assignment, country, batches).await?;
        self.assigned = assigned;
        Ok(true)
    }
}

/// Counts the shards of a plan that `wanted` asks for, `at_once` of them at a time. The largest come first: the last
/// worker to finish then has little left.
///
/// # Errors
/// A part that cannot be read.
pub async fn count(
    work: &WorkStore,
    slices: &Slices,
    stage: Stage,
    plan: &Arc<Plan>,
    wanted: impl Fn(u32) -> bool,
    at_once: usize,
) -> Result<PlanCounts, WorkerError> {
    let mut counts = PlanCounts::default();
    let of_shards = (0..plan.shards).filter(|shard| wanted(*shard)).map(|shard| {
        let (work, slices, plan) = (work.clone(), slices.store().clone(), plan.clone());
        async move {
            let stores = InputStores { tables: &work, slices: &slices };
            ShardJoin::load(stores, &stage, &plan, shard, None).await.map(|join| counted(shard, &join))
        }
    });
    let mut shards = in_order(of_shards, at_once, "planning");
    while let Some(shard) = shards.try_next().await? {
        if shard.is_stale() {
            counts.stale.push(shard);
        } else {
            counts.kept_rows += shard.kept;
        }
    }
    counts.stale.sort_by_key(|s| (std::cmp::Reverse(s.computed()), s.shard));
    Ok(counts)
}

/// Stale shards of a plan that somebody has worked on.
#[derive(Debug, Default)]
pub struct Begun {
    /// Their work is done, in parts that are not live yet: the next run makes them so, and computes nothing of them.
    pub finished: BTreeSet<u32>,
    /// They are closed as failed, by number: no worker tries them until somebody opens them again.
    pub failed: Vec<u32>,
    /// Why the first of these was closed.
    pub first_failure: Option<String>,
}

/// What has become of the stale shards of a plan; `at_once` markers are read at a time. Writes nothing. Lists the stage's
/// markers once, if anything is stale.
///
/// # Errors
/// A store that does not answer.
pub async fn begun(work: &WorkStore, tables: &Tables, plan: &Plan, at_once: usize) -> Result<Begun, WorkerError> {
    let mut begun = Begun::default();
    if plan.counts.stale.is_empty() {
        return Ok(begun);
    }
    let names: BTreeSet<String> = work.list(&paths::markers(&plan.country, &plan.stage)).await?.into_iter().collect();
    let keys: Vec<(u32, Digest)> =
        plan.counts.stale.iter().map(|stale| (stale.shard, plan.shard_key(stale.shard))).collect();
    let with = |object: Object| keys.iter().filter(move |(_, key)| names.contains(&object.name(key)));
    let with_marker: Vec<(u32, Digest)> = with.clone()(Object::Marker).cloned().collect();
    if !with_marker.is_empty() {
        let horizon = tables.horizon_millis(plan.output.artifact, &plan.country).await?;
        let mut markers = futures::stream::iter(with_marker)
            .map(|(shard, key)| async move {
                let marker = sound_marker(work, plan, shard, &key, horizon).await?.flatten();
                Ok::<_, WorkerError>(marker.map(|_| shard))
            })
            .buffer_unordered(at_once.max(1));
        while let Some(finished) = markers.try_next().await? {
            begun.finished.extend(finished);
        }
    }
    begun.failed = with(Object::Failed).map(|(shard, _)| *shard).filter(|s| !begun.finished.contains(s)).collect();
    if let Some(first) = begun.failed.first() {
        // the lease says nothing of a shard that is closed
        let board = ClaimBoard::new(work, plan, Duration::ZERO);
        begun.first_failure = Some(board.failed(*first).await?.why());
    }
    Ok(begun)
}

fn counted(shard: u32, join: &ShardJoin) -> ShardPlan {
    let mut counted = ShardPlan { shard, ..ShardPlan::default() };
    for task in &join.tasks {
        match task.action {
            RowAction::Keep => counted.kept += 1,
            RowAction::Carry => counted.carried += 1,
            RowAction::Compute(reason) => *counted.changes.entry(reason).or_default() += 1,
            RowAction::Delete => *counted.changes.entry(Reason::Deleted).or_default() += 1,
        }
    }
    counted
}
