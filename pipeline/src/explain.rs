//! `urbancross explain`: why a row is as it is, what a shard holds, what a stage does.

mod committed;
mod past;
mod stale;

use std::collections::BTreeMap;

use manifests::plan::PinnedTable;
use manifests::recipe::{RowAction, differences};
use manifests::words::count;
use manifests::{Artifact, Reason, shard_of};
use stages::stage::ASSIGNED_FROM;
use stages::{Step, Training};
use workers::WorkerError;
use workers::accept::{acceptances, accepted_by};
use workers::join::ShardJoin;
use workers::reviews::Reviews;
use workers::train::pairs;

use self::committed::{Committed, dropped};
use crate::accept::in_words as in_words_by;
use crate::build::Build;
use crate::plan::{Model, model_of, uncounted_plan};
use crate::preview::{Failed, PlanLine, preview, preview_shard};
use crate::settled;
use crate::trainings::{Outlook, TrainingState, current_record};
use past::{Past, in_words, said};
use stale::{SHOWN_ACCEPTANCES, causes};

pub(crate) use committed::lineage;
pub(crate) use stale::accepted;

/// Explains an image, `shard N`, or a stage; readable lines.
///
/// # Errors
/// [`WorkerError::Configuration`] if there is no such stage, image or shard, with the nearest names; otherwise as
/// planning.
pub async fn explain(build: &mut Build, what: &str) -> Result<Vec<String>, WorkerError> {
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
                    let why = if input.artifact == Artifact::TagRefreshes {
                        "only of images whose tags were refreshed".to_owned()
                    } else if input.artifact.is_sparse() {
                        "only of images that somebody has reviewed".to_owned()
                    } else if input.digests.is_empty() {
                        "must exist".to_owned()
                    } else {
                        let unless = match stage.told {
                            Some(told) if told.input == input.artifact => ", unless its words stay the same",
                            _ => "",
                        };
                        format!("a change of {} makes a row stale{unless}", input.digests.join(", "))
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
                        if line.carried > 0 {
                            lines.push(format!("    {} kept: same words", line.carried));
                        }
                        lines.extend(line.finished.map(|finished| format!("    {}", finished.in_words())));
                        lines.extend(line.failed.as_ref().map(Failed::in_words).map(|words| format!("    {words}")));
                        lines.extend(line.reasons.iter().map(|(why, rows)| format!("    {rows} {}", why.words())));
                        if line.reasons.keys().any(|why| !matches!(why, Reason::New | Reason::Deleted | Reason::Lost)) {
                            lines.extend(causes(build, &stage, &model).await?);
                        }
                        let of = acceptances(&build.work, &build.spec.country, stage.name).await?;
                        lines.extend(of.iter().take(SHOWN_ACCEPTANCES).map(|one| format!("  {}", accepted(one))));
                    }
                }
            }
            Step::Train(training) => lines.extend(explain_training(build, training, &line)),
            Step::Evaluate => match crate::evaluate::stored(build).await? {
                Some(evaluation) if line.exact => {
                    lines.push(format!("evaluate: up to date, {}", evaluation.quoted().in_words()));
                }
                _ => lines.push(format!("evaluate: {}", line.note)),
            },
        }
    }
    Ok(lines)
}

fn explain_training(build: &Build, training: Training, line: &PlanLine) -> Vec<String> {
    match &line.training {
        Some(Outlook::Known(TrainingState::MustRun(next))) => {
            let run = &next.run;
            let mut lines =
                vec![format!("{}: must run: {}", training.name(), run.begins), format!("  run {}", run.key)];
            lines.extend(
                run.inputs
                    .iter()
                    .map(|t| format!("  reads {} at {}, {}", t.artifact.name(), version(t), count(t.rows(), "row"))),
            );
            lines
        }
        Some(Outlook::Known(TrainingState::UpToDate { record, changed })) => vec![
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
        Some(Outlook::MustRun(begins)) => vec![format!("{}: must run: {begins}", training.name())],
        Some(Outlook::Open | Outlook::UpToDate { .. }) | None => vec![format!("{}: {}", training.name(), line.note)],
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
        lines.push(format!("  {:21} {}: {here}", stage.name, version(&pinned)));
    }
    Ok(lines)
}

/// Reads no part of another shard than the image's. Only splits that are not settled are assigned again, from the boxes and
/// pictures of all.
async fn explain_image(build: &mut Build, image_id: &str) -> Result<Vec<String>, WorkerError> {
    let shard = shard_of(image_id, build.spec.work.shards);
    let listed = build.virtual_inputs.slices.image_ids(Artifact::Listing, shard).await?;
    let listed = listed.iter().any(|listed| listed == image_id);
    if !settled::is_settled(build, &stages::splits::stage(), &Model::default()).await? {
        build.assign_splits().await?;
    }
    let planned = preview_shard(build, shard).await?;
    let mut lines = Vec::new();
    // stages that make this row again, or may
    let mut changing: BTreeMap<Artifact, &'static str> = BTreeMap::new();
    for stage in stages::map_stages(&build.spec) {
        let committed = Committed::find(build, stage.output, shard, image_id).await?;
        let tables_of = |artifact: &Artifact| match artifact {
            Artifact::Assignment => ASSIGNED_FROM.to_vec(),
            table => vec![*table],
        };
        let read = stage.inputs.iter().flat_map(|input| tables_of(&input.artifact));
        let above = read.into_iter().find_map(|table| changing.get(&table).copied());
        let model_changes = planned.iter().find(|line| line.step == stage.name).filter(|line| line.model_changes);
        let model = model_of(build, &stage).await?;
        let Some(model) = model.filter(|_| model_changes.is_none()) else {
            if !listed && committed.is_none() {
                continue;
            }
            let state = model_changes.map_or("its model is not trained yet", |line| &line.note);
            lines.push(format!("{:21} {state}", stage.name));
            changing.insert(stage.output, stage.name);
            continue;
        };
        let plan = uncounted_plan(build, &stage, &model, false).await?;
        if let Some(above) = above
            && plan.inputs.iter().any(|table| table.lost.contains(&shard))
        {
            lines.push(format!("{:21} depends on the outcome of {above}", stage.name));
            changing.insert(stage.output, stage.name);
            continue;
        }
        let task = if settled::shards(build, &stage, &model, &plan).await?.contains(&shard) {
            committed.as_ref().map(|_| (RowAction::Keep, None))
        } else {
            let join = ShardJoin::load(build.input_stores(), &stage, &plan, shard, None).await?;
            let task = join.tasks.into_iter().find(|task| task.image_id == image_id);
            task.map(|task| (task.action, task.recipe))
        };
        let Some((action, recipe)) = task else {
            if let Some(above) = above {
                lines.push(format!("{:21} depends on the outcome of {above}", stage.name));
                changing.insert(stage.output, stage.name);
            }
            continue;
        };
        // where an input is another only because it is about to be made again, nothing is known
        let is_open = !matches!(action, RowAction::Compute(reason) if reason != Reason::InputChanged);
        let above = above.filter(|_| is_open);
        let state = match (&action, above) {
            (_, Some(above)) => format!("depends on the outcome of {above}"),
            (RowAction::Keep, None) => "up to date".to_owned(),
            (RowAction::Carry, None) => "kept: same words, though its tags are others".to_owned(),
            (RowAction::Compute(reason), None) => format!("stale: {}", reason.words()),
            (RowAction::Delete, None) => "leaves the table: it is no longer in an input".to_owned(),
        };
        lines.push(format!("{:21} {state}", stage.name));
        if above.is_some() || !matches!(action, RowAction::Keep | RowAction::Carry) {
            changing.insert(stage.output, stage.name);
        }
        if stage.output == Artifact::Splits && above.is_none() {
            let words = match &committed {
                Some(committed) if action == RowAction::Keep => committed.split().await?,
                _ => assigned(build, shard, image_id).await?,
            };
            lines.extend(words.map(|words| format!("{:21}   {words}", "")));
        }
        let Some(committed) = &committed else { continue };
        let place = (image_id, shard);
        let by = accepted_by(&build.work, (&build.spec.country, stage.name), place, &committed.row.recipe).await?;
        lines.extend(by.map(|by| format!("{:21}   accepted as it was {}", "", in_words_by(&by))));
        let error = committed.text("error").await?;
        lines.extend(error.iter().map(|error| format!("{:21}   {error}", "")));
        if stage.inputs.iter().any(|input| input.artifact == Artifact::CaptionReviews) {
            // why a row is left out says the decision already
            let said = reviewed(build, image_id).await?.into_iter().filter(|line| Some(line) != error.as_ref());
            lines.extend(said.map(|line| format!("{:21}   {line}", "")));
        }
        if let (None, RowAction::Compute(_) | RowAction::Carry, Some(wanted)) = (above, &action, &recipe) {
            let artifacts = stage.inputs.iter().map(|input| input.artifact);
            let past = Past::of(build, artifacts, image_id).await?;
            let differences = differences(&committed.row, wanted, |field, digest| past.value(field, digest));
            lines.extend(differences.into_iter().map(|d| format!("{:21}   {d}", "")));
        }
        if workers::changes::is_shown(stage.output) && stage.output != Artifact::Splits {
            let said = said(build, stage.output, image_id).await?;
            lines.extend(in_words(&said).into_iter().map(|words| format!("{:21}   {words}", "")));
        }
    }
    if let Some(why) = left_out(build, image_id).await? {
        lines.push(format!("{:21} {why}", Training::Pretrain.name()));
    }
    if !lines.is_empty() {
        lines.insert(0, format!("image {image_id}, shard {shard}"));
    }
    Ok(lines)
}

/// Why the training of the build's model left an image out, if it did.
async fn left_out(build: &Build, image_id: &str) -> Result<Option<String>, WorkerError> {
    let Some(record) = current_record(build, Training::Pretrain).await? else { return Ok(None) };
    let of = (build.spec.country.as_str(), Training::Pretrain.name());
    let mut left_out = pairs::written(&build.work, of, &record.key).await?;
    Ok(left_out.remove(image_id).map(|why| format!("left this pair out: {why}")))
}

/// What a person decided about an image's captions, and whether that has to be looked at again.
async fn reviewed(build: &Build, image_id: &str) -> Result<Vec<String>, WorkerError> {
    if build.pin(Artifact::CaptionReviews).await?.parts.is_empty() {
        return Ok(Vec::new());
    }
    let looked = Reviews::of(&build.work, &build.tables, &build.spec).look(image_id).await?;
    let Some((review, looked)) = looked.and_then(|looked| Some((looked.review.clone()?, looked))) else {
        return Ok(Vec::new());
    };
    let words = if review.captions.is_empty() { String::new() } else { format!(": {}", review.captions.join(" | ")) };
    let again = looked.waits.map(|_| looked.why);
    Ok([format!("{}{words}", review.in_words())].into_iter().chain(again).collect())
}

/// The split that an image will have, or why it will be dropped.
async fn assigned(build: &Build, shard: u32, image_id: &str) -> Result<Option<String>, WorkerError> {
    let found = build.virtual_inputs.split_of(shard, image_id).await?;
    Ok(found.map(|(split, reason)| reason.map_or(split, dropped)))
}
