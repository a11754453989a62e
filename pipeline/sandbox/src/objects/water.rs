//! Water and what stands in it.

use super::Maker;
use crate::geometry::{Frame, Point, along, blob, curve, length, offset};
use crate::scene::{Brush, Colour, Layer, Object, Rows, Shape, Texture, lit, mix, tags};

impl Maker {
    fn water_texture(&mut self, colour: Colour) -> Texture {
        Texture { grain: 0.05, mottle: 0.06, drift: 0.16, ..Texture::plain(colour) }.with_rows(Rows {
            colour: lit(colour, 1.14),
            angle: self.dice.range(0.0, 3.0),
            period: 2.8,
            share: 0.3,
            wander: 1.4,
        })
    }

    /// A lake or a pond: open water with a shore.
    pub fn still_water(&mut self, frame: Frame, radius: f32, value: &str) -> Object {
        let palette = &self.country.palette;
        let colour = if value == "reservoir" { [62.0, 132.0, 140.0] } else { palette.water };
        let colour = self.varied(colour, 0.12);
        let outline = if value == "reservoir" {
            let long = self.dice.range(1.2, 1.5);
            frame.rectangle(radius * 2.0, radius * 2.0 / long)
        } else {
            let flat = self.dice.range(0.6, 0.95);
            let mut dice_frame = frame;
            dice_frame.angle += self.dice.range(-0.5, 0.5);
            blob(&mut self.dice, dice_frame, radius, radius * flat, 0.3)
        };
        let mut closed = outline.clone();
        closed.extend(outline.first().copied());
        let (shore, width) = match value {
            "reservoir" => (lit(palette.pavement, 1.1), 4.0),
            _ => (mix(palette.forest_floor, palette.meadow, 0.5), 3.0),
        };
        let mut brushes = vec![
            Brush::stroke(Layer::Flat, closed, width, Texture::natural(shore)),
            Brush::fill(Layer::Water, outline.clone(), self.water_texture(colour)),
        ];
        if value == "pond" && self.dice.chance(0.6) {
            for _ in 0..5 {
                let place = frame.at(self.dice.range(-0.5, 0.5) * radius, self.dice.range(-0.4, 0.4) * radius);
                let size = self.dice.range(0.8, 1.6);
                let lily = Texture::plain([92.0, 124.0, 72.0]);
                brushes.push(Brush::fill(Layer::Road, Frame::new(place, 0.0).ellipse(size, size), lily));
            }
        }
        let mut tags = tags(&[("natural", "water"), ("water", value)]);
        self.annotate(&mut tags, value == "lake");
        Object::area(tags, outline, brushes)
    }

    /// A river, canal or stream along a line.
    pub fn watercourse(&mut self, line: Vec<Point>, value: &str, width: f32) -> Object {
        let palette = &self.country.palette;
        let bank = match (value, self.country.index) {
            ("canal", _) => lit(palette.pavement, 0.95),
            (_, 2) => lit(palette.gravel, 1.02),
            _ => mix(palette.forest_floor, palette.meadow, 0.5),
        };
        let mut colour = self.varied(palette.water, 0.12);
        if value != "canal" && self.country.index == 2 {
            colour = mix(colour, [150.0, 140.0, 100.0], 0.4);
        }
        let brim = if value == "stream" { 2.5 } else { 4.5 };
        let mut brushes = vec![
            Brush::stroke(Layer::Flat, line.clone(), width + brim, Texture::natural(bank)),
            Brush::stroke(Layer::Water, line.clone(), width, self.water_texture(colour)),
        ];
        if value != "canal" {
            for side in [-1.0, 1.0] {
                let edge = offset(&line, side * (width / 2.0 + 4.0));
                let mut distance = 0.0;
                let total = length(&edge);
                while distance < total {
                    if let Some(place) = along(&edge, distance)
                        && self.dice.chance(0.5)
                    {
                        brushes.push(self.crown(place.origin, false, 0.8));
                    }
                    distance += self.dice.range(4.0, 11.0);
                }
            }
        }
        let mut tags = tags(&[("waterway", value)]);
        self.annotate(&mut tags, value == "river");
        Object { tags, shape: Shape::Way { line, width }, brushes }
    }

    /// A bridge deck over water at `frame` (turned along the road).
    pub fn bridge(&mut self, frame: Frame, span: f32, value: &str) -> Object {
        let width = self.road_width(value) + 2.0;
        let deck = mix(self.country.palette.asphalt, [210.0, 208.0, 204.0], 0.5);
        let parapet = Texture::plain([226.0, 224.0, 218.0]);
        let line = frame.outline(&[(-span / 2.0, 0.0), (span / 2.0, 0.0)]);
        let mut brushes = vec![
            Brush::Shadow { outline: frame.rectangle(span, width), height: 3.5 },
            Brush::stroke(Layer::Roof, line.clone(), width, Texture::plain(deck)),
            Brush::dashed(Layer::Roof, line.clone(), 0.6, (3.0, 3.0), Texture::plain(self.country.palette.marking)),
        ];
        for side in [-1.0, 1.0] {
            brushes.push(Brush::stroke(Layer::Roof, offset(&line, side * width / 2.0), 0.8, parapet));
        }
        let tags = tags(&[("highway", value), ("bridge", "yes"), ("surface", "asphalt")]);
        Object { tags, shape: Shape::Way { line, width }, brushes }
    }

    /// Open water on one side of a shore line: `outline` is the water, `shore` its edge on land.
    pub fn open_water(&mut self, outline: Vec<Point>) -> Object {
        let colour = self.varied(self.country.palette.water, 0.1);
        let texture = self.water_texture(colour);
        let brushes = vec![Brush::fill(Layer::Water, outline.clone(), texture)];
        let tags = tags(&[("natural", "water"), ("water", "lake")]);
        Object::area(tags, outline, brushes)
    }

    /// A beach along a shore: sand, surf and parasols.
    pub fn beach(&mut self, shore: &[Point], outline: Vec<Point>) -> Object {
        let sand = self.varied([226.0, 206.0, 164.0], 0.05);
        let foam = Texture::natural([240.0, 244.0, 242.0]);
        let wet = Texture::natural(lit(sand, 0.78));
        let mut brushes = vec![
            Brush::fill(Layer::Flat, outline.clone(), Texture { mottle: 0.08, ..Texture::natural(sand) }),
            Brush::stroke(Layer::Road, offset(shore, -1.8), 3.2, wet),
            Brush::stroke(Layer::Road, shore.to_vec(), 1.6, foam),
            Brush::dashed(Layer::Road, offset(shore, 4.5), 0.9, (9.0, 5.0), foam.with_opacity(0.7)),
            Brush::dashed(Layer::Road, offset(shore, 8.5), 0.7, (6.0, 9.0), foam.with_opacity(0.5)),
        ];
        let total = length(shore);
        for _ in 0..self.dice.whole(6, 18) {
            let line = offset(shore, -self.dice.range(5.0, 13.0));
            let distance = self.dice.range(0.0, total);
            if let Some(place) = along(&line, distance) {
                let colour = self.dice.choose(&[
                    [210.0, 60.0, 50.0],
                    [240.0, 240.0, 236.0],
                    [60.0, 110.0, 190.0],
                    [238.0, 190.0, 60.0],
                ]);
                brushes.push(Brush::Shadow { outline: place.ellipse(1.2, 1.2), height: 2.0 });
                brushes.push(Brush::fill(Layer::Roof, place.ellipse(1.3, 1.3), Texture::plain(colour)));
            }
        }
        Object::area(tags(&[("natural", "beach"), ("surface", "sand")]), outline, brushes)
    }

    /// A jetty from the shore at `frame` (turned out to the water) with boats on both sides.
    pub fn jetty(&mut self, frame: Frame, reach: f32) -> Object {
        let plank = Texture::plain([190.0, 180.0, 164.0]);
        let line = frame.outline(&[(-4.0, 0.0), (reach, 0.0)]);
        let mut brushes = vec![
            Brush::Shadow { outline: frame.inner(reach / 2.0, 0.0, 0.0).rectangle(reach, 2.2), height: 1.0 },
            Brush::stroke(Layer::Vehicle, line.clone(), 2.2, plank),
        ];
        let mut u = 5.0;
        while u < reach - 1.0 {
            for side in [-1.0, 1.0] {
                if self.dice.chance(0.75) {
                    let boat = frame.inner(u, side * 5.0, side * std::f32::consts::FRAC_PI_2);
                    brushes.extend(self.boat(boat));
                }
            }
            u += 4.0;
        }
        let tags = tags(&[("man_made", "pier"), ("material", "wood")]);
        Object { tags, shape: Shape::Way { line, width: 2.2 }, brushes }
    }

    fn boat(&mut self, frame: Frame) -> Vec<Brush> {
        let hull = self.dice.weighted(&[
            (5.0, [238.0, 238.0, 236.0]),
            (1.0, [70.0, 96.0, 150.0]),
            (1.0, [160.0, 120.0, 84.0]),
        ]);
        let (u, v) = (3.2, 1.2);
        vec![
            Brush::fill(
                Layer::Vehicle,
                frame.outline(&[(-u, -v), (u * 0.4, -v), (u * 1.15, 0.0), (u * 0.4, v), (-u, v)]),
                Texture::plain(hull),
            ),
            Brush::fill(
                Layer::Vehicle,
                frame.inner(-0.8, 0.0, 0.0).rectangle(2.2, 1.3),
                Texture::plain(lit(hull, 0.6)),
            ),
        ]
    }

    /// A winding line through a place, from edge to edge.
    pub fn winding(&mut self, frame: Frame, reach: f32, bend: f32) -> Vec<Point> {
        let knots: Vec<Point> = [-1.0, -0.5, 0.0, 0.5, 1.0]
            .iter()
            .map(|&share| {
                let v = if share == 0.0 { 0.0 } else { self.dice.range(-bend, bend) };
                frame.at(share * reach, v)
            })
            .collect();
        curve(&knots)
    }
}
