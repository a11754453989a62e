//! Numbers that all of CLIP's ResNets share.

/// Groups of bottlenecks.
pub(super) const STAGES: usize = 4;
/// The last convolution of a bottleneck has so many times the channels of the others.
pub(super) const EXPANSION: usize = 4;
/// Side of the image in pixels of the last places.
pub(super) const TOTAL_STRIDE: usize = 32;

/// Width of the last places, where the first have `width`.
pub(super) fn last_width(width: usize) -> usize {
    (width << (STAGES - 1)) * EXPANSION
}
