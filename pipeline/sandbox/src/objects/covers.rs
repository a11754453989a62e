//! Land cover: what fills whole parcels.

use std::f32::consts::FRAC_PI_2;

use super::Maker;
use crate::geometry::{Frame, Point, at, blob, bounds, contains};
use crate::scene::{Brush, Colour, Layer, Object, Rows, Tags, Texture, lit, mix, tags};

/// Kinds of land cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover {
    Lawn,
    Meadow,
    Farmland,
    Wood,
    Orchard,
    Vineyard,
    Scrub,
    Wetland,
    Paved,
}

impl Maker {
    /// A parcel of land under `cover`; `angle` is the direction of rows and furrows.
    pub fn parcel(&mut self, cover: Cover, outline: Vec<Point>, angle: f32) -> Object {
        let palette = &self.country.palette;
        match cover {
            Cover::Lawn => {
                let colour = self.varied(palette.lawn, 0.08);
                let tags = if self.dice.chance(0.4) { tags(&[("landuse", "grass")]) } else { Tags::new() };
                self.plain_parcel(tags, outline, colour)
            }
            Cover::Meadow => self.meadow(outline, angle),
            Cover::Farmland => self.farmland(outline, angle),
            Cover::Wood => self.wood(outline),
            Cover::Orchard => self.orchard(outline, angle),
            Cover::Vineyard => self.vineyard(outline, angle),
            Cover::Scrub => self.scrub(outline),
            Cover::Wetland => self.wetland(outline),
            Cover::Paved => {
                let colour = self.varied(palette.pavement, 0.06);
                let brushes = vec![Brush::fill(
                    Layer::Cover,
                    outline.clone(),
                    Texture { mottle: 0.07, drift: 0.06, ..Texture::plain(colour) },
                )];
                Object::area(Tags::new(), outline, brushes)
            }
        }
    }

    fn plain_parcel(&mut self, tags: Tags, outline: Vec<Point>, colour: Colour) -> Object {
        let brushes = vec![Brush::fill(Layer::Cover, outline.clone(), Texture::natural(colour))];
        Object::area(tags, outline, brushes)
    }

    fn meadow(&mut self, outline: Vec<Point>, angle: f32) -> Object {
        let colour = self.varied(self.country.palette.meadow, 0.08);
        let mut texture = Texture { mottle: 0.16, drift: 0.16, ..Texture::natural(colour) };
        if self.dice.chance(0.4) {
            texture = texture.with_rows(Rows {
                colour: lit(colour, 0.92),
                angle: angle + FRAC_PI_2,
                period: 7.0,
                share: 0.5,
                wander: 0.8,
            });
        }
        let brushes = vec![Brush::fill(Layer::Cover, outline.clone(), texture)];
        Object::area(tags(&[("landuse", "meadow")]), outline, brushes)
    }

    fn farmland(&mut self, outline: Vec<Point>, angle: f32) -> Object {
        let (crop, between, furrow) = self.dice.weighted(self.country.palette.crops);
        let between = self.varied(between, 0.07);
        let texture = Texture { mottle: 0.06, ..Texture::natural(between) }.with_rows(Rows {
            colour: mix(between, furrow, 1.6),
            angle: angle + FRAC_PI_2,
            period: 3.2,
            share: 0.42,
            wander: 0.5,
        });
        let tramline = Texture::natural(lit(furrow, 0.84));
        let mut brushes = vec![Brush::fill(Layer::Cover, outline.clone(), texture)];
        if let Some((low, high)) = bounds(&outline) {
            // Wheel tracks of the sprayer, every few metres, cut to the parcel by sampling.
            let middle = (low + high) * 0.5;
            let frame = Frame::new(middle, angle);
            let reach = (high - low).length() / 2.0;
            let mut v = -reach + self.dice.range(4.0, 14.0);
            while v < reach {
                for shift in [-0.9, 0.9] {
                    let inside: Vec<Point> = (0..60)
                        .map(|step| frame.at(reach * (step as f32 / 29.5 - 1.0), v + shift))
                        .filter(|&point| contains(&outline, point))
                        .collect();
                    if inside.len() > 1 {
                        brushes.push(Brush::stroke(Layer::Cover, inside, 0.5, tramline.with_opacity(0.5)));
                    }
                }
                v += 17.0;
            }
        }
        let mut tags = tags(&[("landuse", "farmland")]);
        if self.dice.chance(0.75) {
            tags.insert("crop".into(), crop.into());
        }
        Object::area(tags, outline, brushes)
    }

    /// Plants on a jittered grid over the outline.
    fn planted(&mut self, outline: &[Point], angle: f32, spacing: (f32, f32), jitter: f32) -> Vec<Point> {
        let Some((low, high)) = bounds(outline) else {
            return Vec::new();
        };
        let frame = Frame::new((low + high) * 0.5, angle);
        let reach = (high - low).length() / 2.0;
        let (columns, rows) = ((reach / spacing.0) as i32, (reach / spacing.1) as i32);
        let mut places = Vec::new();
        for row in -rows..=rows {
            for column in -columns..=columns {
                let place = frame.at(
                    column as f32 * spacing.0 + self.dice.range(-jitter, jitter),
                    row as f32 * spacing.1 + self.dice.range(-jitter, jitter),
                );
                if contains(outline, place) {
                    places.push(place);
                }
            }
        }
        places
    }

    fn wood(&mut self, outline: Vec<Point>) -> Object {
        let palette = &self.country.palette;
        let conifer = self.dice.chance(self.country.conifer_share);
        let mixed = self.dice.chance(0.2);
        let spacing = if conifer && !mixed { 3.5 } else { 4.2 };
        let floor = Brush::fill(Layer::Cover, outline.clone(), Texture::natural(palette.forest_floor));
        let mut brushes = vec![floor];
        for place in self.planted(&outline, 0.3, (spacing, spacing), spacing * 0.45) {
            let needles = if mixed { self.dice.chance(0.5) } else { conifer };
            let open = self.country.index == 2 && self.dice.chance(0.35);
            if !open {
                brushes.push(self.crown(place, needles, 1.05));
            }
        }
        let leaf_type = match (mixed, conifer) {
            (true, _) => "mixed",
            (false, true) => "needleleaved",
            (false, false) => "broadleaved",
        };
        let mut tags = if self.dice.chance([0.3, 0.7, 0.4][self.country.index]) {
            tags(&[("landuse", "forest")])
        } else {
            tags(&[("natural", "wood")])
        };
        if self.dice.chance(0.8) {
            tags.insert("leaf_type".into(), leaf_type.into());
        }
        self.annotate(&mut tags, true);
        Object::area(tags, outline, brushes)
    }

    fn orchard(&mut self, outline: Vec<Point>, angle: f32) -> Object {
        let palette = &self.country.palette;
        let kinds: &[(f32, (&str, Colour))] = if self.country.index == 2 {
            &[
                (3.0, ("olive_trees", [112.0, 122.0, 86.0])),
                (1.0, ("almond_trees", [122.0, 134.0, 80.0])),
                (1.0, ("peach_trees", [84.0, 122.0, 58.0])),
            ]
        } else {
            &[(2.0, ("apple_trees", [74.0, 118.0, 54.0])), (1.0, ("cherry_trees", [88.0, 128.0, 60.0]))]
        };
        let (trees, colour) = self.dice.weighted(kinds);
        let ground = if self.country.index == 2 { palette.soil } else { palette.lawn };
        let ground = self.varied(ground, 0.08);
        let mut brushes =
            vec![Brush::fill(Layer::Cover, outline.clone(), Texture { drift: 0.08, ..Texture::natural(ground) })];
        let spacing = if trees == "olive_trees" { (7.5, 7.5) } else { (4.6, 6.4) };
        let radius = if trees == "olive_trees" { 2.2 } else { 1.7 };
        for centre in self.planted(&outline, angle, spacing, 0.35) {
            if self.dice.chance(0.96) {
                brushes.push(Brush::Crown {
                    centre,
                    radius: radius * self.dice.range(0.85, 1.15),
                    colour: self.varied(colour, 0.1),
                });
            }
        }
        let mut tags = tags(&[("landuse", "orchard")]);
        if self.dice.chance(0.85) {
            tags.insert("trees".into(), trees.into());
        }
        Object::area(tags, outline, brushes)
    }

    fn vineyard(&mut self, outline: Vec<Point>, angle: f32) -> Object {
        let soil = self.varied(mix(self.country.palette.soil, self.country.palette.lawn, 0.15), 0.08);
        let vines = self.varied([86.0, 116.0, 52.0], 0.1);
        let texture = Texture::natural(soil).with_rows(Rows {
            colour: vines,
            angle: angle + FRAC_PI_2,
            period: 4.2,
            share: 0.42,
            wander: 0.25,
        });
        let brushes = vec![Brush::fill(Layer::Cover, outline.clone(), texture)];
        let mut tags = tags(&[("landuse", "vineyard")]);
        if self.dice.chance(0.6) {
            tags.insert("crop".into(), "grape".into());
        }
        Object::area(tags, outline, brushes)
    }

    fn scrub(&mut self, outline: Vec<Point>) -> Object {
        let palette = &self.country.palette;
        let ground = self.varied(mix(palette.soil, palette.meadow, 0.4), 0.08);
        let mut brushes = vec![Brush::fill(Layer::Cover, outline.clone(), Texture::natural(ground))];
        for centre in self.planted(&outline, 0.7, (5.5, 5.5), 2.6) {
            if self.dice.chance(0.7) {
                let colour = mix(palette.broadleaved, palette.soil, 0.2);
                brushes.push(Brush::Crown {
                    centre,
                    radius: self.dice.range(0.6, 1.7),
                    colour: self.varied(colour, 0.15),
                });
            }
        }
        Object::area(tags(&[("natural", "scrub")]), outline, brushes)
    }

    /// A bog: rusty ground with dark pools.
    fn wetland(&mut self, outline: Vec<Point>) -> Object {
        let ground = self.varied([138.0, 118.0, 78.0], 0.08);
        let mut brushes = vec![Brush::fill(
            Layer::Cover,
            outline.clone(),
            Texture { mottle: 0.22, drift: 0.2, ..Texture::natural(ground) },
        )];
        for place in self.planted(&outline, 0.4, (14.0, 9.0), 4.0) {
            let size = self.dice.range(2.0, 5.5);
            let pool = blob(&mut self.dice, Frame::new(place, 0.4), size, size * 0.4, 0.5);
            brushes.push(Brush::fill(Layer::Cover, pool, Texture::plain(lit(self.country.palette.water, 0.9))));
            if self.dice.chance(0.5) {
                let tree = place + at(self.dice.range(-6.0, 6.0), self.dice.range(3.0, 6.0));
                brushes.push(self.crown(tree, true, 0.6));
            }
        }
        Object::area(tags(&[("natural", "wetland"), ("wetland", "bog")]), outline, brushes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::country::all;
    use crate::dice::Dice;

    /// The pools of a bog once lay above the parcels that were laid over it.
    #[test]
    fn a_parcel_draws_on_the_ground_only_so_that_the_next_one_hides_it() {
        for country in all() {
            for cover in [
                Cover::Lawn,
                Cover::Meadow,
                Cover::Farmland,
                Cover::Wood,
                Cover::Orchard,
                Cover::Vineyard,
                Cover::Scrub,
                Cover::Wetland,
                Cover::Paved,
            ] {
                let mut maker = Maker { dice: Dice::new(1, 1), country, winter: false };
                let outline = Frame::new(at(30.0, 30.0), 0.0).rectangle(60.0, 60.0);
                for brush in maker.parcel(cover, outline, 0.2).brushes {
                    let on_ground = match brush {
                        Brush::Fill { layer, .. } | Brush::Stroke { layer, .. } => layer == Layer::Cover,
                        Brush::Crown { .. } => true,
                        Brush::Shadow { .. } | Brush::ShadowLine { .. } => false,
                    };
                    assert!(on_ground, "{cover:?} in {}", country.name);
                }
            }
        }
    }
}
