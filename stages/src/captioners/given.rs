//! `given`: the captions that came with the images, and structured ones that a file brings.

mod texts;

use manifests::digest::canonical_json;

use super::{Caption, Captions, EachImage, ImageTags, QueryText, StructuredCaption, Way};
use crate::stage::ModelUse;
pub(crate) use texts::{QUERY_FIELD, STRUCTURED_FIELD, examine};

pub(super) struct Given;

impl Captions for Given {
    fn looks(&self) -> bool {
        false
    }

    fn drops_tags(&self) -> bool {
        false
    }

    fn captions(&self) -> Way<Caption> {
        Way {
            model: |_| ModelUse::None,
            settings: |_| None,
            told: |tags| Some(canonical_json(&tags.given)),
            open: |_| Ok(Box::new(EachImage(caption))),
        }
    }

    fn structured(&self) -> Option<Way<StructuredCaption>> {
        let model = |_: &_| ModelUse::Named(&[STRUCTURED_FIELD]);
        Some(Way { model, settings: |_| None, told: nothing, open: texts::open_structured })
    }

    fn query_text(&self) -> Option<Way<QueryText>> {
        let model = |_: &_| ModelUse::Named(&[QUERY_FIELD]);
        Some(Way { model, settings: |_| None, told: nothing, open: texts::open_queries })
    }
}

/// A file says the same whatever the tags are.
fn nothing(_: &ImageTags<'_>) -> Option<String> {
    Some(String::new())
}

fn caption(tags: &ImageTags<'_>) -> Result<Caption, String> {
    let captions: Vec<String> = tags.given.iter().filter(|c| !c.trim().is_empty()).cloned().collect();
    if captions.is_empty() {
        return Err("no caption came with the image".into());
    }
    Ok(Caption { captions, ..Caption::default() })
}
