//! The picture of one segment that CLIP is shown.

use choices::{Background, Canvas};

use crate::mask::Rle;
use crate::resample::centre_window;
use crate::{CLIP_MEAN, PixelError, Rgb};

/// How a segment is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    /// The whole image, or the segment's surroundings only.
    pub canvas: Canvas,
    /// A cropped canvas is the segment's box, widened on each side by this times the box's own width and height, and cut
    /// at the edge of the image.
    pub margin: f32,
    /// The colour of the pixels that are not the segment's.
    pub background: Background,
}

fn colour(background: Background) -> [u8; 3] {
    match background {
        Background::White => [255; 3],
        Background::Mean => CLIP_MEAN.map(|value| (255.0 * value).round() as u8),
    }
}

/// Shows the pixels of `rle` and nothing else of `rgb`.
///
/// # Errors
/// [`PixelError::Shape`] if mask and image differ in size, the mask is empty (there is nothing to
/// show: leave the segment out), or the margin is negative or not finite.
pub fn segment_view(rgb: &Rgb, rle: &Rle, view: View) -> Result<Rgb, PixelError> {
    if (rle.width, rle.height) != (rgb.width, rgb.height) {
        return Err(PixelError::Shape {
            what: format!(
                "a mask of {} x {} pixels on an image of {} x {}",
                rle.width, rle.height, rgb.width, rgb.height
            ),
        });
    }
    let [left, top, width, height] = canvas(rle, view)?;
    let mask = rle.to_row_major();
    if !mask.contains(&1) {
        return Err(PixelError::Shape { what: "the mask of a segment view is empty".to_owned() });
    }
    let mut shown = Rgb::filled(width, height, colour(view.background));
    let columns = left as usize..(left + width) as usize;
    let source = rgb.pixels().chunks_exact(rgb.width as usize);
    let mask = mask.chunks_exact(rgb.width as usize);
    let rows = source.zip(mask).skip(top as usize);
    for (target, (source, mask)) in shown.pixels_mut().chunks_exact_mut(width as usize).zip(rows) {
        let seen = source[columns.clone()].iter().zip(&mask[columns.clone()]);
        for (target, (source, &set)) in target.iter_mut().zip(seen) {
            if set != 0 {
                *target = *source;
            }
        }
    }
    Ok(shown)
}

/// Whether CLIP at an input of `side` pixels sees anything of a segment: it is given the middle square of a view
/// ([`crate::clip_view`]), where a segment that lies beside it would be a blank picture. A pixel lies where its centre
/// does. What [`segment_view`] refuses counts as seen.
pub fn is_seen(rle: &Rle, view: View, side: u32) -> bool {
    let Ok([left, top, width, height]) = canvas(rle, view) else { return true };
    if width == height {
        return true;
    }
    let seen = |first: u32, length: u32| {
        let (start, window) = centre_window(length, width.min(height), side.max(1));
        let centred = |edge: f64| first as usize + (edge - 0.5).ceil() as usize;
        centred(start)..centred(start + window)
    };
    let (columns, rows, height) = (seen(left, width), seen(top, height), rle.height as usize);
    rle.runs().any(|(start, end)| {
        let (first, last) = (start / height, (end - 1) / height);
        (first.max(columns.start)..(last + 1).min(columns.end)).any(|x| {
            let from = if x == first { start % height } else { 0 };
            let to = if x == last { (end - 1) % height + 1 } else { height };
            from < rows.end && rows.start < to
        })
    })
}

/// What of the image is shown: left, top, width, height.
fn canvas(rle: &Rle, view: View) -> Result<[u32; 4], PixelError> {
    match view.canvas {
        Canvas::Full => Ok([0, 0, rle.width, rle.height]),
        Canvas::Cropped => widened(rle.bbox_xywh(), view.margin, rle.width, rle.height),
    }
}

/// The box with a margin, inside the image.
fn widened(
    [left, top, width, height]: [u32; 4],
    margin: f32,
    image_width: u32,
    image_height: u32,
) -> Result<[u32; 4], PixelError> {
    if !(margin.is_finite() && margin >= 0.0) {
        return Err(PixelError::Shape {
            what: format!("a margin of {margin} box sides; it must be finite and not negative"),
        });
    }
    let axis = |start: u32, length: u32, limit: u32| {
        // The cast saturates, so that a huge margin is the whole image.
        let margin_px = (length as f32 * margin).round() as u32;
        let end = (start + length).saturating_add(margin_px).min(limit);
        let start = start.saturating_sub(margin_px);
        (start, end - start)
    };
    let (left, width) = axis(left, width, image_width);
    let (top, height) = axis(top, height, image_height);
    Ok([left, top, width, height])
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: View = View { canvas: Canvas::Full, margin: 0.0, background: Background::White };

    fn cropped_by(margin: f32) -> View {
        View { canvas: Canvas::Cropped, margin, background: Background::Mean }
    }

    /// A 4 x 3 image whose red channel is the pixel's index, and a mask of pixels 5 and 6.
    fn example() -> (Rgb, Rle) {
        let data = (0..12).flat_map(|index| [index, 100, 200]).collect();
        let rgb = Rgb::new(4, 3, data).unwrap();
        let mut bits = [0u8; 12];
        bits[5] = 1;
        bits[6] = 1;
        (rgb, Rle::from_row_major(&bits, 3, 4).unwrap())
    }

    #[test]
    fn the_full_canvas_keeps_the_place_on_white() {
        let (rgb, rle) = example();
        let view = segment_view(&rgb, &rle, FULL).unwrap();
        assert_eq!((view.width, view.height), (4, 3));
        for (index, pixel) in view.pixels().iter().enumerate() {
            let expected = match index {
                5 | 6 => [index as u8, 100, 200],
                _ => [255; 3],
            };
            assert_eq!(*pixel, expected, "pixel {index}");
        }
    }

    #[test]
    fn the_crop_has_its_margin_and_ends_at_the_image() {
        let (rgb, rle) = example();
        let cropped = |margin| segment_view(&rgb, &rle, cropped_by(margin)).unwrap();
        let tight = cropped(0.0);
        assert_eq!((tight.width, tight.height), (2, 1));
        assert_eq!(tight.data, [5, 100, 200, 6, 100, 200]);
        let wider = cropped(0.5); // one pixel to the left and right, 0.5 rounds to one above and below
        assert_eq!((wider.width, wider.height), (4, 3));
        assert_eq!(wider.pixels()[0], [123, 117, 104]);
        assert_eq!(wider.pixels()[5], [5, 100, 200]);
        assert_eq!(cropped(1e30).width, 4);
    }

    #[test]
    fn what_lies_beside_the_middle_square_is_not_seen() {
        // 40 x 20 pixels: CLIP is given columns 10 to 29
        let of = |lies: &dyn Fn(usize, usize) -> bool| {
            let bits: Vec<bool> = (0..800).map(|at| lies(at % 40, at / 40)).collect();
            Rle::from_row_major(&bits, 20, 40).unwrap()
        };
        let rgb = Rgb::new(40, 20, (0..2400).map(|at| (at % 199) as u8).collect()).unwrap();
        for side in [20, 32, 224] {
            for (mask, seen) in [
                (of(&|x, _| x < 6), false),
                (of(&|x, _| x < 10), false),
                (of(&|x, _| x < 11), true),
                (of(&|x, y| x == 29 && y == 19), true),
                (of(&|x, _| x > 29), false),
                // on both sides of it
                (of(&|x, y| !(10..30).contains(&x) && y > 5), false),
                (of(&|x, _| x < 40), true),
            ] {
                assert_eq!(is_seen(&mask, FULL, side), seen, "{:?} at {side}", mask.bbox_xywh());
                // without scaling no pixel has a part in its neighbours
                if side == 20 {
                    let view = crate::clip_view(&segment_view(&rgb, &mask, FULL).unwrap(), side);
                    assert_eq!(view.data.iter().any(|&value| value < 255), seen, "{:?}", mask.bbox_xywh());
                }
            }
        }
        // a wide box is cut, too
        let ends = of(&|x, y| y == 3 && !(5..35).contains(&x));
        assert!(!is_seen(&ends, cropped_by(0.0), 20));
        assert!(is_seen(&of(&|x, _| x < 6), cropped_by(0.0), 20), "the canvas is its box");
        // a square has nothing beside its middle
        let square = Rle::from_row_major(&[1u8, 0, 0, 0], 2, 2).unwrap();
        assert!(is_seen(&square, FULL, 20));
        let empty = Rle::from_row_major(&[0u8; 4], 2, 2).unwrap();
        assert!(is_seen(&empty, FULL, 20), "it is refused where it is to be shown");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (rgb, rle) = example();
        let view = |rle: &Rle, view| segment_view(&rgb, rle, view);
        let empty = Rle::from_row_major(&[0u8; 12], 3, 4).unwrap();
        let turned = Rle::from_row_major(&[1u8; 12], 4, 3).unwrap();
        let nan = cropped_by(f32::NAN);
        for result in [
            view(&empty, FULL),
            view(&empty, cropped_by(0.1)),
            view(&turned, FULL),
            view(&rle, nan),
            view(&rle, cropped_by(-0.1)),
        ] {
            assert!(matches!(result, Err(PixelError::Shape { .. })), "{result:?}");
        }
    }
}
