//! The report as data.

use serde::{Deserialize, Serialize};

use crate::{BarChart, Flow, Heatmap, Histogram, ImageGrid, LineChart, Retrieval, Scatter, Table, TagCloud, Timeline};

/// A whole report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub title: String,
    pub subtitle: String,
    /// When the report was made, as the reader should see it; the crate has no clock.
    pub generated_at: String,
    /// The few numbers that a reader wants first, shown large.
    pub facts: Vec<Fact>,
    pub sections: Vec<Section>,
}

/// One large number with its name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    pub label: String,
    pub value: String,
}

impl Fact {
    pub fn new(label: impl Into<String>, value: impl Into<String>) -> Self {
        Self { label: label.into(), value: value.into() }
    }
}

/// A chapter; it appears in the table of contents.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// The anchor in the page's address; made from the title when empty, and made unique.
    pub id: String,
    pub title: String,
    /// One or two sentences that say what to see here.
    pub lead: String,
    pub blocks: Vec<Block>,
}

/// A piece of a section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Block {
    Paragraph(String),
    Note {
        level: Level,
        text: String,
    },
    Code {
        language: String,
        text: String,
    },
    Table(Table),
    Heatmap(Heatmap),
    LineChart(LineChart),
    BarChart(BarChart),
    Histogram(Histogram),
    Scatter(Scatter),
    Timeline(Timeline),
    TagCloud(TagCloud),
    Images(ImageGrid),
    Retrieval(Retrieval),
    Flow(Flow),
    /// Blocks beside each other where the page is wide enough.
    Row(Vec<Block>),
    /// Folded away under its summary.
    Details {
        summary: String,
        blocks: Vec<Block>,
    },
}

/// How much a note matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    #[default]
    Info,
    Warning,
    Error,
}

/// Which end of a range is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Best {
    Highest,
    Lowest,
}

impl Best {
    /// The best of the finite values; `None` when there is none.
    pub(crate) fn of(self, values: impl Iterator<Item = f64>) -> Option<f64> {
        let finite = values.filter(|value| value.is_finite());
        match self {
            Best::Highest => finite.reduce(f64::max),
            Best::Lowest => finite.reduce(f64::min),
        }
    }
}
