//! What a terminal is shown: pictures where it can draw some, and text that cannot act.

mod sixel;

use std::fmt::Write;
use std::io::IsTerminal;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub(crate) use sixel::sixel;

/// Lines of text that a picture covers.
const PICTURE_LINES: u32 = 8;
/// The protocol's bound on what one escape sequence carries.
const CHUNK_BYTES: usize = 4096;

/// How pictures are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Graphics {
    /// kitty's protocol, which Ghostty, Konsole and WezTerm speak too.
    Kitty,
    /// Sixels, as foot, mlterm, iTerm2, Contour and Windows Terminal draw them.
    Sixel,
    /// Not at all.
    None,
}

impl Graphics {
    /// What standard output can draw, as far as the environment tells.
    pub(crate) fn of_output() -> Self {
        if std::io::stdout().is_terminal() { Self::of(|name| std::env::var(name).ok()) } else { Self::None }
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let is_set = |name| variable(name).is_some_and(|value| !value.is_empty());
        let is = |name, values: &[&str]| variable(name).is_some_and(|value| values.contains(&value.as_str()));
        // xterm and others draw sixels or not, and only an answer of theirs would tell
        match variable(ASKED).as_deref() {
            Some("kitty") => return Self::Kitty,
            Some("sixel") => return Self::Sixel,
            Some("none") => return Self::None,
            _ => {}
        }
        // they pass no picture on
        if is_set("TMUX") || is_set("STY") {
            return Self::None;
        }
        let speaks = is_set("KITTY_WINDOW_ID")
            || is("TERM", &["xterm-kitty", "xterm-ghostty"])
            || is("TERM_PROGRAM", &["ghostty", "WezTerm"])
            || is_set("KONSOLE_VERSION");
        let draws = is("TERM", &["foot", "foot-extra", "mlterm", "contour", "yaft-256color"])
            || is("TERM_PROGRAM", &["iTerm.app", "mintty"])
            || is_set("WT_SESSION");
        match (speaks, draws) {
            (true, _) => Self::Kitty,
            (false, true) => Self::Sixel,
            (false, false) => Self::None,
        }
    }
}

/// Variable that says what the terminal draws: `kitty`, `sixel` or `none`.
const ASKED: &str = "URBANCROSS_GRAPHICS";

/// The escape sequences that draw a PNG in kitty's protocol, and end without a line break.
pub(crate) fn kitty(png: &[u8]) -> String {
    let encoded = STANDARD.encode(png);
    let mut drawn = String::with_capacity(encoded.len() + encoded.len() / CHUNK_BYTES * 16 + 64);
    let mut rest = encoded.as_str();
    let mut first = true;
    while first || !rest.is_empty() {
        let (chunk, after) = rest.split_at(rest.len().min(CHUNK_BYTES));
        // q=2: no answer, which would land among what is typed next
        let what = if first { format!("a=T,f=100,q=2,r={PICTURE_LINES},") } else { String::new() };
        _ = write!(drawn, "\x1b_G{what}m={};{chunk}\x1b\\", u8::from(!after.is_empty()));
        (rest, first) = (after, false);
    }
    drawn
}

/// A text without characters that a terminal would obey, or that turn the writing direction of what follows.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if acts(c) { '\u{fffd}' } else { c }).collect()
}

/// The same of lines: their ends and their tabulators stay.
pub(crate) fn plain_lines(text: &str) -> String {
    text.chars().map(|c| if acts(c) && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }).collect()
}

fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_known_by_their_environment() {
        let of = |pairs: &[(&str, &str)]| {
            Graphics::of(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(of(&[("TERM", "xterm-kitty")]), Graphics::Kitty);
        assert_eq!(of(&[("TERM_PROGRAM", "WezTerm"), ("TERM", "xterm-256color")]), Graphics::Kitty);
        assert_eq!(of(&[("TERM", "xterm-256color")]), Graphics::None);
        assert_eq!(of(&[("TERM", "foot")]), Graphics::Sixel);
        assert_eq!(of(&[("TERM_PROGRAM", "iTerm.app")]), Graphics::Sixel);
        assert_eq!(of(&[("TERM", "xterm"), ("URBANCROSS_GRAPHICS", "sixel"), ("TMUX", "/tmp/t,1,0")]), Graphics::Sixel);
        assert_eq!(of(&[("TERM", "xterm-kitty"), ("URBANCROSS_GRAPHICS", "none")]), Graphics::None);
        assert_eq!(of(&[("KITTY_WINDOW_ID", "1"), ("TMUX", "/tmp/tmux,1,0")]), Graphics::None);
        assert_eq!(of(&[]), Graphics::None);
    }

    #[test]
    fn a_picture_is_sent_in_pieces_that_say_whether_more_follow() {
        let drawn = kitty(&[7; 5000]);
        let pieces: Vec<&str> = drawn.split("\x1b\\").filter(|piece| !piece.is_empty()).collect();
        assert_eq!(pieces.len(), 2);
        assert!(pieces[0].starts_with("\x1b_Ga=T,f=100,q=2,r=8,m=1;") && pieces[1].starts_with("\x1b_Gm=0;"));
        let payload: String = pieces.iter().map(|piece| piece.split_once(';').unwrap().1).collect();
        assert!(pieces.iter().all(|piece| piece.split_once(';').unwrap().1.len() <= CHUNK_BYTES));
        assert_eq!(STANDARD.decode(payload).unwrap(), [7; 5000]);
        assert_eq!(kitty(&[]), "\x1b_Ga=T,f=100,q=2,r=8,m=0;\x1b\\");
    }

    #[test]
    fn text_cannot_act() {
        assert_eq!(plain("a\x1b]0;b\x07\u{202e}c\n"), "a\u{fffd}]0;b\u{fffd}\u{fffd}c\u{fffd}");
        assert_eq!(plain("Tennisplätze, 網球場"), "Tennisplätze, 網球場");
        assert_eq!(plain_lines("\na\tb\x1b[2J\r\u{9b}c\n"), "\na\tb\u{fffd}[2J\u{fffd}\u{fffd}c\n");
    }
}
