//! Tar archives, streamed: bytes in as they come, members out, plain or packed by gzip. Memory holds one header and one long
//! name, whatever an archive claims.

mod header;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;

use crate::SourceError;
use header::{BLOCK, Header, Kind};

/// Longest extended header, which holds long names: it is held whole.
const MAX_EXTENDED_BYTES: u64 = 64 << 10;
/// Bytes that a packed archive may become without a question, and as a multiple of its length. Pictures hardly shrink.
const FREE_BYTES: u64 = 64 << 20;
const MAX_RATIO: u64 = 100;

/// Whether an object of this name is taken for a tar archive.
pub fn is_tar(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [".tar", ".tar.gz", ".tgz"].iter().any(|ending| name.ends_with(ending))
}

/// A file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its path, as it is written.
    pub name: Vec<u8>,
    /// Where its data begins: in the archive once it is unpacked.
    pub offset: u64,
    /// Bytes of its data.
    pub size: u64,
}

/// What is done with members.
pub trait Visitor {
    /// A file begins.
    ///
    /// # Errors
    /// What cannot be taken in; it ends the reading.
    fn begin(&mut self, member: Member) -> Result<(), SourceError>;

    /// The next bytes of its data.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    fn data(&mut self, bytes: &[u8]) -> Result<(), SourceError>;

    /// It was whole.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    fn end(&mut self) -> Result<(), SourceError>;

    /// Whether nothing more is wanted: the rest is not read.
    fn is_satisfied(&self) -> bool {
        false
    }
}

/// Whether an archive that begins so is packed: no name of a member does.
pub fn is_packed(first_bytes: &[u8]) -> bool {
    first_bytes.starts_with(&[0x1f])
}

/// An archive that is being read, plain or packed.
pub enum Archive<'v, V: Visitor> {
    /// As it is.
    Plain(Parser<'v, V>),
    /// By gzip, and how much was fed.
    Packed(Box<MultiGzDecoder<Parser<'v, V>>>, u64),
}

impl<'v, V: Visitor> Archive<'v, V> {
    /// Nothing is read yet.
    pub fn new(is_packed: bool, visitor: &'v mut V) -> Self {
        let state = State::Header(Vec::with_capacity(BLOCK));
        let parser = Parser {
            visitor,
            state,
            position: 0,
            long: Long::default(),
            most: u64::MAX,
            is_padding: false,
            error: None,
        };
        match is_packed {
            false => Archive::Plain(parser),
            true => Archive::Packed(Box::new(MultiGzDecoder::new(parser)), 0),
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`SourceError::Tar`] for what is no tar, [`SourceError::Limit`] for more than is taken in, and what the visitor
    /// says.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), SourceError> {
        match self {
            Archive::Plain(parser) => parser.feed(bytes),
            Archive::Packed(decoder, _) if decoder.get_ref().is_over() => Ok(()),
            Archive::Packed(decoder, fed) => {
                *fed = fed.saturating_add(bytes.len() as u64);
                decoder.get_mut().most = fed.saturating_mul(MAX_RATIO).max(FREE_BYTES);
                let written = decoder.write_all(bytes);
                decoder.get_mut().told(written)
            }
        }
    }

    /// Whether nothing more is wanted. A packed archive is read to its end, where its checksum stands.
    pub fn is_done(&self) -> bool {
        match self {
            Archive::Plain(parser) => parser.is_done(),
            Archive::Packed(decoder, _) => decoder.get_ref().is_over(),
        }
    }

    /// No more bytes come.
    ///
    /// # Errors
    /// [`SourceError::Tar`] for an archive that ends in a member or without the blocks that close it, and what the visitor says.
    pub fn finish(self) -> Result<(), SourceError> {
        match self {
            Archive::Plain(parser) => parser.finish(),
            Archive::Packed(mut decoder, _) => {
                let written = decoder.try_finish();
                decoder.get_mut().told(written)?;
                decoder.get_ref().finish()
            }
        }
    }
}

/// Where in an archive the next byte stands.
enum State {
    /// Of a header, of which these bytes are there.
    Header(Vec<u8>),
    /// Of an extended header: what came, and what is to come.
    Extended { kind: Kind, bytes: Vec<u8>, left: u64, padding: u64 },
    /// Of a file's data.
    Data { left: u64, padding: u64 },
    /// Of what is passed over.
    Skip { left: u64 },
    /// Behind the end.
    Done,
}

/// What extended headers said of the next member.
#[derive(Default)]
struct Long {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

/// The reader of what is not, or no longer, packed.
pub struct Parser<'v, V: Visitor> {
    visitor: &'v mut V,
    state: State,
    position: u64,
    long: Long,
    /// Bytes that may come.
    most: u64,
    /// Whether a decoder has come to what only fills the file up.
    is_padding: bool,
    /// What a decoder cannot hand on.
    error: Option<SourceError>,
}

impl<V: Visitor> Parser<'_, V> {
    fn is_done(&self) -> bool {
        matches!(self.state, State::Done) || self.visitor.is_satisfied()
    }

    /// Whether nothing that a decoder has left counts.
    fn is_over(&self) -> bool {
        self.is_padding || self.visitor.is_satisfied()
    }

    fn broken(&self, problem: impl Into<String>) -> SourceError {
        SourceError::Tar { offset: self.position, problem: problem.into() }
    }

    /// What a decoder says of what it wrote here.
    fn told(&mut self, written: io::Result<()>) -> Result<(), SourceError> {
        match (self.error.take(), written) {
            (Some(error), _) => Err(error),
            (None, Err(_)) if self.is_over() => Ok(()),
            // archivers fill up what they write with zeros, which begin no further part; a checksum has to be right
            (None, Err(error)) if self.is_done() && error.to_string().contains("gzip header") => {
                self.is_padding = true;
                Ok(())
            }
            (None, Err(error)) => Err(self.broken(format!("gzip: {error}"))),
            (None, Ok(())) => Ok(()),
        }
    }

    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), SourceError> {
        while !bytes.is_empty() && !self.is_done() {
            let taken = self.step(bytes)?;
            self.position += taken as u64;
            if self.position > self.most {
                return Err(self.broken(format!(
                    "it unpacks to more than {MAX_RATIO} times its length, as no pictures do; if you trust it, unpack it yourself"
                )));
            }
            bytes = &bytes[taken..];
            self.turn()?;
        }
        Ok(())
    }

    /// Takes some bytes, as many as one state wants; at least one.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, SourceError> {
        let at_most = |left: u64| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        Ok(match &mut self.state {
            State::Header(held) => {
                let taken = bytes.len().min(BLOCK - held.len());
                held.extend_from_slice(&bytes[..taken]);
                taken
            }
            State::Extended { bytes: held, left, .. } => {
                let taken = at_most(*left);
                held.extend_from_slice(&bytes[..taken]);
                *left -= taken as u64;
                taken
            }
            State::Data { left, .. } => {
                let taken = at_most(*left);
                self.visitor.data(&bytes[..taken])?;
                *left -= taken as u64;
                taken
            }
            State::Skip { left } => {
                let taken = at_most(*left);
                *left -= taken as u64;
                taken
            }
            State::Done => bytes.len(),
        })
    }

    /// Goes on to the next states while the present one wants nothing.
    fn turn(&mut self) -> Result<(), SourceError> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Done) {
                State::Header(held) if held.len() == BLOCK => self.header(&held)?,
                State::Extended { kind, bytes, left: 0, padding } => {
                    self.extended(kind, &bytes)?;
                    State::Skip { left: padding }
                }
                State::Data { left: 0, padding } => {
                    self.visitor.end()?;
                    State::Skip { left: padding }
                }
                State::Skip { left: 0 } => State::Header(Vec::with_capacity(BLOCK)),
                waiting => {
                    self.state = waiting;
                    return Ok(());
                }
            };
            if self.is_done() {
                return Ok(());
            }
        }
    }

    /// What follows a header.
    fn header(&mut self, block: &[u8]) -> Result<State, SourceError> {
        // its offset is that of its end
        let Some(Header { kind, name, size }) = Header::read(block).map_err(|problem| self.broken(problem))? else {
            return Ok(State::Done);
        };
        let size = match kind {
            Kind::File | Kind::Other => self.long.size.take().unwrap_or(size),
            Kind::LongName | Kind::Pax | Kind::Passed => size,
        };
        let padding = size.wrapping_neg() % BLOCK as u64;
        if self.position.checked_add(size).and_then(|end| end.checked_add(padding)).is_none() {
            return Err(self.broken(format!("a member of {size} bytes")));
        }
        Ok(match kind {
            Kind::LongName | Kind::Pax if size > MAX_EXTENDED_BYTES => {
                return Err(self.broken(format!(
                    "an extended header of {size} bytes: no name needs more than {MAX_EXTENDED_BYTES}"
                )));
            }
            Kind::LongName | Kind::Pax => State::Extended { kind, bytes: Vec::new(), left: size, padding },
            Kind::Passed => State::Skip { left: size + padding },
            Kind::Other => {
                self.long = Long::default();
                State::Skip { left: size + padding }
            }
            Kind::File => {
                let name = self.long.name.take().unwrap_or(name);
                self.visitor.begin(Member { name, offset: self.position, size })?;
                State::Data { left: size, padding }
            }
        })
    }

    fn extended(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), SourceError> {
        if kind == Kind::LongName {
            self.long.name = Some(header::until_zero(bytes).to_vec());
            return Ok(());
        }
        let records = header::pax(bytes).map_err(|problem| self.broken(problem))?;
        self.long.name = records.path.map(<[u8]>::to_vec).or(self.long.name.take());
        self.long.size = records.size.or(self.long.size);
        Ok(())
    }

    fn finish(&self) -> Result<(), SourceError> {
        match &self.state {
            _ if self.is_done() => Ok(()),
            // cut behind a member it looks like a smaller archive, and its images would leave the tables
            State::Header(held) if held.is_empty() && self.position > 0 => Err(self.broken(
                "it ends without the blocks of zeros that close it: it was cut off behind a member, or its writer left them out; \
                 fetch it again, or pack it anew",
            )),
            _ => Err(self.broken("it is cut off here: fetch it again")),
        }
    }
}

impl<V: Visitor> Write for Parser<'_, V> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.feed(bytes).map_err(|error| {
            let told = io::Error::other(error.to_string());
            self.error = Some(error);
            told
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
