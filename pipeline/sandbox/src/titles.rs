//! Captions in SkyScript's own grammar.
//!
//! As observed in its tables: a prefix and the focus object; `key=value` is "key of value",
//! `=yes` is "key"; attributes follow "with" and are joined by "and"; then ", surrounded by" and the
//! other objects separated by "; ", with a space at the end. `highway` reads "road", `aeroway`
//! reads "airport".

use crate::scene::Tags;

/// What captions of satellite images begin with.
pub const PREFIX: &str = "a satellite image of ";

/// Most surrounding objects that a caption names.
const MOST_SURROUNDING: usize = 5;

/// Keys that say what an object is, the telling ones first.
const FEATURES: [&str; 14] = [
    "golf", "highway", "aeroway", "railway", "waterway", "amenity", "leisure", "power", "man_made", "building",
    "landuse", "natural", "barrier", "tourism",
];

/// Keys that say how it is, in the order of the caption.
pub(crate) const ATTRIBUTES: [&str; 27] = [
    "crossing",
    "junction",
    "bridge",
    "tracktype",
    "sport",
    "surface",
    "lanes",
    "oneway",
    "water",
    "wetland",
    "leaf_type",
    "crop",
    "trees",
    "roof:shape",
    "roof:colour",
    "roof:material",
    "building:levels",
    "generator:source",
    "plant:source",
    "content",
    "colour",
    "material",
    "resource",
    "piste:type",
    "lit",
    "access",
    "fence_type",
];

/// The tag that says what an object is.
fn feature(tags: &Tags) -> Option<(&str, &str)> {
    FEATURES.iter().find_map(|&key| tags.get(key).map(|value| (key, value.as_str())))
}

/// The words of one object; empty if its tags do not say what it is.
pub fn describe(tags: &Tags) -> String {
    let Some((key, value)) = feature(tags) else {
        return String::new();
    };
    let mut text = words(key, value);
    let attributes: Vec<String> =
        ATTRIBUTES.iter().filter_map(|&key| tags.get(key).map(|value| words(key, value))).collect();
    if !attributes.is_empty() {
        text.push_str(" with ");
        text.push_str(&attributes.join(" and "));
    }
    text
}

fn words(key: &str, value: &str) -> String {
    let key = match key {
        "highway" => "road".to_owned(),
        "aeroway" => "airport".to_owned(),
        other => plain(other),
    };
    if value == "yes" { key } else { format!("{key} of {}", plain(value)) }
}

fn plain(text: &str) -> String {
    text.replace(['_', ':'], " ")
}

/// The focus object and what surrounds it, without the prefix, with SkyScript's trailing space.
/// Of surrounding objects of the same kind the first speaks for all.
pub fn multi(center: &Tags, surrounding: &[Tags]) -> String {
    let mut named = Vec::new();
    let mut text = describe(center);
    for tags in surrounding {
        if let Some(feature) = feature(tags)
            && !named.contains(&feature)
            && named.len() < MOST_SURROUNDING
        {
            text.push_str(if named.is_empty() { ", surrounded by " } else { "; " });
            text.push_str(&describe(tags));
            named.push(feature);
        }
    }
    text.push(' ');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::tags;

    #[test]
    fn grammar_is_the_one_of_skyscript() {
        let center = tags(&[("highway", "crossing"), ("crossing", "zebra"), ("name", "Am Anger")]);
        let surrounding = [
            tags(&[("highway", "residential")]),
            tags(&[("highway", "tertiary")]),
            tags(&[("highway", "residential")]),
            tags(&[("addr:city", "Potsdam")]),
        ];
        assert_eq!(
            format!("{PREFIX}{}", multi(&center, &surrounding)),
            "a satellite image of road of crossing with crossing of zebra, surrounded by road of residential; road of tertiary "
        );
    }

    #[test]
    fn yes_is_left_out_and_values_lose_their_underscores() {
        let tags = tags(&[("building", "yes"), ("bridge", "yes"), ("roof:shape", "half_hipped")]);
        assert_eq!(describe(&tags), "building with bridge and roof shape of half hipped");
        assert_eq!(describe(&Tags::new()), "");
    }
}
