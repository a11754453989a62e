//! How fast: rates beside which `tests/peers` has those of other programs.

pub(crate) mod caption;
pub(crate) mod clip;
pub(crate) mod packed;
pub(crate) mod sam;
pub(crate) mod sentence;
pub(crate) mod train;
