//! Recall after reranking.

use manifests::spec::RerankMethod;
use manifests::words::count;
use report::{Block, Cell, Column, Table};
use stages::evaluate::Evaluation;
use training::recall::{BothWays, RecallReport};

use super::{chance, figure_columns, figures};

/// What such figures mean.
pub(super) const LEAD: &str = "Transductive: scores are changed by looking at all queries together. A system that is asked one \
                               question at a time does not reach these figures; compare them with none that are not \
                               marked so. Settings are chosen by the validation split.";

/// A method in words, marked.
pub(crate) fn name(method: RerankMethod) -> &'static str {
    match method {
        RerankMethod::Multivariate => "+rerank (multivariate, as GaLR)",
        RerankMethod::DualSoftmax => "+rerank (dual softmax)",
        RerankMethod::KReciprocal => "+rerank (k-reciprocal)",
    }
}

pub(super) fn blocks(evaluation: &Evaluation) -> Vec<Block> {
    let mut columns = vec![Column::text("ranked by"), Column::text("positives"), Column::text("ties")];
    columns.extend(figure_columns());
    columns.extend([chance::chance_column(), Column::number("validation mR")]);
    let row = |names: [&str; 3], both: &BothWays, validation: Option<f64>| {
        let mut row = names.map(|text| Cell::Text(text.into())).to_vec();
        row.extend(figures(both));
        row.extend([chance::chance(both), validation.map_or(Cell::Empty, Cell::Number)]);
        row
    };
    let rows_of = |name: &str, recall: &RecallReport, validation: Option<f64>| {
        [
            row([name, "exact", "lost"], &recall.exact.pessimistic, validation),
            row([name, "exact", "won"], &recall.exact.optimistic, None),
            row([name, "group", "lost"], &recall.group.pessimistic, None),
        ]
    };
    let mut rows = rows_of("cosines alone", &evaluation.recall, None).to_vec();
    for reranked in &evaluation.reranked {
        rows.extend(rows_of(name(reranked.method), &reranked.recall, reranked.validation_mean_recall));
    }
    vec![Block::Table(Table {
        caption: format!(
            "Recall in percent over {} and {}.",
            count(evaluation.recall.image_gallery, "image"),
            count(evaluation.recall.caption_gallery, "caption")
        ),
        columns,
        rows,
    })]
}
