//! A query and what the model found for it.

use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::figure::{figure, nothing};
use crate::number::format_number;
use crate::{Mark, Picture};

/// Queries, each with what a model found for it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Retrieval {
    /// Shown below the figure; may be empty.
    pub caption: String,
    /// One for each query.
    pub panels: Vec<RetrievalPanel>,
}

/// One query and its answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrievalPanel {
    /// Why the panel is shown: "best", "worst", "before adaptation".
    pub label: String,
    /// What was searched for.
    pub query: Query,
    /// In order of rank.
    pub hits: Vec<Hit>,
    /// The rank of the true answer from 1, when it is not among the hits.
    pub true_rank: Option<u64>,
}

/// What was asked for; see [`Subject`].
pub type Query = Subject;

/// A text or a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Subject {
    /// A caption.
    Text(String),
    /// An image.
    Picture(Picture),
}

/// One answer to a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// From 1.
    pub rank: u64,
    /// Similarity to the query.
    pub score: f64,
    /// Whether it counts as a right answer; none where nobody judges.
    pub mark: Mark,
    /// What was found.
    pub subject: Subject,
}

impl Retrieval {
    pub(crate) fn html(&self) -> Markup {
        if self.panels.is_empty() {
            return figure("retrieval", &self.caption, nothing());
        }
        figure("retrieval", &self.caption, html! { @for panel in &self.panels { (panel.html()) } })
    }
}

impl RetrievalPanel {
    fn html(&self) -> Markup {
        html! {
            div.panel {
                div.query {
                    @if !self.label.is_empty() { span.label dir="auto" { (self.label) } }
                    @match &self.query {
                        Subject::Text(text) => blockquote dir="auto" { (text) },
                        Subject::Picture(picture) => (picture.html()),
                    }
                    @if let Some(rank) = self.true_rank {
                        p.true-rank { "true answer at rank " strong { (format_number(rank as f64, None)) } }
                    }
                }
                @if self.hits.is_empty() { (nothing()) }
                ol.hits.texts[self.hits.iter().all(|hit| matches!(hit.subject, Subject::Text(_)))] {
                    @for hit in &self.hits { (hit.html()) }
                }
            }
        }
    }
}

impl Hit {
    fn html(&self) -> Markup {
        let mark = self.mark;
        let place = html! {
            span.place {
                span.rank { (self.rank) }
                span.score title="similarity" { (format_number(self.score, Some(3))) }
            }
        };
        html! {
            li {
                @match &self.subject {
                    Subject::Text(text) => div.text.(mark.class()) {
                        (place)
                        span.words dir="auto" { (text) }
                        (mark.sign())
                    },
                    Subject::Picture(picture) => {
                        (Picture { mark, ..picture.clone() }.html())
                        (place)
                    },
                }
            }
        }
    }
}
