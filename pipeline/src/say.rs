//! Output of commands, whose reader may go away: `urbancross status … | head -1` is no error, and a run goes on.

use std::fmt::Arguments;
use std::io::{Error, ErrorKind, Result, Write};

/// A command's output could not be written.
#[derive(Debug, thiserror::Error)]
#[error("standard output cannot be written: {0}")]
pub struct OutputError(Error);

impl OutputError {
    /// `EX_IOERR`: what the command had to do is done, and only the words are lost.
    pub fn exit_code(&self) -> u8 {
        74
    }
}

/// Writes a line of a command's output.
///
/// # Errors
/// A full disk, say; not a reader who has gone.
pub fn line(text: Arguments<'_>) -> std::result::Result<(), OutputError> {
    unless_gone(writeln!(std::io::stdout(), "{text}")).map_err(OutputError)
}

/// Writes to standard error what is not a command's output. That nobody hears it changes nothing.
pub fn aside(text: Arguments<'_>) {
    crate::logs::note(&text.to_string());
}

fn unless_gone(written: Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// `println!` for a reader who may have gone; ends the function where the output cannot be written.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*))? };
}

/// `eprintln!` that never panics.
#[macro_export]
macro_rules! aside {
    ($($text:tt)*) => { $crate::say::aside(format_args!("{}\n", format_args!($($text)*))) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_has_gone_is_no_error_and_a_full_disk_is_one() {
        assert!(unless_gone(Err(ErrorKind::BrokenPipe.into())).is_ok());
        assert!(unless_gone(Err(ErrorKind::StorageFull.into())).is_err());
    }
}
