//! The page of a search: the query and a card for each picture that it found.

use std::collections::BTreeMap;

use manifests::words::count;
use report::{Block, Fact, FoundCard, FoundGrid, Level, Picture, Report, Section, Subject, format_number};
use workers::search::Found;

use crate::search::{Answer, Query};

/// Captions shown of a picture; folders may give five.
const SHOWN_CAPTIONS: usize = 2;
/// Tags shown of a picture: some objects have fifty.
const SHOWN_TAGS: usize = 6;

/// Thumbnails by country and image.
pub type Pictures = BTreeMap<(String, String), Vec<u8>>;

/// The page of an answer; `of_query` is the picture that was searched with.
pub fn make(answer: &Answer, pictures: &Pictures, of_query: Option<Vec<u8>>, generated_at: &str) -> String {
    let words = in_words(&answer.query);
    let notes = warnings(answer).into_iter().map(|text| Block::Note { level: Level::Warning, text });
    let mut blocks: Vec<Block> = notes.collect();
    blocks.push(Block::Found(grid(answer, pictures, of_query)));
    report::render(&Report {
        title: format!("Search: {words}"),
        subtitle: format!("Satellite images that fit best, {}.", by_what(answer)),
        generated_at: generated_at.to_owned(),
        facts: vec![
            Fact::new("images compared", format_number(answer.compared as f64, Some(0))),
            Fact::new("shown", format_number(answer.found.len() as f64, Some(0))),
        ],
        sections: vec![Section {
            id: "found".into(),
            title: "What was found".into(),
            lead:
                "Best first; the number is the similarity to the query, between -1 and 1. It orders images, and says \
                   little by itself."
                    .into(),
            blocks,
        }],
    })
}

/// What images were compared by.
pub(crate) fn by_what(answer: &Answer) -> String {
    match answer.by_text {
        true => "by what was written about them".into(),
        false => format!("by the model of {}", answer.model.replace('_', " ")),
    }
}

/// What an answer does not show, or shows by an older model.
pub(crate) fn warnings(answer: &Answer) -> Vec<String> {
    let mut warnings = Vec::new();
    if answer.outdated > 0 {
        warnings.push(format!(
            "{} left out, not embedded yet by the model of this spec; run the build to its end",
            count(answer.outdated, "image")
        ));
    }
    if !answer.changed_since.is_empty() {
        warnings.push(format!(
            "{} was adapted before these tables changed: {}; `urbancross adapt` with its spec adapts it to them",
            answer.model,
            answer.changed_since.join(", ")
        ));
    }
    warnings
}

/// A query in words.
pub(crate) fn in_words(query: &Query) -> String {
    match query {
        Query::Text(text) => text.clone(),
        Query::Picture { name, .. } => format!("like {name}"),
        Query::Like(id) => format!("like {id}"),
        Query::LikeIn { country, id } => format!("like {id} of {country}"),
    }
}

fn grid(answer: &Answer, pictures: &Pictures, of_query: Option<Vec<u8>>) -> FoundGrid {
    let query = match &answer.query {
        Query::Text(text) => Subject::Text(text.clone()),
        other => Subject::Picture(Picture {
            bytes: of_query.unwrap_or_default(),
            caption: in_words(other),
            ..Picture::default()
        }),
    };
    let cards = answer.found.iter().map(|found| card(found, pictures)).collect();
    FoundGrid { caption: String::new(), query, cards }
}

fn card(found: &Found, pictures: &Pictures) -> FoundCard {
    let picture = pictures.get(&(found.country.clone(), found.image_id.clone()));
    FoundCard {
        rank: found.rank as u64,
        score: found.score,
        picture: picture.cloned().unwrap_or_default(),
        id: found.image_id.clone(),
        captions: found.captions.iter().take(SHOWN_CAPTIONS).cloned().collect(),
        tags: tags(found).take(SHOWN_TAGS).collect(),
        facts: facts(found),
    }
}

/// Tags as OpenStreetMap writes them.
pub(crate) fn tags(found: &Found) -> impl Iterator<Item = String> {
    found.tags.iter().map(|(key, value)| format!("{key}={value}"))
}

/// Country, split, year, resolution and place, as far as they are known.
pub(crate) fn facts(found: &Found) -> Vec<String> {
    let place = found.latitude.zip(found.longitude).map(|(north, east)| format!("{north:.5}, {east:.5}"));
    let optional = [
        found.split.clone(),
        found.year.map(|year| year.to_string()),
        found.gsd_meters.map(|meters| format!("{meters:.2} m a pixel")),
        place,
    ];
    std::iter::once(found.country.clone()).chain(optional.into_iter().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'";

    /// Captions and tags come from maps and models: nothing of them may act.
    #[test]
    fn whatever_was_found_is_text() {
        let found = Found {
            rank: 1,
            score: 0.25,
            image_id: HOSTILE.into(),
            country: HOSTILE.into(),
            split: Some(HOSTILE.into()),
            captions: vec![HOSTILE.into(); 3],
            tags: [(HOSTILE.to_owned(), HOSTILE.to_owned())].into(),
            ..Found::default()
        };
        let answer = |query| Answer {
            by_text: false,
            query,
            model: HOSTILE.into(),
            model_digest: String::new(),
            compared: 12,
            outdated: 1,
            changed_since: vec!["captions of x".into()],
            found: vec![found.clone()],
        };
        for query in [Query::Text(HOSTILE.into()), Query::Like(HOSTILE.into())] {
            let page = make(&answer(query), &Pictures::new(), None, "today");
            assert!(!page.contains("<img src=x") && page.contains("&lt;img src=x"), "{page}");
            assert!(
                page.contains("1 image left out") && page.contains("captions of x") && page.contains("0.250"),
                "{page}"
            );
        }
    }

    #[test]
    fn what_is_not_known_is_not_shown() {
        let mut found = Found { country: "finland".into(), ..Found::default() };
        assert_eq!(facts(&found), ["finland"]);
        found = Found { latitude: Some(60.1), longitude: Some(24.0), year: Some(2019), ..found };
        assert_eq!(facts(&found), ["finland", "2019", "60.10000, 24.00000"]);
    }
}
