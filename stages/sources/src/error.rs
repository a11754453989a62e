//! The crate's one error type; its variants differ by what the caller can do.

use pickle::PickleError;

/// Why bytes of the source could not be turned into rows.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The structure of a zip is damaged: fetch the archive again, or leave it out.
    #[error("zip archive, byte {offset}: {problem}")]
    Archive {
        /// The byte of the file at which it was noticed.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// What is taken for a tar is none, is damaged or cut off: fetch the archive again, or leave it out.
    #[error("tar archive, byte {offset}: {problem}")]
    Tar {
        /// The byte, of the unpacked archive, at which it was noticed.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// One member of a zip is unusable; every other member still is.
    #[error("zip member `{member}`: {problem}; this member is skipped, the others stay readable")]
    Member {
        /// The member's path within the archive.
        member: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The input asks for more than a limit allows.
    #[error("{what}: {value} is over {setting} = {limit}; raise it only for a source you trust")]
    Limit {
        /// What was counted, and of which file or record.
        what: String,
        /// How much the input asks for.
        value: u64,
        /// The limit's name, for whoever wants to raise it.
        setting: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// A table as a whole is not what was expected: name another file or another format.
    #[error("table: {0}")]
    Table(String),
    /// One row of a table or caption file is unusable. `line` counts from 1.
    #[error("line {line}: {problem}")]
    Row {
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A file name that does not follow SkyScript's pattern.
    #[error(
        "image name `{name}`: {problem}; expected images2/a198234555_CH_19.jpg, \
         that is {{a|w|n|r}}{{osm id}}_{{source}}_{{year}}"
    )]
    ImageName {
        /// The name, with control characters escaped.
        name: String,
        /// The first thing that does not fit the pattern.
        problem: &'static str,
    },
    /// A pickle that is damaged, or asks for more than plain data.
    #[error(transparent)]
    Pickle(PickleError),
    /// A pickle of plain data that is not a SkyScript meta record.
    #[error("meta record, `{field}`: {problem}")]
    Meta {
        /// The key of the record, or where in it.
        field: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// The embedded country polygons did not load, or a setting of this crate is out of range.
    #[error("{0}")]
    Setting(String),
    /// The reader handed in failed.
    #[error("reading failed: {0}; try again")]
    Io(#[from] std::io::Error),
}

impl SourceError {
    /// Whether only one row is lost, so that reading goes on and the loss is counted.
    /// `false`: the archive, the table or the settings are at fault, or the read may be repeated.
    pub fn spoils_one_row(&self) -> bool {
        match self {
            Self::Member { .. }
            | Self::Limit { .. }
            | Self::Row { .. }
            | Self::ImageName { .. }
            | Self::Pickle(_)
            | Self::Meta { .. } => true,
            Self::Archive { .. } | Self::Tar { .. } | Self::Table(_) | Self::Setting(_) | Self::Io(_) => false,
        }
    }
}

impl From<PickleError> for SourceError {
    fn from(error: PickleError) -> Self {
        match error {
            PickleError::Limit { what, value, limit } => {
                Self::Limit { what: format!("{what} of a pickle"), value, setting: "MAX_PICKLE_BYTES", limit }
            }
            other => Self::Pickle(other),
        }
    }
}
