//! A build's report as one self-contained HTML page: text, tables, charts and pictures.
//!
//! The page makes no request of any kind (its content security policy forbids it), reads without JavaScript,
//! in light and dark, on a phone and on paper. All text is untrusted: captions come from maps and models, so
//! every string is escaped and isolated in its writing direction.
//!
//! The crate sees plain data only: callers fill a [`Report`] and [`render`] it. Same report, same bytes.
//!
//! ```
//! use report::{Block, Fact, Report, Section};
//! let report = Report {
//!     title: "Finland to Spain".into(),
//!     facts: vec![Fact::new("images", "46,041")],
//!     sections: vec![Section {
//!         title: "What was built".into(),
//!         blocks: vec![Block::Paragraph("Captions from geo-tags.".into())],
//!         ..Section::default()
//!     }],
//!     ..Report::default()
//! };
//! assert!(report::render(&report).contains("Finland to Spain"));
//! ```

mod axis;
mod bar_chart;
mod best;
mod document;
mod figure;
mod flow;
mod flow_layout;
mod found;
mod heatmap;
mod histogram;
mod images;
mod line_chart;
mod number;
mod page;
mod retrieval;
mod scatter;
mod side_by_side;
mod table;
mod tag_cloud;
mod timeline;

/// Of pages, and of charts that stand alone.
const STYLE: &str = include_str!("style.css");

pub use bar_chart::{Bar, BarChart};
pub use best::Best;
pub use document::{Block, Fact, Level, Report, Section};
pub use flow::{Flow, FlowStage};
pub use found::{FoundCard, FoundGrid};
pub use heatmap::Heatmap;
pub use histogram::Histogram;
pub use images::{ImageGrid, Mark, Picture, Swatch};
pub use line_chart::{LineChart, Series};
pub use number::{format_count, format_duration, format_number};
pub use page::render;
pub use retrieval::{Hit, Query, Retrieval, RetrievalPanel, Subject};
pub use scatter::{Cluster, Scatter};
pub use side_by_side::{SideBySide, Telling, Told};
pub use table::{Align, Cell, Column, Table};
pub use tag_cloud::{TagCloud, TagGroup};
pub use timeline::{Span, Timeline};
