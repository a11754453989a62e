//! The report as data.

use serde::{Deserialize, Serialize};

use crate::{
    BarChart, Flow, FoundGrid, Heatmap, Histogram, ImageGrid, LineChart, Retrieval, Scatter, SideBySide, Table,
    TagCloud, Timeline,
};

/// A whole report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Heading of the page, and of the browser's window.
    pub title: String,
    /// One line below the title.
    pub subtitle: String,
    /// When the report was made, as the reader should see it; the crate has no clock.
    pub generated_at: String,
    /// The few numbers that a reader wants first, shown large.
    pub facts: Vec<Fact>,
    /// In the order of the page, each with an entry in the table of contents.
    pub sections: Vec<Section>,
}

/// One large number with its name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// What the number counts.
    pub label: String,
    /// The number as it is shown, with its unit.
    pub value: String,
}

impl Fact {
    /// A number, already formatted, under its name.
    pub fn new(label: impl Into<String>, value: impl Into<String>) -> Self {
        Self { label: label.into(), value: value.into() }
    }
}

/// A chapter; it appears in the table of contents.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// The anchor in the page's address; made from the title when empty, and made unique.
    pub id: String,
    /// Heading, and entry of the table of contents.
    pub title: String,
    /// One or two sentences that say what to see here.
    pub lead: String,
    /// Shown below each other.
    pub blocks: Vec<Block>,
}

/// A piece of a section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Block {
    /// Plain text.
    Paragraph(String),
    /// A remark in a frame.
    Note {
        /// Its colour and sign.
        level: Level,
        /// Plain text.
        text: String,
    },
    /// Text as it is, in a fixed width.
    Code {
        /// Of the text, such as `toml`; an attribute of the element, nothing is coloured.
        language: String,
        /// The lines.
        text: String,
    },
    /// Rows and columns of text and numbers.
    Table(Table),
    /// Numbers of a matrix, coloured by their size.
    Heatmap(Heatmap),
    /// Lines over a common axis.
    LineChart(LineChart),
    /// Horizontal bars.
    BarChart(BarChart),
    /// Counts of bins.
    Histogram(Histogram),
    /// Points of several groups.
    Scatter(Scatter),
    /// When each stage ran.
    Timeline(Timeline),
    /// Frequent words, larger ones more often.
    TagCloud(TagCloud),
    /// Thumbnails with captions.
    Images(ImageGrid),
    /// Queries with their best answers.
    Retrieval(Retrieval),
    /// Pictures with several texts about each.
    SideBySide(SideBySide),
    /// A query with the pictures that it found.
    Found(FoundGrid),
    /// Stages and the tables between them.
    Flow(Flow),
    /// Blocks beside each other where the page is wide enough.
    Row(Vec<Block>),
    /// Folded away under its summary.
    Details {
        /// Always shown; a click unfolds the rest.
        summary: String,
        /// What is folded away.
        blocks: Vec<Block>,
    },
}

/// How much a note matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Good to know.
    #[default]
    Info,
    /// Something may have to be done.
    Warning,
    /// Something went wrong.
    Error,
}
