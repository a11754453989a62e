//! Trees, one crown at a time.

use super::Maker;
use crate::geometry::{Point, along, length};
use crate::scene::{Brush, Object, Shape, tags};

impl Maker {
    /// One tree without tags (nobody maps every tree).
    pub fn crown(&mut self, centre: Point, conifer: bool, scale: f32) -> Brush {
        let palette = &self.country.palette;
        let (colour, radius) = if conifer {
            (palette.needleleaved, self.dice.range(1.7, 2.8))
        } else {
            (palette.broadleaved, self.dice.range(2.0, 3.8))
        };
        Brush::Crown { centre, radius: radius * scale, colour: self.varied(colour, 0.16) }
    }

    /// A row of trees along a line.
    pub fn tree_row(&mut self, line: Vec<Point>) -> Object {
        let conifer = self.dice.chance(self.country.conifer_share * 0.5);
        let total = length(&line);
        let mut brushes = Vec::new();
        let mut distance = self.dice.range(1.0, 5.0);
        while let Some(place) = along(&line, distance).filter(|_| distance < total) {
            brushes.push(self.crown(place.origin, conifer, 1.0));
            distance += self.dice.range(5.5, 7.5);
        }
        Object { tags: tags(&[("natural", "tree_row")]), shape: Shape::Way { line, width: 4.0 }, brushes }
    }
}
