//! The report of an ablation: the paper's Table 2, and what single queries find before and after (its Figure 6).

use manifests::words::count;

use report::{Align, Block, Cell, Column, Level, Report, Section, Table};
use stages::evaluate;
use workers::WorkerError;

use super::FIGURES;
use super::adapted;
use crate::ablate::{Ablation, Difference, Line, MeanAndDeviation, Together, Variant, together, verdict_together};
use crate::pair::Pair;

/// A space at which no line breaks, narrow so that the table fits beside its contents.
const NARROW: char = '\u{202f}';

/// Makes the page of some ablations.
///
/// # Errors
/// [`WorkerError::Broken`] for tables that cannot be read; a store that does not answer.
pub async fn make(pairs: &[Pair], ablations: &[Ablation], generated_at: &str) -> Result<String, WorkerError> {
    let mut sections = Vec::new();
    if let Some(lines) = together(ablations) {
        let chances: Option<Vec<f64>> = ablations.iter().map(Ablation::chance).collect();
        let mean = chances.map(|chances| chances.iter().sum::<f64>() / chances.len() as f64);
        sections.push(together_section(&lines, mean));
    }
    for (pair, ablation) in pairs.iter().zip(ablations) {
        let mut blocks = vec![Block::Table(differences(ablation))];
        blocks.extend(verdicts(ablation));
        blocks.extend([Block::Table(recalls(ablation)), parts(pair)]);
        blocks.extend(before_and_after(pair, ablation).await?);
        sections.push(Section {
            id: ablation.pair.clone(),
            title: ablation.pair.replace('_', " "),
            lead: String::new(),
            blocks,
        });
    }
    Ok(report::render(&Report {
        title: "Adaptation between countries, and the effect of each of its parts".into(),
        subtitle: "All figures are on the target's test part, which no model was trained on; ties count as lost."
            .into(),
        generated_at: generated_at.to_owned(),
        facts: Vec::new(),
        sections,
    }))
}

/// What is to be judged: mR over seeds, and how far it is from both controls.
fn differences(ablation: &Ablation) -> Table {
    let mut columns = vec![Column::text("variant"), mean_recall_column(ablation.chance())];
    columns.push(Column::number("±").decimals(2));
    columns.extend(difference_columns());
    let row = |line: &Line| {
        let MeanAndDeviation { mean, standard_deviation } = line.mean_recall();
        let mut row = vec![Cell::from(line.variant.words()), Cell::from(mean), Cell::from(standard_deviation)];
        row.extend([difference(line.over_fine_tuning), difference(line.over_joint_training)]);
        row
    };
    let runs = ablation.lines.iter().map(|line| line.runs.len()).max().unwrap_or(0);
    Table {
        caption: format!(
            "mR in percent, mean ± standard deviation of {}, and differences in points, seed by seed, with their \
             standard error. w/o SS: source pairs at random and of one weight; w/o CL: the most similar ones in every \
             epoch; w/o AT: no adversary. Two controls learn from the same labelled target pairs, by the same loss, for \
             the same number of steps: fine-tuning from them alone, joint training also from source pairs at random, \
             without any part of the method.",
            count(runs, "seed")
        ),
        columns,
        rows: ablation.lines.iter().map(row).collect(),
    }
}

/// The six recalls behind each mR.
fn recalls(ablation: &Ablation) -> Table {
    let mut columns = vec![Column::text("variant")];
    columns.extend(FIGURES[..6].iter().map(|name| Column::text(*name)));
    let row = |line: &Line| {
        let figures = line.figures();
        let spreads = figures[..6].iter().map(|f| narrow(&format!("{:.2} ± {:.2}", f.mean, f.standard_deviation)));
        std::iter::once(line.variant.words().to_owned()).chain(spreads).map(Cell::Text).collect()
    };
    let gallery = ablation.lines.first().and_then(|line| line.runs.first()).map_or(0, |run| run.recall.image_gallery);
    Table {
        caption: format!("Recall in percent over {}, mean ± standard deviation.", count(gallery, "image")),
        columns,
        rows: ablation.lines.iter().map(row).collect(),
    }
}

fn parts(pair: &Pair) -> Block {
    let parts = pair.parts().map(|(name, rows)| format!("{rows} {name}"));
    Block::Note { level: Level::Info, text: format!("Target rows: {}.", parts.join(", ")) }
}

/// What the figures say of the method, and of which models they say nothing.
fn verdicts(ablation: &Ablation) -> Vec<Block> {
    let mut blocks = vec![Block::Note { level: Level::Info, text: narrow(&ablation.verdict()) }];
    let guessing: Vec<&str> = ablation.no_better_than_chance().into_iter().map(Variant::words).collect();
    if !guessing.is_empty() {
        let text = format!("No better than guessing: {}. A gain over that says nothing.", guessing.join(", "));
        blocks.push(Block::Note { level: Level::Warning, text });
    }
    blocks
}

/// All pairs in one table.
fn together_section(lines: &[Together], chance: Option<f64>) -> Section {
    let mut columns = vec![Column::text("variant"), mean_recall_column(chance)];
    columns.extend(difference_columns());
    let row = |line: &Together| {
        let mut row = vec![Cell::from(line.variant.words()), Cell::from(line.mean_recall)];
        row.extend([difference(line.over_fine_tuning), difference(line.over_joint_training)]);
        row
    };
    let table = Table {
        caption: "Mean over the pairs, and mean differences in points with their standard error.".into(),
        columns,
        rows: lines.iter().map(row).collect(),
    };
    let verdict = Block::Note { level: Level::Info, text: narrow(&verdict_together(lines)) };
    Section {
        id: "together".into(),
        title: "All pairs together".into(),
        lead: String::new(),
        blocks: vec![Block::Table(table), verdict],
    }
}

/// Chance is one for all models of a pair, so it goes into the head.
fn mean_recall_column(chance: Option<f64>) -> Column {
    Column::number(chance.map_or("mR".into(), |chance| format!("mR (chance {chance:.2})"))).decimals(2)
}

fn difference_columns() -> [Column; 2] {
    ["over fine-tuning", "over joint training"].map(|name| Column { align: Align::Right, ..Column::text(name) })
}

fn difference(difference: Option<Difference>) -> Cell {
    difference.map(|difference| narrow(&difference.to_string())).into()
}

fn narrow(words: &str) -> String {
    words.replace(" ± ", &format!("{NARROW}±{NARROW}"))
}

/// Queries before and after adaptation, by the first seed's model; nothing where its files are gone.
async fn before_and_after(pair: &Pair, ablation: &Ablation) -> Result<Vec<Block>, WorkerError> {
    let full = ablation.lines.iter().find(|line| line.variant == Variant::Full).and_then(|line| line.runs.first());
    let Some(full) = full else { return Ok(Vec::new()) };
    let Some(adapted) = pair.adapted_model(&full.model_digest).await? else { return Ok(Vec::new()) };
    let before = pair.embedded(&pair.model(None).await?.1).await?;
    let after = pair.embedded(&adapted).await?;
    let protocol = pair.target.spec.evaluate.protocol;
    let changes = tokio::task::block_in_place(|| evaluate::changes(&before, &after, protocol))?;
    adapted::blocks(pair, &changes).await
}
