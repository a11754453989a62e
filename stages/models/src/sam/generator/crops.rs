//! Crops of an image and the points that the network is asked at.

use super::settings::MaskGeneratorSettings;
use crate::{ModelError, Result};

/// A part of an image: left, top, and right and bottom, which are no longer part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropBox {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// The column behind the last.
    pub right: usize,
    /// The row below the last.
    pub bottom: usize,
}

impl CropBox {
    /// Columns.
    pub fn width(&self) -> usize {
        self.right - self.left
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.bottom - self.top
    }
}

/// The whole image, then `layers` layers of ever smaller crops, column by column, each with its layer
/// (`generate_crop_boxes`). Crops that would be empty, in an image of few pixels, are left out.
pub fn crop_boxes(height: usize, width: usize, layers: usize, overlap_ratio: f64) -> Vec<(CropBox, usize)> {
    let mut crops = vec![(CropBox { left: 0, top: 0, right: width, bottom: height }, 0)];
    let short_side = height.min(width) as f64;
    for layer in 1..=layers {
        let per_side = 1usize << layer;
        let overlap = (overlap_ratio * short_side * (2.0 / per_side as f64)) as usize;
        let length = |whole: usize| (overlap * (per_side - 1) + whole).div_ceil(per_side);
        let (crop_width, crop_height) = (length(width), length(height));
        let starts = |length: usize| (0..per_side).map(move |i| length.saturating_sub(overlap) * i);
        for left in starts(crop_width) {
            for top in starts(crop_height) {
                let (right, bottom) = ((left + crop_width).min(width), (top + crop_height).min(height));
                if left < right && top < bottom {
                    crops.push((CropBox { left, top, right, bottom }, layer));
                }
            }
        }
    }
    crops
}

/// Points spread evenly over [0, 1]², row by row, x first (`build_point_grid`).
pub fn point_grid(per_side: usize) -> Vec<[f64; 2]> {
    let offset = 1.0 / (2 * per_side) as f64;
    let last = 1.0 - offset;
    let step = (last - offset) / (per_side.max(2) - 1) as f64;
    // As numpy.linspace: the last point is exact.
    let place = |i: usize| if i > 0 && i + 1 == per_side { last } else { i as f64 * step + offset };
    (0..per_side * per_side).map(|i| [place(i % per_side), place(i / per_side)]).collect()
}

/// The points of every layer.
///
/// # Errors
/// [`ModelError::Config`] if a layer is left without points.
pub(super) fn point_grids(settings: &MaskGeneratorSettings) -> Result<Vec<Vec<[f64; 2]>>> {
    if let Some(grids) = &settings.point_grids {
        return Ok(grids.clone());
    }
    let most = settings.points_per_side.unwrap_or(0);
    let mut grids = Vec::new();
    for layer in 0..=settings.crop_n_layers {
        let divisor = settings.crop_n_points_downscale_factor.saturating_pow(layer as u32);
        let per_side = most / divisor;
        if per_side == 0 {
            return Err(ModelError::Config(format!(
                "mask generator: {most} points along a side are none in layer {layer}, divided by {divisor}"
            )));
        }
        grids.push(point_grid(per_side));
    }
    Ok(grids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_are_those_of_the_reference() {
        // >>> generate_crop_boxes((301, 199), 1, 512 / 1500)[0]
        let boxes: Vec<[usize; 4]> = crop_boxes(301, 199, 1, 512.0 / 1500.0)
            .iter()
            .map(|(crop, _)| [crop.left, crop.top, crop.right, crop.bottom])
            .collect();
        let expected = [[0, 0, 199, 301], [0, 0, 133, 184], [0, 117, 133, 301], [66, 0, 199, 184], [66, 117, 199, 301]];
        assert_eq!(boxes, expected);
        let two_layers = crop_boxes(301, 199, 2, 512.0 / 1500.0);
        assert_eq!((two_layers.len(), two_layers[20].1), (21, 2));
    }

    #[test]
    fn crops_of_tiny_images_are_not_empty() {
        for (height, width) in [(1, 1), (3, 2), (5, 1000)] {
            for (crop, _) in crop_boxes(height, width, 3, 0.3) {
                assert!(crop.width() > 0 && crop.height() > 0 && crop.right <= width && crop.bottom <= height);
            }
        }
    }

    #[test]
    fn points_lie_in_the_middle_of_their_cells() {
        assert_eq!(point_grid(1), [[0.5, 0.5]]);
        assert_eq!(point_grid(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]);
        let grid = point_grid(32);
        assert_eq!((grid[0], grid[1023]), ([1.0 / 64.0; 2], [1.0 - 1.0 / 64.0; 2]));
    }

    #[test]
    fn a_layer_without_points_is_an_error() {
        let settings = MaskGeneratorSettings {
            points_per_side: Some(3),
            crop_n_layers: 2,
            crop_n_points_downscale_factor: 2,
            ..MaskGeneratorSettings::default()
        };
        assert!(point_grids(&settings).unwrap_err().to_string().contains("layer 2"));
    }
}
