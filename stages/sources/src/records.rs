//! CSV records from a reader, in bounded memory.
//!
//! `csv_core` rather than `csv`: the latter's record grows without limit, so that one unclosed
//! quote reads a whole file into memory.

use std::io::Read;

use csv_core::ReadRecordResult;

use crate::SourceError;

const MAX_RECORD_BYTES: usize = 1 << 20;
const MAX_COLUMNS: usize = 256;
const BUFFER_BYTES: usize = 1 << 16;
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Streams records; lines are counted from 1.
pub(crate) struct Records<R> {
    reader: R,
    parser: csv_core::Reader,
    buffer: Vec<u8>,
    /// The part of `buffer` that is not yet parsed.
    unread: std::ops::Range<usize>,
    line: u64,
    fields: Vec<u8>,
    ends: Vec<usize>,
}

/// One record: the line it begins at and its fields.
pub(crate) struct Record<'a> {
    pub(crate) line: u64,
    fields: &'a [u8],
    ends: &'a [usize],
}

impl<'a> Record<'a> {
    /// Number of fields.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
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
            parser: csv_core::Reader::new(),
            buffer: vec![0; BUFFER_BYTES],
            unread: 0..0,
            line: 1,
            fields: vec![0; MAX_RECORD_BYTES],
            ends: vec![0; MAX_COLUMNS],
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
            Ok(Some((line, length, columns))) => {
                Some(Ok(Record { line, fields: &self.fields[..length], ends: &self.ends[..columns] }))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Reads one record into `fields` and `ends`: its line, bytes and number of fields.
    fn advance(&mut self) -> Result<Option<(u64, usize, usize)>, SourceError> {
        self.skip_line_ends()?;
        let line = self.line;
        let (mut length, mut columns, mut oversize) = (0, 0, false);
        loop {
            if self.unread.is_empty() {
                self.fill()?;
            }
            // An empty input tells the parser that the file has ended.
            let (result, read, written, ended) = self.parser.read_record(
                &self.buffer[self.unread.clone()],
                &mut self.fields[length..],
                &mut self.ends[columns..],
            );
            let consumed = &self.buffer[self.unread.start..self.unread.start + read];
            self.line += consumed.iter().filter(|&&byte| byte == b'\n').count() as u64;
            self.unread.start += read;
            length += written;
            columns += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    // Parsed to its end, but not kept.
                    (length, columns, oversize) = (0, 0, true);
                }
                ReadRecordResult::End => {
                    return match oversize {
                        false => Ok(None),
                        true => Err(unclosed(line)),
                    };
                }
                ReadRecordResult::Record if oversize && self.at_end()? => {
                    return Err(unclosed(line));
                }
                ReadRecordResult::Record if oversize => {
                    return Err(SourceError::Row {
                        line,
                        problem: format!(
                            "more than {MAX_RECORD_BYTES} bytes or {MAX_COLUMNS} columns: \
                             a quote left open?"
                        ),
                    });
                }
                ReadRecordResult::Record => return Ok(Some((line, length, columns))),
            }
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
        "a row of more than {MAX_RECORD_BYTES} bytes begins at line {line} and runs to the end \
         of the file: close its quote"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[u8]) -> Vec<(u64, Vec<String>)> {
        let mut records = Records::new(text).unwrap();
        let mut rows = Vec::new();
        while let Some(record) = records.next() {
            let record = record.unwrap();
            let fields = (0..record.len()).map(|i| record.text(i).unwrap().to_owned());
            rows.push((record.line, fields.collect()));
        }
        rows
    }

    fn row(line: u64, fields: &[&str]) -> (u64, Vec<String>) {
        (line, fields.iter().map(|f| f.to_string()).collect())
    }

    #[test]
    fn lines_are_those_of_the_file() {
        assert_eq!(
            rows(b"\xEF\xBB\xBFa,b\r\n\r\n1,\"x\ny\"\r\n2,z"),
            [row(1, &["a", "b"]), row(3, &["1", "x\ny"]), row(5, &["2", "z"])]
        );
        assert!(rows(b"").is_empty());
        assert!(rows(b"\n\r\n").is_empty());
    }

    #[test]
    fn a_reader_of_single_bytes_gives_the_same() {
        struct Slow<'a>(&'a [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
                self.0.read(&mut out[..1])
            }
        }
        let mut records = Records::new(Slow(b"\xEF\xBB\xBF\"a\",b\n1,2\n")).unwrap();
        assert_eq!(records.next().unwrap().unwrap().text(0).unwrap(), "a");
        let second = records.next().unwrap().unwrap();
        assert_eq!((second.line, second.text(1).unwrap()), (2, "2"));
        assert!(records.next().is_none());
    }

    #[test]
    fn long_rows_are_skipped_and_an_open_quote_is_named() {
        let long = "x".repeat(MAX_RECORD_BYTES + 5);
        let text = format!("a\n{long}\nb\n");
        let mut records = Records::new(text.as_bytes()).unwrap();
        assert!(records.next().unwrap().is_ok());
        let error = records.next().unwrap().err().unwrap();
        assert!(matches!(error, SourceError::Row { line: 2, .. }), "{error}");
        let last = records.next().unwrap().unwrap();
        assert_eq!((last.line, last.text(0).unwrap()), (3, "b"));

        let text = format!("a\n\"{long}\nb\n");
        let mut records = Records::new(text.as_bytes()).unwrap();
        assert!(records.next().unwrap().is_ok());
        let error = records.next().unwrap().err().unwrap();
        assert!(error.to_string().contains("line 2"), "{error}");
        assert!(!error.spoils_one_row());
        assert!(records.next().is_none());
    }
}
