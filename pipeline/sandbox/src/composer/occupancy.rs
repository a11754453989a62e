//! Which parts of a tile are taken: a coarse grid.

use crate::geometry::{Point, along, at, bounds, contains};
use crate::scene::Shape;

/// Side of a cell of the grid, scene units.
const CELL: f32 = 2.0;

/// The grid of a tile.
pub struct Occupancy {
    taken: Vec<bool>,
    columns: usize,
    rows: usize,
}

impl Occupancy {
    /// An empty grid over `width` x `height` scene units.
    pub fn new(width: f32, height: f32) -> Occupancy {
        let cells = |side: f32| (side / CELL).ceil() as usize;
        let (columns, rows) = (cells(width), cells(height));
        Occupancy { taken: vec![false; columns * rows], columns, rows }
    }

    /// Marks the place of a shape as taken.
    pub fn mark(&mut self, shape: &Shape) {
        match shape {
            Shape::Node(place) => self.mark_disk(*place, 4.0),
            Shape::Way { line, width } => {
                let mut distance = 0.0;
                while let Some(place) = along(line, distance) {
                    self.mark_disk(place.origin, width / 2.0 + 1.5);
                    distance += CELL;
                }
            }
            Shape::Area(outline) => {
                let Some((low, high)) = bounds(outline) else {
                    return;
                };
                let cells = self.disk((low + high) * 0.5, (high - low).length() / 2.0);
                for index in cells {
                    let (column, row) = (index % self.columns, index / self.columns);
                    if contains(outline, centre(column, row)) {
                        self.taken[index] = true;
                    }
                }
            }
        }
    }

    fn mark_disk(&mut self, centre: Point, radius: f32) {
        for index in self.disk(centre, radius) {
            self.taken[index] = true;
        }
    }

    /// Whether nothing stands within `radius` of a point.
    pub fn free(&self, centre: Point, radius: f32) -> bool {
        self.disk(centre, radius).all(|index| !self.taken[index])
    }

    /// Cells that a disk touches.
    fn disk(&self, middle: Point, radius: f32) -> impl Iterator<Item = usize> + use<> {
        let range = |value: f32, limit: usize| {
            let low = ((value - radius) / CELL).max(0.0) as usize;
            let high = (((value + radius) / CELL).max(-1.0) + 1.0) as usize;
            low.min(limit)..high.min(limit)
        };
        let (columns, rows) = (range(middle.x, self.columns), range(middle.y, self.rows));
        let stride = self.columns;
        rows.flat_map(move |row| columns.clone().map(move |column| (column, row)))
            .filter(move |&(column, row)| (centre(column, row) - middle).length() <= radius + CELL / 2.0)
            .map(move |(column, row)| row * stride + column)
    }
}

fn centre(column: usize, row: usize) -> Point {
    at((column as f32 + 0.5) * CELL, (row as f32 + 0.5) * CELL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Frame;

    #[test]
    fn what_is_marked_is_taken_and_the_rest_is_free() {
        let mut grid = Occupancy::new(100.0, 80.0);
        assert!(grid.free(at(50.0, 40.0), 60.0));
        grid.mark(&Shape::Area(Frame::new(at(20.0, 20.0), 0.3).rectangle(12.0, 8.0)));
        grid.mark(&Shape::Way { line: vec![at(-10.0, 60.0), at(110.0, 60.0)], width: 6.0 });
        assert!(!grid.free(at(20.0, 20.0), 1.0) && !grid.free(at(30.0, 20.0), 8.0));
        assert!(!grid.free(at(80.0, 62.0), 1.0));
        assert!(grid.free(at(70.0, 25.0), 20.0));
        assert!(grid.free(at(500.0, -500.0), 10.0), "outside nothing stands");
    }
}
