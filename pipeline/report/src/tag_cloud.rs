//! Words sized by how often they occur, group beside group: geo-tags per country.

use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::figure::{figure, nothing, series_class};
use crate::number::format_number;

/// Words beyond this are too rare to be read anyway.
const MAX_TAGS: usize = 80;

/// Words by group, larger the more often they occur.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TagCloud {
    /// Shown below the figure; may be empty.
    pub caption: String,
    /// Side by side.
    pub groups: Vec<TagGroup>,
}

/// The words of one group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TagGroup {
    /// Shown above the words.
    pub name: String,
    /// Word and count; shown most frequent first, at most 80.
    pub tags: Vec<(String, f64)>,
}

impl TagCloud {
    pub(crate) fn html(&self) -> Markup {
        if self.groups.is_empty() {
            return figure("clouds", &self.caption, nothing());
        }
        let body = html! {
            div.groups {
                @for (index, group) in self.groups.iter().enumerate() { (group.html(index)) }
            }
        };
        figure("clouds", &self.caption, body)
    }
}

impl TagGroup {
    fn html(&self, index: usize) -> Markup {
        let mut tags: Vec<&(String, f64)> =
            self.tags.iter().filter(|(_, count)| count.is_finite() && *count > 0.0).collect();
        tags.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        tags.truncate(MAX_TAGS);
        let most = tags.first().map_or(1.0, |tag| tag.1);
        html! {
            section.cloud.(series_class(index)) {
                h4 dir="auto" { (self.name) }
                @if tags.is_empty() { (nothing()) }
                ul {
                    @for (tag, count) in tags {
                        // The area of a word grows with its count, so its size with the root.
                        li style=(format!("--size:{:.2}", (count / most).sqrt())) title=(format_number(*count, None)) dir="auto" { (tag) }
                    }
                }
            }
        }
    }
}
