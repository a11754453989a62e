//! Counts of tags, image after image. Pure. An image has a tag if one of its objects does, and counts once for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

/// Tags of one object.
pub type Tags = BTreeMap<String, String>;

/// Different tags that are counted: names and addresses have no end.
const MOST_TAGS: usize = 200_000;
/// Tags that are named.
const SHOWN: usize = 60;
/// Upper ends of the classes of ground resolution, in meters.
const RESOLUTIONS: [f64; 4] = [0.3, 0.6, 1.0, 2.0];

/// What is known of an image.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// Sensor or collection.
    pub source: Option<&'a str>,
    /// Calendar year.
    pub year: Option<i32>,
    /// Ground resolution.
    pub gsd_meters: Option<f64>,
    /// Of the object that it was taken for, and of those around it.
    pub objects: &'a [Tags],
}

/// Images and tags of a class of images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The class.
    pub name: String,
    /// Images in it.
    pub images: u64,
    /// Tags of their objects, as often as they occur.
    pub tags: u64,
}

/// Tags of a country.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TagStatistics {
    /// Images with geo-tags.
    pub images: u64,
    /// Tags of their objects, as often as they occur.
    pub tags: u64,
    /// Different tags, key and value; at most 200,000 are told apart.
    pub distinct_tags: u64,
    /// Different keys.
    pub distinct_keys: u64,
    /// Tags of an image on average.
    pub mean_tags: f64,
    /// Images by the number of their tags.
    pub images_by_tags: BTreeMap<u64, u64>,
    /// By sensor or collection.
    pub by_source: Vec<Group>,
    /// By calendar year.
    pub by_year: Vec<Group>,
    /// By ground resolution.
    pub by_resolution: Vec<Group>,
    /// The most frequent tags that can be seen from above, with the images that have them.
    pub visible: Vec<(String, u64)>,
    /// The most frequent tags of all, with the images that have them.
    pub frequent: Vec<(String, u64)>,
}

/// Adds images up.
#[derive(Debug, Default)]
pub struct Counter {
    statistics: TagStatistics,
    tags: HashMap<String, u64>,
    keys: BTreeSet<String>,
    groups: [BTreeMap<String, Group>; 3],
    /// Tags that can be seen: of a word table, so that there is an end of them.
    visible: BTreeMap<String, usize>,
    images_with: Vec<u64>,
    images_with_both: HashMap<(usize, usize), u64>,
}

impl Counter {
    /// Counts an image.
    pub fn add(&mut self, image: &Image<'_>) {
        let tags: u64 = image.objects.iter().map(|object| object.len() as u64).sum();
        self.statistics.images += 1;
        self.statistics.tags += tags;
        *self.statistics.images_by_tags.entry(tags).or_default() += 1;
        let classes = [
            image.source.map_or_else(unknown, str::to_owned),
            image.year.map_or_else(unknown, |year| year.to_string()),
            image.gsd_meters.map_or_else(unknown, resolution),
        ];
        for (groups, name) in self.groups.iter_mut().zip(classes) {
            let group = groups.entry(name.clone()).or_insert_with(|| Group { name, ..Group::default() });
            group.images += 1;
            group.tags += tags;
        }
        let all = image.objects.iter().flatten();
        let different: BTreeSet<String> = all.map(|(key, value)| format!("{key}={value}")).collect();
        for tag in different {
            if let Some((key, _)) = tag.split_once('=')
                && !self.keys.contains(key)
                && self.keys.len() < MOST_TAGS
            {
                self.keys.insert(key.to_owned());
            }
            if self.tags.len() < MOST_TAGS || self.tags.contains_key(&tag) {
                *self.tags.entry(tag).or_default() += 1;
            }
        }
        self.add_visible(image.objects);
    }

    fn add_visible(&mut self, objects: &[Tags]) {
        let seen = objects.iter().flat_map(wording::clean_tags).map(|(key, value)| format!("{key}={value}"));
        let mut here = BTreeSet::new();
        for tag in seen.collect::<BTreeSet<String>>() {
            let next = self.visible.len();
            let number = *self.visible.entry(tag).or_insert(next);
            if number == self.images_with.len() {
                self.images_with.push(0);
            }
            self.images_with[number] += 1;
            here.insert(number);
        }
        for (at, one) in here.iter().enumerate() {
            for other in here.iter().skip(at + 1) {
                *self.images_with_both.entry((*one, *other)).or_default() += 1;
            }
        }
    }

    /// The counts, and how the most frequent visible tags go together.
    pub fn finish(self) -> (TagStatistics, Together) {
        let mut visible: Vec<(String, usize)> = self.visible.into_iter().collect();
        visible.sort_by(|a, b| self.images_with[b.1].cmp(&self.images_with[a.1]).then_with(|| a.0.cmp(&b.0)));
        // what is in one image alone goes together with whatever is there too
        let shown: Vec<&(String, usize)> =
            visible.iter().filter(|(_, number)| self.images_with[*number] > 1).take(SHOWN).collect();
        let both = |one: usize, other: usize| {
            let pair = (one.min(other), one.max(other));
            if one == other { self.images_with[one] } else { self.images_with_both.get(&pair).copied().unwrap_or(0) }
        };
        let together = Together {
            tags: shown.iter().map(|(tag, number)| (tag.clone(), self.images_with[*number])).collect(),
            both: shown.iter().map(|one| shown.iter().map(|other| both(one.1, other.1)).collect()).collect(),
        };
        let mut frequent: Vec<(String, u64)> = self.tags.iter().map(|(tag, images)| (tag.clone(), *images)).collect();
        frequent.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        frequent.truncate(SHOWN);
        let [by_source, by_year, by_resolution] = self.groups.map(|groups| groups.into_values().collect());
        let statistics = TagStatistics {
            distinct_tags: self.tags.len() as u64,
            distinct_keys: self.keys.len() as u64,
            mean_tags: self.statistics.tags as f64 / self.statistics.images.max(1) as f64,
            by_source,
            by_year,
            by_resolution,
            visible: together.tags.clone(),
            frequent,
            ..self.statistics
        };
        (statistics, together)
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn resolution(meters: f64) -> String {
    match RESOLUTIONS.into_iter().find(|most| meters <= *most) {
        Some(most) => format!("up to {most} m"),
        None => format!("above {} m", RESOLUTIONS[RESOLUTIONS.len() - 1]),
    }
}

/// How often tags are in one image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Together {
    /// Each with the number of images that have it.
    pub tags: Vec<(String, u64)>,
    /// Images that have both of two tags, by their places.
    pub both: Vec<Vec<u64>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_image_counts_once_for_each_of_its_tags() {
        let park = [tags(&[("leisure", "park"), ("name", "Kaivopuisto")]), tags(&[("natural", "water")])];
        let parks = [tags(&[("leisure", "park")]), tags(&[("leisure", "park")]), tags(&[("natural", "water")])];
        let mut counter = Counter::default();
        let image = |objects| Image { source: Some("naip"), year: Some(2019), gsd_meters: Some(0.6), objects };
        counter.add(&image(&park));
        counter.add(&image(&parks));
        counter.add(&Image { source: None, year: None, gsd_meters: Some(3.0), objects: &[] });
        let (statistics, together) = counter.finish();
        assert_eq!((statistics.images, statistics.tags, statistics.mean_tags), (3, 6, 2.0));
        assert_eq!((statistics.distinct_tags, statistics.distinct_keys), (3, 3));
        assert_eq!(statistics.images_by_tags, BTreeMap::from([(0, 1), (3, 2)]));
        let of = |name: &str, images, tags| Group { name: name.to_owned(), images, tags };
        assert_eq!(statistics.by_source, [of("naip", 2, 6), of("unknown", 1, 0)]);
        assert_eq!(statistics.by_year, [of("2019", 2, 6), of("unknown", 1, 0)]);
        assert_eq!(statistics.by_resolution, [of("above 2 m", 1, 0), of("up to 0.6 m", 2, 6)]);
        assert_eq!(statistics.frequent[0], ("leisure=park".to_owned(), 2));
        assert!(statistics.frequent.contains(&("name=Kaivopuisto".to_owned(), 1)));
        assert!(!statistics.visible.iter().any(|(tag, _)| tag.starts_with("name")), "{:?}", statistics.visible);
        assert_eq!(together.tags, [("leisure=park".to_owned(), 2), ("natural=water".to_owned(), 2)]);
        assert_eq!(together.both, [[2, 2], [2, 2]]);
    }
}
