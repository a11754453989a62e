//! What a caption names, held against what the tags say is there.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use crate::object::names;
use crate::table::{Noun, OBJECT_KEYS, REFINEMENTS};
use crate::{Tags, clean_tags, phrase};

/// Words that begin what follows a noun's head: the head of "row of trees" is "row".
const COMPLEMENTS: [&str; 6] = ["of", "with", "under", "on", "in", "for"];

/// Heads that say too little to stand for what they are the head of.
const EMPTY_HEADS: [&str; 7] = ["area", "complex", "facility", "ground", "place", "row", "site"];

/// A caption beside the tags of its image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grounding {
    /// Different things that the tags name.
    pub tagged: usize,
    /// Those of them that the caption names, too.
    pub covered: usize,
    /// Different things that the caption names, as far as the word table knows them.
    pub named: usize,
    /// Those of them that no tag names, as the caption has them.
    pub untagged: Vec<String>,
}

impl Grounding {
    /// Share of the tags' things that the caption names; `None`: the tags name nothing that can be seen.
    pub fn coverage(&self) -> Option<f64> {
        (self.tagged > 0).then(|| self.covered as f64 / self.tagged as f64)
    }

    /// Share of the caption's things that no tag names; `None`: the caption names none, or there is nothing to hold it
    /// against. Maps are not complete, so that some of it is there all the same: a figure to compare captioners by, and an
    /// upper bound of what is made up.
    pub fn hallucination(&self) -> Option<f64> {
        (self.tagged > 0 && self.named > 0).then(|| self.untagged.len() as f64 / self.named as f64)
    }
}

/// Holds a caption against the tags of the object in the middle and of those around it.
///
/// Things are the nouns of the word table, in singular or plural; of overlapping ones the longest counts ("soccer pitch",
/// not "pitch"). A general word stands for its special ones and the other way round: "road" covers a tagged residential
/// road, "building" a house, "pitch" a soccer pitch; a service road does not.
pub fn grounding(caption: &str, center: &Tags, surrounding: &[Tags]) -> Grounding {
    let objects = || std::iter::once(center).chain(surrounding);
    let tagged: BTreeSet<Names> = objects().map(Names::of).filter(|names| !names.own.is_empty()).collect();
    // parts of objects that tags tell of: a roof, a bridge, a surface of grass
    let parts: BTreeSet<Vec<String>> =
        objects().filter_map(phrase).flat_map(|phrase| Mentions::of(&phrase).named).map(|(name, _)| name).collect();
    let Mentions { named, loose } = Mentions::of(caption);
    let by_head = |names: &Names| names.own.iter().filter_map(|name| head(name)).any(|head| loose.contains(head));
    let is_covered = |names: &&Names| named.iter().any(|(mention, _)| names.fit(mention)) || by_head(names);
    let is_tagged = |mention: &[String]| {
        tagged.iter().any(|names| names.fit(mention)) || parts.iter().any(|part| fit(mention, part))
    };
    Grounding {
        tagged: tagged.len(),
        covered: tagged.iter().filter(is_covered).count(),
        named: named.len(),
        untagged: named.iter().filter(|(mention, _)| !is_tagged(mention)).map(|(_, text)| text.clone()).collect(),
    }
}

/// What an object may be called.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Names {
    own: BTreeSet<Vec<String>>,
    /// Of a house: a building.
    general: BTreeSet<Vec<String>>,
}

impl Names {
    fn of(tags: &Tags) -> Names {
        let (own, general) = names(&clean_tags(tags));
        let words = |nouns: Vec<Noun>| nouns.into_iter().filter_map(words_of_noun).collect();
        Names { own: words(own), general: words(general) }
    }

    /// Whether a mention may mean the object. That a house is a building makes it no tower.
    fn fit(&self, mention: &[String]) -> bool {
        self.own.iter().any(|name| fit(mention, name)) || self.general.iter().any(|name| mention == name.as_slice())
    }
}

fn words_of_noun(noun: Noun) -> Option<Vec<String>> {
    match noun {
        Noun::Count(words) | Noun::Mass(words) | Noun::Plural(words) => {
            Some(words.split_whitespace().map(singular).collect())
        }
        Noun::Hidden => None,
    }
}

/// All nouns of the word table by their first word, longer ones first.
static NOUNS: LazyLock<HashMap<String, Vec<Vec<String>>>> = LazyLock::new(|| {
    let of_keys = OBJECT_KEYS.iter().flat_map(|key| key.nouns.iter().map(|(_, noun)| *noun).chain(key.generic));
    let refined = REFINEMENTS.iter().flat_map(|refinement| refinement.nouns.iter().map(|(_, noun)| *noun));
    let all: BTreeSet<Vec<String>> = of_keys.chain(refined).filter_map(words_of_noun).collect();
    let mut nouns: HashMap<String, Vec<Vec<String>>> = HashMap::new();
    for words in all {
        if let Some(first) = words.first() {
            nouns.entry(first.clone()).or_default().push(words);
        }
    }
    nouns.values_mut().for_each(|of_word| of_word.sort_by_key(|words| std::cmp::Reverse(words.len())));
    nouns
});

/// What a text names.
struct Mentions {
    /// Different things of the word table, each with its words as they stand there first.
    named: Vec<(Vec<String>, String)>,
    /// Words outside of them that may be the head of a thing.
    loose: BTreeSet<String>,
}

impl Mentions {
    fn of(text: &str) -> Mentions {
        let is_apart = |c: char| !c.is_alphanumeric() && c != '-';
        let words: Vec<&str> = text.split(is_apart).filter(|word| !word.is_empty()).collect();
        let singulars: Vec<String> = words.iter().map(|word| singular(word)).collect();
        let mut mentions = Mentions { named: Vec::new(), loose: BTreeSet::new() };
        let mut at = 0;
        while at < words.len() {
            let longest =
                NOUNS.get(&singulars[at]).into_iter().flatten().find(|noun| singulars[at..].starts_with(noun));
            let Some(noun) = longest else {
                if !EMPTY_HEADS.contains(&singulars[at].as_str()) {
                    mentions.loose.insert(singulars[at].clone());
                }
                at += 1;
                continue;
            };
            if !mentions.named.iter().any(|(known, _)| known == noun) {
                mentions.named.push((noun.clone(), words[at..at + noun.len()].join(" ").to_lowercase()));
            }
            at += noun.len();
        }
        mentions
    }
}

/// Whether one name is the other, or a more general word for it.
fn fit(one: &[String], other: &[String]) -> bool {
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    head(short) == head(long) && short.iter().all(|word| long.contains(word))
}

fn head(name: &[String]) -> Option<&String> {
    let complement = name.iter().position(|word| COMPLEMENTS.contains(&word.as_str()));
    name[..complement.unwrap_or(name.len())].last()
}

/// A word in lower case and in the singular, by its ending; the same for a singular.
fn singular(word: &str) -> String {
    let word = word.to_lowercase();
    if let Some(stem) = word.strip_suffix("ies").filter(|stem| stem.len() >= 3) {
        return format!("{stem}y");
    }
    let sibilant = |stem: &&str| ["ss", "x", "ch", "sh"].iter().any(|ending| stem.ends_with(ending));
    let stem =
        word.strip_suffix("es").filter(sibilant).or_else(|| word.strip_suffix('s').filter(|s| !s.ends_with('s')));
    stem.filter(|stem| stem.len() >= 3).map_or_else(|| word.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{caption, tags};

    fn of(caption: &str) -> Grounding {
        let pitch = tags(&[("leisure", "pitch"), ("sport", "soccer"), ("name", "Jahnplatz")]);
        let around = [tags(&[("highway", "residential")]), tags(&[("highway", "residential")])];
        grounding(caption, &pitch, &[&around[..], &[tags(&[("building", "house")])]].concat())
    }

    #[test]
    fn what_is_named_is_held_against_what_is_tagged() {
        let good = of("A soccer pitch beside two residential roads and some houses.");
        assert_eq!((good.coverage(), good.hallucination()), (Some(1.0), Some(0.0)), "{good:?}");
        let general = of("a pitch, a road and buildings");
        assert_eq!((general.coverage(), general.hallucination()), (Some(1.0), Some(0.0)), "{general:?}");
        let other = of("a tennis court and a lake near a service road; another lake; a soccer pitch");
        assert_eq!(
            (other.tagged, other.covered, other.named),
            (3, 1, 4),
            "a service road is no residential one: {other:?}"
        );
        assert_eq!(other.untagged, ["tennis court", "lake", "service road"]);
        assert_eq!(other.hallucination(), Some(0.75));
    }

    #[test]
    fn a_head_that_says_nothing_covers_nothing() {
        let industry = tags(&[("landuse", "industrial")]);
        assert_eq!(grounding("an industrial area", &industry, &[]).coverage(), Some(1.0));
        assert_eq!(grounding("the area around it", &industry, &[]).coverage(), Some(0.0));
    }

    #[test]
    fn where_there_is_nothing_to_compare_there_is_no_figure() {
        let nothing = of("a place of great beauty");
        assert_eq!((nothing.coverage(), nothing.hallucination()), (Some(0.0), None));
        let untagged = grounding("a lake", &tags(&[("name", "x")]), &[]);
        assert_eq!((untagged.coverage(), untagged.hallucination(), untagged.named), (None, None, 1));
        assert_eq!(grounding("", &Tags::new(), &[]), Grounding::default());
    }

    #[test]
    fn captions_made_of_the_tags_name_nothing_else() {
        for pairs in [
            &[("amenity", "place_of_worship"), ("building", "church")][..],
            &[("natural", "tree_row")],
            &[("landuse", "cemetery")],
            &[("leisure", "pitch"), ("sport", "tennis")],
            &[("highway", "bus_stop")],
            &[("building", "house"), ("roof:colour", "red")],
            &[("highway", "tertiary"), ("bridge", "yes")],
            &[("leisure", "pitch"), ("surface", "grass")],
        ] {
            let (center, around) = (tags(pairs), [tags(&[("highway", "service")]), tags(&[("highway", "service")])]);
            let caption = caption(&center, &around).unwrap();
            let grounding = grounding(&caption, &center, &around);
            assert_eq!((grounding.coverage(), grounding.untagged.len()), (Some(1.0), 0), "{caption}: {grounding:?}");
        }
    }

    #[test]
    fn words_have_one_singular() {
        for (word, one) in [
            ("Churches", "church"),
            ("cemeteries", "cemetery"),
            ("grass", "grass"),
            ("houses", "house"),
            ("boxes", "box"),
            ("bus", "bus"),
            ("trees", "tree"),
        ] {
            assert_eq!(singular(word), one);
            assert_eq!(singular(one), one);
        }
    }
}
