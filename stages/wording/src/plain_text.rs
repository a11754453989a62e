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
    fn long_text_is_cut_between_words() {
        assert_eq!(clean_line("one two three", 10), "one two");
        assert_eq!(clean_line("one two three", 13), "one two three");
        assert_eq!(clean_line("one two", 3), "one");
        assert_eq!(clean_line(&"x".repeat(10_000), 10), "xxxxxxxxxx");
        assert_eq!(clean_line("anything", 0), "");
    }
}
