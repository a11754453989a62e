//! Storage, digging, building, farming.

use std::f32::consts::TAU;

use super::{Maker, ring};
use crate::geometry::{Frame, Point, blob, curve};
use crate::scene::{Brush, Layer, Object, Rows, Texture, lit, mix, tags};

impl Maker {
    /// One storage tank.
    pub fn tank(&mut self, frame: Frame, radius: f32) -> Object {
        let (name, colour) = self.dice.weighted(&[
            (4.0, ("white", [234.0, 234.0, 232.0])),
            (1.5, ("grey", [158.0, 162.0, 166.0])),
            (0.8, ("green", [104.0, 144.0, 112.0])),
            (0.8, ("brown", [166.0, 116.0, 88.0])),
        ]);
        let colour = self.varied(colour, 0.04);
        let sun = self.country.shadow_degrees.to_radians() + TAU / 2.0;
        let light = Point::from_angle(sun) * (radius * 0.18);
        let mut brushes = vec![
            Brush::Shadow { outline: frame.ellipse(radius, radius), height: radius * 0.9 },
            Brush::fill(Layer::Roof, frame.ellipse(radius, radius), Texture::plain(lit(colour, 0.82))),
            Brush::fill(
                Layer::Roof,
                Frame::new(frame.origin + light, 0.0).ellipse(radius * 0.8, radius * 0.8),
                Texture::plain(colour),
            ),
            Brush::stroke(Layer::Roof, ring(frame.ellipse(radius, radius)), 0.5, Texture::plain(lit(colour, 0.6))),
        ];
        brushes.push(Brush::stroke(
            Layer::Roof,
            vec![frame.origin, frame.at(radius, 0.0)],
            0.6,
            Texture::plain(lit(colour, 0.55)),
        ));
        let content = self.dice.weighted(&[(3.0, "fuel"), (2.0, "oil"), (1.0, "gas"), (1.0, "water")]);
        let mut tags = tags(&[("man_made", "storage_tank"), ("colour", name)]);
        if self.dice.chance(0.5) {
            tags.insert("content".into(), content.into());
        }
        Object::area(tags, frame.ellipse(radius, radius), brushes)
    }

    /// A sewage works: round clarifiers with their rotating bridges.
    pub fn wastewater(&mut self, frame: Frame) -> Object {
        let outline = frame.rectangle(58.0, 52.0);
        let lawn = lit(self.country.palette.lawn, 1.04);
        let mut brushes = vec![Brush::fill(Layer::Flat, outline.clone(), Texture::natural(lawn))];
        let path = Texture::plain(self.country.palette.pavement);
        brushes.push(Brush::stroke(Layer::Flat, frame.outline(&[(-29.0, 0.0), (29.0, 0.0)]), 3.0, path));
        brushes.push(Brush::stroke(Layer::Flat, frame.outline(&[(0.0, -26.0), (0.0, 26.0)]), 3.0, path));
        for (u, v) in [(-14.5, -13.0), (14.5, -13.0), (-14.5, 13.0), (14.5, 13.0)] {
            let basin = frame.inner(u, v, 0.0);
            let water = self.dice.choose(&[[70.0, 82.0, 62.0], [98.0, 84.0, 60.0], [64.0, 96.0, 92.0]]);
            brushes.push(Brush::fill(Layer::Flat, basin.ellipse(11.0, 11.0), Texture::plain([204.0, 202.0, 196.0])));
            brushes.push(Brush::fill(
                Layer::Water,
                basin.ellipse(9.4, 9.4),
                Texture { mottle: 0.1, ..Texture::plain(water) },
            ));
            let angle = self.dice.range(0.0, TAU);
            let bridge = vec![basin.origin, basin.origin + Point::from_angle(angle) * 10.5];
            brushes.push(Brush::stroke(Layer::Marking, bridge, 1.2, Texture::plain([226.0, 226.0, 222.0])));
            brushes.push(Brush::fill(Layer::Marking, basin.ellipse(1.7, 1.7), Texture::plain([214.0, 214.0, 210.0])));
        }
        let mut tags = tags(&[("man_made", "wastewater_plant")]);
        self.annotate(&mut tags, false);
        Object::area(tags, outline, brushes)
    }

    /// A quarry: pale terraces down to a pool.
    pub fn quarry(&mut self, frame: Frame) -> Object {
        let rock = self
            .varied([[168.0, 164.0, 160.0], [212.0, 194.0, 158.0], [232.0, 214.0, 184.0]][self.country.index], 0.06);
        let outline = blob(&mut self.dice, frame, 38.0, 31.0, 0.3);
        let mut brushes = Vec::new();
        for step in 0..5 {
            let share = 1.0 - step as f32 * 0.17;
            let shift = Point::from_angle(frame.angle) * (step as f32 * 1.5);
            let terrace: Vec<Point> =
                outline.iter().map(|&p| frame.origin + (p - frame.origin) * share + shift).collect();
            let light = 1.06 - step as f32 * 0.075;
            brushes.push(Brush::stroke(
                Layer::Flat,
                ring(terrace.clone()),
                1.8,
                Texture::natural(lit(rock, light * 0.66)),
            ));
            brushes.push(Brush::fill(
                Layer::Flat,
                terrace,
                Texture { mottle: 0.16, ..Texture::natural(lit(rock, light)) },
            ));
        }
        let pool = blob(&mut self.dice, frame.inner(9.0, 4.0, 0.0), 7.0, 4.5, 0.4);
        brushes.push(Brush::fill(Layer::Water, pool, Texture::plain([78.0, 148.0, 146.0])));
        let ramp = frame.outline(&[(36.0, -8.0), (16.0, -14.0), (-12.0, -10.0), (-16.0, 6.0)]);
        brushes.push(Brush::stroke(Layer::Road, curve(&ramp), 3.0, Texture::plain(lit(rock, 1.16))));
        let mut tags = tags(&[("landuse", "quarry")]);
        if self.dice.chance(0.5) {
            tags.insert("resource".into(), ["granite", "sand", "limestone"][self.country.index].into());
        }
        self.annotate(&mut tags, false);
        Object::area(tags, outline, brushes)
    }

    /// A building site: churned soil, slabs, containers and a yellow crane.
    pub fn construction(&mut self, frame: Frame) -> Object {
        let soil = self.varied(mix(self.country.palette.soil, [168.0, 126.0, 88.0], 0.6), 0.06);
        let outline = frame.rectangle(62.0, 48.0);
        let mut brushes =
            vec![Brush::fill(Layer::Flat, outline.clone(), Texture { mottle: 0.24, ..Texture::natural(soil) })];
        for _ in 0..4 {
            let place =
                frame.inner(self.dice.range(-18.0, 18.0), self.dice.range(-14.0, 14.0), self.dice.range(0.0, 3.0));
            let rut = self.winding(place, 18.0, 6.0);
            brushes.push(Brush::stroke(Layer::Flat, rut, 1.6, Texture::natural(lit(soil, 0.78))));
        }
        for (u, v, width, depth) in [(-13.0, -8.0, 22.0, 15.0), (14.0, 8.0, 20.0, 13.0)] {
            let slab = frame.inner(u, v, 0.0);
            brushes.push(Brush::Shadow { outline: slab.rectangle(width, depth), height: 2.5 });
            brushes.push(Brush::fill(
                Layer::Roof,
                slab.rectangle(width, depth),
                Texture::plain([188.0, 188.0, 184.0]).with_rows(Rows {
                    colour: [146.0, 120.0, 92.0],
                    angle: frame.angle,
                    period: 4.0,
                    share: 0.2,
                    wander: 0.0,
                }),
            ));
        }
        for (u, colour) in [(10.0, [52.0, 96.0, 168.0]), (15.0, [206.0, 104.0, 44.0]), (20.0, [224.0, 224.0, 220.0])] {
            let container = frame.inner(u, -18.0, 0.0);
            brushes.push(Brush::Shadow { outline: container.rectangle(4.0, 8.0), height: 2.5 });
            brushes.push(Brush::fill(Layer::Roof, container.rectangle(4.0, 8.0), Texture::plain(colour)));
        }
        let crane = frame.inner(1.0, 2.0, self.dice.range(0.0, TAU));
        let shadow = Point::from_angle(self.country.shadow_degrees.to_radians()) * (13.0 * self.country.shadow_length);
        let jib = crane.outline(&[(-9.0, 0.0), (28.0, 0.0)]);
        brushes.push(Brush::ShadowLine { line: jib.iter().map(|&p| p + shadow).collect(), width: 1.4 });
        brushes.push(Brush::stroke(Layer::Tall, jib, 1.5, Texture::plain([240.0, 196.0, 40.0])));
        brushes.push(Brush::fill(Layer::Tall, crane.rectangle(3.0, 3.0), Texture::plain([226.0, 178.0, 30.0])));
        brushes.push(Brush::fill(
            Layer::Tall,
            crane.inner(-8.0, 0.0, 0.0).rectangle(3.0, 2.4),
            Texture::plain([150.0, 150.0, 150.0]),
        ));
        Object::area(tags(&[("landuse", "construction")]), outline, brushes)
    }

    /// A helipad: a ring with an H.
    pub fn helipad(&mut self, frame: Frame) -> Object {
        let concrete = self.varied([150.0, 150.0, 150.0], 0.08);
        let white = Texture::plain([244.0, 244.0, 240.0]);
        let mut brushes = vec![
            Brush::fill(Layer::Flat, frame.rectangle(44.0, 44.0), Texture { mottle: 0.06, ..Texture::plain(concrete) }),
            Brush::stroke(Layer::Marking, ring(frame.ellipse(17.0, 17.0)), 1.8, white),
            Brush::stroke(Layer::Marking, ring(frame.rectangle(42.0, 42.0)), 0.7, white),
        ];
        for u in [-4.5, 4.5] {
            brushes.push(Brush::stroke(Layer::Marking, frame.outline(&[(u, -7.5), (u, 7.5)]), 2.4, white));
        }
        brushes.push(Brush::stroke(Layer::Marking, frame.outline(&[(-4.5, 0.0), (4.5, 0.0)]), 2.4, white));
        let mut tags = tags(&[("aeroway", "helipad")]);
        if self.dice.chance(0.6) {
            tags.insert("surface".into(), "concrete".into());
        }
        Object::area(tags, frame.ellipse(17.0, 17.0), brushes)
    }

    /// Round silos in a row: the mark of a farm.
    pub fn silo(&mut self, frame: Frame, count: u32) -> Object {
        let mut brushes = Vec::new();
        let radius = 3.4;
        for index in 0..count {
            let place = frame.inner((index as f32 - (count as f32 - 1.0) / 2.0) * 7.6, 0.0, 0.0);
            let metal = self.varied([196.0, 200.0, 204.0], 0.05);
            brushes.push(Brush::Shadow { outline: place.ellipse(radius, radius), height: 8.0 });
            brushes.push(Brush::fill(Layer::Roof, place.ellipse(radius, radius), Texture::plain(metal)));
            let sun = self.country.shadow_degrees.to_radians() + TAU / 2.0;
            let wedge = Frame::new(place.origin, sun);
            brushes.push(Brush::fill(
                Layer::Roof,
                wedge.outline(&[(0.0, 0.0), (radius * 0.9, -radius * 0.4), (radius * 0.9, radius * 0.4)]),
                Texture::plain(lit(metal, 1.15)),
            ));
        }
        let tags = tags(&[("man_made", "silo")]);
        Object::area(tags, frame.rectangle(count as f32 * 7.6, 7.0), brushes)
    }

    /// A barn: a long gabled roof.
    pub fn barn(&mut self, frame: Frame) -> Object {
        let (width, depth) = (self.dice.range(22.0, 30.0), self.dice.range(11.0, 14.0));
        let (name, colour) = self.house_roof();
        let brushes = self.gabled(frame, width, depth, colour, 6.0);
        let mut tags = tags(&[("building", "barn")]);
        if !self.winter && self.dice.chance(0.7) {
            tags.insert("roof:colour".into(), name.into());
        }
        Object::area(tags, frame.rectangle(width, depth), brushes)
    }
}
