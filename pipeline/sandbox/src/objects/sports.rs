//! Sports grounds with their lines.

use std::f32::consts::{FRAC_PI_2, PI};

use super::{Maker, ring};
use crate::geometry::{Frame, Point};
use crate::scene::{Brush, Colour, Layer, Object, Rows, Texture, lit, mix, tags};

const WHITE: Colour = [240.0, 240.0, 236.0];

/// A painted line.
fn line(layer: Layer, points: Vec<Point>, width: f32) -> Brush {
    Brush::stroke(layer, points, width, Texture::plain(WHITE))
}

impl Maker {
    fn grass_field(&mut self, frame: Frame, width: f32, depth: f32, artificial: bool) -> Brush {
        let colour =
            if artificial { [62.0, 132.0, 78.0] } else { mix(self.country.palette.lawn, [88.0, 150.0, 62.0], 0.6) };
        let colour = self.varied(colour, 0.05);
        let texture = Texture { mottle: 0.05, ..Texture::plain(colour) }.with_rows(Rows {
            colour: lit(colour, if artificial { 0.96 } else { 0.86 }),
            angle: frame.angle,
            period: width / 7.0,
            share: 0.5,
            wander: 0.0,
        });
        Brush::fill(Layer::Flat, frame.rectangle(width, depth), texture)
    }

    fn soccer_lines(frame: Frame, width: f32, depth: f32) -> Vec<Brush> {
        let (u, v) = (width / 2.0, depth / 2.0);
        let stroke = 0.75;
        let layer = Layer::Marking;
        let mut brushes = vec![
            line(layer, ring(frame.rectangle(width, depth)), stroke),
            line(layer, frame.outline(&[(0.0, -v), (0.0, v)]), stroke),
            line(layer, ring(frame.ellipse(depth * 0.14, depth * 0.14)), stroke),
        ];
        for side in [-1.0, 1.0] {
            for (reach, span) in [(0.16, 0.3), (0.06, 0.14)] {
                let edge = side * (u - width * reach);
                let span = depth * span;
                brushes.push(line(
                    layer,
                    frame.outline(&[(side * u, -span), (edge, -span), (edge, span), (side * u, span)]),
                    stroke,
                ));
            }
            brushes.push(line(
                Layer::Vehicle,
                frame.outline(&[(side * (u + 0.8), -2.5), (side * (u + 0.8), 2.5)]),
                1.2,
            ));
        }
        brushes
    }

    /// A soccer pitch of `width` scene units.
    pub fn soccer(&mut self, frame: Frame, width: f32) -> Object {
        let depth = width * 0.64;
        let artificial = self.dice.chance([0.5, 0.3, 0.6][self.country.index]);
        let mut brushes = vec![self.grass_field(frame, width + 6.0, depth + 6.0, artificial)];
        brushes.extend(Self::soccer_lines(frame, width, depth));
        let surface = if artificial { "artificial_turf" } else { "grass" };
        let mut tags = tags(&[("leisure", "pitch"), ("sport", "soccer"), ("surface", surface)]);
        self.annotate(&mut tags, true);
        Object::area(tags, frame.rectangle(width + 6.0, depth + 6.0), brushes)
    }

    /// Tennis courts side by side.
    pub fn tennis(&mut self, frame: Frame, courts: u32) -> Object {
        let (surface, colour, border) = self.dice.weighted(&[
            (if self.country.index == 2 { 2.0 } else { 4.0 }, ("clay", [190.0, 96.0, 62.0], [176.0, 88.0, 58.0])),
            (1.5, ("acrylic", [58.0, 104.0, 164.0], [72.0, 132.0, 92.0])),
            (1.0, ("concrete", [84.0, 138.0, 98.0], [160.0, 92.0, 70.0])),
        ]);
        let (bay, depth) = (16.0, 32.0);
        let width = courts as f32 * bay;
        let outline = frame.rectangle(width, depth);
        let mut brushes = vec![Brush::fill(Layer::Flat, outline.clone(), Texture::plain(border))];
        for court in 0..courts {
            let place = frame.inner((court as f32 + 0.5) * bay - width / 2.0, 0.0, FRAC_PI_2);
            let colour = self.varied(colour, 0.03);
            brushes.push(Brush::fill(Layer::Flat, place.rectangle(24.0, 11.0), Texture::plain(colour)));
            for outline in [place.rectangle(23.0, 10.6), place.rectangle(23.0, 7.6)] {
                brushes.push(line(Layer::Marking, ring(outline), 0.5));
            }
            for u in [-6.2, 6.2] {
                brushes.push(line(Layer::Marking, place.outline(&[(u, -3.8), (u, 3.8)]), 0.5));
            }
            brushes.push(line(Layer::Marking, place.outline(&[(-6.2, 0.0), (6.2, 0.0)]), 0.5));
            brushes.push(Brush::stroke(
                Layer::Marking,
                place.outline(&[(0.0, -6.0), (0.0, 6.0)]),
                0.7,
                Texture::plain([50.0, 54.0, 50.0]),
            ));
        }
        let mut tags = tags(&[("leisure", "pitch"), ("sport", "tennis"), ("surface", surface)]);
        self.annotate(&mut tags, false);
        Object::area(tags, outline, brushes)
    }

    /// A basketball court.
    pub fn basketball(&mut self, frame: Frame) -> Object {
        let (surface, field, key) = self.dice.weighted(&[
            (2.0, ("asphalt", [132.0, 132.0, 136.0], [120.0, 120.0, 124.0])),
            (1.5, ("tartan", [176.0, 72.0, 58.0], [66.0, 108.0, 160.0])),
            (1.0, ("acrylic", [74.0, 116.0, 170.0], [196.0, 110.0, 60.0])),
        ]);
        let (width, depth) = (34.0, 19.0);
        let outline = frame.rectangle(width + 4.0, depth + 4.0);
        let mut brushes = vec![Brush::fill(Layer::Flat, outline.clone(), Texture::plain(field))];
        for side in [-1.0, 1.0] {
            let place = frame.inner(side * (width / 2.0 - 3.7), 0.0, 0.0);
            brushes.push(Brush::fill(Layer::Flat, place.rectangle(7.4, 6.4), Texture::plain(key)));
            brushes.push(line(Layer::Marking, ring(place.rectangle(7.4, 6.4)), 0.5));
            let arc: Vec<Point> = (0..=16)
                .map(|step| {
                    let angle = -FRAC_PI_2 + PI * step as f32 / 16.0;
                    frame.at(side * (width / 2.0 - 2.0 - 8.4 * angle.cos()), 8.4 * angle.sin())
                })
                .collect();
            brushes.push(line(Layer::Marking, arc, 0.5));
        }
        brushes.push(line(Layer::Marking, ring(frame.rectangle(width, depth)), 0.6));
        brushes.push(line(Layer::Marking, frame.outline(&[(0.0, -depth / 2.0), (0.0, depth / 2.0)]), 0.5));
        brushes.push(line(Layer::Marking, ring(frame.ellipse(2.6, 2.6)), 0.5));
        let tags = tags(&[("leisure", "pitch"), ("sport", "basketball"), ("surface", surface)]);
        Object::area(tags, outline, brushes)
    }

    /// A running track around a field.
    pub fn athletics(&mut self, frame: Frame) -> Object {
        let (width, depth) = (78.0, 44.0);
        let colour = self.dice.weighted(&[(4.0, [182.0, 80.0, 60.0]), (1.0, [70.0, 108.0, 168.0])]);
        let red = self.varied(colour, 0.04);
        let mut brushes = vec![Brush::fill(Layer::Flat, frame.stadium(width, depth), Texture::plain(red))];
        for inset in [0.0, 2.4, 4.8, 7.2, 9.6] {
            let ring = ring(frame.stadium(width - inset, depth - inset));
            brushes.push(Brush::stroke(Layer::Marking, ring, 0.4, Texture::plain(WHITE).with_opacity(0.75)));
        }
        let lawn = mix(self.country.palette.lawn, [88.0, 150.0, 62.0], 0.6);
        brushes.push(Brush::fill(Layer::Marking, frame.stadium(width - 10.0, depth - 10.0), Texture::natural(lawn)));
        for brush in Self::soccer_lines(frame, 40.0, 25.0) {
            brushes.push(brush);
        }
        let mut tags = tags(&[("leisure", "track"), ("sport", "athletics"), ("surface", "tartan")]);
        self.annotate(&mut tags, true);
        Object::area(tags, frame.stadium(width, depth), brushes)
    }
}
