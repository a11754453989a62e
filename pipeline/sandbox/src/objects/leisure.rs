//! Gardens, pools, golf, graveyards and ski tracks.

use std::f32::consts::FRAC_PI_2;

use super::{Maker, ring};
use crate::geometry::{Frame, Point, blob, offset};
use crate::scene::{Brush, Layer, Object, Rows, Shape, Texture, lit, mix, tags};

impl Maker {
    /// A swimming pool on its terrace; `length` scene units.
    pub fn pool(&mut self, frame: Frame, length: f32) -> Object {
        let depth = length * self.dice.range(0.42, 0.55);
        let deck = lit(self.country.palette.pavement, 1.08);
        let blue = self.varied([70.0, 184.0, 214.0], 0.06);
        let outline = frame.rectangle(length, depth);
        let mut brushes = vec![
            Brush::fill(Layer::Flat, frame.rectangle(length + 5.0, depth + 5.0), Texture::plain(deck)),
            Brush::fill(Layer::Water, outline.clone(), Texture { mottle: 0.08, ..Texture::plain(blue) }),
            Brush::stroke(Layer::Water, ring(outline.clone()), 0.7, Texture::plain([236.0, 240.0, 240.0])),
        ];
        if length > 22.0 {
            for lane in 1..5 {
                let v = depth * (lane as f32 / 5.0 - 0.5);
                brushes.push(Brush::stroke(
                    Layer::Marking,
                    frame.outline(&[(-length / 2.0, v), (length / 2.0, v)]),
                    0.4,
                    Texture::plain([230.0, 240.0, 240.0]),
                ));
            }
        } else {
            for (u, colour) in [(-0.2, [236.0, 236.0, 232.0]), (0.15, [230.0, 190.0, 90.0])] {
                let bed = frame.inner(u * length, depth / 2.0 + 1.4, 0.0);
                brushes.push(Brush::fill(Layer::Vehicle, bed.rectangle(1.0, 1.9), Texture::plain(colour)));
            }
        }
        let tags = tags(&[("leisure", "swimming_pool")]);
        Object::area(tags, outline, brushes)
    }

    /// A golf driving range: a pale fan with round targets, bunkers and a tee line.
    pub fn driving_range(&mut self, frame: Frame) -> Object {
        let (u, v) = (38.0, 17.0);
        let outline = frame.outline(&[(-u, -v * 0.6), (u, -v * 1.3), (u, v * 1.3), (-u, v * 0.6)]);
        let green = mix(self.country.palette.lawn, [128.0, 184.0, 84.0], 0.75);
        let light = Texture::natural(lit(green, 1.18));
        let mut brushes = vec![Brush::fill(
            Layer::Flat,
            outline.clone(),
            Texture { mottle: 0.05, ..Texture::plain(green) }.with_rows(Rows {
                colour: lit(green, 0.92),
                angle: frame.angle + FRAC_PI_2,
                period: 6.0,
                share: 0.5,
                wander: 0.0,
            }),
        )];
        for (u, v) in [(-10.0, -5.0), (6.0, 6.0), (18.0, -8.0), (29.0, 7.0)] {
            brushes.push(Brush::fill(Layer::Flat, frame.inner(u, v, 0.0).ellipse(3.6, 3.2), light));
            brushes.push(Brush::stroke(
                Layer::Marking,
                ring(frame.inner(u, v, 0.0).ellipse(0.6, 0.6)),
                0.7,
                Texture::plain([240.0, 240.0, 236.0]),
            ));
            let bunker = blob(&mut self.dice, frame.inner(u + 3.5, v + 5.5, 0.0), 3.0, 1.9, 0.3);
            brushes.push(Brush::fill(Layer::Flat, bunker, Texture::natural([232.0, 218.0, 176.0])));
        }
        brushes.push(Brush::stroke(
            Layer::Marking,
            frame.outline(&[(-u + 1.0, -9.0), (-u + 1.0, 9.0)]),
            2.2,
            Texture::plain([208.0, 208.0, 204.0]),
        ));
        brushes.push(Brush::Shadow { outline: frame.inner(-u - 3.0, 0.0, 0.0).rectangle(4.0, 22.0), height: 3.0 });
        brushes.push(Brush::fill(
            Layer::Roof,
            frame.inner(-u - 3.0, 0.0, 0.0).rectangle(4.0, 22.0),
            Texture::plain([120.0, 104.0, 92.0]),
        ));
        let mut tags = tags(&[("golf", "driving_range")]);
        if self.dice.chance(0.5) {
            tags.insert("surface".into(), "grass".into());
        }
        self.annotate(&mut tags, false);
        Object::area(tags, outline, brushes)
    }

    /// A golf hole: fairway, smooth green, sand bunkers.
    pub fn golf(&mut self, frame: Frame) -> Object {
        let green = mix(self.country.palette.lawn, [124.0, 178.0, 84.0], 0.8);
        let outline = blob(&mut self.dice, frame, 36.0, 15.0, 0.25);
        let mut brushes =
            vec![Brush::fill(Layer::Flat, outline.clone(), Texture { mottle: 0.05, ..Texture::plain(green) })];
        let putting = frame.inner(22.0, 0.0, 0.0);
        brushes.push(Brush::fill(
            Layer::Flat,
            blob(&mut self.dice, putting, 9.0, 7.0, 0.2),
            Texture::plain(lit(green, 1.2)),
        ));
        for (u, v) in [(10.0, 9.0), (33.0, -8.0), (-6.0, -10.0), (26.0, 12.0)] {
            let bunker = blob(&mut self.dice, frame.inner(u, v, 0.4), 5.0, 3.2, 0.35);
            brushes.push(Brush::fill(Layer::Flat, bunker, Texture::natural([236.0, 222.0, 180.0])));
        }
        brushes.push(Brush::stroke(
            Layer::Marking,
            ring(putting.ellipse(0.5, 0.5)),
            0.6,
            Texture::plain([240.0, 240.0, 236.0]),
        ));
        let mut tags = tags(&[("leisure", "golf_course")]);
        self.annotate(&mut tags, true);
        Object::area(tags, outline, brushes)
    }

    /// A cemetery: rows of graves between paths.
    pub fn cemetery(&mut self, frame: Frame, width: f32, depth: f32) -> Object {
        let ground =
            if self.country.index == 2 { self.country.palette.pavement } else { lit(self.country.palette.lawn, 0.94) };
        let outline = frame.rectangle(width, depth);
        let wall = Texture::plain(lit(self.country.palette.gravel, 0.8));
        let path = Texture::natural(lit(self.country.palette.gravel, 1.05));
        let mut brushes = vec![
            Brush::fill(Layer::Flat, outline.clone(), Texture::natural(ground)),
            Brush::stroke(Layer::Road, frame.outline(&[(-width / 2.0, 0.0), (width / 2.0, 0.0)]), 2.4, path),
            Brush::stroke(Layer::Road, frame.outline(&[(0.0, -depth / 2.0), (0.0, depth / 2.0)]), 2.4, path),
            Brush::stroke(Layer::Road, ring(outline.clone()), 1.2, wall),
        ];
        let mut v = -depth / 2.0 + 3.5;
        while v < depth / 2.0 - 2.5 {
            let mut u = -width / 2.0 + 3.0;
            while u < width / 2.0 - 2.0 {
                if u.abs() > 2.4 && v.abs() > 2.8 && self.dice.chance(0.88) {
                    let stone = self.dice.choose(&[
                        [206.0, 204.0, 200.0],
                        [150.0, 148.0, 148.0],
                        [92.0, 90.0, 92.0],
                        [176.0, 150.0, 120.0],
                    ]);
                    brushes.push(Brush::fill(
                        Layer::Vehicle,
                        frame.inner(u, v, 0.0).rectangle(1.2, 2.4),
                        Texture::plain(stone),
                    ));
                }
                u += 2.4;
            }
            v += 4.6;
        }
        for _ in 0..self.dice.whole(3, 9) {
            let place = frame.at(self.dice.range(-0.45, 0.45) * width, self.dice.range(-0.45, 0.45) * depth);
            let conifer = self.country.index == 2 || self.dice.chance(0.4);
            brushes.push(self.crown(place, conifer, 0.9));
        }
        let mut tags = tags(&[("landuse", "cemetery")]);
        if self.dice.chance(0.4) {
            tags.insert("religion".into(), "christian".into());
        }
        self.annotate(&mut tags, true);
        Object::area(tags, outline, brushes)
    }

    /// Allotments: small gardens with huts and beds.
    pub fn allotments(&mut self, frame: Frame, width: f32, depth: f32) -> Object {
        let outline = frame.rectangle(width, depth);
        let path = Texture::natural(self.country.palette.gravel);
        let mut brushes = vec![Brush::fill(Layer::Flat, outline.clone(), Texture::natural(self.country.palette.lawn))];
        let (columns, rows) = ((width / 12.0) as i32, (depth / 12.0) as i32);
        for row in 0..rows {
            for column in 0..columns {
                let plot = frame.inner(
                    (column as f32 + 0.5) / columns as f32 * width - width / 2.0,
                    (row as f32 + 0.5) / rows as f32 * depth - depth / 2.0,
                    0.0,
                );
                let bed = self.dice.choose(&[[120.0, 92.0, 66.0], [92.0, 136.0, 60.0], [150.0, 152.0, 84.0]]);
                let bed = self.varied(bed, 0.1);
                let texture = Texture::natural(bed).with_rows(Rows {
                    colour: lit(bed, 0.75),
                    angle: frame.angle,
                    period: 1.8,
                    share: 0.4,
                    wander: 0.1,
                });
                brushes.push(Brush::fill(Layer::Flat, plot.inner(-1.5, 2.0, 0.0).rectangle(7.0, 5.0), texture));
                let (_, roof) = self.house_roof();
                let hut = plot.inner(self.dice.range(-3.0, 3.0), -3.2, 0.0);
                brushes.extend(self.gabled(hut, 3.8, 3.0, roof, 1.8));
                if self.dice.chance(0.4) {
                    let place = plot.at(3.6, 3.2);
                    brushes.push(self.crown(place, false, 0.5));
                }
            }
        }
        for row in 0..=rows {
            let v = depth * (row as f32 / rows as f32 - 0.5);
            brushes.push(Brush::stroke(Layer::Road, frame.outline(&[(-width / 2.0, v), (width / 2.0, v)]), 1.1, path));
        }
        let mut tags = tags(&[("landuse", "allotments")]);
        self.annotate(&mut tags, true);
        Object::area(tags, outline, brushes)
    }

    /// A cross-country ski track over snow: two grooves beside a skating lane.
    pub fn ski_track(&mut self, line: Vec<Point>) -> Object {
        let lane = Texture::plain([205.0, 214.0, 226.0]);
        let groove = Texture::plain([150.0, 164.0, 186.0]);
        let mut brushes = vec![Brush::stroke(Layer::Road, line.clone(), 4.0, lane)];
        for side in [1.0, 2.0, -1.0, -2.0] {
            brushes.push(Brush::stroke(Layer::Marking, offset(&line, side), 0.4, groove));
        }
        let tags = tags(&[("leisure", "track"), ("piste:type", "nordic"), ("sport", "skiing")]);
        Object { tags, shape: Shape::Way { line, width: 4.0 }, brushes }
    }
}
