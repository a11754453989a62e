//! Composing a scene: where things may stand, and the filling around a focus object.

mod neighbours;
mod occupancy;
mod plots;

use std::f32::consts::FRAC_PI_2;

use crate::country::Country;
use crate::dice::Dice;
use crate::geometry::{Frame, Point, at, contains, half_plane};
use crate::objects::{Cover, Maker};
use crate::scene::{Brush, Object, Scene, Shape, Tags};

pub use neighbours::Setting;
use occupancy::Occupancy;

/// Builds one scene.
pub struct Composer {
    pub maker: Maker,
    pub width: f32,
    pub height: f32,
    /// The main direction of streets and parcels, radians.
    pub angle: f32,
    objects: Vec<Object>,
    focus: usize,
    occupancy: Occupancy,
}

impl Composer {
    /// An empty scene of `width` x `height` scene units.
    pub fn new(country: &'static Country, mut dice: Dice, width: f32, height: f32, winter: bool) -> Composer {
        let angle = dice.range(-FRAC_PI_2, FRAC_PI_2);
        Composer {
            maker: Maker { dice, country, winter },
            width,
            height,
            angle,
            objects: Vec::new(),
            focus: 0,
            occupancy: Occupancy::new(width, height),
        }
    }

    pub fn country(&self) -> &'static Country {
        self.maker.country
    }

    pub fn dice(&mut self) -> &mut Dice {
        &mut self.maker.dice
    }

    /// The middle of the tile, turned along the main direction.
    pub fn middle(&self) -> Frame {
        Frame::new(at(self.width / 2.0, self.height / 2.0), self.angle)
    }

    /// Far enough from the middle to lie outside the tile in every direction.
    pub fn reach(&self) -> f32 {
        (self.width.powi(2) + self.height.powi(2)).sqrt() / 2.0 + 6.0
    }

    /// The outline of the tile.
    pub fn everywhere(&self) -> Vec<Point> {
        vec![at(0.0, 0.0), at(self.width, 0.0), at(self.width, self.height), at(0.0, self.height)]
    }

    /// Finishes the scene. A scene without any object gets none invented: its focus index is 0.
    pub fn finish(self) -> Scene {
        let country = self.country();
        let shadow = Point::from_angle(country.shadow_degrees.to_radians()) * country.shadow_length;
        Scene { width: self.width, objects: self.objects, focus: self.focus, winter: self.maker.winter, shadow }
    }

    /// Adds land cover: takes no place from what stands on it.
    pub fn lay(&mut self, object: Object) {
        self.objects.push(object);
    }

    /// Adds an object and marks its place as taken.
    /// Trees of a wood that it stands in are felled first.
    pub fn add(&mut self, object: Object) {
        if let Shape::Area(outline) = &object.shape {
            let edge: Vec<Point> = outline.iter().chain(outline.first()).copied().collect();
            self.clear_crowns(&edge, 5.0);
            self.fell(|centre| contains(outline, centre));
        }
        self.mark(&object.shape);
        self.objects.push(object);
    }

    fn fell(&mut self, stands_there: impl Fn(Point) -> bool) {
        for object in &mut self.objects {
            object.brushes.retain(|brush| match brush {
                Brush::Crown { centre, .. } => !stands_there(*centre),
                _ => true,
            });
        }
    }

    /// Adds the focus object.
    pub fn add_focus(&mut self, object: Object) {
        self.focus = self.objects.len();
        self.add(object);
    }

    /// Adds the focus object as land cover.
    pub fn lay_focus(&mut self, object: Object) {
        self.focus = self.objects.len();
        self.lay(object);
    }

    /// Marks a place as taken.
    pub fn mark(&mut self, shape: &Shape) {
        self.occupancy.mark(shape);
    }

    /// Whether nothing stands within `radius` of a point.
    pub fn free(&self, centre: Point, radius: f32) -> bool {
        self.occupancy.free(centre, radius)
    }

    /// A free place for something of this radius that shows at least its middle.
    pub fn place(&mut self, radius: f32) -> Option<Frame> {
        let margin = (radius * 0.6).min(self.width.min(self.height) * 0.3);
        for _ in 0..30 {
            let (width, height) = (self.width, self.height);
            let x = self.dice().range(margin, width - margin);
            let y = self.dice().range(margin, height - margin);
            if self.free(at(x, y), radius) {
                let quarter = self.dice().whole(0, 3) as f32 * FRAC_PI_2;
                return Some(Frame::new(at(x, y), self.angle + quarter));
            }
        }
        None
    }

    /// Covers the whole tile.
    pub fn base(&mut self, cover: Cover) {
        let (outline, angle) = (self.everywhere(), self.angle);
        let object = self.maker.parcel(cover, outline, angle);
        self.lay(object);
    }

    /// Covers the land beyond a line at `distance` from the middle, on a random side along the
    /// main direction; returns the line.
    pub fn beyond(&mut self, cover: Cover, distance: f32) -> Vec<Point> {
        let side = self.dice().sign();
        let middle = self.middle();
        let normal = Point::from_angle(middle.angle + side * FRAC_PI_2);
        let edge = middle.origin + normal * distance;
        let outline = half_plane(&self.everywhere(), edge, normal);
        if outline.len() > 2 {
            let turn = if self.dice().chance(0.5) { 0.0 } else { FRAC_PI_2 };
            self.fell(|centre| contains(&outline, centre));
            let object = self.maker.parcel(cover, outline, middle.angle + turn);
            self.lay(object);
        }
        let reach = self.reach();
        Frame::new(edge, middle.angle).outline(&[(-reach, 0.0), (reach, 0.0)])
    }

    /// A cover that is common in the open land of the country.
    pub fn open_land(&mut self) -> Cover {
        let weights: [(f32, Cover); 7] = match self.country().index {
            0 => [
                (3.0, Cover::Wood),
                (2.5, Cover::Farmland),
                (1.5, Cover::Meadow),
                (0.0, Cover::Orchard),
                (0.0, Cover::Vineyard),
                (0.3, Cover::Scrub),
                (0.9, Cover::Wetland),
            ],
            1 => [
                (1.6, Cover::Wood),
                (3.5, Cover::Farmland),
                (2.5, Cover::Meadow),
                (0.6, Cover::Orchard),
                (0.2, Cover::Vineyard),
                (0.3, Cover::Scrub),
                (0.0, Cover::Wetland),
            ],
            _ => [
                (0.6, Cover::Wood),
                (2.5, Cover::Farmland),
                (0.6, Cover::Meadow),
                (2.2, Cover::Orchard),
                (1.4, Cover::Vineyard),
                (2.0, Cover::Scrub),
                (0.0, Cover::Wetland),
            ],
        };
        self.dice().weighted(&weights)
    }

    /// A line through `frame`, straight or bent, from edge to edge.
    pub fn line(&mut self, frame: Frame, bend: f32) -> Vec<Point> {
        let reach = self.reach();
        if bend == 0.0 { frame.outline(&[(-reach, 0.0), (reach, 0.0)]) } else { self.maker.winding(frame, reach, bend) }
    }

    /// A straight road past the focus at `distance` from the middle.
    pub fn side_road(&mut self, value: &str, distance: f32) -> Vec<Point> {
        let side = self.dice().sign();
        let turn = if self.dice().chance(0.5) { 0.0 } else { FRAC_PI_2 };
        let frame = Frame::new(self.middle().origin, self.angle + turn).inner(0.0, side * distance, 0.0);
        let line = self.line(frame, 0.0);
        let cleared = self.maker.road_width(value) + 3.0;
        self.clear_crowns(&line, cleared);
        let road = self.maker.road(value, line.clone());
        self.add(road);
        line
    }

    /// A straight road along the main direction at `distance` from the middle; returns its line.
    pub fn side_road_along(&mut self, value: &str, distance: f32) -> Vec<Point> {
        let side = self.dice().sign();
        let frame = self.middle().inner(0.0, side * distance, 0.0);
        let line = self.line(frame, 0.0);
        let width = self.maker.road_width(value);
        self.clear_crowns(&line, width + 3.0);
        let road = self.maker.road(value, line.clone());
        self.add(road);
        line
    }

    /// Fells the trees on a strip of `width` along a line, so that what lies there can be seen.
    pub fn clear_crowns(&mut self, line: &[Point], width: f32) {
        self.fell(|point| {
            line.windows(2).any(|pair| {
                let (from, step) = (pair[0], pair[1] - pair[0]);
                let share = ((point - from).dot(step) / step.dot(step).max(1e-9)).clamp(0.0, 1.0);
                (from + step * share - point).length() < width / 2.0
            })
        });
    }

    pub fn inside(&self, point: Point, margin: f32) -> bool {
        (margin..self.width - margin).contains(&point.x) && (margin..self.height - margin).contains(&point.y)
    }

    /// Lone trees on free land; drawn, not mapped.
    pub fn scatter_trees(&mut self, share: f32) {
        let count = (self.country().trees as f32 * share) as u32;
        let mut brushes = Vec::new();
        for _ in 0..count {
            let (width, height) = (self.width, self.height);
            let place = at(self.dice().range(0.0, width), self.dice().range(0.0, height));
            if self.free(place, 2.6) {
                let conifer_share = self.country().conifer_share;
                let conifer = self.dice().chance(conifer_share);
                brushes.push(self.maker.crown(place, conifer, 1.0));
            }
        }
        self.lay(Object::area(Tags::new(), Vec::new(), brushes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::country::all;

    /// Crowns are drawn after all land cover: a wood once grew over the field laid beside it.
    #[test]
    fn a_wood_ends_where_the_next_parcel_begins() {
        let mut composer = Composer::new(all()[1], Dice::new(2, 2), 90.0, 90.0, false);
        composer.base(Cover::Wood);
        composer.beyond(Cover::Farmland, 5.0);
        let scene = composer.finish();
        let Shape::Area(field) = &scene.objects[1].shape else {
            panic!("a parcel is an area");
        };
        let crowns: Vec<Point> = scene.objects[0]
            .brushes
            .iter()
            .filter_map(|brush| match brush {
                Brush::Crown { centre, .. } => Some(*centre),
                _ => None,
            })
            .collect();
        assert!(crowns.len() > 50, "{} trees left", crowns.len());
        assert!(crowns.iter().all(|&centre| !contains(field, centre)));
    }
}
