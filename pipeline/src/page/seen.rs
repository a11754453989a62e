//! What a network makes of segments while it learns, as small heat maps: a row for each segment, a column for some epochs.

use report::{Block, Heatmap};
use stages::fit::{CurvePoint, SeenSegments};

/// Images that are shown, and epochs of each.
const IMAGES: usize = 4;
const EPOCHS: usize = 4;

/// Nothing where no segment was watched.
pub(super) fn blocks(training: &str, points: &[CurvePoint]) -> Vec<Block> {
    let watched: Vec<&CurvePoint> = points.iter().filter(|point| !point.segments.is_empty()).collect();
    let Some(last) = watched.last() else { return Vec::new() };
    let shown = spread(&watched, EPOCHS);
    let maps: Vec<Block> =
        last.segments.iter().take(IMAGES).map(|image| Block::Heatmap(heatmap(image, &shown))).collect();
    let text = format!(
        "What {training} makes of segments: how like a segment is to its image's caption, by the network of each epoch, for a \
         few validation images. Rows are segments with the weight that the loss counts them by: it stands in the tables, and \
         no epoch changes it."
    );
    [Block::Paragraph(text)].into_iter().chain(maps.chunks(2).map(|pair| Block::Row(pair.to_vec()))).collect()
}

fn heatmap(image: &SeenSegments, points: &[&CurvePoint]) -> Heatmap {
    let of = |point: &CurvePoint| point.segments.iter().find(|seen| seen.image_id == image.image_id).cloned();
    let columns: Vec<Option<SeenSegments>> = points.iter().map(|point| of(point)).collect();
    let value = |segment: usize, seen: &Option<SeenSegments>| {
        seen.as_ref().and_then(|seen| seen.cosines.get(segment)).map_or(f64::NAN, |cosine| f64::from(*cosine))
    };
    let rows = 0..image.weights.len();
    Heatmap {
        caption: image.caption.clone(),
        row_title: "weight".into(),
        column_title: "cosine after epoch".into(),
        row_labels: image.weights.iter().map(|weight| format!("{weight:.2}")).collect(),
        column_labels: points.iter().map(|point| format!("{}", point.epoch)).collect(),
        values: rows.map(|segment| columns.iter().map(|seen| value(segment, seen)).collect()).collect(),
        unit: String::new(),
        decimals: Some(2),
    }
}

/// At most so many of them, the first and the last among them.
fn spread<'p>(points: &[&'p CurvePoint], most: usize) -> Vec<&'p CurvePoint> {
    if points.len() <= most {
        return points.to_vec();
    }
    (0..most).map(|at| points[at * (points.len() - 1) / (most - 1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(epoch: f64, cosines: &[f32]) -> CurvePoint {
        let seen = SeenSegments {
            image_id: "a".into(),
            caption: "a lake".into(),
            weights: vec![0.5, 0.25],
            cosines: cosines.to_vec(),
        };
        CurvePoint { epoch, segments: vec![seen], ..CurvePoint::default() }
    }

    #[test]
    fn a_segment_has_a_row_and_an_epoch_a_column() {
        let points = [CurvePoint::default(), point(1.0, &[0.5, -0.5]), point(2.0, &[0.75])];
        let blocks = blocks("pretrain", &points);
        let Some(Block::Row(maps)) = blocks.get(1) else { panic!("a row of heat maps: {blocks:?}") };
        let Block::Heatmap(map) = &maps[0] else { panic!("a heat map") };
        assert_eq!((map.row_labels.join(" "), map.column_labels.join(" ")), ("0.50 0.25".into(), "1 2".into()));
        assert_eq!(map.values[0], [0.5, 0.75]);
        assert!(map.values[1][0] == -0.5 && map.values[1][1].is_nan(), "what is not there is left out");
        assert!(super::blocks("pretrain", &points[..1]).is_empty());
    }

    #[test]
    fn many_epochs_are_spread() {
        let all: Vec<CurvePoint> = (1..=60).map(|epoch| point(f64::from(epoch), &[])).collect();
        let epochs: Vec<f64> = spread(&all.iter().collect::<Vec<_>>(), 8).iter().map(|point| point.epoch).collect();
        assert_eq!((epochs.len(), epochs[0], epochs[7]), (8, 1.0, 60.0));
    }
}
