//! What is done about a decision, judged against what is there when it is to be written.

use std::collections::BTreeMap;

use super::{CAPTIONS_INPUT, CaptionState, Decision, PERSON, Review};
use crate::digest::{self, Digest};

/// What somebody wants to become of an image's captions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// The words stand as they are.
    Accept,
    /// These take their place.
    Edit(Vec<String>),
    /// The image is left out.
    Reject,
    /// The decision before is taken back: the captioner has its way again.
    Withdraw,
}

/// A wish with all that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What is to become of the image.
    pub wish: Wish,
    /// Who says so.
    pub author: String,
    /// When, as [`Review::decided_at`].
    pub decided_at: String,
    /// [`CaptionState::token`] of what the author saw; `None`: whatever is there now, but for what somebody else has decided
    /// and still stands.
    pub token: Option<Digest>,
}

impl Asked {
    /// Would it overwrite what its author has not seen?
    fn is_unaware(&self, state: &CaptionState, before: Option<&Review>) -> bool {
        match &self.token {
            Some(token) => *token != state.token(before),
            None => before.is_some_and(|b| b.author != self.author && b.outdated(&state.inputs).is_none()),
        }
    }
}

/// What is done about a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This becomes the image's decision.
    Write(Review),
    /// The image has no decision any more.
    Remove,
    /// All is as it is wished: an earlier try came through, or nothing was to be taken back.
    Nothing,
    /// The image is not what the author saw: somebody decided meanwhile, or its tags, picture or words are others.
    Changed,
}

/// Judges a wish against what is there now.
///
/// # Errors
/// Why it makes no sense, for people.
pub fn answer(asked: &Asked, state: &CaptionState, before: Option<&Review>) -> Result<Answer, String> {
    let (decision, wished) = match &asked.wish {
        Wish::Accept => (Decision::Accept, None),
        Wish::Edit(captions) => (Decision::Edit, Some(captions)),
        Wish::Reject => (Decision::Reject, None),
        Wish::Withdraw if before.is_none() => return Ok(Answer::Nothing),
        Wish::Withdraw if asked.is_unaware(state, before) => return Ok(Answer::Changed),
        Wish::Withdraw => return Ok(Answer::Remove),
    };
    let (judged, captioner) = state.words(before);
    let (captions, captioner) = match (decision, wished) {
        (Decision::Reject, _) => (Vec::new(), String::new()),
        (_, Some(captions)) => (captions.clone(), PERSON.to_owned()),
        (_, None) => (judged.to_vec(), captioner.to_owned()),
    };
    let mut seen: BTreeMap<String, Digest> = state.inputs.clone();
    if !judged.is_empty() {
        seen.insert(CAPTIONS_INPUT.to_owned(), digest::of_value(&judged));
    }
    let (author, decided_at) = (asked.author.clone(), asked.decided_at.clone());
    let review = Review { decision, captions, captioner, author, decided_at, seen };
    if before.is_some_and(|before| before.says_what(&review)) {
        return Ok(Answer::Nothing);
    }
    if asked.is_unaware(state, before) {
        return Ok(Answer::Changed);
    }
    if decision == Decision::Accept && review.captions.is_empty() {
        return Err(match before {
            Some(before) => format!("it was {}: withdraw that, or write a caption", before.in_words()),
            None => "it has no caption that could be accepted: write one".to_owned(),
        });
    }
    Ok(Answer::Write(review))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::review::{PICTURE_INPUT, TAGS_INPUT};

    fn inputs(tags: &str, picture: &str) -> BTreeMap<String, Digest> {
        [(TAGS_INPUT, tags), (PICTURE_INPUT, picture)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    fn asked(wish: Wish, token: Option<&str>) -> Asked {
        Asked { wish, author: "BO".into(), decided_at: "2026-11-29T08:00:00Z".into(), token: token.map(str::to_owned) }
    }

    #[test]
    fn a_wish_holds_only_for_what_its_author_saw() {
        let state = CaptionState {
            status: "ok".into(),
            captions: vec!["a pier".into()],
            captioner: "geotags".into(),
            inputs: inputs("t1", "p1"),
            ..CaptionState::default()
        };
        let Ok(Answer::Write(accepted)) = answer(&asked(Wish::Accept, Some(&state.token(None))), &state, None) else {
            panic!("accepted")
        };
        assert_eq!((accepted.captions.as_slice(), accepted.captioner.as_str()), (&["a pier".into()][..], "geotags"));
        assert_eq!(accepted.seen[CAPTIONS_INPUT], digest::of_value(&["a pier"]));
        // somebody else was first
        let late = asked(Wish::Edit(vec!["a lake".into()]), Some(&state.token(None)));
        assert_eq!(answer(&late, &state, Some(&accepted)), Ok(Answer::Changed));
        // the answer to the first try was lost; the author tries again, before or after a run
        let again = asked(Wish::Accept, Some(&state.token(None)));
        assert_eq!(answer(&again, &state, Some(&accepted)), Ok(Answer::Nothing));
        let Ok(Answer::Write(edited)) = answer(&asked(Wish::Edit(vec!["a lake".into()]), None), &state, None) else {
            panic!("edited")
        };
        let after_run = CaptionState { captions: vec!["a lake".into()], captioner: PERSON.into(), ..state.clone() };
        assert_eq!(answer(&late, &after_run, Some(&edited)), Ok(Answer::Nothing));
        assert_eq!(after_run.token(Some(&edited)), state.token(Some(&edited)), "a run is no change");
        let other = Asked { author: "CLEO".into(), ..asked(Wish::Reject, None) };
        assert_eq!(answer(&other, &after_run, Some(&edited)), Ok(Answer::Changed), "what stands has to be seen first");
        // new tags: the same words are a new decision
        let moved = CaptionState { inputs: inputs("t2", "p1"), ..after_run };
        assert!(matches!(answer(&other, &moved, Some(&edited)), Ok(Answer::Write(_))), "it waits for anybody");
        assert!(
            matches!(answer(&asked(Wish::Accept, None), &moved, Some(&edited)), Ok(Answer::Write(r)) if r.captioner == PERSON)
        );
        assert_eq!(answer(&asked(Wish::Withdraw, Some("x")), &moved, Some(&edited)), Ok(Answer::Changed));
        assert_eq!(answer(&asked(Wish::Withdraw, None), &moved, Some(&edited)), Ok(Answer::Remove));
        assert_eq!(answer(&asked(Wish::Withdraw, Some("x")), &moved, None), Ok(Answer::Nothing));
    }

    #[test]
    fn without_words_nothing_can_be_accepted() {
        let failed = CaptionState { status: "error".into(), ..CaptionState::default() };
        assert!(answer(&asked(Wish::Accept, None), &failed, None).unwrap_err().contains("write one"));
        let Ok(Answer::Write(rejected)) = answer(&asked(Wish::Reject, None), &failed, None) else { panic!("rejected") };
        assert!(rejected.captions.is_empty());
        let why = answer(&asked(Wish::Accept, None), &failed, Some(&rejected)).unwrap_err();
        assert!(why.contains("rejected by BO") && why.contains("withdraw"), "{why}");
    }
}
