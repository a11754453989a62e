//! What several hands wrote about one picture, below each other.

use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::Picture;
use crate::figure::{figure, nothing};

/// Pictures, each with several texts about it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SideBySide {
    /// Shown below the figure; may be empty.
    pub caption: String,
    /// One for each picture.
    pub rows: Vec<Told>,
}

/// A picture with what is told of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// What all texts are about.
    pub picture: Picture,
    /// In the order of the page.
    pub texts: Vec<Telling>,
}

/// One text with its author and figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Telling {
    /// Who says it, or what they were asked.
    pub label: String,
    /// The words; empty: there are none.
    pub text: String,
    /// Short facts: a score, a share.
    pub facts: Vec<String>,
}

impl SideBySide {
    pub(crate) fn html(&self) -> Markup {
        if self.rows.is_empty() {
            return figure("side-by-side", &self.caption, nothing());
        }
        figure("side-by-side", &self.caption, html! { @for row in &self.rows { (row.html()) } })
    }
}

impl Told {
    fn html(&self) -> Markup {
        html! {
            div.panel {
                div.query { (self.picture.html()) }
                ul.tellings { @for text in &self.texts { (text.html()) } }
            }
        }
    }
}

impl Telling {
    fn html(&self) -> Markup {
        html! {
            li {
                @if !self.label.is_empty() { span.label dir="auto" { (self.label) } }
                @if self.text.is_empty() { p.nothing { "no text" } } @else { p dir="auto" { (self.text) } }
                @if !self.facts.is_empty() {
                    p.facts-line { @for fact in &self.facts { span dir="auto" { (fact) } } }
                }
            }
        }
    }
}
