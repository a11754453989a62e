//! Text that somebody else wrote, made harmless: one line, visible characters, bounded.

/// One line of at most `max_chars` characters without control characters, invisible or direction-changing
/// characters and angle brackets; runs of white space become one blank, ends are trimmed, a cut falls
/// between words where there are any.
pub fn clean_line(text: &str, max_chars: usize) -> String {
    let mut line = String::new();
    let mut chars = 0;
    let mut last_blank = None;
    let mut blank_pending = false;
    for character in text.chars() {
        if is_invisible(character) {
            continue;
        }
        if character.is_whitespace() || character.is_control() || matches!(character, '<' | '>') {
            blank_pending = true;
            continue;
        }
        if blank_pending && !line.is_empty() {
            last_blank = Some(line.len());
            line.push(' ');
            chars += 1;
        }
        blank_pending = false;
        if chars >= max_chars {
            line.truncate(last_blank.unwrap_or(line.len()));
            break;
        }
        line.push(character);
        chars += 1;
    }
    line.truncate(line.trim_end().len());
    line
}

/// Why a line that a person wrote cannot stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineProblem {
    /// There is nothing to see in it.
    Empty,
    /// It has so many characters, and may have fewer.
    Long {
        /// Characters that it has.
        chars: usize,
        /// Characters that it may have.
        most: usize,
    },
    /// A character that is a control, invisible, changes the direction of writing, or is an angle bracket.
    Character(char),
}

impl std::fmt::Display for LineProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LineProblem::Empty => write!(f, "it is empty"),
            LineProblem::Long { chars, most } => write!(f, "it has {chars} characters, and may have {most}"),
            LineProblem::Character(character) => {
                write!(f, "it has the character U+{:04X}: leave it out", u32::from(*character))
            }
        }
    }
}

/// A line that a person wrote, under the rules of [`clean_line`]: white space is put in order, and everything else that would
/// be taken out is refused, because nobody's words are changed behind their back.
///
/// # Errors
/// What is wrong with it.
pub fn written_line(text: &str, max_chars: usize) -> Result<String, LineProblem> {
    let is_refused = |c: &char| is_invisible(*c) || matches!(c, '<' | '>') || (c.is_control() && !c.is_whitespace());
    if let Some(character) = text.chars().find(is_refused) {
        return Err(LineProblem::Character(character));
    }
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.chars().count() {
        0 => Err(LineProblem::Empty),
        chars if chars > max_chars => Err(LineProblem::Long { chars, most: max_chars }),
        _ => Ok(line),
    }
}

/// Zero-width characters, byte-order marks, direction marks, embeddings and isolates.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_markup_and_direction_marks_are_removed() {
        assert_eq!(clean_line("  a\r\n\tb\u{202e}c\0 <script>d</script>\u{feff} ", 100), "a bc script d /script");
    }

    #[test]
    fn what_a_person_wrote_stands_or_is_refused() {
        assert_eq!(written_line("  two \r\n piers\u{a0}beside a lake ", 100).unwrap(), "two piers beside a lake");
        assert_eq!(written_line(" \n", 100), Err(LineProblem::Empty));
        assert_eq!(written_line("äää", 2), Err(LineProblem::Long { chars: 3, most: 2 }));
        for bad in ['\0', '\u{1b}', '\u{202e}', '\u{200b}', '<', '\u{7f}'] {
            let refused = written_line(&format!("a{bad}b"), 100).unwrap_err();
            assert_eq!(refused, LineProblem::Character(bad));
            assert!(refused.to_string().contains("U+"), "{refused}");
        }
        // what stands is what clean_line leaves alone
        let line = written_line("a  café,\t\"north\" of 3 piers", 100).unwrap();
        assert_eq!(clean_line(&line, 100), line);
    }

    #[test]
    fn long_text_is_cut_between_words() {
        assert_eq!(clean_line("one two three", 10), "one two");
        assert_eq!(clean_line("one two three", 13), "one two three");
        assert_eq!(clean_line("one two", 3), "one");
        assert_eq!(clean_line(&"x".repeat(10_000), 10), "xxxxxxxxxx");
        assert_eq!(clean_line("anything", 0), "");
    }
}
