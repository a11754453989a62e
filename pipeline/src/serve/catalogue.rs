//! Where all images lie, and what there is to filter by: read once for each snapshot.
//!
//! Of more than [`MOST_POINTS`] images a sample is kept, chosen by their ids, so that memory and pages stay bounded and
//! the same images are shown again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atlas::pages::is_askable;
use atlas::{About, Points};
use manifests::digest;
use workers::WorkerError;
use workers::search::{Gallery, Surveyed};

/// Points that a map shows.
const MOST_POINTS: usize = 100_000;
/// Classes of tags that have a colour of their own; one more is for all others.
const CLASSES: usize = 7;
/// Tags that are offered to filter by.
const OFFERED_TAGS: usize = 60;
/// Keys that say what an object is; values of others are names, addresses and sources.
const KINDS: [&str; 24] = [
    "building",
    "leisure",
    "landuse",
    "natural",
    "water",
    "waterway",
    "highway",
    "railway",
    "aeroway",
    "amenity",
    "sport",
    "tourism",
    "man_made",
    "power",
    "shop",
    "industrial",
    "historic",
    "military",
    "place",
    "barrier",
    "crop",
    "parking",
    "surface",
    "public_transport",
];

/// What is known of all images.
pub(super) struct Catalogue {
    pub(super) about: About,
    /// Images of all builds.
    pub(super) total: u64,
    /// Those that have a place.
    pub(super) on_a_map: Arc<Points>,
    /// Names of countries, splits and classes.
    names: Points,
    points: Vec<Point>,
}

struct Point {
    id: String,
    country: u16,
    split: u8,
    class: u8,
    /// Degrees east and north.
    place: Option<[f32; 2]>,
}

/// Of all images, those with the least numbers are in a sample: one of a smaller sample is in all larger ones.
fn hash_of(id: &str) -> u64 {
    // the first eight bytes of the digest, of which each half is as likely
    u64::from_str_radix(&digest::of_bytes(id.as_bytes())[..16], 16).unwrap_or(0)
}

/// Whether an image is among a sample of about `most` of `total`.
pub(super) fn is_sampled(id: &str, most: u64, total: u64) -> bool {
    total <= most || u128::from(hash_of(id)) * u128::from(total) < u128::from(most) << 64
}

/// What kind of object an image shows: a key of OpenStreetMap. Of values there are so many that most would be others.
fn kind(image: &Surveyed) -> Option<String> {
    KINDS.iter().find(|key| image.tags.contains_key(**key)).map(|key| (*key).to_owned())
}

fn place_in(names: &mut Vec<String>, name: &str) -> usize {
    names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    })
}

impl Catalogue {
    pub(super) async fn of(galleries: &[Arc<Gallery>]) -> Result<Self, WorkerError> {
        let mut survey = Survey { most: MOST_POINTS, ..Survey::default() };
        for gallery in galleries {
            survey.countries.push(gallery.country.clone());
            gallery.survey(|image| survey.add(image)).await?;
        }
        Ok(survey.done())
    }

    /// Columns of images at other places, by country and id.
    pub(super) fn at(&self, places: &BTreeMap<(usize, String), [f32; 2]>) -> Points {
        let of = |point: &Point| places.get(&(usize::from(point.country), point.id.clone())).copied();
        self.columns(self.points.iter().filter_map(|point| Some((point, of(point)?))))
    }

    fn columns<'p>(&'p self, points: impl Iterator<Item = (&'p Point, [f32; 2])>) -> Points {
        let mut columns = Points { of: self.total, ..self.names.clone() };
        for (point, [x, y]) in points {
            columns.id.push(point.id.clone());
            columns.country.push(point.country);
            columns.split.push(point.split);
            columns.class.push(point.class);
            columns.x.push(x);
            columns.y.push(y);
        }
        columns
    }
}

/// A catalogue in the making.
#[derive(Default)]
struct Survey {
    /// Points that are kept.
    most: usize,
    images: u64,
    countries: Vec<String>,
    splits: Vec<String>,
    years: Option<(i32, i32)>,
    gsd_meters: Option<(f64, f64)>,
    kinds: BTreeMap<String, u64>,
    /// With their kinds, by hash and number: nobody knows how many images are good before all were seen.
    points: BTreeMap<(u64, u64), (Point, Option<String>)>,
}

impl Survey {
    fn add(&mut self, image: Surveyed) {
        self.images += 1;
        let wider = |range: Option<(f64, f64)>, value: f64| {
            Some(range.map_or((value, value), |(least, most)| (least.min(value), most.max(value))))
        };
        if let Some(year) = image.year {
            self.years = Some(self.years.map_or((year, year), |(from, to)| (from.min(year), to.max(year))));
        }
        if let Some(meters) = image.gsd_meters.filter(|meters| meters.is_finite()) {
            self.gsd_meters = wider(self.gsd_meters, meters);
        }
        for (key, value) in image.tags.iter().filter(|(key, _)| KINDS.contains(&key.as_str())) {
            *self.kinds.entry(format!("{key}={value}")).or_default() += 1;
        }
        let split = place_in(&mut self.splits, image.split.as_deref().unwrap_or_default());
        let (hash, kind) = (hash_of(&image.image_id), kind(&image));
        let point = Point {
            id: image.image_id,
            country: (self.countries.len() - 1) as u16,
            split: split.min(255) as u8,
            class: 0,
            place: image.place.map(|(north, east)| [east as f32, north as f32]),
        };
        self.points.insert((hash, self.images), (point, kind));
        if self.points.len() > self.most {
            self.points.pop_last();
        }
    }

    fn done(self) -> Catalogue {
        let mut by_count: Vec<(&String, &u64)> = self.kinds.iter().collect();
        by_count.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), (*name).clone()));
        let askable = by_count.into_iter().map(|(name, _)| name).filter(|name| is_askable(name));
        let offered: Vec<String> = askable.take(OFFERED_TAGS).cloned().collect();
        let mut of_kind: BTreeMap<&str, u64> = BTreeMap::new();
        for kind in self.points.values().filter_map(|(_, kind)| kind.as_deref()) {
            *of_kind.entry(kind).or_default() += 1;
        }
        let mut classes: Vec<(&str, u64)> = of_kind.into_iter().collect();
        classes.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        let mut classes: Vec<String> = classes.into_iter().take(CLASSES).map(|(name, _)| name.to_owned()).collect();
        classes.push("other".into());
        let place_of = |kind: Option<String>| {
            let found = kind.and_then(|kind| classes.iter().position(|class| *class == kind));
            found.unwrap_or(classes.len() - 1) as u8
        };
        let points = self.points.into_values().map(|(point, kind)| Point { class: place_of(kind), ..point }).collect();
        let splits: BTreeSet<&String> = self.splits.iter().filter(|name| !name.is_empty()).collect();
        let about = About {
            images: self.images,
            years: self.years,
            gsd_meters: self.gsd_meters,
            splits: in_order(splits),
            tags: offered,
            ..About::default()
        };
        let names = Points { countries: self.countries, splits: self.splits, classes, ..Points::default() };
        let mut catalogue = Catalogue { about, total: self.images, on_a_map: Arc::default(), names, points };
        let placed = catalogue.points.iter().filter_map(|point| Some((point, point.place?)));
        catalogue.on_a_map = Arc::new(catalogue.columns(placed));
        catalogue
    }
}

/// Splits as people list them.
fn in_order(splits: BTreeSet<&String>) -> Vec<String> {
    let usual = ["train", "val", "test", "dropped"];
    let mut splits: Vec<String> = splits.into_iter().cloned().collect();
    splits.sort_by_key(|name| usual.iter().position(|known| known == name).unwrap_or(usual.len()));
    splits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, tags: &[(&str, &str)], split: &str) -> Surveyed {
        Surveyed {
            image_id: id.into(),
            place: Some((60.0, 25.0)),
            year: Some(2019),
            gsd_meters: Some(0.5),
            split: Some(split.into()),
            tags: tags.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        }
    }

    #[test]
    fn a_sample_is_about_as_large_as_asked_and_smaller_ones_are_in_it() {
        let ids: Vec<String> = (0..20_000).map(|number| format!("FI_w{number}")).collect();
        let sample = |most| ids.iter().filter(|id| is_sampled(id, most, 20_000)).collect::<BTreeSet<_>>();
        let (small, large) = (sample(500), sample(5000));
        assert!((400..600).contains(&small.len()) && (4700..5300).contains(&large.len()), "{}", small.len());
        assert!(small.is_subset(&large));
        assert_eq!(sample(20_000).len(), 20_000);
    }

    #[test]
    fn kinds_are_offered_and_names_are_not() {
        let mut survey = Survey { most: 3, countries: vec!["finland".into()], ..Survey::default() };
        survey.add(image("a", &[("name", "Linna"), ("natural", "water")], "val"));
        survey.add(image("b", &[("natural", "water"), ("leisure", "pitch")], "train"));
        survey.add(Surveyed { image_id: "c".into(), ..Surveyed::default() });
        let catalogue = survey.done();
        assert_eq!(catalogue.about.tags, ["natural=water", "leisure=pitch"]);
        assert_eq!(catalogue.about.splits, ["train", "val"]);
        assert_eq!((catalogue.about.years, catalogue.total), (Some((2019, 2019)), 3));
        let points = &catalogue.on_a_map;
        assert_eq!((points.id.len(), points.of), (2, 3), "one has no place");
        let at = points.id.iter().position(|id| id == "b").unwrap();
        assert_eq!(points.classes[usize::from(points.class[at])], "leisure");
    }

    #[test]
    fn tags_that_no_filter_can_ask_for_are_not_offered() {
        let mut survey = Survey { most: 9, countries: vec!["finland".into()], ..Survey::default() };
        for crop in ["sugar beet", "rye,oat", "*", "rye"] {
            survey.add(image(crop, &[("crop", crop)], "train"));
        }
        assert_eq!(survey.done().about.tags, ["crop=rye"]);
    }

    #[test]
    fn a_map_shows_as_many_of_the_good_images_as_it_may() {
        let survey = |most| {
            let mut survey = Survey { most, countries: vec!["finland".into()], ..Survey::default() };
            (0..50).for_each(|number| survey.add(image(&format!("FI_w{number}"), &[], "val")));
            survey.done()
        };
        let ids = |most| survey(most).on_a_map.id.iter().cloned().collect::<BTreeSet<String>>();
        assert_eq!((ids(51).len(), ids(50).len(), ids(20).len()), (50, 50, 20));
        assert!(ids(20).is_subset(&ids(30)));
        assert_eq!(survey(20).on_a_map.of, 50);
    }
}
