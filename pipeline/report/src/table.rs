//! Tables: aligned figures, units in the head, the best value of a column marked.

use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::Best;
use crate::number::{MISSING, format_number};

/// Rows and columns of text and numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Shown above the table.
    pub caption: String,
    /// From left to right.
    pub columns: Vec<Column>,
    /// Cells by row; short rows are filled with "–", cells beyond the columns are left out.
    pub rows: Vec<Vec<Cell>>,
}

/// Heading of a column, and how its cells are shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// The heading.
    pub name: String,
    /// Unit of its numbers, shown beside the heading; may be empty.
    pub unit: String,
    /// Where its cells stand.
    pub align: Align,
    /// Decimals of numbers; `None` chooses by magnitude.
    pub decimals: Option<u8>,
    /// Marks the best number of the column.
    pub best: Option<Best>,
}

/// Where the cells of a column stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Align {
    /// For text.
    #[default]
    Left,
    /// For numbers.
    Right,
}

/// What stands in a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Cell {
    /// Text as it is.
    Text(String),
    /// Formatted by its column.
    Number(f64),
    /// Shown as "–".
    Empty,
}

impl Column {
    /// A column of text.
    pub fn text(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// A right-aligned column of numbers.
    pub fn number(name: impl Into<String>) -> Self {
        Self { name: name.into(), align: Align::Right, ..Self::default() }
    }

    /// With a unit beside the heading.
    pub fn unit(self, unit: impl Into<String>) -> Self {
        Self { unit: unit.into(), ..self }
    }

    /// With so many decimals, whatever the magnitude.
    pub fn decimals(self, decimals: u8) -> Self {
        Self { decimals: Some(decimals), ..self }
    }

    /// With a mark on its best number.
    pub fn best(self, best: Best) -> Self {
        Self { best: Some(best), ..self }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell::Text(text)
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Cell::Number(number)
    }
}

impl From<u64> for Cell {
    /// Exact up to 2^53; a count beyond that is shown in scientific notation anyway.
    fn from(count: u64) -> Self {
        Cell::Number(count as f64)
    }
}

impl From<usize> for Cell {
    fn from(count: usize) -> Self {
        Cell::from(count as u64)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(cell: Option<T>) -> Self {
        cell.map_or(Cell::Empty, Into::into)
    }
}

impl Cell {
    fn number(&self) -> Option<f64> {
        match self {
            Cell::Number(number) if number.is_finite() => Some(*number),
            _ => None,
        }
    }
}

impl Table {
    pub(crate) fn html(&self) -> Markup {
        let best: Vec<Option<f64>> = (0..self.columns.len()).map(|column| self.best_of(column)).collect();
        html! {
            figure.table {
                div.scroll {
                    table.sortable {
                        thead { tr {
                            @for column in &self.columns {
                                th scope="col" class=(column.align.class()) {
                                    span dir="auto" { (column.name) }
                                    @if !column.unit.is_empty() { " " span.unit { (column.unit) } }
                                }
                            }
                        } }
                        tbody {
                            @for row in &self.rows { tr {
                                @for (index, column) in self.columns.iter().enumerate() {
                                    (column.cell(row.get(index).unwrap_or(&Cell::Empty), best[index]))
                                }
                            } }
                            @if self.rows.is_empty() {
                                tr { td.nothing colspan=(self.columns.len().max(1)) { "no rows" } }
                            }
                        }
                    }
                }
                @if !self.caption.is_empty() { figcaption dir="auto" { (self.caption) } }
            }
        }
    }

    /// The best number of a column that has at least two to choose from.
    fn best_of(&self, column: usize) -> Option<f64> {
        let numbers = || self.rows.iter().filter_map(|row| row.get(column)?.number());
        let best = self.columns[column].best?;
        (numbers().count() > 1).then(|| best.of(numbers())).flatten()
    }
}

impl Column {
    fn cell(&self, cell: &Cell, best: Option<f64>) -> Markup {
        let number = cell.number();
        html! {
            td class=(self.align.class()) data-value=[number] {
                @match cell {
                    Cell::Text(text) => span dir="auto" { (text) },
                    Cell::Number(number) if best == Some(*number) => strong.best title="best of the column" {
                        (format_number(*number, self.decimals))
                    },
                    Cell::Number(number) => (format_number(*number, self.decimals)),
                    Cell::Empty => (MISSING),
                }
            }
        }
    }
}

impl Align {
    fn class(self) -> &'static str {
        match self {
            Align::Left => "left",
            Align::Right => "right",
        }
    }
}
