//! The page that a run leaves in its work store, written again only where something that it shows may have changed.

use manifests::{digest, paths};
use serde::{Deserialize, Serialize};
use stages::{Step, Training};
use workers::WorkerError;
use workers::publish::Summary;

use super::{changed_at, make};
use crate::build::Build;
use crate::trainings::current_record;

/// Bump when the same build would get another page.
const VERSION: u32 = 1;

/// What a page was made from.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MadeFrom {
    key: String,
    page_digest: String,
}

/// Writes the page of a build unless it is there as it would be. Returns its path.
///
/// # Errors
/// As [`make`]; a store that does not answer.
pub(crate) async fn keep(build: &Build) -> Result<String, WorkerError> {
    let country = &build.spec.country;
    let (path, record) = (paths::report(country), paths::report_record(country));
    let key = key_of(build).await?;
    if let Some(known) = build.work.get_sealed::<MadeFrom>(&record).await?.filter(|known| known.key == key)
        && let Some(page) = build.work.get(&path).await?
        && digest::of_bytes(&page) == known.page_digest
    {
        return Ok(path);
    }
    let page = make(std::slice::from_ref(build), &[], &changed_at(build).await?).await?;
    let made = MadeFrom { key, page_digest: digest::of_bytes(page.as_bytes()) };
    build.work.put(&path, page.into()).await?;
    build.work.put_sealed(&record, &made).await?;
    Ok(path)
}

/// Of all that a page is made from: two builds with one key have one page.
async fn key_of(build: &Build) -> Result<String, WorkerError> {
    let country = &build.spec.country;
    let mut parts = vec![format!("{VERSION} {}", crate::version()), build.spec.to_toml()];
    parts.push(crate::settled::behind(build).await?.join(" "));
    for step in stages::steps(&build.spec) {
        match step {
            Step::Map(stage) => {
                let table = build.pin(stage.output).await?;
                parts.push(format!("{:?} {}", table.version, table.digest()));
                // problems of the source are listed there without a row
                let listing = build.work.head(&paths::quarantine(country, stage.name)).await?;
                parts.push(format!("{:?}", listing.map(|meta| (meta.size, meta.e_tag, meta.last_modified))));
            }
            Step::Train(training) => parts.push(trained(build, training).await?),
            Step::Evaluate => {
                let stored = crate::evaluate::stored(build).await?;
                parts.push(digest::of_value(&stored));
            }
        }
        let summary = build.work.get_record::<Summary>(&paths::summary(country, step.name())).await?;
        parts.push(digest::of_value(&summary));
    }
    Ok(digest::of_parts(parts.iter().map(String::as_bytes)))
}

async fn trained(build: &Build, training: Training) -> Result<String, WorkerError> {
    Ok(current_record(build, training).await?.map(|record| record.key).unwrap_or_default())
}
