//! Plane geometry of a scene, in scene units with y pointing down.

use std::f32::consts::TAU;
use std::ops::{Add, Mul, Sub};

use crate::dice::Dice;

/// A point or a vector, in scene units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub x: f32,
    pub y: f32,
}

/// Short form of a [`Point`].
pub const fn at(x: f32, y: f32) -> Point {
    Point { x, y }
}

impl Add for Point {
    type Output = Point;
    fn add(self, other: Point) -> Point {
        at(self.x + other.x, self.y + other.y)
    }
}

impl Sub for Point {
    type Output = Point;
    fn sub(self, other: Point) -> Point {
        at(self.x - other.x, self.y - other.y)
    }
}

impl Mul<f32> for Point {
    type Output = Point;
    fn mul(self, factor: f32) -> Point {
        at(self.x * factor, self.y * factor)
    }
}

impl Point {
    pub fn from_angle(angle: f32) -> Point {
        at(angle.cos(), angle.sin())
    }

    pub fn dot(self, other: Point) -> f32 {
        self.x * other.x + self.y * other.y
    }

    pub fn length(self) -> f32 {
        self.dot(self).sqrt()
    }

    pub fn angle(self) -> f32 {
        self.y.atan2(self.x)
    }
}

/// A local coordinate system: where an object lies and how it is turned (radians).
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    pub origin: Point,
    pub angle: f32,
}

impl Frame {
    pub fn new(origin: Point, angle: f32) -> Frame {
        Frame { origin, angle }
    }

    /// The scene point of local coordinates (u along, v across).
    pub fn at(&self, u: f32, v: f32) -> Point {
        let (sin, cos) = self.angle.sin_cos();
        self.origin + at(u * cos - v * sin, u * sin + v * cos)
    }

    /// A frame at local (u, v), turned by `turn` against this one.
    pub fn inner(&self, u: f32, v: f32, turn: f32) -> Frame {
        Frame::new(self.at(u, v), self.angle + turn)
    }

    /// The outline through local coordinates.
    pub fn outline(&self, corners: &[(f32, f32)]) -> Vec<Point> {
        corners.iter().map(|&(u, v)| self.at(u, v)).collect()
    }

    /// A rectangle around the origin.
    pub fn rectangle(&self, width: f32, depth: f32) -> Vec<Point> {
        let (u, v) = (width / 2.0, depth / 2.0);
        self.outline(&[(-u, -v), (u, -v), (u, v), (-u, v)])
    }

    /// An ellipse around the origin, as a polygon.
    pub fn ellipse(&self, radius_u: f32, radius_v: f32) -> Vec<Point> {
        let steps = 40;
        (0..steps)
            .map(|step| {
                let (sin, cos) = (step as f32 / steps as f32 * TAU).sin_cos();
                self.at(radius_u * cos, radius_v * sin)
            })
            .collect()
    }

    /// A stadium (a rectangle with half-circles at both ends) around the origin.
    pub fn stadium(&self, width: f32, depth: f32) -> Vec<Point> {
        let radius = depth / 2.0;
        let reach = (width / 2.0 - radius).max(0.0);
        let steps = 18;
        let mut outline = Vec::with_capacity(2 * steps + 2);
        for (centre, start) in [(reach, -TAU / 4.0), (-reach, TAU / 4.0)] {
            for step in 0..=steps {
                let (sin, cos) = (start + step as f32 / steps as f32 * TAU / 2.0).sin_cos();
                outline.push(self.at(centre + radius * cos, radius * sin));
            }
        }
        outline
    }
}

/// A smooth closed outline that looks grown rather than built: a circle with a few harmonics.
pub fn blob(dice: &mut Dice, frame: Frame, radius_u: f32, radius_v: f32, roughness: f32) -> Vec<Point> {
    let waves: Vec<(f32, f32)> =
        (2..6).map(|order| (roughness / order as f32 * dice.range(0.4, 1.4), dice.range(0.0, TAU))).collect();
    let steps = 48;
    (0..steps)
        .map(|step| {
            let angle = step as f32 / steps as f32 * TAU;
            let swell: f32 = waves
                .iter()
                .enumerate()
                .map(|(index, (size, phase))| size * ((index + 2) as f32 * angle + phase).sin())
                .sum();
            let (sin, cos) = angle.sin_cos();
            frame.at(radius_u * (1.0 + swell) * cos, radius_v * (1.0 + swell) * sin)
        })
        .collect()
}

/// The Catmull-Rom curve through `knots`, sampled; the end knots are kept.
pub fn curve(knots: &[Point]) -> Vec<Point> {
    let steps = 12;
    let knot = |index: isize| knots[index.clamp(0, knots.len() as isize - 1) as usize];
    let mut line = Vec::with_capacity(knots.len() * steps);
    for index in 0..knots.len() as isize - 1 {
        let [before, from, to, after] = [-1, 0, 1, 2].map(|offset| knot(index + offset));
        for step in 0..steps {
            let t = step as f32 / steps as f32;
            let (t2, t3) = (t * t, t * t * t);
            line.push(
                (from * 2.0
                    + (to - before) * t
                    + (before * 2.0 - from * 5.0 + to * 4.0 - after) * t2
                    + (from * 3.0 - before - to * 3.0 + after) * t3)
                    * 0.5,
            );
        }
    }
    line.extend(knots.last());
    line
}

/// The line parallel to `line` at a signed distance (positive: to the right, as y points down).
pub fn offset(line: &[Point], distance: f32) -> Vec<Point> {
    (0..line.len())
        .map(|index| {
            let before = line[index.saturating_sub(1)];
            let after = line[(index + 1).min(line.len() - 1)];
            let along = after - before;
            let length = along.length().max(1e-6);
            line[index] + at(-along.y, along.x) * (distance / length)
        })
        .collect()
}

/// The length of a polyline.
pub fn length(line: &[Point]) -> f32 {
    line.windows(2).map(|pair| (pair[1] - pair[0]).length()).sum()
}

/// The place at `distance` along a polyline, turned along it; `None` past its end.
pub fn along(line: &[Point], distance: f32) -> Option<Frame> {
    let mut left = distance;
    for pair in line.windows(2) {
        let step = pair[1] - pair[0];
        let size = step.length();
        if left <= size && size > 0.0 {
            return Some(Frame::new(pair[0] + step * (left / size), step.angle()));
        }
        left -= size;
    }
    None
}

/// The part of a convex or plain polygon on the side of `point` that `normal` points to
/// (Sutherland-Hodgman).
pub fn half_plane(polygon: &[Point], point: Point, normal: Point) -> Vec<Point> {
    let side = |p: Point| (p - point).dot(normal);
    let mut kept = Vec::with_capacity(polygon.len() + 2);
    for index in 0..polygon.len() {
        let (from, to) = (polygon[index], polygon[(index + 1) % polygon.len()]);
        let (a, b) = (side(from), side(to));
        if a >= 0.0 {
            kept.push(from);
        }
        if (a >= 0.0) != (b >= 0.0) {
            kept.push(from + (to - from) * (a / (a - b)));
        }
    }
    kept
}

/// Whether a point lies in a polygon (even-odd rule).
pub fn contains(polygon: &[Point], point: Point) -> bool {
    let mut inside = false;
    let mut previous = match polygon.last() {
        Some(&last) => last,
        None => return false,
    };
    for &corner in polygon {
        if (corner.y > point.y) != (previous.y > point.y) {
            let x = previous.x + (point.y - previous.y) / (corner.y - previous.y) * (corner.x - previous.x);
            if point.x < x {
                inside = !inside;
            }
        }
        previous = corner;
    }
    inside
}

/// Twice the signed area; its sign tells the direction of a polygon.
pub fn signed_area(polygon: &[Point]) -> f32 {
    (0..polygon.len())
        .map(|index| {
            let (a, b) = (polygon[index], polygon[(index + 1) % polygon.len()]);
            a.x * b.y - b.x * a.y
        })
        .sum()
}

/// The smallest and the largest corner of a box around points; `None` without points.
pub fn bounds(points: &[Point]) -> Option<(Point, Point)> {
    let first = *points.first()?;
    Some(points.iter().fold((first, first), |(low, high), p| {
        (at(low.x.min(p.x), low.y.min(p.y)), at(high.x.max(p.x), high.y.max(p.y)))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_plane_cuts_a_square_in_two() {
        let square = Frame::new(at(0.0, 0.0), 0.0).rectangle(2.0, 2.0);
        let right = half_plane(&square, at(0.5, 0.0), at(1.0, 0.0));
        assert!((signed_area(&right).abs() / 2.0 - 1.0).abs() < 1e-6);
        assert!(contains(&right, at(0.75, 0.0)) && !contains(&right, at(0.25, 0.0)));
    }

    #[test]
    fn along_walks_the_line_and_ends() {
        let line = [at(0.0, 0.0), at(3.0, 0.0), at(3.0, 4.0)];
        assert_eq!(length(&line), 7.0);
        let place = along(&line, 5.0).map(|frame| frame.origin);
        assert_eq!(place, Some(at(3.0, 2.0)));
        assert!(along(&line, 7.5).is_none());
    }

    #[test]
    fn curve_keeps_its_ends() {
        let knots = [at(0.0, 0.0), at(5.0, 3.0), at(9.0, -2.0)];
        let line = curve(&knots);
        assert_eq!(line.first(), knots.first());
        assert_eq!(line.last(), knots.last());
    }
}
