//! Buildings: walls are not seen from above, so a building is its roof and its shadow.

use super::Maker;
use crate::geometry::{Frame, Point};
use crate::scene::{Brush, Colour, Layer, Object, Rows, Tags, Texture, lit, tags};

impl Maker {
    /// Shading of a roof plane that faces local direction `angle` (scene angle, downhill).
    fn plane_light(&self, downhill: f32) -> f32 {
        let sun = self.country.shadow_degrees.to_radians() + std::f32::consts::PI;
        1.0 + 0.22 * (downhill - sun).cos()
    }

    fn tiled(&self, colour: Colour, across: f32) -> Texture {
        Texture { mottle: 0.07, ..Texture::plain(colour) }.with_rows(Rows {
            colour: lit(colour, 0.86),
            angle: across,
            period: 1.5,
            share: 0.4,
            wander: 0.0,
        })
    }

    /// A gabled roof: two planes and a ridge along u.
    pub(super) fn gabled(&mut self, frame: Frame, width: f32, depth: f32, colour: Colour, height: f32) -> Vec<Brush> {
        let (u, v) = (width / 2.0, depth / 2.0);
        let down = frame.angle + std::f32::consts::FRAC_PI_2;
        let near = lit(colour, self.plane_light(down));
        let far = lit(colour, self.plane_light(down + std::f32::consts::PI));
        vec![
            Brush::Shadow { outline: frame.rectangle(width, depth), height },
            Brush::fill(
                Layer::Roof,
                frame.outline(&[(-u, 0.0), (u, 0.0), (u, v), (-u, v)]),
                self.tiled(near, frame.angle),
            ),
            Brush::fill(
                Layer::Roof,
                frame.outline(&[(-u, -v), (u, -v), (u, 0.0), (-u, 0.0)]),
                self.tiled(far, frame.angle),
            ),
            Brush::stroke(Layer::Roof, frame.outline(&[(-u, 0.0), (u, 0.0)]), 0.5, Texture::plain(lit(colour, 1.25))),
        ]
    }

    /// A hipped roof: four planes.
    fn hipped(&mut self, frame: Frame, width: f32, depth: f32, colour: Colour, height: f32) -> Vec<Brush> {
        let (u, v) = (width / 2.0, depth / 2.0);
        let ridge = (u - v).max(0.0);
        let planes: [(&[(f32, f32)], f32); 4] = [
            (&[(-u, v), (-ridge, 0.0), (ridge, 0.0), (u, v)], 0.25),
            (&[(u, v), (ridge, 0.0), (u, -v)], 0.0),
            (&[(u, -v), (ridge, 0.0), (-ridge, 0.0), (-u, -v)], -0.25),
            (&[(-u, -v), (-ridge, 0.0), (-u, v)], 0.5),
        ];
        let mut brushes = vec![Brush::Shadow { outline: frame.rectangle(width, depth), height }];
        for (corners, turn) in planes {
            let down = frame.angle + turn * std::f32::consts::TAU;
            let colour = lit(colour, self.plane_light(down));
            brushes.push(Brush::fill(Layer::Roof, frame.outline(corners), self.tiled(colour, down)));
        }
        brushes
    }

    /// A flat roof with a bright rim and a few boxes on it.
    pub(super) fn flat(
        &mut self,
        frame: Frame,
        outline: Vec<Point>,
        colour: Colour,
        height: f32,
        boxes: u32,
    ) -> Vec<Brush> {
        let rim = lit(colour, if colour[0] > 200.0 { 0.8 } else { 1.22 });
        let mut closed = outline.clone();
        closed.extend(outline.first().copied());
        let mut brushes = vec![
            Brush::Shadow { outline: outline.clone(), height },
            Brush::fill(Layer::Roof, outline, Texture { mottle: 0.06, ..Texture::plain(colour) }),
            Brush::stroke(Layer::Roof, closed, 0.6, Texture::plain(rim)),
        ];
        for _ in 0..boxes {
            let place = frame.inner(self.dice.range(-0.3, 0.3), 0.0, 0.0);
            let size = self.dice.range(1.4, 2.4);
            brushes.push(Brush::fill(Layer::Roof, place.rectangle(size, size), Texture::plain(lit(colour, 0.7))));
        }
        brushes
    }

    fn roof_tags(&mut self, tags: &mut Tags, shape: &str, colour: &str, shown: f32) {
        if self.dice.chance(shown) {
            tags.insert("roof:shape".into(), shape.into());
        }
        // Under snow nobody sees the colour: a tag would be noise.
        if !self.winter && self.dice.chance(0.8) {
            tags.insert("roof:colour".into(), colour.into());
        }
    }

    /// A family house.
    pub fn house(&mut self, frame: Frame, scale: f32) -> Object {
        let (width, depth) = (self.dice.range(10.5, 14.0) * scale, self.dice.range(7.5, 9.5) * scale);
        let (name, colour) = self.house_roof();
        let height = 4.2 * scale;
        let flat_share = [0.12, 0.06, 0.3][self.country.index];
        let (shape, brushes) = if self.dice.chance(flat_share) {
            ("flat", self.flat(frame, frame.rectangle(width, depth), colour, height, 2))
        } else if self.dice.chance(0.3) {
            ("hipped", self.hipped(frame, width, depth, colour, height))
        } else {
            ("gabled", self.gabled(frame, width, depth, colour, height))
        };
        let mut tags = tags(&[("building", "house")]);
        self.roof_tags(&mut tags, shape, name, 0.5);
        if shape != "flat" && self.country.index > 0 && self.dice.chance(0.3) {
            tags.insert("roof:material".into(), "roof_tiles".into());
        }
        self.address(&mut tags);
        Object::area(tags, frame.rectangle(width, depth), brushes)
    }

    /// A long block of flats.
    pub fn apartments(&mut self, frame: Frame, width: f32) -> Object {
        let depth = self.dice.range(10.0, 12.0);
        let (name, colour) = self.hall_roof();
        let levels = self.dice.whole(3, 7);
        let height = levels as f32 * 2.2;
        let gabled = self.country.index == 1 && self.dice.chance(0.45);
        let (name, brushes) = if gabled {
            let (name, colour) = self.house_roof();
            (name, self.gabled(frame, width, depth, colour, height))
        } else {
            let mut brushes = self.flat(frame, frame.rectangle(width, depth), colour, height, 0);
            let stairs = (width / 9.0) as i32;
            for stair in 0..stairs {
                let u = (stair as f32 + 0.5) / stairs as f32 * width - width / 2.0;
                brushes.push(Brush::fill(
                    Layer::Roof,
                    frame.inner(u, 0.0, 0.0).rectangle(2.4, 3.0),
                    Texture::plain(lit(colour, 0.66)),
                ));
            }
            (name, brushes)
        };
        let mut tags = tags(&[("building", "apartments")]);
        tags.insert("building:levels".into(), levels.to_string());
        self.roof_tags(&mut tags, if gabled { "gabled" } else { "flat" }, name, 0.5);
        self.address(&mut tags);
        Object::area(tags, frame.rectangle(width, depth), brushes)
    }

    /// A hall of industry, a warehouse or a supermarket, with rows of skylights.
    pub fn hall(&mut self, frame: Frame, width: f32, depth: f32, value: &str) -> Object {
        let (name, colour) = self.hall_roof();
        let mut brushes = self.flat(frame, frame.rectangle(width, depth), colour, 6.5, 0);
        let lights = (width / 6.0) as i32;
        let pane = if colour[0] > 170.0 { lit(colour, 0.72) } else { lit(colour, 1.4) };
        for light in 0..lights {
            let u = (light as f32 + 0.5) / lights as f32 * width - width / 2.0;
            brushes.push(Brush::fill(
                Layer::Roof,
                frame.inner(u, 0.0, 0.0).rectangle(1.6, depth * 0.7),
                Texture::plain(pane),
            ));
        }
        let mut tags = tags(&[("building", value)]);
        self.roof_tags(&mut tags, "flat", name, 0.3);
        self.annotate(&mut tags, false);
        Object::area(tags, frame.rectangle(width, depth), brushes)
    }

    /// A school: a flat-roofed U around a paved yard with a marked court.
    pub fn school(&mut self, frame: Frame) -> Object {
        let (name, colour) = self.hall_roof();
        let (u, v, wing) = (23.0, 16.0, 10.0);
        let outline = frame.outline(&[
            (-u, -v),
            (u, -v),
            (u, v),
            (u - wing, v),
            (u - wing, -v + wing),
            (-u + wing, -v + wing),
            (-u + wing, v),
            (-u, v),
        ]);
        let yard = frame.outline(&[(-u, -v), (u, -v), (u, v + 8.0), (-u, v + 8.0)]);
        let mut brushes = vec![Brush::fill(Layer::Flat, yard, Texture::plain(self.country.palette.pavement))];
        let white = Texture::plain([235.0, 235.0, 230.0]);
        let court = frame.inner(0.0, 8.0, 0.0);
        for (outline, width) in [(court.rectangle(20.0, 15.0), 0.6), (court.ellipse(3.0, 3.0), 0.6)] {
            let mut closed = outline;
            closed.extend(closed.first().copied());
            brushes.push(Brush::stroke(Layer::Marking, closed, width, white));
        }
        brushes.extend(self.flat(frame, outline.clone(), colour, 8.0, 0));
        for u in [-16.0, -6.0, 4.0, 14.0] {
            brushes.push(Brush::fill(
                Layer::Roof,
                frame.inner(u, -v + wing / 2.0, 0.0).rectangle(4.0, 4.0),
                Texture::plain(lit(colour, 0.72)),
            ));
        }
        let mut tags = tags(&[("amenity", "school"), ("building", "school")]);
        self.roof_tags(&mut tags, "flat", name, 0.4);
        self.annotate(&mut tags, true);
        self.address(&mut tags);
        Object::area(tags, outline, brushes)
    }

    /// A church: a cross of gabled roofs with a square tower and its long shadow.
    pub fn church(&mut self, frame: Frame) -> Object {
        let (name, colour) =
            if self.country.index == 0 { ("black", self.varied([56.0, 58.0, 64.0], 0.1)) } else { self.house_roof() };
        let plaza = frame.inner(0.0, 0.0, 0.0).ellipse(27.0, 21.0);
        let mut brushes = vec![Brush::fill(
            Layer::Flat,
            plaza,
            Texture { mottle: 0.1, ..Texture::plain(self.country.palette.gravel) },
        )];
        brushes.extend(self.gabled(frame, 34.0, 11.0, colour, 9.0));
        brushes.extend(self.gabled(frame.inner(6.0, 0.0, std::f32::consts::FRAC_PI_2), 25.0, 9.0, colour, 8.0));
        let tower = frame.inner(-18.5, 0.0, 0.0);
        brushes.extend(self.hipped(tower, 8.5, 8.5, lit(colour, 0.8), 24.0));
        brushes.push(Brush::fill(Layer::Roof, tower.ellipse(0.9, 0.9), Texture::plain([238.0, 220.0, 140.0])));
        let mut tags = tags(&[("amenity", "place_of_worship"), ("building", "church"), ("religion", "christian")]);
        let denomination = ["lutheran", "protestant", "catholic"][self.country.index];
        tags.insert("denomination".into(), denomination.into());
        self.roof_tags(&mut tags, "gabled", name, 0.2);
        self.annotate(&mut tags, true);
        let (u, v) = (17.0, 5.5);
        let outline = frame.outline(&[
            (-u - 5.0, -v),
            (1.5, -v),
            (1.5, -12.5),
            (10.5, -12.5),
            (10.5, -v),
            (u, -v),
            (u, v),
            (10.5, v),
            (10.5, 12.5),
            (1.5, 12.5),
            (1.5, v),
            (-u - 5.0, v),
        ]);
        Object::area(tags, outline, brushes)
    }

    /// Greenhouses side by side: bright ribbed glass.
    pub fn greenhouse(&mut self, frame: Frame, bays: u32) -> Object {
        let (bay, depth) = (7.0, self.dice.range(30.0, 40.0));
        let width = bays as f32 * bay;
        let mut brushes = vec![Brush::Shadow { outline: frame.rectangle(width, depth), height: 3.0 }];
        for index in 0..bays {
            let u = (index as f32 + 0.5) * bay - width / 2.0;
            let glass = self.varied([206.0, 222.0, 222.0], 0.06);
            for (side, light) in [(-1.0, 1.06), (1.0, 0.86)] {
                let plane = frame.inner(u + side * bay / 4.0, 0.0, 0.0);
                brushes.push(Brush::fill(
                    Layer::Roof,
                    plane.rectangle(bay / 2.0, depth),
                    Texture::plain(lit(glass, light)).with_rows(Rows {
                        colour: lit(glass, light * 0.82),
                        angle: frame.angle + std::f32::consts::FRAC_PI_2,
                        period: 2.6,
                        share: 0.25,
                        wander: 0.0,
                    }),
                ));
            }
        }
        let mut tags = tags(&[("building", "greenhouse")]);
        if self.dice.chance(0.4) {
            tags.insert("roof:material".into(), "glass".into());
        }
        Object::area(tags, frame.rectangle(width, depth), brushes)
    }
}
