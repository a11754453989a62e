//! Sports grounds, gardens, pools, golf and graveyards.

use std::f32::consts::{FRAC_PI_2, PI};

use super::Maker;
use crate::geometry::{Frame, Point, blob, offset};
use crate::scene::{Brush, Colour, Layer, Object, Rows, Shape, Texture, lit, mix, tags};

const WHITE: Colour = [240.0, 240.0, 236.0];

fn closed(mut outline: Vec<Point>) -> Vec<Point> {
    outline.extend(outline.first().copied());
    outline
}

fn line(layer: Layer, points: Vec<Point>, width: f32) -> Brush {
    Brush::stroke(layer, points, width, Texture::plain(WHITE))
}

impl Maker {
    fn grass_field(&mut self, frame: Frame, width: f32, depth: f32, artificial: bool) -> Brush {
        let colour = if artificial {
            [62.0, 132.0, 78.0]
        } else {
            mix(self.country.palette.lawn, [88.0, 150.0, 62.0], 0.6)
        };
        let colour = self.varied(colour, 0.05);
        let texture = Texture {
            mottle: 0.05,
            ..Texture::plain(colour)
        }
        .with_rows(Rows {
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
            line(layer, closed(frame.rectangle(width, depth)), stroke),
            line(layer, frame.outline(&[(0.0, -v), (0.0, v)]), stroke),
            line(
                layer,
                closed(frame.ellipse(depth * 0.14, depth * 0.14)),
                stroke,
            ),
        ];
        for side in [-1.0, 1.0] {
            for (reach, span) in [(0.16, 0.3), (0.06, 0.14)] {
                let edge = side * (u - width * reach);
                let span = depth * span;
                brushes.push(line(
                    layer,
                    frame.outline(&[
                        (side * u, -span),
                        (edge, -span),
                        (edge, span),
                        (side * u, span),
                    ]),
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
        let surface = if artificial {
            "artificial_turf"
        } else {
            "grass"
        };
        let mut tags = tags(&[
            ("leisure", "pitch"),
            ("sport", "soccer"),
            ("surface", surface),
        ]);
        self.annotate(&mut tags, true);
        Object::area(tags, frame.rectangle(width + 6.0, depth + 6.0), brushes)
    }

    /// Tennis courts side by side.
    pub fn tennis(&mut self, frame: Frame, courts: u32) -> Object {
        let (surface, colour, border) = self.dice.weighted(&[
            (
                if self.country.index == 2 { 2.0 } else { 4.0 },
                ("clay", [190.0, 96.0, 62.0], [176.0, 88.0, 58.0]),
            ),
            (1.5, ("acrylic", [58.0, 104.0, 164.0], [72.0, 132.0, 92.0])),
            (1.0, ("concrete", [84.0, 138.0, 98.0], [160.0, 92.0, 70.0])),
        ]);
        let (bay, depth) = (16.0, 32.0);
        let width = courts as f32 * bay;
        let outline = frame.rectangle(width, depth);
        let mut brushes = vec![Brush::fill(
            Layer::Flat,
            outline.clone(),
            Texture::plain(border),
        )];
        for court in 0..courts {
            let place = frame.inner((court as f32 + 0.5) * bay - width / 2.0, 0.0, FRAC_PI_2);
            let colour = self.varied(colour, 0.03);
            brushes.push(Brush::fill(
                Layer::Flat,
                place.rectangle(24.0, 11.0),
                Texture::plain(colour),
            ));
            for outline in [place.rectangle(23.0, 10.6), place.rectangle(23.0, 7.6)] {
                brushes.push(line(Layer::Marking, closed(outline), 0.5));
            }
            for u in [-6.2, 6.2] {
                brushes.push(line(
                    Layer::Marking,
                    place.outline(&[(u, -3.8), (u, 3.8)]),
                    0.5,
                ));
            }
            brushes.push(line(
                Layer::Marking,
                place.outline(&[(-6.2, 0.0), (6.2, 0.0)]),
                0.5,
            ));
            brushes.push(Brush::stroke(
                Layer::Marking,
                place.outline(&[(0.0, -6.0), (0.0, 6.0)]),
                0.7,
                Texture::plain([50.0, 54.0, 50.0]),
            ));
        }
        let mut tags = tags(&[
            ("leisure", "pitch"),
            ("sport", "tennis"),
            ("surface", surface),
        ]);
        self.annotate(&mut tags, false);
        Object::area(tags, outline, brushes)
    }

    /// A basketball court.
    pub fn basketball(&mut self, frame: Frame) -> Object {
        let (surface, field, key) = self.dice.weighted(&[
            (
                2.0,
                ("asphalt", [132.0, 132.0, 136.0], [120.0, 120.0, 124.0]),
            ),
            (1.5, ("tartan", [176.0, 72.0, 58.0], [66.0, 108.0, 160.0])),
            (1.0, ("acrylic", [74.0, 116.0, 170.0], [196.0, 110.0, 60.0])),
        ]);
        let (width, depth) = (34.0, 19.0);
        let outline = frame.rectangle(width + 4.0, depth + 4.0);
        let mut brushes = vec![Brush::fill(
            Layer::Flat,
            outline.clone(),
            Texture::plain(field),
        )];
        for side in [-1.0, 1.0] {
            let place = frame.inner(side * (width / 2.0 - 3.7), 0.0, 0.0);
            brushes.push(Brush::fill(
                Layer::Flat,
                place.rectangle(7.4, 6.4),
                Texture::plain(key),
            ));
            brushes.push(line(Layer::Marking, closed(place.rectangle(7.4, 6.4)), 0.5));
            let arc: Vec<Point> = (0..=16)
                .map(|step| {
                    let angle = -FRAC_PI_2 + PI * step as f32 / 16.0;
                    frame.at(
                        side * (width / 2.0 - 2.0 - 8.4 * angle.cos()),
                        8.4 * angle.sin(),
                    )
                })
                .collect();
            brushes.push(line(Layer::Marking, arc, 0.5));
        }
        brushes.push(line(
            Layer::Marking,
            closed(frame.rectangle(width, depth)),
            0.6,
        ));
        brushes.push(line(
            Layer::Marking,
            frame.outline(&[(0.0, -depth / 2.0), (0.0, depth / 2.0)]),
            0.5,
        ));
        brushes.push(line(Layer::Marking, closed(frame.ellipse(2.6, 2.6)), 0.5));
        let tags = tags(&[
            ("leisure", "pitch"),
            ("sport", "basketball"),
            ("surface", surface),
        ]);
        Object::area(tags, outline, brushes)
    }

    /// A running track around a field.
    pub fn athletics(&mut self, frame: Frame) -> Object {
        let (width, depth) = (78.0, 44.0);
        let colour = self
            .dice
            .weighted(&[(4.0, [182.0, 80.0, 60.0]), (1.0, [70.0, 108.0, 168.0])]);
        let red = self.varied(colour, 0.04);
        let mut brushes = vec![Brush::fill(
            Layer::Flat,
            frame.stadium(width, depth),
            Texture::plain(red),
        )];
        for inset in [0.0, 2.4, 4.8, 7.2, 9.6] {
            let ring = closed(frame.stadium(width - inset, depth - inset));
            brushes.push(Brush::stroke(
                Layer::Marking,
                ring,
                0.4,
                Texture::plain(WHITE).with_opacity(0.75),
            ));
        }
        let lawn = mix(self.country.palette.lawn, [88.0, 150.0, 62.0], 0.6);
        brushes.push(Brush::fill(
            Layer::Marking,
            frame.stadium(width - 10.0, depth - 10.0),
            Texture::natural(lawn),
        ));
        for brush in Self::soccer_lines(frame, 40.0, 25.0) {
            brushes.push(brush);
        }
        let mut tags = tags(&[
            ("leisure", "track"),
            ("sport", "athletics"),
            ("surface", "tartan"),
        ]);
        self.annotate(&mut tags, true);
        Object::area(tags, frame.stadium(width, depth), brushes)
    }

    /// A swimming pool on its terrace; `length` scene units.
    pub fn pool(&mut self, frame: Frame, length: f32) -> Object {
        let depth = length * self.dice.range(0.42, 0.55);
        let deck = lit(self.country.palette.pavement, 1.08);
        let blue = self.varied([70.0, 184.0, 214.0], 0.06);
        let outline = frame.rectangle(length, depth);
        let mut brushes = vec![
            Brush::fill(
                Layer::Flat,
                frame.rectangle(length + 5.0, depth + 5.0),
                Texture::plain(deck),
            ),
            Brush::fill(
                Layer::Water,
                outline.clone(),
                Texture {
                    mottle: 0.08,
                    ..Texture::plain(blue)
                },
            ),
            Brush::stroke(
                Layer::Water,
                closed(outline.clone()),
                0.7,
                Texture::plain([236.0, 240.0, 240.0]),
            ),
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
                brushes.push(Brush::fill(
                    Layer::Vehicle,
                    bed.rectangle(1.0, 1.9),
                    Texture::plain(colour),
                ));
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
            Texture {
                mottle: 0.05,
                ..Texture::plain(green)
            }
            .with_rows(Rows {
                colour: lit(green, 0.92),
                angle: frame.angle + FRAC_PI_2,
                period: 6.0,
                share: 0.5,
                wander: 0.0,
            }),
        )];
        for (u, v) in [(-10.0, -5.0), (6.0, 6.0), (18.0, -8.0), (29.0, 7.0)] {
            brushes.push(Brush::fill(
                Layer::Flat,
                frame.inner(u, v, 0.0).ellipse(3.6, 3.2),
                light,
            ));
            brushes.push(line(
                Layer::Marking,
                closed(frame.inner(u, v, 0.0).ellipse(0.6, 0.6)),
                0.7,
            ));
            let bunker = blob(
                &mut self.dice,
                frame.inner(u + 3.5, v + 5.5, 0.0),
                3.0,
                1.9,
                0.3,
            );
            brushes.push(Brush::fill(
                Layer::Flat,
                bunker,
                Texture::natural([232.0, 218.0, 176.0]),
            ));
        }
        brushes.push(Brush::stroke(
            Layer::Marking,
            frame.outline(&[(-u + 1.0, -9.0), (-u + 1.0, 9.0)]),
            2.2,
            Texture::plain([208.0, 208.0, 204.0]),
        ));
        brushes.push(Brush::Shadow {
            outline: frame.inner(-u - 3.0, 0.0, 0.0).rectangle(4.0, 22.0),
            height: 3.0,
        });
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
        let mut brushes = vec![Brush::fill(
            Layer::Flat,
            outline.clone(),
            Texture {
                mottle: 0.05,
                ..Texture::plain(green)
            },
        )];
        let putting = frame.inner(22.0, 0.0, 0.0);
        brushes.push(Brush::fill(
            Layer::Flat,
            blob(&mut self.dice, putting, 9.0, 7.0, 0.2),
            Texture::plain(lit(green, 1.2)),
        ));
        for (u, v) in [(10.0, 9.0), (33.0, -8.0), (-6.0, -10.0), (26.0, 12.0)] {
            let bunker = blob(&mut self.dice, frame.inner(u, v, 0.4), 5.0, 3.2, 0.35);
            brushes.push(Brush::fill(
                Layer::Flat,
                bunker,
                Texture::natural([236.0, 222.0, 180.0]),
            ));
        }
        brushes.push(line(Layer::Marking, closed(putting.ellipse(0.5, 0.5)), 0.6));
        let mut tags = tags(&[("leisure", "golf_course")]);
        self.annotate(&mut tags, true);
        Object::area(tags, outline, brushes)
    }

    /// A cemetery: rows of graves between paths.
    pub fn cemetery(&mut self, frame: Frame, width: f32, depth: f32) -> Object {
        let ground = if self.country.index == 2 {
            self.country.palette.pavement
        } else {
            lit(self.country.palette.lawn, 0.94)
        };
        let outline = frame.rectangle(width, depth);
        let wall = Texture::plain(lit(self.country.palette.gravel, 0.8));
        let path = Texture::natural(lit(self.country.palette.gravel, 1.05));
        let mut brushes = vec![
            Brush::fill(Layer::Flat, outline.clone(), Texture::natural(ground)),
            Brush::stroke(
                Layer::Road,
                frame.outline(&[(-width / 2.0, 0.0), (width / 2.0, 0.0)]),
                2.4,
                path,
            ),
            Brush::stroke(
                Layer::Road,
                frame.outline(&[(0.0, -depth / 2.0), (0.0, depth / 2.0)]),
                2.4,
                path,
            ),
            Brush::stroke(Layer::Road, closed(outline.clone()), 1.2, wall),
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
            let place = frame.at(
                self.dice.range(-0.45, 0.45) * width,
                self.dice.range(-0.45, 0.45) * depth,
            );
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
        let mut brushes = vec![Brush::fill(
            Layer::Flat,
            outline.clone(),
            Texture::natural(self.country.palette.lawn),
        )];
        let (columns, rows) = ((width / 12.0) as i32, (depth / 12.0) as i32);
        for row in 0..rows {
            for column in 0..columns {
                let plot = frame.inner(
                    (column as f32 + 0.5) / columns as f32 * width - width / 2.0,
                    (row as f32 + 0.5) / rows as f32 * depth - depth / 2.0,
                    0.0,
                );
                let bed = self.dice.choose(&[
                    [120.0, 92.0, 66.0],
                    [92.0, 136.0, 60.0],
                    [150.0, 152.0, 84.0],
                ]);
                let bed = self.varied(bed, 0.1);
                let texture = Texture::natural(bed).with_rows(Rows {
                    colour: lit(bed, 0.75),
                    angle: frame.angle,
                    period: 1.8,
                    share: 0.4,
                    wander: 0.1,
                });
                brushes.push(Brush::fill(
                    Layer::Flat,
                    plot.inner(-1.5, 2.0, 0.0).rectangle(7.0, 5.0),
                    texture,
                ));
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
            brushes.push(Brush::stroke(
                Layer::Road,
                frame.outline(&[(-width / 2.0, v), (width / 2.0, v)]),
                1.1,
                path,
            ));
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
            brushes.push(Brush::stroke(
                Layer::Marking,
                offset(&line, side),
                0.4,
                groove,
            ));
        }
        let tags = tags(&[
            ("leisure", "track"),
            ("piste:type", "nordic"),
            ("sport", "skiing"),
        ]);
        Object {
            tags,
            shape: Shape::Way { line, width: 4.0 },
            brushes,
        }
    }
}
