//! What a committed row says of itself: when and from what it was made. Reads the tables alone.

use std::collections::BTreeMap;

use manifests::recipe::{CommittedRow, settings};
use manifests::{Artifact, shard_of};
use sources::split::DropReason;
use stages::Training;
use stages::table::{Columns, option_text};
use workers::WorkerError;
use workers::join::{COMMITTED_COLUMNS, committed_rows};
use workers::parts::PartReader;

use crate::build::Build;

/// Letters of a digest that tell it from others.
const DIGEST_LETTERS: usize = 12;

/// The row of an image in a table.
pub(super) struct Committed {
    artifact: Artifact,
    reader: PartReader,
    at: usize,
    pub(super) row: CommittedRow,
}

impl Committed {
    pub(super) async fn find(
        build: &Build,
        artifact: Artifact,
        shard: u32,
        image_id: &str,
    ) -> Result<Option<Committed>, WorkerError> {
        let pinned = build.pin(artifact).await?;
        let Some(part) = pinned.part(shard) else { return Ok(None) };
        let reader = PartReader::open(&build.work, artifact, part).await?;
        let batch = reader.read(&COMMITTED_COLUMNS).await?;
        let mut rows = committed_rows(artifact, &batch).map_err(|e| WorkerError::Broken(e.to_string()))?;
        Ok(rows.remove(image_id).map(|(at, row)| Committed { artifact, reader, at, row }))
    }

    pub(super) async fn text(&self, column: &'static str) -> Result<Option<String>, WorkerError> {
        let batch = self.reader.read_rows(&[column], &[self.at]).await?;
        let columns = Columns::new(self.artifact, &batch);
        let text = columns.text(column).map_err(|e| WorkerError::Broken(e.to_string()))?;
        Ok(option_text(text, 0).map(str::to_owned))
    }

    /// The split of a row, or why it was dropped.
    pub(super) async fn split(&self) -> Result<Option<String>, WorkerError> {
        let reason = self.text("split_reason").await?.and_then(|reason| DropReason::parse(&reason));
        match reason {
            Some(reason) => Ok(Some(dropped(reason))),
            None => self.text("split").await,
        }
    }
}

pub(super) fn dropped(reason: DropReason) -> String {
    format!("dropped: {}", reason.words())
}

/// What each stage's row of an image says of itself, by the name of the stage, in order.
///
/// # Errors
/// [`WorkerError::Broken`] for parts that cannot be read; a store that does not answer.
pub(crate) async fn lineage(build: &Build, image_id: &str) -> Result<Vec<(&'static str, Vec<String>)>, WorkerError> {
    let shard = shard_of(image_id, build.spec.work.shards);
    let mut lineage = Vec::new();
    for stage in stages::map_stages(&build.spec) {
        let Some(committed) = Committed::find(build, stage.output, shard, image_id).await? else { continue };
        let mut lines = Vec::new();
        if stage.output == Artifact::Splits {
            lines.extend(committed.split().await?);
        }
        if committed.row.failed {
            let why = committed.text("error").await?;
            lines.push(format!("failed: {}", why.unwrap_or_else(|| "it does not say why".into())));
        }
        lines.extend(how_made(&committed.row));
        lineage.push((stage.name, lines));
    }
    if let Some(why) = super::left_out(build, image_id).await?.filter(|_| !lineage.is_empty()) {
        lineage.push((Training::Pretrain.name(), vec![why]));
    }
    Ok(lineage)
}

/// From what and how a row was made, in words.
fn how_made(row: &CommittedRow) -> Vec<String> {
    let mut lines = Vec::new();
    let inputs: BTreeMap<String, String> = serde_json::from_str(&row.inputs).unwrap_or_default();
    let from: Vec<String> = inputs.keys().map(|input| input.replace('.', "’s ").replace('_', " ")).collect();
    if !from.is_empty() {
        lines.push(format!("made from {}", from.join(", ")));
    }
    let version = format!("by version {} of the stage", row.stage_version);
    lines.push(match row.model.get(..DIGEST_LETTERS) {
        Some(model) => format!("{version}, with the model {model}"),
        None => version,
    });
    let mut settings = settings(&row.parameters);
    settings.retain(|_, value| value != "null");
    if !settings.is_empty() {
        let said = |(name, value): (&String, &String)| match name.is_empty() {
            true => value.clone(),
            false => format!("{name} = {value}"),
        };
        lines.push(format!("with {}", settings.iter().map(said).collect::<Vec<_>>().join(", ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_it_was_made_from() {
        let row = CommittedRow {
            recipe: "r".into(),
            stage_version: 3,
            model: "0123456789abcdef".into(),
            parameters: r#"{"a":1,"b":{"c":"x","d":null}}"#.into(),
            inputs: r#"{"images.bytes":"d1","geotags.tags":"d2"}"#.into(),
            failed: false,
        };
        let lines = how_made(&row);
        assert_eq!(lines[0], "made from geotags’s tags, images’s bytes");
        assert_eq!(lines[1], "by version 3 of the stage, with the model 0123456789ab");
        assert_eq!(lines[2], r#"with a = 1, b.c = "x""#);
        let bare = CommittedRow { model: String::new(), parameters: "null".into(), inputs: "torn".into(), ..row };
        assert_eq!(how_made(&bare), ["by version 3 of the stage"]);
    }
}
