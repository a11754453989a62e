//! Non-maximum suppression.

/// A box with its last row and column: left, top, right, bottom.
pub type BoxXyxy = [u32; 4];

/// Indices of the boxes that stay, best first: a box goes if it overlaps with a better one that stays by more than
/// `iou_threshold`. Equal scores keep their order, NaN comes first (`torchvision.ops.nms`).
pub fn suppress(boxes: &[BoxXyxy], scores: &[f32], iou_threshold: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..boxes.len().min(scores.len())).collect();
    // -0.0 and 0.0 are equal, which `total_cmp` does not know.
    let rank = |index: usize| if scores[index].is_nan() { f32::INFINITY } else { scores[index] + 0.0 };
    order.sort_by(|&a, &b| scores[b].is_nan().cmp(&scores[a].is_nan()).then_with(|| rank(b).total_cmp(&rank(a))));
    let boxes: Vec<[f32; 4]> = boxes.iter().map(|corners| corners.map(|x| x as f32)).collect();
    let mut kept: Vec<usize> = Vec::new();
    for index in order {
        if kept.iter().all(|&better| f64::from(overlap(&boxes[better], &boxes[index])) <= iou_threshold) {
            kept.push(index);
        }
    }
    kept
}

/// Intersection over union in the arithmetic of torchvision, where a box of one pixel is empty: 0 / 0 counts as none.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |x: &[f32; 4]| (x[2] - x[0]) * (x[3] - x[1]);
    let side = |axis: usize| (a[axis + 2].min(b[axis + 2]) - a[axis].max(b[axis])).max(0.0);
    let intersection = side(0) * side(1);
    let iou = intersection / (area(a) + area(b) - intersection);
    if iou.is_nan() { 0.0 } else { iou }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_boxes_suppress_worse_ones() {
        let boxes = [[0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30], [0, 0, 10, 9]];
        assert_eq!(suppress(&boxes, &[0.5, 0.9, 0.1, 0.8], 0.7), [1, 2]);
        assert_eq!(suppress(&boxes, &[0.9, 0.5, 0.1, 0.8], 0.7), [0, 2]);
        assert_eq!(suppress(&boxes, &[0.9, 0.5, 0.1, 0.8], 0.89), [0, 1, 2]);
    }

    #[test]
    fn a_suppressed_box_suppresses_nothing() {
        // The second goes for the first; the third overlaps with the second only.
        let boxes = [[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]];
        assert_eq!(suppress(&boxes, &[0.9, 0.8, 0.7], 0.4), [0, 2]);
    }

    #[test]
    fn ties_keep_their_order_and_nan_comes_first() {
        let boxes = [[0, 0, 1, 1], [5, 5, 6, 6], [10, 10, 11, 11], [15, 15, 16, 16]];
        assert_eq!(suppress(&boxes, &[0.5, 0.7, 0.5, 0.5], 0.5), [1, 0, 2, 3]);
        assert_eq!(suppress(&boxes, &[-0.0, 0.0, f32::NAN, f32::INFINITY], 0.5), [2, 3, 0, 1]);
    }

    #[test]
    fn empty_boxes_overlap_with_nothing() {
        // >>> torchvision.ops.nms(torch.zeros(2, 4), torch.tensor([1., 1.]), 0.7)
        assert_eq!(suppress(&[[0; 4], [0; 4]], &[1.0, 1.0], 0.7), [0, 1]);
        assert!(suppress(&[], &[], 0.7).is_empty());
    }
}
