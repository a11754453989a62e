//! The boxes of images, found by place.

use std::sync::Arc;

use crate::Images;
use crate::element::{ObjectId, Place};
use crate::image_box::{ImageBox, SubjectKind};
use crate::shape::{Rect, Shape};

/// Side of a cell, 1e-7 degrees.
const CELL: i32 = 50_000;
/// Lines that are longer are looked at in pieces, 1e-7 degrees.
const LONG: i32 = 1_000_000;
/// Units of 1e-7 degrees in a metre, northwards.
const UNITS_PER_METER: f64 = 1e7 / 111_320.0;

/// Boxes in order of their image, and a grid that finds them.
#[derive(Debug, Clone, Default)]
pub struct Boxes {
    all: Arc<Images>,
    /// Cells that a box with what lies around it reaches into, in order of cell: row, column and number of the box in
    /// 16, 17 and 31 bits, as there are millions.
    cells: Vec<u64>,
    /// Numbers of the objects that images were taken for, in order, and beside each the number of a box.
    subjects: Vec<i64>,
    subject_boxes: Vec<u32>,
    margin_meters: f64,
}

/// Bits of a box's number in a cell's entry.
const NUMBER_BITS: u32 = 31;
const COLUMN_BITS: u32 = 17;

fn cell(lon: i32, lat: i32) -> (u32, u32) {
    let of = |value: i32, low: i64| ((i64::from(value) - low).max(0) / i64::from(CELL)) as u32;
    (of(lon, -1_800_000_000), of(lat, -900_000_000))
}

/// The least entry of a cell.
fn key(column: u32, row: u32) -> u64 {
    (u64::from(row) << (COLUMN_BITS + NUMBER_BITS)) | (u64::from(column) << NUMBER_BITS)
}

/// Column, row and number of an entry.
fn parts(entry: u64) -> (u32, u32, u32) {
    let column = (entry >> NUMBER_BITS) as u32 & ((1 << COLUMN_BITS) - 1);
    (column, (entry >> (COLUMN_BITS + NUMBER_BITS)) as u32, entry as u32 & ((1 << NUMBER_BITS) - 1))
}

impl Boxes {
    /// Boxes with a margin around each. Of an image that is there twice the last box counts.
    pub fn new(boxes: impl IntoIterator<Item = ImageBox>, margin_meters: f64) -> Boxes {
        Boxes::of(Arc::new(boxes.into_iter().collect::<Images>().sorted().0), margin_meters)
    }

    /// Of images in order.
    pub fn of(mut images: Arc<Images>, margin_meters: f64) -> Boxes {
        if images.len() > 1 << NUMBER_BITS {
            // what does not fit into an entry would be two thousand million images
            images = Arc::new(images.filtered(|number| number < 1 << NUMBER_BITS));
        }
        let mut boxes = Boxes { all: images, margin_meters, ..Boxes::default() };
        let reach = |number: u32| {
            let rect = boxes.kept(number);
            (cell(rect.low.lon, rect.low.lat), cell(rect.high.lon, rect.high.lat))
        };
        let numbers = || 0..boxes.all.len() as u32;
        // memory for what there is, and no doubling on the way
        let count = |number| {
            let ((west, south), (east, north)) = reach(number);
            (east - west + 1) as usize * (north - south + 1) as usize
        };
        let mut cells = Vec::with_capacity(numbers().map(count).sum());
        for number in numbers() {
            let ((west, south), (east, north)) = reach(number);
            for row in south..=north {
                cells.extend((west..=east).map(|column| key(column, row) | u64::from(number)));
            }
        }
        cells.sort_unstable();
        let id = |number: u32| boxes.all.subject(number).map_or(0, |(_, id)| id);
        let mut subject_boxes: Vec<u32> = numbers().collect();
        subject_boxes.sort_unstable_by_key(|number| (id(*number), *number));
        boxes.subjects = subject_boxes.iter().map(|number| id(*number)).collect();
        boxes.subject_boxes = subject_boxes;
        boxes.cells = cells;
        boxes
    }

    /// Their images.
    pub fn all(&self) -> &Images {
        &self.all
    }

    /// Metres around each box of which everything is kept.
    pub fn margin_meters(&self) -> f64 {
        self.margin_meters
    }

    /// The number of an image's box.
    pub fn number_of(&self, image_id: &str) -> Option<u32> {
        self.all.number_of(image_id)
    }

    /// Boxes whose image was taken for an object.
    pub fn of_subject(&self, object: ObjectId) -> impl Iterator<Item = u32> {
        let from = self.subjects.partition_point(|id| *id < object.id);
        let of = self.subjects[from..].iter().take_while(move |id| **id == object.id);
        let numbers = of.zip(&self.subject_boxes[from..]).map(|(_, number)| *number);
        let means = move |kind| SubjectKind::kinds(kind).contains(&object.kind);
        numbers.filter(move |number| self.all.subject(*number).is_some_and(|(kind, _)| means(kind)))
    }

    fn around(&self, number: u32, meters: f64) -> Rect {
        let Some(rect) = self.all.rect(number) else {
            return Rect { low: Place::default(), high: Place::default() };
        };
        let furthest = f64::from(rect.low.lat.abs().max(rect.high.lat.abs())) / 1e7;
        let shrunk = furthest.to_radians().cos().max(0.01);
        rect.grown((meters * UNITS_PER_METER / shrunk).ceil() as i32, (meters * UNITS_PER_METER).ceil() as i32)
    }

    /// A box with its margin: everything that reaches into it is kept.
    pub(crate) fn kept(&self, number: u32) -> Rect {
        self.around(number, self.margin_meters)
    }

    /// A box with half of its margin: what comes here from nowhere may be part of something unknown.
    pub(crate) fn watched(&self, number: u32) -> Rect {
        self.around(number, self.margin_meters / 2.0)
    }

    /// Numbers of boxes whose margin a shape may reach into, each once, in order. A long line is looked at piece by piece:
    /// the box around all of it may hold half a country.
    pub(crate) fn near_shape(&self, shape: &Shape) -> Vec<u32> {
        let Some(bounds) = shape.bounds() else { return Vec::new() };
        let wide = |low: i32, high: i32| i64::from(high) - i64::from(low) > i64::from(LONG);
        let is_long = wide(bounds.low.lon, bounds.high.lon) || wide(bounds.low.lat, bounds.high.lat);
        if shape.is_area || !is_long {
            return self.near(bounds);
        }
        let pieces = shape.lines.iter().flat_map(|line| line.array_windows());
        let mut numbers: Vec<u32> = pieces.flat_map(|[a, b]| self.near_segment(*a, *b)).collect();
        numbers.extend(
            shape
                .lines
                .iter()
                .filter(|line| line.len() == 1)
                .flat_map(|line| self.near(Rect { low: line[0], high: line[0] })),
        );
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// The same of a segment, which is cut in halves while it is long.
    fn near_segment(&self, a: Place, b: Place) -> Vec<u32> {
        let mut numbers = Vec::new();
        let mut open = vec![(a, b)];
        while let Some((a, b)) = open.pop() {
            let bounds = Rect { low: a, high: a }.with(Rect { low: b, high: b });
            let long = |low: i32, high: i32| i64::from(high) - i64::from(low) > i64::from(LONG);
            if !long(bounds.low.lon, bounds.high.lon) && !long(bounds.low.lat, bounds.high.lat) {
                // the middle was rounded: by one unit the cut pieces may lie beside the whole
                numbers.extend(self.near(bounds.grown(1, 1)));
                continue;
            }
            let half = |a: i32, b: i32| ((i64::from(a) + i64::from(b)) / 2) as i32;
            let middle = Place { lon: half(a.lon, b.lon), lat: half(a.lat, b.lat) };
            open.extend([(a, middle), (middle, b)]);
        }
        numbers
    }

    /// Numbers of boxes whose margin reaches into the cells of `rect`, each once, in order.
    pub(crate) fn near(&self, rect: Rect) -> Vec<u32> {
        let mut numbers = Vec::new();
        let ((west, south), (east, north)) = (cell(rect.low.lon, rect.low.lat), cell(rect.high.lon, rect.high.lat));
        let mut at = self.cells.partition_point(|entry| *entry < key(west, south));
        while let Some(entry) = self.cells.get(at) {
            let (column, row, number) = parts(*entry);
            if row > north {
                break;
            }
            if column > east || column < west {
                // on to the next cell that may count, without those between
                let next = if column > east { key(west, row + 1) } else { key(west, row) };
                at += self.cells[at..].partition_point(|entry| *entry < next);
                continue;
            }
            numbers.push(number);
            at += 1;
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Whether the margin of any box holds a place.
    pub(crate) fn any_holds(&self, place: Place) -> bool {
        let (column, row) = cell(place.lon, place.lat);
        let key = key(column, row);
        let at = self.cells.partition_point(|entry| *entry < key);
        let mut here =
            self.cells[at..].iter().map(|entry| parts(*entry)).take_while(|at| (at.0, at.1) == (column, row));
        here.any(|(.., number)| self.kept(number).holds(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    #[test]
    fn the_grid_finds_what_a_look_at_every_box_finds() {
        let mut dice = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let images = (0..400).map(|i| {
            let (lon, lat) = (dice.random_range(24.0..24.3), dice.random_range(59.9..60.1));
            let side = dice.random_range(0.0001..0.02);
            ImageBox::new(&format!("n{i}_FI_19"), SubjectKind::Node, i + 1, [lon, lat, lon + side, lat + side / 2.0])
        });
        let boxes = Boxes::new(images.map(Result::unwrap), 100.0);
        for _ in 0..2000 {
            let mut place = || Place::of_degrees(dice.random_range(23.9..24.4), dice.random_range(59.8..60.2)).unwrap();
            let rect = Rect::around([place(), place()]).unwrap();
            let near = boxes.near(rect);
            let all = (0..400).filter(|n| boxes.kept(*n).meets(rect));
            all.for_each(|number| assert!(near.binary_search(&number).is_ok()));
            let place = rect.low;
            assert_eq!(boxes.any_holds(place), (0..400).any(|n| boxes.kept(n).holds(place)));
        }
    }

    #[test]
    fn long_lines_find_what_their_own_box_finds() {
        let mut dice = rand_chacha::ChaCha8Rng::seed_from_u64(4);
        let images = (0..300).map(|i| {
            let (lon, lat) = (dice.random_range(20.0..26.0), dice.random_range(55.0..61.0));
            ImageBox::new(&format!("n{i}_FI_19"), SubjectKind::Node, i + 1, [lon, lat, lon + 0.01, lat + 0.005])
        });
        let boxes = Boxes::new(images.map(Result::unwrap), 100.0);
        let mut met = 0;
        for _ in 0..3000 {
            let mut place = || Place::of_degrees(dice.random_range(19.0..27.0), dice.random_range(54.0..62.0)).unwrap();
            let shape = Shape { lines: vec![vec![place(), place(), place()], vec![place()]], is_area: false };
            let near = boxes.near_shape(&shape);
            let all = (0..300).filter(|number| shape.meets(boxes.kept(*number))).collect::<Vec<_>>();
            met += all.len();
            all.iter().for_each(|number| assert!(near.binary_search(number).is_ok()));
        }
        assert!(met > 500, "{met}");
    }

    #[test]
    fn boxes_that_are_none_are_refused() {
        for bad in [[0.0, 0.0, 2.0, 0.5], [1.0, 0.0, 0.5, 0.5], [f64::NAN, 0.0, 1.0, 1.0], [0.0, 89.5, 0.5, 90.5]] {
            assert!(ImageBox::new("n1_FI_19", SubjectKind::Node, 1, bad).is_err(), "{bad:?}");
        }
        assert!(ImageBox::new("n1_FI_19", SubjectKind::Node, 0, [0.0, 0.0, 0.1, 0.1]).is_err());
    }
}
