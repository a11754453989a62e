//! Antialiased resampling with the kernels, coefficients and 8-bit arithmetic of Pillow.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use crate::Rgb;

/// The kernel; it widens with the scale when the image shrinks (antialiasing), as in Pillow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Keys' cubic with a = -0.5: Pillow's `BICUBIC`.
    Bicubic,
    /// The triangle: Pillow's `BILINEAR`.
    Bilinear,
}

impl Filter {
    fn options(self) -> ResizeOptions {
        let filter = match self {
            Self::Bicubic => FilterType::CatmullRom,
            Self::Bilinear => FilterType::Bilinear,
        };
        ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter))
    }
}

/// Resizes the whole image to `width` x `height` pixels (a side of zero becomes one).
pub fn resize(rgb: &Rgb, width: u32, height: u32, filter: Filter) -> Rgb {
    resize_crop(rgb, Crop::whole(rgb), width, height, filter)
}

/// What CLIP sees (open_clip and torchvision's `Resize(side, BICUBIC)`, `CenterCrop(side)`): the short
/// side becomes `side` pixels, the long one keeps the proportion rounded down, the middle is cut out
/// with the offset rounded half to even. A `side` of zero becomes one.
pub fn clip_view(rgb: &Rgb, side: u32) -> Rgb {
    let (width, height) = (rgb.width, rgb.height);
    let mut view = Rgb::filled(side, side, [0; 3]);
    let side = view.width;
    let source = TypedImageRef::<U8x3>::from_buffer(width, height, &rgb.data)
        .expect("an image made by Rgb::new has three bytes a pixel");
    let mut target =
        TypedImage::<U8x3>::from_buffer(side, side, &mut view.data).expect("the view has three bytes a pixel");
    // Only the pixels that are kept are computed: the crop is a sub-rectangle of the source with the same scale and
    // therefore the same coefficients.
    let (left, crop_width) = centre_window(width, width.min(height), side);
    let (top, crop_height) = centre_window(height, width.min(height), side);
    let options = Filter::Bicubic.options().crop(left, top, crop_width, crop_height);
    Resizer::new().resize_typed(&source, &mut target, &options).expect("the centre window lies inside the image");
    view
}

/// Start and length, in source pixels, of the window of one axis that becomes `side` pixels when the
/// axis of `length` pixels is scaled so that `short` becomes `side`.
pub(crate) fn centre_window(length: u32, short: u32, side: u32) -> (f64, f64) {
    let resized = u64::from(length) * u64::from(side) / u64::from(short);
    let scale = f64::from(length) / resized as f64;
    // The resized axis is at least `side` long because `length >= short`.
    let margin = (resized - u64::from(side)) as f64;
    let start = (margin / 2.0).round_ties_even() * scale;
    let window = f64::from(side) * scale;
    (start, window.min(f64::from(length) - start))
}

/// A rectangle of whole pixels inside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crop {
    pub(crate) left: u32,
    pub(crate) top: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl Crop {
    pub(crate) fn whole(rgb: &Rgb) -> Self {
        Self { left: 0, top: 0, width: rgb.width, height: rgb.height }
    }
}

/// Cuts `crop` out, then resizes it: pixels outside the crop have no influence.
pub(crate) fn resize_crop(rgb: &Rgb, crop: Crop, width: u32, height: u32, filter: Filter) -> Rgb {
    let mut resized = Rgb::filled(width, height, [0; 3]);
    let source = TypedImageRef::<U8x3>::from_buffer(rgb.width, rgb.height, &rgb.data)
        .expect("an image made by Rgb::new has three bytes a pixel");
    let source = TypedCroppedImage::from_ref(&source, crop.left, crop.top, crop.width, crop.height)
        .expect("the crop lies inside the image");
    let mut target = TypedImage::<U8x3>::from_buffer(resized.width, resized.height, &mut resized.data)
        .expect("the target has three bytes a pixel");
    Resizer::new().resize_typed(&source, &mut target, &filter.options()).expect("the whole of a view lies inside it");
    drop(target);
    resized
}
