//! What a box shows, by the places that are written down.

use super::Position;

/// A place as it is written: seven digits.
pub fn rounded((lon, lat): Position) -> Position {
    ((lon * 1e7).round() / 1e7, (lat * 1e7).round() / 1e7)
}

/// The box of a tile.
pub struct Frame {
    /// West, south, east, north, degrees.
    bounds: [f64; 4],
}

impl Frame {
    pub fn of([west, south, east, north]: [f64; 4]) -> Frame {
        let ((west, south), (east, north)) = (rounded((west, south)), rounded((east, north)));
        Frame { bounds: [west, south, east, north] }
    }

    /// Whether a line of places, or what it encloses, reaches into the box.
    pub fn meets(&self, places: &[Position], is_area: bool) -> bool {
        let [west, south, east, north] = self.bounds;
        let holds = |(lon, lat): &Position| (west..=east).contains(lon) && (south..=north).contains(lat);
        let crosses = places.windows(2).any(|pair| self.crosses(pair[0], pair[1]));
        places.iter().any(holds) || crosses || (is_area && encloses(places, (west, south)))
    }

    /// Whether a segment crosses the box: what is left of it after each side has cut it.
    fn crosses(&self, a: Position, b: Position) -> bool {
        let [west, south, east, north] = self.bounds;
        let (mut from, mut to) = (0.0f64, 1.0f64);
        for (start, step, low, high) in [(a.0, b.0 - a.0, west, east), (a.1, b.1 - a.1, south, north)] {
            if step == 0.0 {
                if start < low || start > high {
                    return false;
                }
                continue;
            }
            let (one, other) = ((low - start) / step, (high - start) / step);
            from = from.max(one.min(other));
            to = to.min(one.max(other));
        }
        from <= to
    }

    /// From the middle of the places' own box to that of this one.
    pub fn distance(&self, places: &[Position]) -> f64 {
        let [west, south, east, north] = self.bounds;
        let middle = |of: fn(&Position) -> f64| {
            let (low, high) = places.iter().map(of).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
            (low + high) / 2.0
        };
        let (lon, lat) = ((west + east) / 2.0, (south + north) / 2.0);
        ((middle(|place| place.0) - lon) * lat.to_radians().cos()).hypot(middle(|place| place.1) - lat)
    }
}

fn encloses(ring: &[Position], (lon, lat): Position) -> bool {
    let crossed = ring.windows(2).filter(|pair| {
        let (a, b) = (pair[0], pair[1]);
        (a.1 > lat) != (b.1 > lat) && lon < (b.0 - a.0) * (lat - a.1) / (b.1 - a.1) + a.0
    });
    crossed.count() % 2 == 1
}
