//! Queries before and after an adaptation: how many moved, and those that moved most with what they find.

use report::{Block, Cell, Column, Level, Retrieval, RetrievalPanel, Section, Table};
use stages::evaluate::{Change, Changes, Moves};
use workers::WorkerError;

use super::chance::{chance, chance_column};
use super::pictures::{images_of, panel, thumbnails};
use super::{figure_columns, figures};
use crate::analyse::BeforeAndAfter;
use crate::pair::{Pair, Tested};

/// The section of one pair.
pub(super) async fn section(pair: &Pair, of: &BeforeAndAfter) -> Result<Section, WorkerError> {
    let mut columns = vec![Column::text("model")];
    columns.extend(figure_columns());
    columns.push(chance_column());
    let row = |name: &str, tested: &Tested| {
        let both = &tested.recall.exact.pessimistic;
        let mut row = vec![Cell::from(name)];
        row.extend(figures(both));
        row.push(chance(both));
        row
    };
    let recalls = Table {
        caption: format!(
            "Recall in percent over {} test images of the target; ties count as lost.",
            of.after.recall.image_gallery
        ),
        columns,
        rows: vec![row("before", &of.before), row("after", &of.after)],
    };
    let mut blocks = vec![Block::Table(recalls)];
    if !of.is_up_to_date {
        let text = format!("The {}.", crate::analyse::OUTDATED);
        blocks.insert(0, Block::Note { level: Level::Warning, text });
    }
    blocks.extend(super::sampled::blocks(&of.sampled));
    blocks.extend(self::blocks(pair, &of.changes).await?);
    Ok(Section {
        id: of.pair.clone(),
        title: format!("{}: before and after adaptation", of.pair.replace('_', " ")),
        lead:
            "The same queries by the source's own model and by the adapted one, on images that neither was trained on."
                .into(),
        blocks,
    })
}

/// How many queries moved, and those that moved most.
pub(super) async fn blocks(pair: &Pair, changes: &Changes) -> Result<Vec<Block>, WorkerError> {
    let all = changes.texts.iter().chain(&changes.images);
    let pictures = thumbnails(&pair.target, &images_of(all.flat_map(|change| [&change.before, &change.after]))).await?;
    let panels = |of: &[Change]| -> Vec<RetrievalPanel> {
        let one =
            |change: &Change| [panel("before", &change.before, &pictures), panel("after", &change.after, &pictures)];
        of.iter().flat_map(one).collect()
    };
    let mut blocks = vec![Block::Table(moves(changes))];
    for (caption, of) in [
        (
            "Text queries before and after adaptation: those that gained most, then those that lost most.",
            &changes.texts,
        ),
        (
            "Image queries before and after adaptation: those that gained most, then those that lost most.",
            &changes.images,
        ),
    ] {
        if !of.is_empty() {
            blocks.push(Block::Retrieval(Retrieval { caption: caption.into(), panels: panels(of) }));
        }
    }
    Ok(blocks)
}

fn moves(changes: &Changes) -> Table {
    let row = |name: &str, of: &Moves| {
        vec![Cell::from(name), Cell::from(of.rose), Cell::from(of.fell), Cell::from(of.stayed)]
    };
    Table {
        caption:
            "Queries whose right answer stands nearer to the first place than before, further away, and where it was."
                .into(),
        columns: vec![
            Column::text("queries"),
            Column::number("moved up"),
            Column::number("moved down"),
            Column::number("stayed"),
        ],
        rows: vec![row("texts", &changes.text_moves), row("images", &changes.image_moves)],
    }
}
