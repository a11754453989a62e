//! What a search found: a card for each picture, with what is known of it.

use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::figure::figure;
use crate::number::format_number;
use crate::{Picture, Query, Subject};

/// A query and the pictures that it found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoundGrid {
    /// Shown below the figure; may be empty.
    pub caption: String,
    /// What was searched for.
    pub query: Query,
    /// Best first.
    pub cards: Vec<FoundCard>,
}

/// One picture.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FoundCard {
    /// From 1.
    pub rank: u64,
    /// Similarity to the query.
    pub score: f64,
    /// JPEG, PNG, GIF or WebP; anything else is shown as an empty frame.
    pub picture: Vec<u8>,
    /// Name of the picture.
    pub id: String,
    /// What it shows, in words; the first is the text for those who cannot see it.
    pub captions: Vec<String>,
    /// Such as `leisure=pitch`.
    pub tags: Vec<String>,
    /// Short facts: country, year, place.
    pub facts: Vec<String>,
}

impl FoundGrid {
    pub(crate) fn html(&self) -> Markup {
        let body = html! {
            div.query {
                @match &self.query {
                    Subject::Text(text) => blockquote dir="auto" { (text) },
                    Subject::Picture(picture) => (picture.html()),
                }
            }
            @if self.cards.is_empty() {
                p.nothing { "nothing was found" }
            } @else {
                ol.cards { @for card in &self.cards { (card.html()) } }
            }
        };
        figure("found", &self.caption, body)
    }
}

impl FoundCard {
    fn html(&self) -> Markup {
        let words = self.captions.first().unwrap_or(&self.id).clone();
        let picture = Picture { bytes: self.picture.clone(), caption: words, ..Picture::default() };
        html! {
            li.card {
                (picture.html())
                @for caption in self.captions.iter().skip(1) { p.more dir="auto" { (caption) } }
                span.place {
                    span.rank { (self.rank) }
                    span.score title="similarity" { (format_number(self.score, Some(3))) }
                }
                @if !self.tags.is_empty() { ul.tags { @for tag in &self.tags { li dir="auto" { (tag) } } } }
                p.facts-line { @for fact in &self.facts { span dir="auto" { (fact) } } }
                p.id dir="auto" { (self.id) }
            }
        }
    }
}
