//! What people decided about captions: between rows of a table and plain data, and what a decision makes of a row.

use std::collections::BTreeMap;

use arrow::array::{Array, RecordBatch};
use manifests::digest::canonical_json;
use manifests::review::{Decision, Review, TAGS_INPUT};
use manifests::{Artifact, Digest};

use crate::captioners::Caption;
use crate::stage::Outcome;
use crate::table::{self, Columns, TableError};

/// Captions that a person may write for one image.
pub const MOST_CAPTIONS: usize = 16;
/// Characters of the name of whoever decides.
const MOST_AUTHOR_CHARS: usize = 80;

/// The words that somebody wrote for an image, as they will stand.
///
/// # Errors
/// What is wrong with them.
pub fn written_captions(texts: &[String]) -> Result<Vec<String>, String> {
    if texts.is_empty() || texts.len() > MOST_CAPTIONS {
        return Err(format!("an image has 1 to {MOST_CAPTIONS} captions, and these are {}", texts.len()));
    }
    let written = |text: &String| wording::written_line(text, wording::MAX_FIELD_CHARS).map_err(|why| why.to_string());
    texts.iter().map(|text| written(text).map_err(|why| format!("the caption cannot stand: {why}"))).collect()
}

/// The name of whoever decides, as it will stand.
///
/// # Errors
/// What is wrong with it.
pub fn written_author(name: &str) -> Result<String, String> {
    wording::written_line(name, MOST_AUTHOR_CHARS).map_err(|why| format!("the author's name cannot stand: {why}"))
}

/// The decisions of a batch, row by row; `None` where there is none. A row that says something else than we write is an
/// error in words.
///
/// # Errors
/// A column that is not there.
pub fn read(batch: &RecordBatch) -> Result<Vec<Option<Result<Review, String>>>, TableError> {
    let columns = Columns::new(Artifact::CaptionReviews, batch);
    let text = |name| columns.text(name);
    let (decision, captioner, author) = (text("decision")?, text("captioner")?, text("author")?);
    let (decided_at, seen, captions) = (text("decided_at")?, text("inputs")?, columns.texts("captions")?);
    let row = |(row, captions): (usize, Vec<String>)| {
        (!decision.is_null(row)).then(|| {
            let decision = decision.value(row);
            let known = Decision::parse(decision).ok_or_else(|| format!("{decision:?} is no decision"))?;
            let seen: BTreeMap<String, Digest> =
                serde_json::from_str(seen.value(row)).map_err(|e| format!("what was seen is no JSON: {e}"))?;
            Ok(Review {
                decision: known,
                captions,
                captioner: captioner.value(row).to_owned(),
                author: author.value(row).to_owned(),
                decided_at: decided_at.value(row).to_owned(),
                seen,
            })
        })
    };
    Ok(captions.into_iter().enumerate().map(row).collect())
}

/// Rows of the table, in order of image.
///
/// # Errors
/// None that columns of these rows have.
pub fn batch(reviews: &BTreeMap<String, Review>) -> Result<RecordBatch, TableError> {
    let of = |get: fn(&Review) -> String| table::texts(reviews.values().map(|review| Some(get(review))));
    let columns = vec![
        table::texts(reviews.keys().map(|id| Some(id.clone()))),
        table::texts(reviews.values().map(|_| Some("ok"))),
        table::texts(reviews.values().map(|_| None::<String>)),
        of(Review::digest),
        table::int32s(reviews.values().map(|_| Some(1))),
        table::texts(reviews.values().map(|_| Some(""))),
        table::texts(reviews.values().map(|_| Some("{}"))),
        of(|review| canonical_json(&review.seen)),
        of(|review| review.decision.name().to_owned()),
        table::text_lists(&reviews.values().map(|review| Some(review.captions.clone())).collect::<Vec<_>>())?,
        of(|review| review.captioner.clone()),
        of(|review| review.author.clone()),
        of(|review| review.decided_at.clone()),
        of(Review::digest),
    ];
    RecordBatch::try_new(table::schema(Artifact::CaptionReviews), columns)
        .map_err(|e| TableError::Build { table: Artifact::CaptionReviews.name(), why: e.to_string() })
}

/// What a decision makes of an image's captions: words, with who wrote them, or a row without. Nothing of it is left to a
/// captioner.
pub(crate) fn decided(review: &Result<Review, String>, tags_digest: &str) -> Result<(String, Caption), Outcome> {
    let failed = |why: &str| Outcome::Failed(format!("table {}: {why}", Artifact::CaptionReviews.name()));
    let review = review.as_ref().map_err(|why| failed(why))?;
    let author = written_author(&review.author).map_err(|why| failed(&why))?;
    if review.decision == Decision::Reject {
        return Err(Outcome::Excluded(Review { author, ..review.clone() }.in_words()));
    }
    if review.captions.is_empty() {
        return Err(failed("a decision without words"));
    }
    // another program may have written anything; accepted words are a captioner's, and stood in the table before
    let is_sound = |text: &String| wording::written_line(text, usize::MAX).map(|_| ());
    let mut written = review.captions.iter().filter(|_| review.decision == Decision::Edit);
    written.try_for_each(is_sound).map_err(|why| failed(&format!("a caption cannot stand: {why}")))?;
    let flagged = review.outdated(&BTreeMap::from([(TAGS_INPUT.to_owned(), tags_digest.to_owned())]));
    let caption = Caption { captions: review.captions.clone(), flagged, ..Caption::default() };
    Ok((review.captioner.clone(), caption))
}

#[cfg(test)]
mod tests {
    use super::*;
    use manifests::review::PERSON;

    fn edit(texts: &[&str]) -> Review {
        Review {
            decision: Decision::Edit,
            captions: texts.iter().map(|text| text.to_string()).collect(),
            captioner: PERSON.into(),
            author: "Anne".into(),
            decided_at: "2026-11-28T10:12:44Z".into(),
            seen: [(TAGS_INPUT.to_owned(), "t1".to_owned())].into(),
        }
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let reject = Review { decision: Decision::Reject, captions: Vec::new(), ..edit(&[]) };
        let reviews: BTreeMap<String, Review> =
            [("a".to_owned(), edit(&["a lake", "water"])), ("b".to_owned(), reject)].into();
        let read: Vec<_> =
            read(&batch(&reviews).unwrap()).unwrap().into_iter().map(|row| row.unwrap().unwrap()).collect();
        assert_eq!(read, reviews.into_values().collect::<Vec<_>>());
    }

    #[test]
    fn a_decision_makes_words_or_takes_the_row_out() {
        let (captioner, caption) = decided(&Ok(edit(&["a lake"])), "t1").unwrap();
        assert_eq!(
            (captioner.as_str(), caption.captions.as_slice(), caption.flagged),
            (PERSON, &["a lake".into()][..], None)
        );
        let (_, caption) = decided(&Ok(edit(&["a lake"])), "t2").unwrap();
        assert_eq!(caption.captions, ["a lake"], "the words stay");
        assert!(caption.flagged.unwrap().starts_with("review again: its tags changed"));
        let reject = Review { decision: Decision::Reject, ..edit(&[]) };
        let excluded = Outcome::Excluded("rejected by Anne on 2026-11-28 at 10:12 UTC".into());
        assert_eq!(decided(&Ok(reject), "t1").err(), Some(excluded));
    }

    #[test]
    fn what_another_program_wrote_is_not_believed() {
        for bad in [
            Ok(edit(&[])),
            Ok(edit(&["a\u{202e}b"])),
            Ok(Review { author: "\0".into(), ..edit(&["a"]) }),
            Err("x".into()),
        ] {
            assert!(matches!(decided(&bad, "t1"), Err(Outcome::Failed(why)) if why.contains("caption_reviews")));
        }
    }

    #[test]
    fn words_of_people_pass_checks() {
        let captions = |texts: &[&str]| written_captions(&texts.iter().map(|t| t.to_string()).collect::<Vec<_>>());
        assert_eq!(captions(&[" a  lake "]).unwrap(), ["a lake"]);
        assert!(
            captions(&[]).is_err() && captions(&["a"; MOST_CAPTIONS + 1]).is_err() && captions(&["a", " "]).is_err()
        );
        assert!(captions(&[&"x".repeat(601)]).unwrap_err().contains("601 characters, and may have 600"));
        assert!(written_author("").is_err() && written_author(&"x".repeat(81)).is_err());
    }
}
