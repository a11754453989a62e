//! What extracts say of themselves.

use crate::Rect;

/// What a file says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// The box that it claims to cover.
    pub bounds: Option<Rect>,
    /// The moment that it shows, seconds since 1970.
    pub timestamp: Option<i64>,
    /// The last diff that is in it.
    pub sequence: Option<u64>,
    pub(crate) is_empty_root: bool,
}
