//! Bytes in, pixels out: decoding, resizing, augmenting, masking and segmenting of satellite tiles.
//!
//! The crate knows no tensor, no table and no file: callers hand it encoded bytes or an [`Rgb`].
//!
//! | module | what it does |
//! |---|---|
//! | [`decode`], [`encode_jpeg`], [`encode_png`] | JPEG and PNG to and from [`Rgb`], TIFF, BMP and WebP to it, with limits checked from the header |
//! | [`resize`], [`clip_view`], [`normalise_into`] | CLIP's preprocessing, equal to Pillow's within rounding |
//! | [`augment`] | RandomResizedCrop, flips, quarter turns, colour jitter |
//! | [`mask`] | COCO run-length encoded masks, readable by pycocotools |
//! | [`felzenszwalb`] | graph-based segmentation, the segmenter without weights |
//! | [`view`] | the picture of one segment that CLIP is shown |
//! | [`perceptual_hash`] | 64 bits that images which look alike share |
//! | [`overlay`] | coloured masks over an image, for reports |
//!
//! Everything is a pure function of its arguments: no threads, no global state, no clock.

mod decode;
mod encode;
mod error;
mod jpeg;
mod normalise;
mod perceptual_hash;
mod png;
mod raster;
mod resample;
mod rgb;

pub mod augment;
pub mod felzenszwalb;
pub mod mask;
pub mod overlay;
pub mod view;

pub use decode::{DecodeLimits, decode, dimensions};
pub use encode::{encode_jpeg, encode_png};
pub use error::PixelError;
pub use normalise::{CLIP_MEAN, CLIP_STD, normalise_bytes_into, normalise_into};
pub use perceptual_hash::perceptual_hash;
pub use resample::{Filter, clip_view, resize};
pub use rgb::{MAX_PIXELS, MAX_SIDE_PX, Rgb};
