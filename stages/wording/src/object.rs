//! One object: which of its tags names it, and what else can be said about it.

use crate::english::{list, number, with_article};
use crate::table::{Noun, OBJECT_KEYS, ObjectKey, REFINEMENTS, attribute, find};
use crate::{Tags, clean_tags};

/// More than two "with …" make a sentence that no captioner writes.
const MAX_DETAILS: usize = 2;

/// A nameable object.
pub struct Object {
    /// The key that names it.
    pub key: &'static str,
    /// Never [`Noun::Hidden`].
    pub noun: Noun,
    /// "an asphalt surface", "a red roof": what follows "with".
    details: Vec<String>,
    on_bridge: bool,
}

impl Object {
    /// Names the object with the given tags; `None` when nothing of it can be seen and named.
    pub fn from_tags(tags: &Tags) -> Option<Object> {
        let tags = clean_tags(tags);
        let (key, noun) = OBJECT_KEYS.iter().find_map(|object| Some((object.key, noun_of(object, &tags)?)))?;
        Some(Object {
            key,
            noun,
            details: details(&tags),
            on_bridge: tags.contains_key("bridge") && matches!(key, "highway" | "railway" | "waterway"),
        })
    }

    /// What kind of object it is: "a residential road", "grass".
    pub fn kind(&self) -> String {
        match self.noun {
            Noun::Count(noun) => with_article(noun),
            Noun::Mass(noun) | Noun::Plural(noun) => noun.to_owned(),
            Noun::Hidden => String::new(),
        }
    }

    /// "a residential road with an asphalt surface".
    pub fn phrase(&self) -> String {
        let mut phrase = self.kind();
        if !self.details.is_empty() {
            // "an intersection with traffic lights and four lanes", not "with … with …".
            phrase += if phrase.contains(" with ") { " and " } else { " with " };
            phrase += &list(&self.details);
        }
        if self.on_bridge {
            phrase += " on a bridge";
        }
        phrase
    }
}

/// All that an object with these cleaned tags may be called: its own words, and the more general ones of their keys.
pub fn names(clean: &Tags) -> (Vec<Noun>, Vec<Noun>) {
    let is_seen = |noun: &Noun| *noun != Noun::Hidden;
    let keys = || OBJECT_KEYS.iter().filter(|object| clean.contains_key(object.key));
    let own: Vec<Noun> = keys().filter_map(|object| noun_of(object, clean)).collect();
    let general = keys().filter_map(|object| object.generic).filter(|noun| is_seen(noun) && !own.contains(noun));
    let general = general.collect();
    (own, general)
}

fn noun_of(object: &ObjectKey, clean: &Tags) -> Option<Noun> {
    let value = clean.get(object.key)?;
    let refined = REFINEMENTS
        .iter()
        .filter(|refinement| refinement.key == object.key)
        .filter(|refinement| refinement.values.is_empty() || refinement.values.contains(&value.as_str()))
        .find_map(|refinement| find(&refinement.nouns, clean.get(refinement.by)?));
    refined.or_else(|| find(&object.nouns, value)).or(object.generic).filter(|noun| *noun != Noun::Hidden)
}

fn details(clean: &Tags) -> Vec<String> {
    let word = |key: &str| attribute(key, clean.get(key)?);
    let roof: Vec<&str> = [clean.get("roof:colour").map(String::as_str), word("roof:shape"), word("roof:material")]
        .into_iter()
        .flatten()
        .take(MAX_DETAILS)
        .collect();
    let roof = (!roof.is_empty()).then(|| with_article(&format!("{} roof", roof.join(" "))));
    let surface = word("surface").map(|surface| with_article(&format!("{surface} surface")));
    let markings = ["crossing:markings", "crossing_ref", "crossing"];
    let markings = markings.iter().find_map(|key| attribute("crossing", clean.get(*key)?)).map(str::to_owned);
    let lanes = clean.get("lanes").and_then(|lanes| lanes.parse().ok()).map(|lanes| format!("{} lanes", number(lanes)));
    [roof, markings, surface, lanes].into_iter().flatten().take(MAX_DETAILS).collect()
}
