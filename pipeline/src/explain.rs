//! `urbancross explain`: why a row is as it is, what a shard holds, what a stage does.

use std::collections::BTreeMap;

use manifests::plan::PinnedTable;
use manifests::recipe::{RowAction, differences};
use manifests::words::count;
use manifests::{Artifact, Reason, shard_of};
use stages::stage::ASSIGNED_FROM;
use stages::{Step, Training};
use workers::WorkerError;
use workers::join::{COMMITTED_COLUMNS, ShardJoin, committed_rows};
use workers::parts::PartReader;

use crate::build::Build;
use crate::plan::{model_of, uncounted_plan};
use crate::preview::{PlanLine, preview};
use crate::trainings::{Outlook, TrainingState};

/// Explains an image, `shard N`, or a stage; readable lines.
///
/// # Errors
/// [`WorkerError::Configuration`] if there is no such stage, image or shard, with the nearest names; otherwise as
/// planning.
pub async fn explain(build: &mut Build, what: &str) -> Result<Vec<String>, WorkerError> {
    build.assign_splits().await?;
    let steps = stages::steps(&build.spec);
    if steps.iter().any(|s| s.name() == what) {
        return explain_step(build, what).await;
    }
    if let Some(shard) =
        what.strip_prefix("shard").and_then(|s| s.trim_start_matches([' ', '-', '/']).parse::<u32>().ok())
    {
        return explain_shard(build, shard).await;
    }
    let lines = explain_image(build, what).await?;
    if lines.is_empty() {
        let names: Vec<&str> = steps.iter().map(Step::name).collect();
        let rows_by_shard = build.virtual_inputs.listing.rows_by_shard.iter();
        let some = (0..).zip(rows_by_shard).find(|(_, rows)| **rows > 0).map_or(0, |(shard, _)| shard);
        let images = build.virtual_inputs.slices.image_ids(Artifact::Listing, some).await?;
        return Err(WorkerError::Configuration(format!(
            "{what:?} is not an image of this build{}, a shard (`shard 0` to `shard {}`) or a step ({})",
            images.first().map_or(String::new(), |image_id| format!(" (such as {image_id})")),
            build.spec.work.shards - 1,
            names.join(", ")
        )));
    }
    Ok(lines)
}

async fn explain_step(build: &mut Build, name: &str) -> Result<Vec<String>, WorkerError> {
    let mut lines = Vec::new();
    let planned = preview(build, false, false).await?;
    for (step, line) in stages::steps(&build.spec).into_iter().zip(planned).filter(|(step, _)| step.name() == name) {
        match step {
            Step::Map(stage) => {
                lines.push(format!("{name}, stage version {}, writes table {}", stage.version, stage.output.name()));
                for input in stage.inputs {
                    let why = if input.digests.is_empty() {
                        "must exist".to_owned()
                    } else {
                        format!("a change of {} makes a row stale", input.digests.join(", "))
                    };
                    let made_from = match input.artifact {
                        Artifact::Assignment => {
                            format!(" (made from {})", ASSIGNED_FROM.map(Artifact::name).join(" and "))
                        }
                        _ => String::new(),
                    };
                    lines.push(format!("  reads {}{made_from}: {why}", input.artifact.name()));
                }
                lines.push(format!("  parameters {}", (stage.parameters)(&build.spec)));
                match model_of(build, &stage).await? {
                    None => lines.push("  its model is not trained yet: every row is stale".into()),
                    Some(model) => {
                        if !model.digest.is_empty() {
                            lines.push(format!("  model {}", model.digest));
                        }
                        lines.push(match line.exact {
                            true => format!("  {} stale, {} up to date", count(line.rows, "row"), line.kept),
                            false => format!("  up to {} stale: {}", count(line.rows, "row"), line.note),
                        });
                        lines.extend(line.reasons.iter().map(|(why, rows)| format!("    {rows} {}", why.words())));
                    }
                }
            }
            Step::Train(training) => lines.extend(explain_training(build, training, &line)),
            Step::Evaluate => match crate::evaluate::stored(build).await? {
                _ if !line.exact => lines.push(format!("evaluate: {}", line.note)),
                Some(evaluation) => lines.push(format!("evaluate: up to date, {}", evaluation.quoted().in_words())),
                None => lines.push("evaluate: must run, its tables are new".into()),
            },
        }
    }
    Ok(lines)
}

fn explain_training(build: &Build, training: Training, line: &PlanLine) -> Vec<String> {
    match &line.training {
        Some(Outlook::Known(TrainingState::Due(due))) => {
            let run = &due.run;
            let mut lines =
                vec![format!("{}: must run: {}", training.name(), run.begins), format!("  run {}", run.key)];
            lines.extend(
                run.inputs
                    .iter()
                    .map(|t| format!("  reads {} at {}, {}", t.artifact.name(), version(t), count(t.rows(), "row"))),
            );
            lines
        }
        Some(Outlook::Known(TrainingState::Stands { record, changed })) => vec![
            format!("{}: up to date, run {}", training.name(), record.key),
            format!("  {} in epoch {}", record.trained.best_validation(), record.trained.best_epoch + 1),
            format!(
                "  {} of {} changed since ({:.2} %); it runs again above {:.2} %",
                changed.changed,
                count(changed.rows, "row"),
                100.0 * changed.share(),
                100.0 * build.spec.pretrain.retrain_above
            ),
        ],
        Some(Outlook::Due(begins)) => vec![format!("{}: must run: {begins}", training.name())],
        Some(Outlook::Open | Outlook::Stands { .. }) | None => vec![format!("{}: {}", training.name(), line.note)],
    }
}

fn version(table: &PinnedTable) -> String {
    table.version.map_or("no table yet".to_owned(), |version| format!("table version {version}"))
}

async fn explain_shard(build: &Build, shard: u32) -> Result<Vec<String>, WorkerError> {
    if shard >= build.spec.work.shards {
        return Err(WorkerError::Configuration(format!(
            "shard {shard}: the build has shards 0 to {}",
            build.spec.work.shards - 1
        )));
    }
    let mut lines = vec![format!("shard {shard} of {}", build.spec.work.shards)];
    for stage in stages::map_stages(&build.spec) {
        let pinned = build.pin(stage.output).await?;
        let here = match pinned.part(shard) {
            None => "no rows".to_owned(),
            Some(part) => format!("{}, {} bytes, {}", count(part.rows, "row"), part.size_bytes, part.path),
        };
        lines.push(format!("  {:18} {}: {here}", stage.name, version(&pinned)));
    }
    Ok(lines)
}

async fn explain_image(build: &mut Build, image_id: &str) -> Result<Vec<String>, WorkerError> {
    let shard = shard_of(image_id, build.spec.work.shards);
    let listed = build.virtual_inputs.slices.image_ids(Artifact::Listing, shard).await?;
    let listed = listed.iter().any(|listed| listed == image_id);
    let planned = preview(build, false, false).await?;
    let mut lines = Vec::new();
    // stages that make this row again, or may
    let mut moving: BTreeMap<Artifact, &'static str> = BTreeMap::new();
    for stage in stages::map_stages(&build.spec) {
        let committed = match build.pin(stage.output).await?.part(shard) {
            None => None,
            Some(part) => {
                let reader = PartReader::open(&build.work, stage.output, part).await?;
                let batch = reader.read(&COMMITTED_COLUMNS).await?;
                let mut rows = committed_rows(stage.output, &batch).map_err(|e| WorkerError::Broken(e.to_string()))?;
                let row = rows.remove(image_id);
                match row {
                    Some((at, row)) => Some((row, error_of(&reader, stage.output, at).await?)),
                    None => None,
                }
            }
        };
        // made of the boxes of the geo-tags
        let table_of = |a| if a == Artifact::Assignment { Artifact::Geotags } else { a };
        let above = stage.inputs.iter().find_map(|input| moving.get(&table_of(input.artifact)).copied());
        let model_moves = planned.iter().find(|line| line.step == stage.name).filter(|line| line.model_moves);
        let model = model_of(build, &stage).await?;
        let Some(model) = model.filter(|_| model_moves.is_none()) else {
            if !listed && committed.is_none() {
                continue;
            }
            let state = model_moves.map_or("its model is not trained yet", |line| &line.note);
            lines.push(format!("{:18} {state}", stage.name));
            moving.insert(stage.output, stage.name);
            continue;
        };
        let plan = uncounted_plan(build, &stage, &model, false).await?;
        if let Some(above) = above
            && plan.inputs.iter().any(|table| table.lost.contains(&shard))
        {
            lines.push(format!("{:18} depends on the outcome of {above}", stage.name));
            moving.insert(stage.output, stage.name);
            continue;
        }
        let join = ShardJoin::load(build.input_stores(), &stage, &plan, shard, None).await?;
        let Some(task) = join.tasks.iter().find(|t| t.image_id == image_id) else {
            if let Some(above) = above {
                lines.push(format!("{:18} depends on the outcome of {above}", stage.name));
                moving.insert(stage.output, stage.name);
            }
            continue;
        };
        // where an input is another only because it is about to be made again, nothing is known
        let is_open = !matches!(task.action, RowAction::Compute(reason) if reason != Reason::InputChanged);
        let above = above.filter(|_| is_open);
        let state = match (&task.action, above) {
            (_, Some(above)) => format!("depends on the outcome of {above}"),
            (RowAction::Keep, None) => "up to date".to_owned(),
            (RowAction::Compute(reason), None) => format!("stale: {}", reason.words()),
            (RowAction::Delete, None) => "leaves the table: it is no longer in an input".to_owned(),
        };
        lines.push(format!("{:18} {state}", stage.name));
        if above.is_some() || task.action != RowAction::Keep {
            moving.insert(stage.output, stage.name);
        }
        if stage.output == Artifact::Splits && above.is_none() {
            lines.extend(split_in_words(build, shard, image_id).map(|words| format!("{:18}   {words}", "")));
        }
        let Some((row, error)) = &committed else { continue };
        if let Some(error) = error {
            lines.push(format!("{:18}   {error}", ""));
        }
        if let (None, RowAction::Compute(_), Some(wanted)) = (above, &task.action, &task.recipe) {
            lines.extend(differences(row, wanted).into_iter().map(|d| format!("{:18}   {d}", "")));
        }
    }
    if !lines.is_empty() {
        lines.insert(0, format!("image {image_id}, shard {shard}"));
    }
    Ok(lines)
}

/// The part that an image is placed in, or why it is in none.
fn split_in_words(build: &Build, shard: u32, image_id: &str) -> Option<String> {
    let row = build.virtual_inputs.assignment().get(shard as usize)?.iter().find(|row| row.image_id == image_id)?;
    Some(row.reason.map_or(row.split.to_owned(), |reason| format!("dropped: {}", reason.words())))
}

async fn error_of(reader: &PartReader, artifact: Artifact, row: usize) -> Result<Option<String>, WorkerError> {
    let batch = reader.read_rows(&["error"], &[row]).await?;
    let columns = stages::table::Columns::new(artifact, &batch);
    let text = columns.text("error").map_err(|e| WorkerError::Broken(e.to_string()))?;
    Ok(stages::table::option_text(text, 0).map(str::to_owned))
}
