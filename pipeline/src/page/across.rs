//! Every model on every country's test images.

use report::{Block, Cell, Column, Heatmap, Level, Section, Table};
use stages::evaluate::Evaluation;

use super::chance::{chance, chance_column, no_better_than_chance};
use super::{Gathered, capitalised, figure_columns, figures};

pub(super) fn section(all: &[Gathered<'_>], across: &[Evaluation]) -> Section {
    let names: Vec<String> = all.iter().map(|g| g.build.spec.country.clone()).collect();
    let find = |model: &str, country: &str| {
        let own = all.iter().filter_map(|g| g.evaluation.as_ref());
        own.chain(across).find(|e| e.model_of == model && e.country == country)
    };
    let mut values: Vec<Vec<f64>> = names
        .iter()
        .map(|model| names.iter().map(|c| find(model, c).map_or(f64::NAN, Evaluation::mean_recall)).collect())
        .collect();
    // chance is a matter of the images searched, whoever searches
    let of_images = |country: &String| names.iter().find_map(|model| find(model, country));
    values.push(names.iter().map(|c| of_images(c).map_or(f64::NAN, |e| e.quoted().chance_mean_recall)).collect());
    let row_labels = names.iter().map(|n| capitalised(n)).chain(["guessing".to_owned()]).collect();
    let found = names.iter().flat_map(|model| names.iter().filter_map(|country| find(model, country)));
    let warnings = found.clone().filter_map(|e| {
        let of = format!("Model of {} on images of {}", capitalised(&e.model_of), capitalised(&e.country));
        no_better_than_chance(&of, &e.recall)
    });
    let seen = found.clone().filter_map(|e| {
        let of = (capitalised(&e.model_of), capitalised(&e.country));
        let text = format!("Model of {} on images of {}: {}.", of.0, of.1, e.seen.as_ref()?);
        Some(Block::Note { level: Level::Warning, text })
    });
    let left_out = found.clone().filter_map(|e| {
        let of = (capitalised(&e.model_of), capitalised(&e.country));
        let text = format!("Model of {} on images of {}: {}.", of.0, of.1, e.left_out.as_ref()?);
        Some(Block::Note { level: Level::Info, text })
    });
    let rows = found.clone().map(|e| {
        let mut row = vec![Cell::Text(capitalised(&e.model_of)), Cell::Text(capitalised(&e.country))];
        row.extend(figures(e.quoted()));
        row.push(chance(e.quoted()));
        row.push(Cell::Number(e.recall.image_gallery as f64));
        row.push(Cell::Number(e.recall.caption_gallery as f64));
        row
    });
    let mut columns = vec![Column::text("model of"), Column::text("images of")];
    columns.extend(figure_columns());
    columns.extend([chance_column(), Column::number("images"), Column::number("captions")]);
    Section {
        id: "across".into(),
        title: "Across countries".into(),
        lead: "Each model on every country's test images. On the diagonal each model is at home; adaptation is meant to make up what it loses elsewhere.".into(),
        blocks: vec![
            Block::Heatmap(Heatmap {
                caption: "Mean recall in percent, ties lost.".into(),
                row_title: "model of".into(),
                column_title: "images of".into(),
                row_labels,
                column_labels: names.iter().map(|n| capitalised(n)).collect(),
                values,
                unit: "%".into(),
                decimals: Some(1),
            }),
            Block::Table(Table { caption: "Recall in percent at 1, 5 and 10, both ways.".into(), columns, rows: rows.collect() }),
        ]
        .into_iter()
        .chain(seen)
        .chain(left_out)
        .chain(warnings)
        .collect(),
    }
}
