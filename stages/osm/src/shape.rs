//! Geometry in whole numbers: nothing is rounded, so that two programs come to the same end.

use crate::element::Place;

/// A box along the axes, its edges included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    /// West, south corner.
    pub low: Place,
    /// East, north corner.
    pub high: Place,
}

impl Rect {
    /// The smallest box around places; `None` of none.
    pub fn around(places: impl IntoIterator<Item = Place>) -> Option<Rect> {
        places.into_iter().fold(None, |rect: Option<Rect>, place| {
            Some(match rect {
                None => Rect { low: place, high: place },
                Some(rect) => rect.with(Rect { low: place, high: place }),
            })
        })
    }

    /// The smallest box around both.
    pub fn with(self, other: Rect) -> Rect {
        Rect {
            low: Place { lon: self.low.lon.min(other.low.lon), lat: self.low.lat.min(other.low.lat) },
            high: Place { lon: self.high.lon.max(other.high.lon), lat: self.high.lat.max(other.high.lat) },
        }
    }

    /// Whether a place lies in it.
    pub fn holds(self, place: Place) -> bool {
        self.meets(Rect { low: place, high: place })
    }

    /// Whether the two share a place.
    pub fn meets(self, other: Rect) -> bool {
        self.low.lon <= other.high.lon
            && other.low.lon <= self.high.lon
            && self.low.lat <= other.high.lat
            && other.low.lat <= self.high.lat
    }

    /// Larger by so much on every side, as far as there are degrees.
    pub fn grown(self, lon: i32, lat: i32) -> Rect {
        Rect {
            low: Place { lon: self.low.lon.saturating_sub(lon), lat: self.low.lat.saturating_sub(lat) },
            high: Place { lon: self.high.lon.saturating_add(lon), lat: self.high.lat.saturating_add(lat) },
        }
    }

    fn corners(self) -> [Place; 4] {
        let (low, high) = (self.low, self.high);
        [low, Place { lon: high.lon, lat: low.lat }, high, Place { lon: low.lon, lat: high.lat }]
    }
}

/// On which side of the line from `a` to `b` a place lies: positive to the left, 0 on it.
fn side(a: Place, b: Place, place: Place) -> i128 {
    let wide = |value: i32, from: i32| i128::from(value) - i128::from(from);
    wide(b.lon, a.lon) * wide(place.lat, a.lat) - wide(b.lat, a.lat) * wide(place.lon, a.lon)
}

/// Whether a segment and a box share a place: neither an axis nor the segment's own line parts them.
pub fn segment_meets(a: Place, b: Place, rect: Rect) -> bool {
    let around = Rect { low: a, high: a }.with(Rect { low: b, high: b });
    if !around.meets(rect) {
        return false;
    }
    let sides = rect.corners().map(|corner| side(a, b, corner));
    !(sides.iter().all(|side| *side > 0) || sides.iter().all(|side| *side < 0))
}

/// Where an object lies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// Lines, or the borders of an area; a line of one place is a point.
    pub lines: Vec<Vec<Place>>,
    /// Whether what the lines enclose belongs to it: what a ray from outside reaches after an odd number of borders.
    pub is_area: bool,
}

impl Shape {
    /// A single place.
    pub fn point(place: Place) -> Shape {
        Shape { lines: vec![vec![place]], is_area: false }
    }

    /// The smallest box around it; `None`: nothing is known of where it lies.
    pub fn bounds(&self) -> Option<Rect> {
        Rect::around(self.lines.iter().flatten().copied())
    }

    /// Whether the object and a box share a place.
    pub fn meets(&self, rect: Rect) -> bool {
        if !self.bounds().is_some_and(|bounds| bounds.meets(rect)) {
            return false;
        }
        let meets = |line: &Vec<Place>| match line.as_slice() {
            [only] => rect.holds(*only),
            line => line.array_windows().any(|[a, b]| segment_meets(*a, *b, rect)),
        };
        // if no border runs through the box, all of it is inside or outside
        self.lines.iter().any(meets) || (self.is_area && self.encloses(rect.low))
    }

    /// Whether a place lies within the borders, by the even-odd rule.
    fn encloses(&self, place: Place) -> bool {
        let segments = self.lines.iter().flat_map(|line| line.array_windows());
        let crossed = segments.filter(|[a, b]| {
            // half open, so that a corner of the border counts once
            let upward = a.lat <= place.lat && place.lat < b.lat;
            let downward = b.lat <= place.lat && place.lat < a.lat;
            (upward && side(*a, *b, place) > 0) || (downward && side(*a, *b, place) < 0)
        });
        crossed.count() % 2 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(lon: i32, lat: i32) -> Place {
        Place { lon, lat }
    }

    fn rect(a: Place, b: Place) -> Rect {
        Rect { low: a, high: a }.with(Rect { low: b, high: b })
    }

    fn ring(places: &[(i32, i32)]) -> Vec<Place> {
        places.iter().chain(&places[..1]).map(|(lon, lat)| at(*lon, *lat)).collect()
    }

    #[test]
    fn areas_cover_boxes_and_holes_leave_them_free() {
        let outer = ring(&[(0, 0), (100, 0), (100, 100), (0, 100)]);
        let hole = ring(&[(40, 40), (60, 40), (60, 60), (40, 60)]);
        let island = ring(&[(48, 48), (52, 48), (52, 52), (48, 52)]);
        let area = |lines: &[&Vec<Place>]| Shape { lines: lines.iter().map(|l| (*l).clone()).collect(), is_area: true };
        let middle = rect(at(49, 49), at(51, 51));
        assert!(area(&[&outer]).meets(middle), "an area covers the box without touching its edges");
        assert!(!area(&[&outer, &hole]).meets(middle), "the box lies in the hole");
        assert!(area(&[&outer, &hole, &island]).meets(middle), "and on an island in it");
        assert!(area(&[&outer, &hole]).meets(rect(at(59, 50), at(61, 51))), "the hole's edge");
        assert!(!Shape { is_area: false, ..area(&[&outer]) }.meets(middle), "a line covers nothing");
        assert!(area(&[&outer]).meets(rect(at(100, 100), at(200, 200))), "corners touch");
        assert!(!area(&[&outer]).meets(rect(at(101, 100), at(200, 200))));
    }

    #[test]
    fn numbers_of_the_whole_globe_do_not_overflow() {
        let (low, high) = (at(-1_800_000_000, -900_000_000), at(1_800_000_000, 900_000_000));
        assert!(segment_meets(low, high, rect(at(-1, -1), at(1, 1))));
        assert!(!segment_meets(low, high, rect(at(10, -10), at(11, -9))));
        assert!(rect(low, high).grown(i32::MAX, i32::MAX).holds(at(0, 0)));
    }

    /// Whether one of very many points of the segment lies in the box: slow, and nearly right.
    fn sampled(a: Place, b: Place, rect: Rect, slack: f64) -> bool {
        (0..=4000).any(|step| {
            let share = f64::from(step) / 4000.0;
            let on = |a: i32, b: i32| f64::from(a) + (f64::from(b) - f64::from(a)) * share;
            let (x, y) = (on(a.lon, b.lon), on(a.lat, b.lat));
            x >= f64::from(rect.low.lon) - slack
                && x <= f64::from(rect.high.lon) + slack
                && y >= f64::from(rect.low.lat) - slack
                && y <= f64::from(rect.high.lat) + slack
        })
    }

    prop_compose! {
        fn place(within: i32)(lon in -within..within, lat in -within..within) -> Place { at(lon, lat) }
    }

    proptest! {
        #[test]
        fn segments_meet_boxes_where_their_points_lie_in_them(
            a in place(500), b in place(500), c in place(500), d in place(500),
        ) {
            let rect = rect(c, d);
            if sampled(a, b, rect, 0.0) {
                prop_assert!(segment_meets(a, b, rect));
            }
            if segment_meets(a, b, rect) {
                prop_assert!(sampled(a, b, rect, 1.0));
            }
            prop_assert_eq!(segment_meets(a, b, rect), segment_meets(b, a, rect));
        }

        #[test]
        fn an_area_is_where_a_triangle_says(a in place(90), b in place(90), c in place(90), p in place(90)) {
            let shape = Shape { lines: vec![vec![a, b, c, a]], is_area: true };
            let sides = [side(a, b, p), side(b, c, p), side(c, a, p)];
            let inside = sides.iter().all(|s| *s >= 0) || sides.iter().all(|s| *s <= 0);
            let flat = side(a, b, c) == 0;
            if !flat {
                prop_assert_eq!(shape.meets(rect(p, p)), inside);
            }
        }

        #[test]
        fn where_a_shape_lies_and_how_it_is_turned_changes_nothing(
            places in proptest::collection::vec(place(200), 3..9), c in place(200), d in place(200), by in place(1000),
        ) {
            let closed = |places: &[Place]| Shape { lines: vec![[places, &places[..1]].concat()], is_area: true };
            let moved = |p: Place| at(p.lon + by.lon, p.lat + by.lat);
            let turned: Vec<Place> = places.iter().rev().copied().collect();
            let far: Vec<Place> = places.iter().map(|p| moved(*p)).collect();
            let box_ = rect(c, d);
            let meets = closed(&places).meets(box_);
            prop_assert_eq!(closed(&turned).meets(box_), meets);
            prop_assert_eq!(closed(&far).meets(rect(moved(c), moved(d))), meets);
            // a larger box is never met less
            prop_assert!(!meets || closed(&places).meets(box_.grown(3, 3)));
        }
    }
}
