//! The report of an ablation: the paper's Table 2, and what single queries find before and after (its Figure 6).

use std::collections::BTreeSet;

use report::{Best, Block, Cell, Column, Level, Report, Retrieval, Section, Table};
use stages::evaluate;
use workers::WorkerError;

use super::FIGURES;
use super::pictures::{panel, thumbnails};
use crate::ablate::{Ablation, Line, Variant};
use crate::evaluate::protocol;
use crate::pair::Pair;

/// A space at which no line breaks, narrow so that the table fits beside its contents.
const NARROW: char = '\u{202f}';

/// Makes the page of some ablations.
pub async fn make(pairs: &[Pair], ablations: &[Ablation], generated_at: &str) -> Result<String, WorkerError> {
    let mut sections = Vec::new();
    for (pair, ablation) in pairs.iter().zip(ablations) {
        let mut blocks = vec![Block::Table(table(ablation)), parts(pair), verdict(ablation)];
        blocks.push(before_and_after(pair, ablation).await?);
        sections.push(Section {
            id: ablation.pair.clone(),
            title: ablation.pair.replace('_', " "),
            lead: String::new(),
            blocks,
        });
    }
    Ok(report::render(&Report {
        title: "Adaptation between countries, and what each part of it is worth".into(),
        subtitle: "Every figure is of the target's test part, which no model has learnt from; ties count as lost."
            .into(),
        generated_at: generated_at.to_owned(),
        facts: Vec::new(),
        sections,
    }))
}

fn table(ablation: &Ablation) -> Table {
    let mut columns = vec![Column::text("variant")];
    columns.extend(FIGURES[..6].iter().map(|name| Column::text(*name)));
    columns.push(Column { best: Some(Best::Highest), ..Column::number("mR").decimals(2) });
    columns.push(Column::number("±").decimals(2));
    let row = |line: &Line| {
        let figures = line.figures();
        let mut row = vec![Cell::Text(line.variant.words().into())];
        row.extend(
            figures[..6]
                .iter()
                .map(|f| Cell::Text(format!("{:.2}{NARROW}±{NARROW}{:.2}", f.mean, f.standard_deviation))),
        );
        row.extend([Cell::Number(figures[6].mean), Cell::Number(figures[6].standard_deviation)]);
        row
    };
    let runs = ablation.lines.iter().map(|line| line.runs.len()).max().unwrap_or(0);
    let gallery = ablation.lines.first().and_then(|line| line.runs.first()).map_or(0, |run| run.recall.image_gallery);
    Table {
        caption: format!(
            "Recall in percent over {gallery} images, mean ± standard deviation of {runs} seeds. SS: choice of source \
             pairs by similarity; CL: from easy to hard; AT: the adversary. Fine-tuning learns from the same labelled \
             target pairs, by the same loss, for the same number of steps."
        ),
        columns,
        rows: ablation.lines.iter().map(row).collect(),
    }
}

fn parts(pair: &Pair) -> Block {
    let parts = pair.parts().map(|(name, rows)| format!("{rows} {name}"));
    Block::Note { level: Level::Info, text: format!("Target rows: {}.", parts.join(", ")) }
}

fn verdict(ablation: &Ablation) -> Block {
    let mut words = format!("Full adaptation changes mean recall by {:+.1} % over none.", ablation.gain_percent());
    let compared = ablation.compared();
    if !compared.is_empty() {
        let compared = compared.join(", ").replace(" ± ", &format!("{NARROW}±{NARROW}"));
        words.push_str(&format!(" In points, seed by seed, with the standard error: {compared}."));
    }
    let short = ablation.shortfalls();
    for short in &short {
        words.push_str(&format!(" Short of the target: {short}."));
    }
    let level = if short.is_empty() { Level::Info } else { Level::Warning };
    Block::Note { level, text: words }
}

/// Text queries whose right answer rose or fell most, by the first seed's model.
async fn before_and_after(pair: &Pair, ablation: &Ablation) -> Result<Block, WorkerError> {
    let full = ablation.lines.iter().find(|line| line.variant == Variant::Full).and_then(|line| line.runs.first());
    let caption = "Text queries before and after adaptation: those that gained most, then those that lost most.".into();
    let Some(full) = full else { return Ok(Block::Retrieval(Retrieval { caption, panels: Vec::new() })) };
    let Some(adapted) = pair.adapted_model(&full.model_digest).await? else {
        return Ok(Block::Retrieval(Retrieval { caption, panels: Vec::new() }));
    };
    let before = pair.embedded(&pair.model(None).await?.1).await?;
    let after = pair.embedded(&adapted).await?;
    let protocol = protocol(&pair.target);
    let changes = tokio::task::block_in_place(|| evaluate::changes(&before, &after, protocol))?;
    let ids: BTreeSet<String> = changes
        .iter()
        .flat_map(|change| change.before.found.iter().chain(&change.after.found))
        .filter_map(|found| if let evaluate::Item::Image(id) = &found.item { Some(id.clone()) } else { None })
        .collect();
    let pictures = thumbnails(&pair.target, &ids).await?;
    let panels = changes
        .iter()
        .flat_map(|change| [panel("before", &change.before, &pictures), panel("after", &change.after, &pictures)]);
    Ok(Block::Retrieval(Retrieval { caption, panels: panels.collect() }))
}
