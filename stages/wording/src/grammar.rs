//! SkyScript's caption grammar and UrbanCross's geo-tag text, written from tags.

use crate::object::Object;
use crate::{Tags, clean_tags};

/// SkyScript's own title of an image, in its grammar as observed (trailing blank after surroundings included):
/// `a satellite image of road of crossing with crossing of zebra, surrounded by road of residential; road of
/// tertiary `. Tags are cleaned first; objects without visible tags are left out.
pub fn skyscript_title(center: &Tags, surrounding: &[Tags]) -> String {
    let mut title = format!("a satellite image of {}", item(center).unwrap_or_default());
    let surrounding: Vec<String> = surrounding.iter().filter_map(item).collect();
    if !surrounding.is_empty() {
        title += &format!(", surrounded by {} ", surrounding.join("; "));
    }
    title
}

/// UrbanCross's geo-tags, the form its captioning prompt holds:
/// `amenity of school, road of residential; surrounded by road of service;`. Tags are cleaned first.
pub fn geotags_text(center: &Tags, surrounding: &[Tags]) -> String {
    let center = spoken_tags(center).join(", ");
    let surrounding: Vec<String> = surrounding.iter().filter_map(item).collect();
    let surrounding = match surrounding.is_empty() {
        true => String::new(),
        false => format!("surrounded by {}", surrounding.join("; ")),
    };
    [center, surrounding]
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(|part| part + ";")
        .collect::<Vec<_>>()
        .join(" ")
}

/// "road of crossing with crossing of zebra and surface of asphalt".
fn item(tags: &Tags) -> Option<String> {
    let spoken = spoken_tags(tags);
    let (focus, attributes) = spoken.split_first()?;
    Some(match attributes {
        [] => focus.clone(),
        attributes => format!("{focus} with {}", attributes.join(" and ")),
    })
}

/// The visible tags in words, the one that names the object first.
fn spoken_tags(tags: &Tags) -> Vec<String> {
    let focus = Object::from_tags(tags).map(|object| object.key);
    let mut tags: Vec<(String, String)> = clean_tags(tags).into_iter().collect();
    tags.sort_by_key(|(key, _)| Some(key.as_str()) != focus);
    tags.iter().map(|(key, value)| spoken_tag(key, value)).collect()
}

fn spoken_tag(key: &str, value: &str) -> String {
    let key = spoken_key(key);
    match value {
        "yes" => key,
        value => format!("{key} of {}", value.replace('_', " ")),
    }
}

/// A key as SkyScript says it: `highway` is "road", `aeroway` "airport", `generator:source` "generator source".
pub(crate) fn spoken_key(key: &str) -> String {
    match key {
        "highway" => "road".to_owned(),
        "aeroway" => "airport".to_owned(),
        key => key.replace(['_', ':'], " "),
    }
}
