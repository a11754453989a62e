//! Objects of named texts in what was meant to be JSON.

/// Fields of one object, by number: one_sentence, feature, caption.
pub(super) type Fields = [Option<String>; 3];

pub(super) const FIELD_NAMES: [&str; 3] = ["one_sentence", "feature", "caption"];

/// The field that a key means, whatever its case, spacing and number.
pub(super) fn field_of(key: &str) -> Option<usize> {
    let bare: String = key.chars().filter(|c| c.is_alphanumeric()).take(40).flat_map(char::to_lowercase).collect();
    match bare.as_str() {
        "onesentence" | "onesentences" | "sentence" => Some(0),
        "feature" | "features" | "keyfeature" | "keyfeatures" => Some(1),
        "caption" | "captions" | "detailedcaption" => Some(2),
        _ => None,
    }
}

/// A place in the text.
pub(super) struct Cursor<'a> {
    chars: &'a [char],
    at: usize,
}

/// Longest key without quotes.
const MAX_BARE_KEY: usize = 40;

impl<'a> Cursor<'a> {
    /// Behind an opening brace.
    pub(super) fn behind(chars: &'a [char], brace: usize) -> Self {
        Self { chars, at: brace + 1 }
    }

    /// Where reading stopped.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    /// The fields up to the closing brace, the end of the text, or the first thing that is no field; the first of
    /// several equal keys counts.
    pub(super) fn object(&mut self) -> Fields {
        let mut fields = Fields::default();
        loop {
            while self.peek().is_some_and(|c| c.is_whitespace() || c == ',') {
                self.at += 1;
            }
            let Some(key) = self.key() else { return fields };
            let Some(value) = self.value() else { return fields };
            if let Some(field) = field_of(&key)
                && fields[field].is_none()
            {
                fields[field] = Some(value);
            }
        }
    }

    /// A key with its colon; `None` at the end of the object.
    fn key(&mut self) -> Option<String> {
        let key = match self.peek()? {
            '}' => {
                self.at += 1;
                return None;
            }
            quote if closers(quote).is_some() => self.quoted(quote),
            _ => {
                let start = self.at;
                let ends = |c: char| matches!(c, ':' | '=' | '\n' | '{' | '}');
                while self.at - start < MAX_BARE_KEY && self.peek().is_some_and(|c| !ends(c)) {
                    self.at += 1;
                }
                self.chars[start..self.at].iter().collect()
            }
        };
        self.skip_blanks();
        if !matches!(self.peek(), Some(':' | '=')) {
            return None;
        }
        self.at += 1;
        Some(key)
    }

    fn value(&mut self) -> Option<String> {
        self.skip_blanks();
        match self.peek()? {
            // an object of its own is looked for from its own brace
            '{' => None,
            '[' => {
                self.at += 1;
                Some(self.list().join(", "))
            }
            quote if closers(quote).is_some() => Some(self.quoted(quote)),
            _ => {
                let start = self.at;
                while self.peek().is_some_and(|c| c != '\n' && c != '}' && !(c == ',' && self.field_follows(self.at))) {
                    self.at += 1;
                }
                let bare: String = self.chars[start..self.at].iter().collect();
                Some(bare.trim_end().trim_end_matches(',').to_owned())
            }
        }
    }

    fn list(&mut self) -> Vec<String> {
        let mut items = Vec::new();
        loop {
            while self.peek().is_some_and(|c| c.is_whitespace() || c == ',') {
                self.at += 1;
            }
            match self.peek() {
                None | Some('}' | '{') => return items,
                Some(']') => {
                    self.at += 1;
                    return items;
                }
                Some(quote) if closers(quote).is_some() => items.push(self.quoted(quote)),
                Some(_) => {
                    let start = self.at;
                    while self.peek().is_some_and(|c| !matches!(c, ',' | ']' | '}' | '{')) {
                        self.at += 1;
                    }
                    items.push(self.chars[start..self.at].iter().collect::<String>().trim().to_owned());
                }
            }
        }
    }

    /// A text in quotes; one that never ends goes to the end of the answer, without what would have closed the object.
    fn quoted(&mut self, quote: char) -> String {
        let closes = closers(quote).unwrap_or(&['"']);
        self.at += 1;
        let mut text = String::new();
        while let Some(c) = self.peek() {
            self.at += 1;
            if c == '\\' {
                self.escape(&mut text);
            } else if closes.contains(&c) && self.ends_here() {
                return text;
            } else {
                text.push(c);
            }
        }
        text.trim_end_matches(|c: char| c.is_whitespace() || "}]`,\"'”’".contains(c)).to_owned()
    }

    /// JSON's escapes; a broken one stands for nothing or for itself.
    fn escape(&mut self, text: &mut String) {
        let Some(c) = self.peek() else { return };
        self.at += 1;
        match c {
            'n' | 'r' | 't' | 'b' | 'f' => text.push(' '),
            'u' => {
                let unit = self.hex().unwrap_or(0xfffd);
                let pair = (0xd800..0xdc00).contains(&unit) && self.chars[self.at..].starts_with(&['\\', 'u']);
                let scalar = if pair {
                    self.at += 2;
                    let low = self.hex().filter(|low| (0xdc00..0xe000).contains(low));
                    low.map_or(0xfffd, |low| 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00))
                } else {
                    unit
                };
                text.push(char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            other => text.push(other),
        }
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.chars.get(self.at..self.at + 4)?;
        let value = digits.iter().try_fold(0, |sum, c| Some(16 * sum + c.to_digit(16)?))?;
        self.at += 4;
        Some(value)
    }

    /// Does a quote that was just read close its text, or stand inside of it ("the city's", `a "red" roof`)?
    fn ends_here(&self) -> bool {
        let (next, new_line) = self.next_from(self.at);
        match next.map(|at| self.chars[at]) {
            None | Some('}' | ']' | ':' | '=' | '`') => true,
            Some(',') => self.field_follows(next.unwrap_or(self.at)),
            // a forgotten comma
            Some(c) => new_line && closers(c).is_some(),
        }
    }

    /// Does the comma at this place stand between fields or items, and not within a sentence?
    fn field_follows(&self, comma: usize) -> bool {
        let (behind, _) = self.next_from(comma + 1);
        behind.is_none_or(|at| {
            let c = self.chars[at];
            closers(c).is_some() || matches!(c, '}' | ']' | '{') || self.is_field_at(at)
        })
    }

    /// The next place that is not blank, and whether a line ended before it.
    fn next_from(&self, start: usize) -> (Option<usize>, bool) {
        let blanks = self.chars[start.min(self.chars.len())..].iter().take_while(|c| c.is_whitespace());
        let (count, new_line) = blanks.fold((0, false), |(n, line), c| (n + 1, line || *c == '\n'));
        let at = start + count;
        ((at < self.chars.len()).then_some(at), new_line)
    }

    fn is_field_at(&self, at: usize) -> bool {
        let rest = &self.chars[at..self.chars.len().min(at + MAX_BARE_KEY)];
        let end = rest.iter().position(|c| matches!(c, ':' | '='));
        end.is_some_and(|end| field_of(&rest[..end].iter().collect::<String>()).is_some())
    }
}

/// What closes a text that opens like this; `None`: no quote.
fn closers(quote: char) -> Option<&'static [char]> {
    match quote {
        '"' => Some(&['"']),
        '\'' => Some(&['\'']),
        '“' | '”' => Some(&['”', '"', '“']),
        '‘' | '’' => Some(&['’', '\'']),
        _ => None,
    }
}
