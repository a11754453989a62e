//! A matrix as coloured cells with their numbers: countries × countries recall.

use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::figure::{figure, nothing};
use crate::number::format_number;

/// From this share of the range on, text takes the colour made for the full end. With the style sheet's
/// colours both texts have a contrast of about 4.5:1 here, and more everywhere else.
const FULL_FROM: f64 = 0.6;

/// A matrix of numbers, coloured by size.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Heatmap {
    /// Shown below the figure; may be empty.
    pub caption: String,
    /// What the rows are: "trained on".
    pub row_title: String,
    /// What the columns are: "tested on".
    pub column_title: String,
    /// One for each row.
    pub row_labels: Vec<String>,
    /// One for each column.
    pub column_labels: Vec<String>,
    /// Values by row; missing and not finite ones are shown as "–" without colour.
    pub values: Vec<Vec<f64>>,
    /// Unit of the values; may be empty.
    pub unit: String,
    /// Decimals of the numbers; `None` chooses by magnitude.
    pub decimals: Option<u8>,
}

impl Heatmap {
    pub(crate) fn html(&self) -> Markup {
        if self.row_labels.is_empty() || self.column_labels.is_empty() {
            return figure("heatmap", &self.caption, nothing());
        }
        let finite = || self.values.iter().flatten().copied().filter(|value| value.is_finite());
        let low = finite().fold(f64::INFINITY, f64::min);
        let high = finite().fold(f64::NEG_INFINITY, f64::max);
        let body = html! {
            div.scroll {
                table {
                    thead {
                        tr {
                            th.corner scope="col" { (self.row_title) }
                            th.axis-name scope="colgroup" colspan=(self.column_labels.len()) {
                                (self.column_title)
                                @if !self.unit.is_empty() { " " span.unit { (self.unit) } }
                            }
                        }
                        tr {
                            td {}
                            @for label in &self.column_labels { th scope="col" dir="auto" { (label) } }
                        }
                    }
                    tbody {
                        @for (row, label) in self.row_labels.iter().enumerate() {
                            tr {
                                th scope="row" dir="auto" { (label) }
                                @for column in 0..self.column_labels.len() {
                                    (self.cell(row, column, (low, high)))
                                }
                            }
                        }
                    }
                }
            }
        };
        figure("heatmap", &self.caption, body)
    }

    fn cell(&self, row: usize, column: usize, (low, high): (f64, f64)) -> Markup {
        let value = self.values.get(row).and_then(|values| values.get(column));
        let value = value.copied().unwrap_or(f64::NAN);
        let text = format_number(value, self.decimals);
        if !value.is_finite() {
            return html! { td.missing { (text) } };
        }
        // Halved first, so that the span of two huge values stays finite.
        let span = high / 2.0 - low / 2.0;
        let share = if span > 0.0 { (value / 2.0 - low / 2.0) / span } else { 0.5 };
        html! {
            td class=(if share >= FULL_FROM { "full" } else { "pale" }) style=(format!("--share:{:.0}%", share * 100.0)) { (text) }
        }
    }
}
