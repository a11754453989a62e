//! Which images are looked at: place, time, ground resolution, split and tags. Pure.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Mean radius of the earth.
const EARTH_KILOMETRES: f64 = 6371.0088;

/// The images that a search looks at; all of them by default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// Around a place.
    pub near: Option<Near>,
    /// In a rectangle.
    pub within: Option<Rectangle>,
    /// Calendar years of the pictures.
    pub years: Option<RangeInclusive<i32>>,
    /// Ground resolution.
    pub gsd_meters: Option<RangeInclusive<f64>>,
    /// `train`, `val`, `test` or `dropped`.
    pub split: Option<String>,
    /// Every one of them must be among the tags of an object in the picture.
    pub tags: Vec<Tag>,
    /// An image that is left out: the one that others are compared with.
    pub without: Option<String>,
}

/// A circle on the earth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Near {
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
    /// Its radius.
    pub kilometres: f64,
}

/// A rectangle of degrees; `west` is larger than `east` across the date line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rectangle {
    /// Degrees east of its left edge.
    pub west: f64,
    /// Degrees north of its lower edge.
    pub south: f64,
    /// Degrees east of its right edge.
    pub east: f64,
    /// Degrees north of its upper edge.
    pub north: f64,
}

impl Rectangle {
    fn holds(&self, (latitude, longitude): (f64, f64)) -> bool {
        let across = match self.west <= self.east {
            true => (self.west..=self.east).contains(&longitude),
            false => longitude >= self.west || longitude <= self.east,
        };
        across && (self.south..=self.north).contains(&latitude)
    }
}

/// A tag of OpenStreetMap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Such as `leisure`.
    pub key: String,
    /// Such as `pitch`; `None`: any.
    pub value: Option<String>,
}

impl Tag {
    fn is_among(&self, tags: &Tags) -> bool {
        tags.get(&self.key).is_some_and(|value| self.value.as_ref().is_none_or(|wanted| wanted == value))
    }
}

/// Tags of one object.
pub type Tags = BTreeMap<String, String>;

/// What is known of an image.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Facts {
    /// Degrees north and east of the middle of its box.
    pub(super) place: Option<(f64, f64)>,
    pub(super) year: Option<i32>,
    pub(super) gsd_meters: Option<f64>,
    /// Of the object that the picture was taken for, and of those around it.
    pub(super) objects: Vec<Tags>,
}

impl Filter {
    /// Whether tables must be read to know which images are looked at.
    pub(super) fn asks(&self) -> bool {
        self.asks_geotags() || self.split.is_some()
    }

    /// Whether an image's place, time, resolution or tags matter.
    pub(super) fn asks_geotags(&self) -> bool {
        self.near.is_some()
            || self.within.is_some()
            || self.years.is_some()
            || self.gsd_meters.is_some()
            || !self.tags.is_empty()
    }

    /// Whether an image is looked at. What is not known of it is not what is wanted.
    pub(super) fn wants(&self, facts: &Facts) -> bool {
        let near = |near: &Near| {
            facts.place.is_some_and(|place| kilometres(place, (near.latitude, near.longitude)) <= near.kilometres)
        };
        self.near.as_ref().is_none_or(near)
            && self.within.is_none_or(|area| facts.place.is_some_and(|place| area.holds(place)))
            && self.years.as_ref().is_none_or(|years| facts.year.is_some_and(|year| years.contains(&year)))
            && self.gsd_meters.as_ref().is_none_or(|gsd| facts.gsd_meters.is_some_and(|meters| gsd.contains(&meters)))
            && self.tags.iter().all(|tag| facts.objects.iter().any(|object| tag.is_among(object)))
    }
}

/// Distance of two places, each in degrees north and east, along the surface of a sphere.
pub fn kilometres(one: (f64, f64), other: (f64, f64)) -> f64 {
    let (north, east) = ((other.0 - one.0).to_radians(), (other.1 - one.1).to_radians());
    let half = (north / 2.0).sin().powi(2)
        + one.0.to_radians().cos() * other.0.to_radians().cos() * (east / 2.0).sin().powi(2);
    2.0 * EARTH_KILOMETRES * half.clamp(0.0, 1.0).sqrt().asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELSINKI: (f64, f64) = (60.1699, 24.9384);
    const TALLINN: (f64, f64) = (59.4370, 24.7536);

    fn pitch() -> Facts {
        let tags = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Facts {
            place: Some(HELSINKI),
            year: Some(2019),
            gsd_meters: Some(0.6),
            objects: vec![tags(&[("leisure", "pitch"), ("sport", "tennis")]), tags(&[("highway", "service")])],
        }
    }

    fn tag(key: &str, value: Option<&str>) -> Tag {
        Tag { key: key.into(), value: value.map(str::to_owned) }
    }

    #[test]
    fn distances_are_those_of_the_globe() {
        assert!((kilometres(HELSINKI, TALLINN) - 82.2).abs() < 0.5, "{}", kilometres(HELSINKI, TALLINN));
        assert_eq!(kilometres(TALLINN, TALLINN), 0.0);
        // across the date line, and to the other side of the earth
        assert!((kilometres((0.0, 179.5), (0.0, -179.5)) - 111.2).abs() < 0.1);
        assert!((kilometres((0.0, 0.0), (0.0, 180.0)) - 20015.1).abs() < 0.1);
    }

    #[test]
    fn a_rectangle_may_lie_across_the_date_line() {
        let of = |west, east| Rectangle { west, south: -20.0, east, north: -10.0 };
        assert!(of(170.0, -170.0).holds((-15.0, 179.0)) && of(170.0, -170.0).holds((-15.0, -179.0)));
        assert!(!of(170.0, -170.0).holds((-15.0, 0.0)) && of(-170.0, 170.0).holds((-15.0, 0.0)));
        assert!(!of(-170.0, 170.0).holds((-15.0, 179.0)) && !of(-170.0, 170.0).holds((-9.0, 0.0)));
    }

    #[test]
    fn every_condition_can_keep_an_image_out() {
        let near = |kilometres| Near { latitude: TALLINN.0, longitude: TALLINN.1, kilometres };
        let all = Filter {
            near: Some(near(90.0)),
            within: Some(Rectangle { west: 24.0, south: 60.0, east: 25.0, north: 61.0 }),
            years: Some(2018..=2019),
            gsd_meters: Some(0.0..=0.6),
            tags: vec![tag("leisure", Some("pitch")), tag("highway", None)],
            ..Filter::default()
        };
        assert!(Filter::default().wants(&Facts::default()) && !Filter::default().asks_geotags());
        assert!(all.wants(&pitch()) && all.asks_geotags() && !all.wants(&Facts::default()));
        for other in [
            Filter { near: Some(near(80.0)), ..all.clone() },
            Filter { within: Some(Rectangle { west: 24.0, south: 60.2, east: 25.0, north: 61.0 }), ..all.clone() },
            Filter { years: Some(2020..=2021), ..all.clone() },
            Filter { gsd_meters: Some(0.7..=2.0), ..all.clone() },
            Filter { tags: vec![tag("leisure", Some("park"))], ..all.clone() },
            Filter { tags: vec![tag("leisure", None), tag("water", None)], ..all.clone() },
        ] {
            assert!(!other.wants(&pitch()), "{other:?}");
        }
        for unknown in [
            Facts { place: None, ..pitch() },
            Facts { year: None, ..pitch() },
            Facts { gsd_meters: None, ..pitch() },
            Facts { objects: Vec::new(), ..pitch() },
        ] {
            assert!(!all.wants(&unknown), "{unknown:?}");
        }
    }
}
