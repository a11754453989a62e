//! `geotags`: OpenStreetMap tags in plain English, without a network.

use manifests::digest::canonical_json;
use wording::{Variant, variants_from_scene, variants_from_tags};

use super::tags::TagWords;
use super::{Caption, Captions, EachImage, ImageTags, QueryText, StructuredCaption, Way};
use crate::stage::ModelUse;

const NOTHING_TO_SEE: &str = "neither its tags nor its title say anything that can be seen";

pub(super) struct Geotags;

impl Captions for Geotags {
    fn looks(&self) -> bool {
        false
    }

    fn drops_tags(&self) -> bool {
        true
    }

    fn captions(&self) -> Way<Caption> {
        Way {
            model: |_| ModelUse::None,
            settings: |_| None,
            told: sentence,
            open: |_| Ok(Box::new(EachImage(caption))),
        }
    }

    fn structured(&self) -> Option<Way<StructuredCaption>> {
        Some(Way {
            model: |_| ModelUse::None,
            settings: |_| None,
            told: told_structured,
            open: |_| Ok(Box::new(EachImage(structured))),
        })
    }

    fn query_text(&self) -> Option<Way<QueryText>> {
        Some(Way {
            model: |_| ModelUse::None,
            settings: |_| None,
            told: sentence,
            open: |_| Ok(Box::new(EachImage(query_text))),
        })
    }
}

/// It is told what it says.
fn sentence(tags: &ImageTags<'_>) -> Option<String> {
    TagWords::of(tags).ok()?.sentence
}

fn told_structured(tags: &ImageTags<'_>) -> Option<String> {
    let texts = |variant: &Variant| [&variant.one_sentence, &variant.feature, &variant.caption].map(Clone::clone);
    Some(canonical_json(&structured(tags).ok()?.variants.iter().map(texts).collect::<Vec<_>>()))
}

/// Tags first; the title where an image has none, or none that can be seen from above.
fn caption(tags: &ImageTags<'_>) -> Result<Caption, String> {
    let words = TagWords::of(tags)?;
    let caption = tags.with_regions(words.sentence.ok_or(NOTHING_TO_SEE)?);
    Ok(Caption { captions: vec![caption], dropped_tags: words.dropped_tags, ..Caption::default() })
}

fn query_text(tags: &ImageTags<'_>) -> Result<QueryText, String> {
    let text = TagWords::of(tags)?.sentence.ok_or(NOTHING_TO_SEE)?;
    Ok(QueryText { text, ..QueryText::default() })
}

fn structured(tags: &ImageTags<'_>) -> Result<StructuredCaption, String> {
    let (center, surrounding) = tags.all()?;
    let of_title = || variants_from_scene(TagWords::of(tags).ok()?.scene()?);
    let variants = variants_from_tags(&center, &surrounding).or_else(of_title).ok_or(NOTHING_TO_SEE)?;
    Ok(StructuredCaption { variants: variants.into(), ..StructuredCaption::default() })
}
