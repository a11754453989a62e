//! Cars, trains and where they stand.

use std::f32::consts::{FRAC_PI_2, TAU};

use super::Maker;
use super::roads::Surface;
use crate::geometry::{Frame, Point, along, length, offset};
use crate::scene::{Brush, Layer, Object, Shape, Texture, lit, tags};

impl Maker {
    /// A car with its windscreen.
    pub fn car(&mut self, frame: Frame) -> Vec<Brush> {
        let colour = self.dice.weighted(&[
            (4.0, [228.0, 228.0, 230.0]),
            (3.0, [58.0, 60.0, 66.0]),
            (3.0, [150.0, 154.0, 160.0]),
            (1.5, [164.0, 44.0, 40.0]),
            (1.5, [48.0, 74.0, 128.0]),
        ]);
        vec![
            Brush::fill(
                Layer::Vehicle,
                frame.inner(0.3, 0.4, 0.0).rectangle(4.6, 2.3),
                Texture::plain([44.0, 44.0, 48.0]).with_opacity(0.5),
            ),
            Brush::fill(Layer::Vehicle, frame.rectangle(4.3, 1.9), Texture::plain(colour)),
            Brush::fill(
                Layer::Vehicle,
                frame.inner(0.7, 0.0, 0.0).rectangle(0.9, 1.6),
                Texture::plain(lit(colour, 0.35)),
            ),
        ]
    }

    pub(super) fn traffic(&mut self, line: &[Point], width: f32, value: &str) -> Vec<Brush> {
        let share = match value {
            "motorway" => 1.6,
            "primary" | "secondary" => 0.7,
            "tertiary" | "residential" => 0.35,
            _ => 0.0,
        };
        let total = length(line);
        let cars = (total / 30.0 * share * self.dice.range(0.4, 1.4)) as u32;
        let mut brushes = Vec::new();
        for _ in 0..cars {
            let distance = self.dice.range(0.0, total);
            let Some(place) = along(line, distance) else {
                continue;
            };
            let side = self.dice.sign();
            let lane = if value == "motorway" { self.dice.choose(&[0.19, 0.38]) } else { 0.24 };
            let turn = if side < 0.0 { TAU / 2.0 } else { 0.0 };
            brushes.extend(self.car(place.inner(0.0, side * lane * width, turn)));
        }
        brushes
    }

    /// A railway: ballast, sleepers and rails for each track.
    pub fn railway(&mut self, line: &[Point], tracks: u32) -> Object {
        let gauge = 6.0;
        let ballast = self.varied([134.0, 120.0, 108.0], 0.06);
        let width = tracks as f32 * gauge + 2.0;
        let mut brushes = vec![Brush::stroke(Layer::Road, line.to_vec(), width, Texture::natural(ballast))];
        for track in 0..tracks {
            let middle = offset(line, (track as f32 - (tracks as f32 - 1.0) / 2.0) * gauge);
            let sleeper = Texture::plain([82.0, 72.0, 66.0]);
            brushes.push(Brush::dashed(Layer::Marking, middle.clone(), 3.6, (0.7, 0.9), sleeper));
            for side in [-1.0, 1.0] {
                brushes.push(Brush::stroke(
                    Layer::Marking,
                    offset(&middle, side),
                    0.5,
                    Texture::plain([214.0, 214.0, 216.0]),
                ));
            }
        }
        if self.dice.chance(0.35) {
            brushes.extend(self.train(line, tracks, gauge));
        }
        let mut tags = tags(&[("railway", "rail")]);
        if self.dice.chance(0.5) {
            tags.insert("electrified".into(), "contact_line".into());
        }
        if self.dice.chance(0.5) {
            tags.insert("gauge".into(), if self.country.index == 0 { "1524" } else { "1435" }.into());
        }
        self.annotate(&mut tags, false);
        Object { tags, shape: Shape::Way { line: line.to_vec(), width }, brushes }
    }

    fn train(&mut self, line: &[Point], tracks: u32, gauge: f32) -> Vec<Brush> {
        let track = self.dice.whole(0, tracks - 1);
        let middle = offset(line, (track as f32 - (tracks as f32 - 1.0) / 2.0) * gauge);
        let colour = [[44.0, 118.0, 84.0], [196.0, 42.0, 40.0], [226.0, 226.0, 230.0]][self.country.index];
        let mut distance = self.dice.range(0.0, 40.0);
        let mut brushes = Vec::new();
        for _ in 0..self.dice.whole(2, 6) {
            let Some(place) = along(&middle, distance) else {
                break;
            };
            brushes.push(Brush::Shadow { outline: place.rectangle(16.0, 3.0), height: 3.0 });
            brushes.push(Brush::fill(Layer::Roof, place.rectangle(16.0, 3.0), Texture::plain(colour)));
            brushes.push(Brush::stroke(
                Layer::Roof,
                place.outline(&[(-7.0, 0.0), (7.0, 0.0)]),
                1.0,
                Texture::plain(lit(colour, 0.75)),
            ));
            distance += 17.0;
        }
        brushes
    }

    /// A parking lot: bays in double rows, many of them taken.
    pub fn parking(&mut self, frame: Frame, width: f32, rows: u32) -> Object {
        let surface = self.dice.weighted(&[(4.0, Surface::Asphalt), (1.0, Surface::Gravel)]);
        let colour = self.surface_colour(surface);
        let depth = rows as f32 * 10.5;
        let outline = frame.rectangle(width, depth);
        let mut brushes =
            vec![Brush::fill(Layer::Road, outline.clone(), Texture { mottle: 0.06, ..Texture::plain(colour) })];
        let taken = self.dice.range(0.25, 0.9);
        let bay = 2.9;
        let bays = ((width - 3.0) / bay) as i32;
        let marking = Texture::plain([232.0, 232.0, 228.0]);
        for row in 0..rows {
            let v = (row as f32 + 0.5) * 10.5 - depth / 2.0 + if row % 2 == 0 { 2.4 } else { -2.4 };
            for index in 0..=bays {
                let u = index as f32 * bay - bays as f32 * bay / 2.0;
                if surface == Surface::Asphalt {
                    brushes.push(Brush::stroke(
                        Layer::Marking,
                        frame.outline(&[(u, v - 2.5), (u, v + 2.5)]),
                        0.35,
                        marking,
                    ));
                }
                if index < bays && self.dice.chance(taken) {
                    let turn = self.dice.sign() * FRAC_PI_2;
                    brushes.extend(self.car(frame.inner(u + bay / 2.0, v, turn)));
                }
            }
        }
        let mut tags = tags(&[("amenity", "parking")]);
        if self.dice.chance(0.7) {
            tags.insert("surface".into(), surface.tag().into());
        }
        if self.dice.chance(0.5) {
            tags.insert("parking".into(), "surface".into());
        }
        if self.dice.chance(0.3) {
            tags.insert("capacity".into(), (bays * rows as i32).to_string());
        }
        Object::area(tags, outline, brushes)
    }
}
