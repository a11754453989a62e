//! What a pass over vectors found.

use stages::search::Top;

/// What a pass found.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The best images.
    pub top: Top<()>,
    /// Images that were compared with the query.
    pub compared: u64,
    /// Images whose vector is by another model than the gallery's, or pooled otherwise: they were not.
    pub outdated: u64,
}
