//! CSV records from a reader, in bounded memory.
//!
//! Crates for CSV forgive an unclosed quote: it swallows the rows up to the next quote, or to the end of the file. Here
//! it is an error with its line, since whatever was swallowed would be missing in silence.

#[cfg(test)]
mod tests;

use std::io::Read;
use std::ops::Range;

use crate::SourceError;

const MAX_RECORD_BYTES: usize = 1 << 20;
const MAX_COLUMNS: usize = 256;
const BUFFER_BYTES: usize = 1 << 16;
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Streams records; lines are counted from 1.
pub(crate) struct Records<R> {
    reader: R,
    buffer: Vec<u8>,
    /// The part of `buffer` that is not yet parsed.
    unread: Range<usize>,
    /// Line of the next byte.
    line: u64,
    fields: Vec<u8>,
    ends: Vec<usize>,
    /// The record at hand is longer or wider than the limits; it is parsed to its end, but not kept.
    oversize: bool,
}

/// One record: the lines it begins and ends at, and its fields.
pub(crate) struct Record<'a> {
    pub(crate) line: u64,
    last_line: u64,
    fields: &'a [u8],
    ends: &'a [usize],
}

/// Where in a field the next byte stands.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Start,
    Plain,
    Quoted,
    /// Behind a quote within a quoted field: the first of two, or the closing one.
    Quote,
}

impl<'a> Record<'a> {
    /// Number of fields.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Checks that the record has as many fields as the header. If not, no field can be trusted: a comma without quotes
    /// has moved them, or a quote left open has taken other rows in.
    ///
    /// # Errors
    /// [`SourceError::Row`]; [`SourceError::Table`] where the record goes over several lines.
    pub(crate) fn check_columns(&self, header: usize) -> Result<(), SourceError> {
        let (line, fields) = (self.line, self.len());
        match fields == header {
            true => Ok(()),
            false if self.last_line > line => Err(SourceError::Table(format!(
                "the row of lines {line} to {} has {fields} fields, the header has {header}: close the quote that opens \
                 in it",
                self.last_line
            ))),
            false => Err(SourceError::Row {
                line,
                problem: format!("{fields} fields, the header has {header}: quote texts with commas"),
            }),
        }
    }

    /// A field as text.
    ///
    /// # Errors
    /// [`SourceError::Row`] if there is no such field or it is not UTF-8.
    pub(crate) fn text(&self, column: usize) -> Result<&'a str, SourceError> {
        let row_error = |problem: String| SourceError::Row { line: self.line, problem };
        let end = *self
            .ends
            .get(column)
            .ok_or_else(|| row_error(format!("column {} is missing: {} fields", column + 1, self.len())))?;
        let start = if column == 0 { 0 } else { self.ends[column - 1] };
        std::str::from_utf8(&self.fields[start..end]).map_err(|error| {
            row_error(format!(
                "column {} is not UTF-8 (byte {} of the field): convert the file",
                column + 1,
                error.valid_up_to()
            ))
        })
    }
}

impl<R: Read> Records<R> {
    /// Begins to read; a UTF-8 byte order mark is skipped.
    pub(crate) fn new(reader: R) -> Result<Self, SourceError> {
        let mut records = Self {
            reader,
            buffer: vec![0; BUFFER_BYTES],
            unread: 0..0,
            line: 1,
            fields: Vec::new(),
            ends: Vec::new(),
            oversize: false,
        };
        // A reader may give single bytes; the mark is recognised only when it is complete.
        while records.unread.end < BOM.len() {
            let read = records.reader.read(&mut records.buffer[records.unread.end..])?;
            if read == 0 {
                break;
            }
            records.unread.end += read;
        }
        if records.buffer[records.unread.clone()].starts_with(BOM) {
            records.unread.start = BOM.len();
        }
        Ok(records)
    }

    /// The next record; `None` at the end. After [`SourceError::Row`] reading goes on.
    pub(crate) fn next(&mut self) -> Option<Result<Record<'_>, SourceError>> {
        match self.advance() {
            Ok(None) => None,
            Ok(Some(line)) => Some(Ok(Record { line, last_line: self.line, fields: &self.fields, ends: &self.ends })),
            Err(error) => Some(Err(error)),
        }
    }

    /// Reads one record into `fields` and `ends`; the line it begins at.
    fn advance(&mut self) -> Result<Option<u64>, SourceError> {
        self.skip_line_ends()?;
        if self.at_end()? {
            return Ok(None);
        }
        self.fields.clear();
        self.ends.clear();
        self.oversize = false;
        let line = self.line;
        let (mut state, mut quote_line, mut stray) = (State::Start, line, false);
        while !self.at_end()? {
            let next = self.buffer[self.unread.start];
            state = match state {
                State::Start if next == b'"' => {
                    quote_line = self.line;
                    self.unread.start += 1;
                    State::Quoted
                }
                State::Start => State::Plain,
                State::Plain => {
                    self.keep_until(|byte| matches!(byte, b',' | b'\n' | b'\r'));
                    match self.buffer[self.unread.clone()].first() {
                        None => State::Plain,
                        Some(b',') => {
                            self.unread.start += 1;
                            self.end_field();
                            State::Start
                        }
                        Some(_) => break,
                    }
                }
                State::Quoted if next == b'"' => {
                    self.unread.start += 1;
                    State::Quote
                }
                State::Quoted => {
                    self.keep_until(|byte| byte == b'"');
                    State::Quoted
                }
                State::Quote if next == b'"' => {
                    self.keep(1);
                    State::Quoted
                }
                State::Quote if matches!(next, b',' | b'\n' | b'\r') => State::Plain,
                State::Quote if quote_line < self.line => return Err(closed_in_a_text(quote_line, self.line)),
                State::Quote => {
                    stray = true;
                    State::Plain
                }
            };
        }
        self.end_field();
        let row_error = |problem: String| Err(SourceError::Row { line, problem });
        if state == State::Quoted {
            return Err(unclosed(quote_line));
        } else if self.oversize && line < self.line {
            return Err(endless(line));
        } else if self.oversize {
            return row_error(format!("more than {MAX_RECORD_BYTES} bytes or {MAX_COLUMNS} columns"));
        } else if stray {
            return row_error("text behind a closing quote: write a quote inside of a text as two".into());
        }
        Ok(Some(line))
    }

    /// Takes the bytes up to the next one that `ends` a text, or all there are for now.
    fn keep_until(&mut self, ends: impl Fn(u8) -> bool) {
        let bytes = &self.buffer[self.unread.clone()];
        self.keep(bytes.iter().position(|&byte| ends(byte)).unwrap_or(bytes.len()));
    }

    /// Takes the next bytes as text of the field at hand.
    fn keep(&mut self, length: usize) {
        let text = &self.buffer[self.unread.start..self.unread.start + length];
        self.line += text.iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.unread.start += length;
        self.oversize |= self.fields.len() + length > MAX_RECORD_BYTES;
        if !self.oversize {
            self.fields.extend_from_slice(text);
        }
    }

    fn end_field(&mut self) {
        if self.ends.len() == MAX_COLUMNS {
            self.oversize = true;
        } else {
            self.ends.push(self.fields.len());
        }
    }

    /// Skips what is left of a CR LF and empty lines, so that `line` is that of the record.
    fn skip_line_ends(&mut self) -> Result<(), SourceError> {
        while !self.at_end()? {
            match self.buffer[self.unread.start] {
                b'\n' => self.line += 1,
                b'\r' => {}
                _ => break,
            }
            self.unread.start += 1;
        }
        Ok(())
    }

    fn at_end(&mut self) -> Result<bool, SourceError> {
        if self.unread.is_empty() {
            self.fill()?;
        }
        Ok(self.unread.is_empty())
    }

    fn fill(&mut self) -> Result<(), SourceError> {
        self.unread = 0..self.reader.read(&mut self.buffer)?;
        Ok(())
    }
}

fn unclosed(line: u64) -> SourceError {
    SourceError::Table(format!(
        "line {line} opens a quote that is never closed: close it, or write a quote inside of a text as two"
    ))
}

fn endless(line: u64) -> SourceError {
    SourceError::Table(format!(
        "a row of more than {MAX_RECORD_BYTES} bytes or {MAX_COLUMNS} columns begins in line {line} and goes on over \
         several lines: close its quote"
    ))
}

fn closed_in_a_text(opened: u64, closed: u64) -> SourceError {
    SourceError::Table(format!(
        "line {opened} opens a quote that ends in the middle of a text in line {closed}: close it in line {opened}"
    ))
}
