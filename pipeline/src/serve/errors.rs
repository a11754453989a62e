//! How far from the front each test image finds its own caption.

use std::collections::BTreeMap;

use atlas::{Points, Trouble};

use super::plots::Errors;
use super::snapshot::{Loaded, Snapshot};
use super::trouble;
use crate::evaluate::{self, Places};

/// First and last place of each class, but for the last one.
const CLASSES: [(u32, u32, &str); 5] = [
    (1, 1, "place 1"),
    (2, 5, "places 2 to 5"),
    (6, 10, "places 6 to 10"),
    (11, 100, "places 11 to 100"),
    (101, u32::MAX, "beyond 100"),
];

impl Errors {
    pub(super) async fn of(now: &Snapshot, model: &Loaded) -> Result<Self, Trouble> {
        let mut errors = Self { places: BTreeMap::new(), unmeasured: Vec::new() };
        for (country, build) in now.builds.iter().enumerate() {
            match evaluate::places(build, &model.searcher.model().digest).await.map_err(trouble)? {
                Places::Measured(places) => {
                    errors.places.extend(places.into_iter().map(|(id, place)| ((country, id), place)));
                }
                Places::Not(why) => errors.unmeasured.push(format!("{}: {why}", build.spec.country)),
            }
        }
        Ok(errors)
    }

    /// Names of the classes, best first; the last one is of images that are not measured.
    pub(super) fn names() -> Vec<String> {
        CLASSES.iter().map(|(.., name)| *name).chain(["not measured"]).map(str::to_owned).collect()
    }

    /// The class of each point.
    pub(super) fn column(&self, points: &Points) -> Vec<u8> {
        let images = points.country.iter().zip(&points.id);
        images.map(|(country, id)| class(self.places.get(&(usize::from(*country), id.clone())).copied())).collect()
    }
}

fn class(place: Option<u32>) -> u8 {
    let found = place.and_then(|place| CLASSES.iter().position(|(first, last, _)| (*first..=*last).contains(&place)));
    found.unwrap_or(CLASSES.len()) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_a_class_and_what_has_none_the_last() {
        let places = [1, 2, 5, 6, 10, 11, 100, 101, u32::MAX];
        assert_eq!(places.map(|place| class(Some(place))), [0, 1, 1, 2, 2, 3, 3, 4, 4]);
        assert_eq!((class(None), Errors::names().len()), (5, 6));
    }

    #[test]
    fn an_id_of_another_country_is_another_image() {
        let errors = Errors { places: BTreeMap::from([((1, "a".to_owned()), 7)]), unmeasured: Vec::new() };
        let points = Points { country: vec![0, 1, 1], id: ["a", "a", "b"].map(Into::into).into(), ..Points::default() };
        assert_eq!(errors.column(&points), [5, 2, 5]);
    }
}
