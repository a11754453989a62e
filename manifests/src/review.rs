//! What people decide about captions, as plain data.
//!
//! A decision stands until somebody decides again: no edit of tags and no other captioner changes the words of a caption
//! that a person has accepted or written. What the person looked at is kept beside it, so that a later look can tell what
//! has changed since.

mod answer;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::{self, Digest};

pub use answer::{Answer, Asked, Wish, answer};

/// The input fields that a decision rests on: a person looks at the tags and at the picture.
pub const TAGS_INPUT: &str = "geotags.tags";
/// See [`TAGS_INPUT`].
pub const PICTURE_INPUT: &str = "images.bytes";
/// The words that were judged. They follow from the others, and are kept for the record.
pub const CAPTIONS_INPUT: &str = "captions.captions";

/// In the column `captioner`: words that a person wrote.
pub const PERSON: &str = "person";

/// What a person decided about an image's captions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The words are right as they are.
    Accept,
    /// Other words take their place.
    Edit,
    /// The image is not to be used with any caption: its row is excluded.
    Reject,
}

impl Decision {
    /// As the table has it.
    pub fn name(self) -> &'static str {
        match self {
            Decision::Accept => "accept",
            Decision::Edit => "edit",
            Decision::Reject => "reject",
        }
    }

    /// Reads [`name`](Self::name).
    pub fn parse(name: &str) -> Option<Self> {
        [Decision::Accept, Decision::Edit, Decision::Reject].into_iter().find(|decision| decision.name() == name)
    }

    /// What was done, for people.
    fn done(self) -> &'static str {
        match self {
            Decision::Accept => "accepted",
            Decision::Edit => "edited",
            Decision::Reject => "rejected",
        }
    }
}

/// A decision with all that belongs to it: a row of the table `caption_reviews`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// What was decided.
    pub decision: Decision,
    /// The words that stand from now on; none of a rejected image.
    pub captions: Vec<String>,
    /// Who wrote them: [`PERSON`], or the captioner whose words were accepted.
    pub captioner: String,
    /// Who decided.
    pub author: String,
    /// When, in UTC: `2026-11-28T10:12:44Z`.
    pub decided_at: String,
    /// Digests of what the author saw, by `artifact.field`.
    pub seen: BTreeMap<String, Digest>,
}

impl Review {
    /// Changes with everything that a row of captions is made of.
    pub fn digest(&self) -> Digest {
        digest::of_value(self)
    }

    /// Who did what and when: `edited by ANNE on 2026-11-28 at 10:12 UTC`.
    pub fn in_words(&self) -> String {
        let day = self.decided_at.get(..10).unwrap_or(&self.decided_at);
        let time = self.decided_at.get(11..16).map_or(String::new(), |time| format!(" at {time} UTC"));
        format!("{} by {} on {day}{time}", self.decision.done(), self.author)
    }

    /// Whether the same person has decided the same of the same tags and picture, whenever that was: the words that were
    /// judged may be those of the decision itself by now.
    fn says_what(&self, other: &Review) -> bool {
        let of = |review: &Review| (review.decision, review.captions.clone(), review.author.clone());
        of(self) == of(other) && self.changed_since(&other.seen).is_empty()
    }

    /// What of the tags and the picture is another than the author saw. What is not there now, or was not then, tells
    /// nothing.
    pub fn changed_since(&self, now: &BTreeMap<String, Digest>) -> BTreeSet<&'static str> {
        let changed = |field: &&str| matches!((self.seen.get(*field), now.get(*field)), (Some(a), Some(b)) if a != b);
        let fields = [(TAGS_INPUT, "its tags"), (PICTURE_INPUT, "its picture")];
        fields.into_iter().filter(|(field, _)| changed(field)).map(|(_, words)| words).collect()
    }

    /// Why it has to be looked at again, for people; `None`: it stands.
    pub fn outdated(&self, now: &BTreeMap<String, Digest>) -> Option<String> {
        let changed: Vec<&str> = self.changed_since(now).into_iter().collect();
        let words = (!changed.is_empty()).then(|| changed.join(" and "))?;
        Some(format!("review again: {words} changed after it was {}", self.in_words()))
    }
}

/// Why an image waits for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Waits {
    /// It has no caption: none could be made.
    Failed,
    /// Its caption is below a threshold.
    Flagged,
    /// What a person decided rests on tags or a picture that have changed since.
    ReviewAgain,
}

impl Waits {
    /// All of them, in the order of their declaration.
    pub const ALL: [Waits; 3] = [Waits::Failed, Waits::Flagged, Waits::ReviewAgain];

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Waits::Failed => "failed",
            Waits::Flagged => "flagged",
            Waits::ReviewAgain => "review again",
        }
    }
}

/// What the tables say of an image's captions just now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptionState {
    /// Of the row: "ok", "error" or "excluded".
    pub status: String,
    /// Why there is none, where there is none.
    pub error: Option<String>,
    /// Why a caption is below a threshold, where one is.
    pub flagged: Option<String>,
    /// The words; none of a row that failed.
    pub captions: Vec<String>,
    /// Who wrote them.
    pub captioner: String,
    /// Digests of the tags, the picture and the words, as far as they are there.
    pub inputs: BTreeMap<String, Digest>,
}

impl CaptionState {
    /// The words that stand once all decisions are in the table, and who wrote them.
    pub fn words<'a>(&'a self, review: Option<&'a Review>) -> (&'a [String], &'a str) {
        match review {
            Some(review) if review.decision != Decision::Reject => (&review.captions, &review.captioner),
            _ => (&self.captions, &self.captioner),
        }
    }

    /// Identity of what a person sees, the last decision included. A decision names the one that it was made at.
    pub fn token(&self, review: Option<&Review>) -> Digest {
        // the words of a decision are its own, whether or not a run has put them into the table
        let row = review.is_none().then_some((&self.status, &self.captions));
        digest::of_value(&(row, &self.inputs, review))
    }

    /// Why the image waits for a person, and that in words; `None`: it does not.
    pub fn waits(&self, review: Option<&Review>) -> Option<(Waits, String)> {
        match (review, self.status.as_str()) {
            (Some(review), _) => review.outdated(&self.inputs).map(|why| (Waits::ReviewAgain, why)),
            (None, "error") => Some((Waits::Failed, self.error.clone().unwrap_or_default())),
            (None, "ok") => self.flagged.clone().map(|why| (Waits::Flagged, why)),
            (None, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(tags: &str, picture: &str) -> BTreeMap<String, Digest> {
        [(TAGS_INPUT, tags), (PICTURE_INPUT, picture)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    fn edit() -> Review {
        Review {
            decision: Decision::Edit,
            captions: vec!["a lake".into()],
            captioner: PERSON.into(),
            author: "ANNE".into(),
            decided_at: "2026-11-28T10:12:44Z".into(),
            seen: inputs("t1", "p1"),
        }
    }

    #[test]
    fn a_decision_stands_until_its_tags_or_picture_change() {
        let review = edit();
        assert_eq!(review.in_words(), "edited by ANNE on 2026-11-28 at 10:12 UTC");
        assert_eq!(review.outdated(&inputs("t1", "p1")), None);
        assert_eq!(review.outdated(&BTreeMap::new()), None, "an image that is gone waits for nobody");
        let why = review.outdated(&inputs("t2", "p2")).unwrap();
        let expected =
            "review again: its picture and its tags changed after it was edited by ANNE on 2026-11-28 at 10:12 UTC";
        assert_eq!(why, expected);
        // hostile or cut
        assert_eq!(Review { decided_at: "é".into(), ..edit() }.in_words(), "edited by ANNE on é");
    }

    #[test]
    fn what_waits_follows_from_the_row_and_the_decision() {
        let ok = CaptionState { status: "ok".into(), inputs: inputs("t1", "p1"), ..CaptionState::default() };
        assert_eq!(ok.waits(None), None);
        let flagged = CaptionState { flagged: Some("short".into()), ..ok.clone() };
        assert_eq!(flagged.waits(None), Some((Waits::Flagged, "short".into())));
        assert_eq!(flagged.waits(Some(&edit())), None, "somebody has looked at it");
        let failed = CaptionState { status: "error".into(), error: Some("nothing".into()), ..ok.clone() };
        assert_eq!(failed.waits(None), Some((Waits::Failed, "nothing".into())));
        let excluded = CaptionState { status: "excluded".into(), ..ok.clone() };
        assert_eq!(excluded.waits(None), None);
        let moved = CaptionState { inputs: inputs("t2", "p1"), ..ok };
        assert_eq!(moved.waits(Some(&edit())).map(|(waits, _)| waits), Some(Waits::ReviewAgain));
    }

    #[test]
    fn a_token_is_of_all_that_is_seen() {
        let state = CaptionState { status: "ok".into(), captions: vec!["a".into()], ..CaptionState::default() };
        let token = state.token(None);
        assert_ne!(state.token(Some(&edit())), token);
        assert_ne!(CaptionState { captions: vec!["b".into()], ..state.clone() }.token(None), token);
        assert_ne!(CaptionState { inputs: inputs("t", "p"), ..state }.token(None), token);
    }

    #[test]
    fn the_same_decision_at_another_time_is_the_same() {
        let again = Review { decided_at: "2027-01-01T00:00:00Z".into(), ..edit() };
        assert!(again.says_what(&edit()) && again.digest() != edit().digest());
        assert!(!Review { author: "BO".into(), ..edit() }.says_what(&edit()));
        for decision in [Decision::Accept, Decision::Edit, Decision::Reject] {
            assert_eq!(Decision::parse(decision.name()), Some(decision));
        }
    }
}
