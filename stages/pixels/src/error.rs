/// Why bytes did not become pixels, by what the caller can do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PixelError {
    /// A well-formed image of a kind that is not read: convert it to 8-bit JPEG or PNG.
    #[error("unsupported image: {what}; convert it to an 8-bit JPEG or PNG")]
    Unsupported {
        /// What the bytes are, in words.
        what: String,
    },
    /// Larger than a limit: raise the limit if the source is trusted.
    #[error("image too large: {found} {unit}, the limit is {limit}; raise the limit if the source is trusted")]
    TooLarge {
        /// What was counted: `pixels`, `pixels on a side` or `encoded bytes`.
        unit: &'static str,
        /// How many the image has.
        found: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// Damaged, truncated or contradictory bytes: fetch them again or leave the row out.
    #[error("broken image: {what}; fetch it again or leave it out")]
    Broken {
        /// What is wrong with the bytes.
        what: String,
    },
    /// Two arguments do not fit together: an error of the caller.
    #[error("shape mismatch: {what}")]
    Shape {
        /// What does not fit what.
        what: String,
    },
}

impl PixelError {
    pub(crate) fn broken(what: impl std::fmt::Display) -> Self {
        Self::Broken { what: what.to_string() }
    }

    pub(crate) fn unsupported(what: impl std::fmt::Display) -> Self {
        Self::Unsupported { what: what.to_string() }
    }
}
