//! The things of the map: each function gives one object with its tags, geometry and brushes.

mod buildings;
mod covers;
mod energy;
mod industry;
mod leisure;
mod roads;
mod sports;
mod traffic;
mod trees;
mod water;

pub use covers::Cover;

use crate::country::Country;
use crate::dice::Dice;
use crate::geometry::Point;
use crate::scene::{Colour, Tags};

/// What an object is made with: randomness and the looks and words of a country.
pub struct Maker {
    pub dice: Dice,
    pub country: &'static Country,
    pub winter: bool,
}

impl Maker {
    /// A colour with a little chance in it, so that two roofs are never quite the same.
    pub fn varied(&mut self, colour: Colour, amount: f32) -> Colour {
        let light = self.dice.range(1.0 - amount, 1.0 + amount);
        colour.map(|channel| (channel * light * self.dice.range(0.98, 1.02)).clamp(0.0, 255.0))
    }

    /// A roof's colour with its OpenStreetMap name.
    pub fn house_roof(&mut self) -> (&'static str, Colour) {
        let (name, colour) = self.dice.weighted(self.country.palette.house_roofs);
        (name, self.varied(colour, 0.1))
    }

    /// The same for large flat roofs.
    pub fn hall_roof(&mut self) -> (&'static str, Colour) {
        let (name, colour) = self.dice.weighted(self.country.palette.hall_roofs);
        (name, self.varied(colour, 0.06))
    }

    /// Adds what no picture shows: name, address, operator, in the country's own habit.
    pub fn annotate(&mut self, tags: &mut Tags, named: bool) {
        let words = &self.country.words;
        let mut put = |key: &str, value: &str| {
            tags.insert(key.to_owned(), value.to_owned());
        };
        if named && self.dice.chance(words.name_share) {
            let name = self.dice.choose(words.places);
            put("name", name);
            if let Some(key) = words.second_name_key
                && self.dice.chance(0.4)
            {
                put(key, name);
            }
        }
        if self.dice.chance(0.12) {
            put("operator", self.dice.choose(words.operators));
        }
        if self.dice.chance(0.2) {
            put("source", words.survey);
        }
    }

    /// Street address of a building.
    pub fn address(&mut self, tags: &mut Tags) {
        let words = &self.country.words;
        if self.dice.chance(words.address_share) {
            let street = self.dice.choose(words.streets);
            let number = self.dice.whole(1, 120).to_string();
            for (key, value) in [("addr:street", street), ("addr:housenumber", &number), ("addr:city", words.city)] {
                tags.insert(key.to_owned(), value.to_owned());
            }
        }
    }
}

/// An outline as a line that ends where it began.
fn ring(mut outline: Vec<Point>) -> Vec<Point> {
    outline.extend(outline.first().copied());
    outline
}
