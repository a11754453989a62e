//! Roads, tracks, crossings and roundabouts.

use super::Maker;
use crate::geometry::{Frame, Point, offset};
use crate::scene::{Brush, Colour, Layer, Object, Shape, Tags, Texture, lit, mix, tags};

/// Surfaces of roads that differ in colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    Asphalt,
    Concrete,
    PavingStones,
    Gravel,
    Ground,
}

impl Surface {
    pub fn tag(self) -> &'static str {
        match self {
            Surface::Asphalt => "asphalt",
            Surface::Concrete => "concrete",
            Surface::PavingStones => "paving_stones",
            Surface::Gravel => "gravel",
            Surface::Ground => "ground",
        }
    }
}

impl Maker {
    pub fn surface_colour(&mut self, surface: Surface) -> Colour {
        let palette = &self.country.palette;
        let colour = match surface {
            Surface::Asphalt => palette.asphalt,
            Surface::Concrete => mix(palette.asphalt, [212.0, 208.0, 200.0], 0.75),
            Surface::PavingStones => [168.0, 134.0, 118.0],
            Surface::Gravel => palette.gravel,
            Surface::Ground => mix(palette.soil, [120.0, 92.0, 66.0], 0.25),
        };
        self.varied(colour, 0.05)
    }

    /// Width of a road of this `highway` value, scene units.
    pub fn road_width(&self, value: &str) -> f32 {
        let nominal = match value {
            "motorway" => 22.0,
            "primary" => 11.0,
            "secondary" | "tertiary" => 8.5,
            "residential" | "unclassified" => 6.5,
            "service" | "living_street" => 4.5,
            "track" => 4.0,
            "cycleway" => 3.0,
            _ => 2.0,
        };
        nominal * self.country.road_scale
    }

    /// A road along `line`. `value` is the tag of `highway`.
    pub fn road(&mut self, value: &str, line: Vec<Point>) -> Object {
        if value == "track" {
            return self.track_road(line);
        }
        let surface = match value {
            "service" => {
                self.dice.weighted(&[(3.0, Surface::Asphalt), (1.0, Surface::Concrete), (1.0, Surface::Gravel)])
            }
            "residential" | "living_street" => {
                self.dice.weighted(&[(4.0, Surface::Asphalt), (1.0, Surface::PavingStones)])
            }
            "path" | "footway" => self.dice.weighted(&[(2.0, Surface::Gravel), (1.0, Surface::Ground)]),
            _ => Surface::Asphalt,
        };
        let width = self.road_width(value);
        let colour = self.surface_colour(surface);
        let texture = Texture::plain(colour);
        let marking = Texture::plain(self.country.palette.marking);
        let mut brushes = Vec::new();
        // Kerbs and pavements in towns, a mown verge outside.
        let edge = match value {
            "residential" | "living_street" if self.country.index > 0 => {
                Some((width + 5.0, lit(self.country.palette.pavement, 1.05)))
            }
            "motorway" | "primary" | "secondary" | "tertiary" => {
                Some((width + 4.0, mix(self.country.palette.lawn, self.country.palette.gravel, 0.45)))
            }
            _ => None,
        };
        if let Some((width, colour)) = edge {
            brushes.push(Brush::stroke(Layer::Road, line.clone(), width, Texture::plain(colour)));
        }
        brushes.push(Brush::stroke(Layer::Road, line.clone(), width, texture));
        let mut lanes = None;
        match value {
            "motorway" => {
                let green = Texture::natural(self.country.palette.lawn);
                brushes.push(Brush::stroke(Layer::Marking, line.clone(), width * 0.14, green));
                for side in [-1.0, 1.0] {
                    brushes.push(Brush::dashed(
                        Layer::Marking,
                        offset(&line, side * width * 0.28),
                        0.6,
                        (4.0, 4.0),
                        marking,
                    ));
                    brushes.push(Brush::stroke(Layer::Marking, offset(&line, side * width * 0.48), 0.5, marking));
                    brushes.push(Brush::stroke(Layer::Marking, offset(&line, side * width * 0.1), 0.5, marking));
                }
                lanes = Some("4");
            }
            "primary" | "secondary" | "tertiary" => {
                brushes.push(Brush::dashed(Layer::Marking, line.clone(), 0.7, (4.0, 3.0), marking));
                if value == "primary" {
                    for side in [-0.44, 0.44] {
                        brushes.push(Brush::stroke(Layer::Marking, offset(&line, side * width), 0.5, marking));
                    }
                    lanes = Some("2");
                }
            }
            _ => {}
        }
        brushes.extend(self.traffic(&line, width, value));
        let mut tags = tags(&[("highway", value)]);
        if self.dice.chance(0.65) || surface != Surface::Asphalt {
            tags.insert("surface".into(), surface.tag().into());
        }
        if let Some(lanes) = lanes
            && self.dice.chance(0.6)
        {
            tags.insert("lanes".into(), lanes.into());
        }
        self.road_words(&mut tags, value);
        Object { tags, shape: Shape::Way { line, width }, brushes }
    }

    fn road_words(&mut self, tags: &mut Tags, value: &str) {
        let words = &self.country.words;
        if matches!(value, "residential" | "living_street") && self.dice.chance(0.8) {
            tags.insert("name".into(), self.dice.choose(words.streets).into());
            tags.insert("maxspeed".into(), self.dice.choose(&["30", "40", "50"]).into());
        }
        if matches!(value, "motorway" | "primary" | "secondary" | "tertiary") {
            let number = self.dice.whole(1, 340);
            let prefix = match (self.country.index, value) {
                (0, _) => "",
                (1, "motorway") => "A ",
                (1, _) => "B ",
                (_, "motorway") => "AP-",
                _ => "N-",
            };
            tags.insert("ref".into(), format!("{prefix}{number}"));
        }
    }

    /// A field track: two ruts with a green or bare strip between.
    fn track_road(&mut self, line: Vec<Point>) -> Object {
        let width = self.road_width("track");
        let grade = self.dice.whole(1, 5);
        let surface = match grade {
            1 => Surface::Asphalt,
            2 => Surface::Gravel,
            _ => Surface::Ground,
        };
        let colour = self.surface_colour(surface);
        let mut brushes = Vec::new();
        if grade <= 2 {
            brushes.push(Brush::stroke(Layer::Road, line.clone(), width * 0.85, Texture::natural(colour)));
        } else {
            for side in [-0.32, 0.32] {
                brushes.push(Brush::stroke(Layer::Road, offset(&line, side * width), 1.3, Texture::natural(colour)));
            }
        }
        let mut tags = tags(&[("highway", "track")]);
        if self.dice.chance(0.8) {
            tags.insert("tracktype".into(), format!("grade{grade}"));
        }
        if self.dice.chance(0.6) {
            tags.insert("surface".into(), surface.tag().into());
        }
        Object { tags, shape: Shape::Way { line, width }, brushes }
    }

    /// A zebra crossing over a road of `width` at `frame` (turned along the road).
    pub fn zebra(&mut self, frame: Frame, width: f32) -> Object {
        let white = Texture::plain([244.0, 244.0, 240.0]);
        let bars = (width / 1.7) as i32;
        let brushes = (0..bars)
            .map(|bar| {
                let v = (bar as f32 + 0.5) / bars as f32 * width - width / 2.0;
                Brush::fill(Layer::Marking, frame.inner(0.0, v, 0.0).rectangle(6.0, 0.95), white)
            })
            .collect();
        let mut tags = tags(&[("highway", "crossing")]);
        let value = if self.dice.chance(0.7) { "zebra" } else { "uncontrolled" };
        tags.insert("crossing".into(), value.into());
        Object::node(tags, frame.origin, brushes)
    }

    /// A roundabout: a ring with a planted island. Its arms are roads of their own.
    pub fn roundabout(&mut self, frame: Frame, radius: f32, value: &str) -> Object {
        let width = self.road_width(value).max(7.0);
        let mut ring = frame.ellipse(radius, radius);
        ring.extend(ring.first().copied());
        let asphalt = Texture::plain(self.surface_colour(Surface::Asphalt));
        let white = Texture::plain(self.country.palette.marking);
        let kerb = Texture::plain(lit(self.country.palette.pavement, 1.08));
        let green = Texture::natural(lit(self.country.palette.lawn, 1.05));
        let island = radius - width / 2.0;
        let mut brushes = vec![
            Brush::fill(Layer::Marking, frame.ellipse(radius + width / 2.0, radius + width / 2.0), asphalt),
            Brush::dashed(Layer::Marking, ring.clone(), 0.5, (2.5, 2.5), white),
            Brush::fill(Layer::Marking, frame.ellipse(island, island), kerb),
            Brush::fill(Layer::Marking, frame.ellipse(island - 1.2, island - 1.2), green),
        ];
        if self.dice.chance(0.7) {
            brushes.push(self.crown(frame.origin, false, 1.0));
        }
        let tags = tags(&[("highway", value), ("junction", "roundabout"), ("oneway", "yes")]);
        Object { tags, shape: Shape::Way { line: ring, width }, brushes }
    }
}
