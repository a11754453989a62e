//! Accepting stale rows of a step as they are.

use manifests::Artifact;
use manifests::words::count;
use stages::Step;
use stages::reviews::written_author;
use stages::stage::Stage;
use workers::WorkerError;
use workers::accept::{Accepted, By, accept};

use crate::build::Build;
use crate::clock::{second, unix_seconds};
use crate::plan::{model_of, plan_stage};
use crate::preview::preview;

/// Lets the stale rows of a step stand, under the recipe that is wanted now, as `author` says; without one only counts them.
///
/// # Errors
/// [`WorkerError::Configuration`] for a name that is no step with rows or cannot stand, and while steps above it have rows to make; otherwise
/// as [`accept`](workers::accept::accept).
pub async fn accept_step(build: &mut Build, name: &str, author: Option<&str>) -> Result<Accepted, WorkerError> {
    let author = author.map(written_author).transpose().map_err(WorkerError::Configuration)?;
    let stage = stage_of(build, name)?;
    let lines = preview(build, false, false).await?;
    let above = lines.iter().take_while(|line| line.step != stage.name).find(|line| {
        let feeds = stages::map_stages(&build.spec).into_iter().find(|other| other.name == line.step);
        (line.rows > 0 || line.finished.is_some())
            && feeds.is_some_and(|other| stage.tables().any(|table| table == other.output))
    });
    if let Some(above) = above {
        return Err(WorkerError::Configuration(format!(
            "first make {step} of {}, which may make other rows of {name} stale: run the build with --until {step}, then accept",
            count(above.rows + above.finished.map_or(0, |finished| finished.rows), "row"),
            step = above.step
        )));
    }
    let Some(model) = model_of(build, &stage).await? else {
        return Err(WorkerError::Configuration(format!(
            "{name}: its model is not trained yet, so there is nothing to accept"
        )));
    };
    let plan = plan_stage(build, &stage, &model, false).await?;
    let by = author.map(|author| By { author, millis: (unix_seconds() * 1000.0) as u64 });
    accept(build.input_stores(), &build.tables, &stage, &plan, by.as_ref()).await
}

/// Who accepted something, and when.
pub(crate) fn in_words(by: &By) -> String {
    format!("by {}, {}", by.author, second(by.millis / 1000))
}

fn stage_of(build: &Build, name: &str) -> Result<Stage, WorkerError> {
    let steps = stages::steps(&build.spec);
    let stages: Vec<Stage> =
        steps.into_iter().filter_map(|step| if let Step::Map(stage) = step { Some(stage) } else { None }).collect();
    let can_stand = |stage: &&Stage| stage.output != Artifact::Splits;
    let names: Vec<&str> = stages.iter().filter(can_stand).map(|stage| stage.name).collect();
    let unknown = format!("{name:?} is no step whose rows can be accepted; these are {}", names.join(", "));
    match stages.iter().find(|stage| stage.name == name) {
        Some(stage) if can_stand(&stage) => Ok(*stage),
        Some(_) => Err(WorkerError::Configuration(format!(
            "{name}: the split of an image follows from the ground and the pictures of all images together, so no row \
             of it can stand by itself; `urbancross run SPEC --until {name}` makes them again"
        ))),
        None => Err(WorkerError::Configuration(unknown)),
    }
}
