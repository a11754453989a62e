//! Stale rows that stand all the same, since somebody says so: their content stays, and their recipe becomes the one that is
//! wanted now. Nothing is computed, and what is made of them stays as it is.

mod record;

use std::collections::{BTreeMap, BTreeSet};

use arrow::compute::concat_batches;
use manifests::commit::Replacement;
use manifests::{Plan, Reason};
use stages::stage::{MapOutput, Outcome, Stage};
use stages::table;

use crate::compute::CHUNK_ROWS;
use crate::error::WorkerError;
use crate::join::{RowTask, ShardJoin, reorder};
use crate::map::shard::{Floats, add_lineage_columns};
use crate::parts::PartWriter;
use crate::slices::InputStores;
use crate::tables::{Change, Tables};

pub(crate) use record::recipes_of;
pub use record::{Acceptance, By, acceptances, accepted_by};

/// What was accepted, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Rows that stand, by what made them stale.
    pub rows: BTreeMap<Reason, u64>,
    /// Some of their images.
    pub examples: Vec<String>,
    /// Rows that are stale and cannot be accepted: there is nothing of theirs that could stand.
    pub others: u64,
}

const MOST_EXAMPLES: usize = 5;

/// Accepts the stale rows of a planned stage, and writes down who did. Nothing is written without somebody.
///
/// # Errors
/// [`WorkerError::Conflict`] if another run changed shards of the table meanwhile, whose rows are not accepted; parts that
/// cannot be read; a store that does not answer.
pub async fn accept(
    stores: InputStores<'_>,
    tables: &Tables,
    stage: &Stage,
    plan: &Plan,
    by: Option<&By>,
) -> Result<Accepted, WorkerError> {
    let (work, of) = (stores.tables, (plan.country.as_str(), stage.name));
    let mut all = Accepted::default();
    let (mut replacements, mut by_shard) = (Vec::new(), BTreeMap::new());
    for shard in &plan.counts.stale {
        let join = ShardJoin::load(stores, stage, plan, shard.shard, None).await?;
        let acceptable = join.acceptable(stage).await?;
        let stale = shard.computed() + shard.carried;
        all.others += stale.saturating_sub(acceptable.len() as u64);
        let mut rows = BTreeMap::<Reason, u64>::new();
        for (at, reason) in &acceptable {
            *rows.entry(*reason).or_default() += 1;
            if all.examples.len() < MOST_EXAMPLES {
                all.examples.push(join.tasks[*at].image_id.clone());
            }
        }
        add(&mut all.rows, &rows);
        by_shard.insert(shard.shard, rows);
        if let Some(by) = by.filter(|_| !acceptable.is_empty()) {
            let recipes = acceptable.keys().map(|at| &join.tasks[*at]);
            let recipes = recipes.filter_map(|task| Some((task.image_id.clone(), task.recipe.as_ref()?.digest())));
            record::write_rows(work, of, (by, shard.shard), &recipes.collect()).await?;
            let accepted = acceptable.keys().copied().collect();
            replacements.push(rewrite(stores, stage, plan, (shard.shard, &join), &accepted).await?);
        }
    }
    if let Some(by) = by.filter(|_| !replacements.is_empty()) {
        let artifact = plan.output.artifact;
        let change = Change { artifact, country: plan.country.clone(), replacements };
        let overtaken = tables.commit(change).await?.overtaken;
        let mut forgotten = Ok(());
        for shard in &overtaken {
            by_shard.remove(shard);
            forgotten = forgotten.and(record::forget_rows(work, of, by, *shard).await);
        }
        let mut acceptance = Acceptance { by: by.clone(), rows: BTreeMap::new() };
        by_shard.values().for_each(|rows| add(&mut acceptance.rows, rows));
        // the other shards' rows stand
        if acceptance.count() > 0 {
            record::write(work, of, &acceptance).await?;
        }
        forgotten?;
        if !overtaken.is_empty() {
            return Err(WorkerError::Conflict(format!("table {} of {}", artifact.name(), plan.country)));
        }
    }
    Ok(all)
}

fn add(all: &mut BTreeMap<Reason, u64>, rows: &BTreeMap<Reason, u64>) {
    rows.iter().for_each(|(reason, rows)| *all.entry(*reason).or_default() += rows);
}

/// Writes a shard anew: accepted rows under their new recipe, all others as they are, stale ones too.
async fn rewrite(
    stores: InputStores<'_>,
    stage: &Stage,
    plan: &Plan,
    (shard, join): (u32, &ShardJoin),
    accepted: &BTreeSet<usize>,
) -> Result<Replacement, WorkerError> {
    let artifact = plan.output.artifact;
    let mut writer = PartWriter::create(stores.tables, artifact, &plan.country, shard)?;
    for start in (0..join.tasks.len()).step_by(CHUNK_ROWS) {
        let chunk = start..(start + CHUNK_ROWS).min(join.tasks.len());
        let stand: Vec<&RowTask> = accepted.range(chunk.clone()).map(|at| &join.tasks[*at]).collect();
        let others = join.others(accepted, chunk);
        let mut batches = Vec::new();
        let ids: Vec<&str> = stand.iter().chain(&others).map(|task| task.image_id.as_str()).collect();
        if !stand.is_empty() {
            let content = join.read_accepted(stage, &stand).await?;
            let output = MapOutput { outcomes: vec![Outcome::Good; stand.len()], content };
            batches.push(add_lineage_columns(stage, plan, &stand, &output, Floats::Stand)?);
        }
        if !others.is_empty() {
            let rows: Vec<usize> = others.iter().filter_map(|task| task.committed).collect();
            batches.push(join.read_committed(&rows).await?);
        }
        let batch = concat_batches(&table::schema(artifact), &batches)
            .map_err(|e| WorkerError::Broken(format!("{}: rows do not fit together: {e}", stage.name)))?;
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        order.sort_by_key(|&at| ids[at as usize]);
        if batch.num_rows() > 0 {
            writer.write(&reorder(&batch, &order)?).await?;
        }
    }
    let base = plan.output.part_name(shard).map(str::to_owned);
    Ok(Replacement { base, part: writer.finish().await? })
}
