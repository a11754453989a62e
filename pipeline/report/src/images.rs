//! Pictures with captions, carried inside the page.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::figure::{figure, nothing};

/// Thumbnails side by side, as many as the page has room for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageGrid {
    /// Shown below the figure; may be empty.
    pub caption: String,
    /// From left to right and from top to bottom.
    pub images: Vec<Picture>,
}

/// An encoded picture. The page carries its bytes: thumbnails are the caller's business.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// JPEG, PNG, GIF or WebP; anything else is shown as an empty frame.
    pub bytes: Vec<u8>,
    /// Shown below, and the text for those who cannot see the picture.
    pub caption: String,
    /// Frame that says right or wrong.
    pub mark: Mark,
    /// A short word in the corner; empty for none.
    pub badge: String,
    /// What colours in the picture stand for, shown below.
    pub swatches: Vec<Swatch>,
}

/// A colour with what it stands for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Swatch {
    /// Red, green and blue.
    pub colour: [u8; 3],
    /// A word or a number.
    pub text: String,
}

/// The colour of a frame, always together with a sign.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// No frame.
    #[default]
    None,
    /// A right answer.
    Correct,
    /// A wrong answer.
    Wrong,
}

impl ImageGrid {
    pub(crate) fn html(&self) -> Markup {
        if self.images.is_empty() {
            return figure("pictures", &self.caption, nothing());
        }
        figure("pictures", &self.caption, html! { div.grid { @for picture in &self.images { (picture.html()) } } })
    }
}

impl Picture {
    pub(crate) fn html(&self) -> Markup {
        html! {
            div.picture.(self.mark.class()) {
                div.frame {
                    @match data_uri(&self.bytes) {
                        Some(uri) => img src=(uri) alt=(self.caption) loading="lazy";,
                        None => span.unreadable { "no picture" },
                    }
                    @if !self.badge.is_empty() { span.badge dir="auto" { (self.badge) } }
                    (self.mark.sign())
                }
                @if !self.caption.is_empty() { p dir="auto" { (self.caption) } }
                @if !self.swatches.is_empty() {
                    ul.swatches {
                        @for Swatch { colour: [red, green, blue], text } in &self.swatches {
                            li dir="auto" {
                                span.swatch style=(format!("background: rgb({red} {green} {blue})")) {}
                                (text)
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Mark {
    pub(crate) fn class(self) -> &'static str {
        match self {
            Mark::None => "plain",
            Mark::Correct => "correct",
            Mark::Wrong => "wrong",
        }
    }

    /// Colour alone is not seen by everybody.
    pub(crate) fn sign(self) -> Markup {
        match self {
            Mark::None => html! {},
            Mark::Correct => html! { span.sign role="img" aria-label="correct" { "✓" } },
            Mark::Wrong => html! { span.sign role="img" aria-label="wrong" { "✗" } },
        }
    }
}

/// The picture as a `data:` address; `None` when the bytes begin like no picture format that browsers show.
fn data_uri(bytes: &[u8]) -> Option<String> {
    let mime = match bytes {
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [b'G', b'I', b'F', b'8', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        _ => return None,
    };
    Some(format!("data:{mime};base64,{}", STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pictures_become_addresses() {
        assert_eq!(data_uri(&[0xff, 0xd8, 0xff, 0]).as_deref(), Some("data:image/jpeg;base64,/9j/AA=="));
        assert!(data_uri(b"\x89PNG\r\n").expect("png").starts_with("data:image/png;"));
        assert_eq!(data_uri(b"<svg onload=alert(1)>"), None);
        assert_eq!(data_uri(b""), None);
    }
}
