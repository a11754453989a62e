//! Power plants and substations.

use std::f32::consts::{FRAC_PI_2, TAU};

use super::{Maker, ring};
use crate::geometry::{Frame, Point, at};
use crate::scene::{Brush, Layer, Object, Rows, Texture, lit, mix, tags};

impl Maker {
    /// A field of solar panels.
    pub fn solar(&mut self, frame: Frame, width: f32, depth: f32) -> Object {
        let ground = mix(self.country.palette.meadow, self.country.palette.soil, 0.3);
        let panel = self.varied([36.0, 52.0, 96.0], 0.08);
        let outline = frame.rectangle(width, depth);
        let mut brushes =
            vec![Brush::fill(Layer::Flat, frame.rectangle(width + 6.0, depth + 6.0), Texture::natural(ground))];
        let mut v = -depth / 2.0 + 2.5;
        while v < depth / 2.0 - 1.0 {
            let row = frame.inner(0.0, v, 0.0);
            brushes.push(Brush::Shadow { outline: row.rectangle(width, 3.6), height: 1.2 });
            brushes.push(Brush::fill(
                Layer::Roof,
                row.rectangle(width, 3.6),
                Texture::plain(panel).with_rows(Rows {
                    colour: lit(panel, 1.7),
                    angle: frame.angle,
                    period: 3.0,
                    share: 0.16,
                    wander: 0.0,
                }),
            ));
            brushes.push(Brush::stroke(
                Layer::Roof,
                row.outline(&[(-width / 2.0, -1.8), (width / 2.0, -1.8)]),
                0.4,
                Texture::plain([196.0, 204.0, 218.0]),
            ));
            v += 6.2;
        }
        brushes.push(Brush::stroke(
            Layer::Marking,
            ring(frame.rectangle(width + 6.0, depth + 6.0)),
            0.4,
            Texture::plain([120.0, 120.0, 116.0]),
        ));
        let mut tags = tags(&[("power", "plant"), ("plant:source", "solar")]);
        self.annotate(&mut tags, false);
        Object::area(tags, outline, brushes)
    }

    /// A wind turbine: hub, blades and the long shadow of all of it.
    pub fn wind_turbine(&mut self, place: Point) -> Object {
        let shadow = Point::from_angle(self.country.shadow_degrees.to_radians());
        let reach = 24.0 + 14.0 * self.country.shadow_length;
        let tip = place + shadow * reach;
        let turn = self.dice.range(0.0, TAU);
        let pad = Frame::new(place, shadow.angle());
        let mut brushes = vec![
            Brush::fill(
                Layer::Flat,
                pad.inner(0.0, 6.0, 0.0).rectangle(22.0, 14.0),
                Texture::natural(self.country.palette.gravel),
            ),
            Brush::fill(Layer::Flat, pad.ellipse(5.0, 5.0), Texture::natural(lit(self.country.palette.gravel, 1.1))),
            Brush::ShadowLine { line: vec![place, tip], width: 2.0 },
        ];
        let white = Texture::plain([244.0, 246.0, 248.0]);
        let lean = place - shadow * 7.0;
        brushes.push(Brush::stroke(Layer::Tall, vec![place, lean], 2.4, white));
        for blade in 0..3 {
            let angle = turn + blade as f32 / 3.0 * TAU;
            let stretched = at(angle.cos(), angle.sin());
            brushes.push(Brush::ShadowLine { line: vec![tip, tip + stretched * 15.0], width: 1.6 });
            brushes.push(Brush::stroke(Layer::Tall, vec![lean, lean + stretched * 17.0], 1.7, white));
        }
        brushes.push(Brush::fill(Layer::Tall, Frame::new(lean, 0.0).ellipse(1.9, 1.9), white));
        let mut tags = tags(&[("power", "generator"), ("generator:source", "wind")]);
        if self.dice.chance(0.5) {
            tags.insert("generator:method".into(), "wind_turbine".into());
        }
        self.annotate(&mut tags, false);
        Object::node(tags, place, brushes)
    }

    /// A substation: bright gear in rows on gravel inside a fence.
    pub fn substation(&mut self, frame: Frame) -> Object {
        let outline = frame.rectangle(50.0, 38.0);
        let gravel = lit(self.country.palette.gravel, 1.02);
        let fence = Texture::plain([92.0, 92.0, 92.0]);
        let mut brushes = vec![
            Brush::fill(Layer::Flat, outline.clone(), Texture::natural(gravel)),
            Brush::stroke(Layer::Marking, ring(outline.clone()), 0.6, fence),
        ];
        for row in 0..4 {
            let v = row as f32 * 8.0 - 12.0;
            for column in 0..9 {
                let place = frame.inner(column as f32 * 5.0 - 20.0, v, 0.0);
                let (width, depth) = if row == 1 && column % 3 == 0 { (4.5, 4.5) } else { (1.2, 2.6) };
                brushes.push(Brush::Shadow { outline: place.rectangle(width, depth), height: 3.5 });
                brushes.push(Brush::fill(
                    Layer::Roof,
                    place.rectangle(width, depth),
                    Texture::plain([188.0, 194.0, 200.0]),
                ));
            }
            brushes.push(Brush::stroke(
                Layer::Tall,
                frame.inner(0.0, v, 0.0).outline(&[(-24.0, 0.0), (24.0, 0.0)]),
                0.35,
                Texture::plain([70.0, 70.0, 74.0]),
            ));
        }
        for u in [-24.0, 24.0] {
            let mast = frame.inner(u, 0.0, FRAC_PI_2);
            brushes.push(Brush::stroke(
                Layer::Tall,
                mast.outline(&[(-16.0, 0.0), (16.0, 0.0)]),
                0.9,
                Texture::plain([206.0, 210.0, 212.0]),
            ));
        }
        let mut tags = tags(&[("power", "substation")]);
        self.annotate(&mut tags, false);
        Object::area(tags, outline, brushes)
    }
}
