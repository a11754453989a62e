//! Answers what the pages of builds at work ask: how far they are, and which captions wait for a person.

use std::collections::BTreeSet;

use async_trait::async_trait;
use atlas::{
    BuildState, Decision, DecisionAsked, Desk, Edit, Edited, Failure, ImageName, Trouble, Waiting, WaitingAsked,
    WaitingCaption,
};
use manifests::paths;
use manifests::review::Wish;
use tokio::sync::Mutex;
use workers::WorkerError;
use workers::publish::{Of, QuarantineLine};
use workers::reviews::{Decided, Looked, Reviews};

use super::models::Specs;
use super::state::{self, Looks};
use super::{details, edits, refusal, trouble};
use crate::build::Build;
use crate::review::{self, Ask, Waits};

/// Captions of one answer.
const PAGE: usize = 20;
/// Failed rows that are shown of a step.
const MOST_FAILURES: usize = 60;
/// What is read of a listing for them.
const MOST_BYTES: u64 = 256 << 10;

/// Builds, through their stores.
pub struct StoreDesk {
    builds: Vec<OneBuild>,
}

struct OneBuild {
    build: Build,
    reviews: Reviews,
    looks: Mutex<Looks>,
}

impl StoreDesk {
    /// Opens the stores of builds, finished or not.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] for a store that is not there.
    pub async fn open(specs: &Specs) -> Result<Self, WorkerError> {
        let mut builds = Vec::new();
        for spec in &specs.builds {
            let build = Build::open_work(spec.clone(), Default::default()).await?;
            let reviews = Reviews::of(&build.work, &build.tables, spec);
            builds.push(OneBuild { build, reviews, looks: Mutex::default() });
        }
        Ok(Self { builds })
    }

    fn of(&self, country: &str) -> Result<&OneBuild, Trouble> {
        let found = self.builds.iter().find(|one| one.build.spec.country == country);
        found.ok_or_else(|| Trouble::NotThere(format!("there is no build of {country:?} here")))
    }

    /// A build with what runs have written until now.
    async fn now(&self, country: &str) -> Result<Build, Trouble> {
        let spec = self.of(country)?.build.spec.clone();
        let opened = Build::open_work(spec, Default::default()).await;
        opened.map_err(trouble)
    }
}

#[async_trait]
impl Desk for StoreDesk {
    fn countries(&self) -> Vec<String> {
        self.builds.iter().map(|one| one.build.spec.country.clone()).collect()
    }

    async fn states(&self) -> Result<Vec<BuildState>, Trouble> {
        let mut states = Vec::new();
        for one in &self.builds {
            let mut looks = one.looks.lock().await;
            states.push(state::look(&one.build, &mut looks, crate::clock::unix_seconds()).await.map_err(trouble)?);
        }
        Ok(states)
    }

    async fn failures(&self, country: String, step: String) -> Result<Vec<Failure>, Trouble> {
        let build = &self.of(&country)?.build;
        // only ever the listing of a step that there is
        let stage = stages::map_stages(&build.spec).into_iter().find(|stage| stage.name == step);
        let stage = stage.ok_or_else(|| Trouble::NotThere(format!("there is no stage {step:?}")))?;
        let path = paths::quarantine(&country, stage.name);
        let Some(meta) = build.work.head(&path).await.map_err(trouble)? else { return Ok(Vec::new()) };
        let bytes = build.work.get_range(&path, 0..meta.size.min(MOST_BYTES), None).await.map_err(trouble)?;
        let pictured = !matches!(stage.output, manifests::Artifact::Geotags | manifests::Artifact::Images);
        let failed = failed_rows(&String::from_utf8_lossy(&bytes));
        Ok(failed.into_iter().map(|(what, why)| Failure { what, why, pictured }).collect())
    }

    async fn waiting(&self, asked: WaitingAsked) -> Result<Waiting, Trouble> {
        let reviews = &self.of(&asked.country)?.reviews;
        let only = match asked.why.as_str() {
            "" => None,
            why => Some(waits_of(why).ok_or_else(|| Trouble::Refused(format!("{why:?}: nothing waits for that")))?),
        };
        let after = Some(asked.after.as_str()).filter(|after| !after.is_empty());
        let queue = reviews.queue(only, after, PAGE).await.map_err(trouble)?;
        let tally = reviews.tally().await.map_err(trouble)?;
        Ok(Waiting {
            tally: tally.waiting.into_iter().map(|(waits, images)| (waits.words().to_owned(), images)).collect(),
            pending: tally.pending,
            captions: queue.images.into_iter().map(shown).collect(),
            next: queue.next,
        })
    }

    async fn decide(&self, asked: DecisionAsked) -> Result<Decision, Trouble> {
        let reviews = &self.of(&asked.country)?.reviews;
        let wish = match asked.wish.as_str() {
            "accept" => Wish::Accept,
            "edit" => Wish::Edit(asked.texts),
            "reject" => Wish::Reject,
            "withdraw" => Wish::Withdraw,
            other => return Err(Trouble::Refused(format!("{other:?} is no decision"))),
        };
        let ask = Ask { image_id: asked.id, wish, author: asked.author, seen: Some(asked.seen) };
        let unstored = |error: WorkerError| match error {
            WorkerError::DiskFull(_) => {
                Trouble::Unstored("the decision was not stored: the store is full; try again when there is room".into())
            }
            error => refusal(error),
        };
        Ok(match review::decide(reviews, ask).await.map_err(unstored)? {
            Decided::Done | Decided::Already => Decision::Done,
            Decided::Changed(now) => Decision::Changed { why: review::unseen(&now), now: Box::new(shown(*now)) },
        })
    }

    async fn edits(&self, country: String) -> Result<Vec<Edit>, Trouble> {
        edits::list(&self.now(&country).await?).await.map_err(trouble)
    }

    async fn edited(&self, country: String, version: u64) -> Result<Edited, Trouble> {
        // parts that `gc` has cleared away are what was asked for
        let edited = edits::edited(&self.now(&country).await?, version).await.map_err(refusal)?;
        edited.ok_or_else(|| {
            let of = format!("version {version} of the refreshed tags of {country}");
            Trouble::NotThere(format!("{of} is none of the last that moved rows"))
        })
    }

    async fn picture(&self, image: ImageName) -> Result<Vec<u8>, Trouble> {
        details::picture(&self.now(&image.country).await?, &image).await
    }
}

/// The first rows of a listing that failed, without the source's problems, which stand before them.
fn failed_rows(listing: &str) -> Vec<(String, String)> {
    let lines = listing.lines().filter_map(|line| serde_json::from_str::<QuarantineLine>(line).ok());
    let rows = lines.filter(|line| line.of == Of::Row).map(|QuarantineLine { what, why, .. }| (what, why));
    rows.take(MOST_FAILURES).collect()
}

fn waits_of(name: &str) -> Option<Waits> {
    Waits::ALL.into_iter().find(|waits| serde_json::json!(waits) == name)
}

/// An image as the page shows it; tags that cannot be read are none.
fn shown(looked: Looked) -> WaitingCaption {
    type Tags = std::collections::BTreeMap<String, String>;
    let words = |tags: Tags| tags.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
    let center: Tags = looked.center_tags.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let around: Vec<Tags> =
        looked.surrounding_tags.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    // objects with the same tags say nothing more
    let around: BTreeSet<Vec<String>> = around.into_iter().map(words).filter(|tags| !tags.is_empty()).collect();
    WaitingCaption {
        id: looked.image_id,
        waits: looked.waits.map_or_else(String::new, |waits| waits.words().to_owned()),
        why: looked.why,
        captions: looked.captions,
        captioner: looked.captioner,
        tags: words(center),
        around: around.into_iter().collect(),
        decided: looked.review.map(|review| review.in_words()),
        seen: looked.token,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many problems the source has.
    #[test]
    fn failed_rows_are_shown_and_no_problems_of_the_source() {
        let line = |what: String, of: &str| format!(r#"{{"what":"{what}","why":"w","of":"{of}"}}"#);
        let problems = (0..MOST_FAILURES + 1).map(|number| line(format!("x{number}.zip"), "source"));
        let rows = ["a", "b"].map(|id| line(id.into(), "row"));
        let cut = [r#"{"what":"c","wh"#.to_owned()];
        let listing = problems.chain(rows).chain(cut).collect::<Vec<_>>().join("\n");
        assert_eq!(failed_rows(&listing), ["a", "b"].map(|id| (id.to_owned(), "w".to_owned())));
        assert_eq!(failed_rows(r#"{"what":"of an earlier version","why":"w"}"#).len(), 1);
    }

    #[test]
    fn what_waits_has_a_name() {
        for waits in Waits::ALL {
            let name = serde_json::json!(waits);
            assert_eq!(waits_of(name.as_str().unwrap()), Some(waits));
        }
        assert_eq!(waits_of("nothing"), None);
    }

    #[test]
    fn tags_that_cannot_be_read_are_none() {
        let looked = Looked {
            image_id: "a".into(),
            shard: 0,
            waits: Some(Waits::Flagged),
            why: "short".into(),
            captions: Vec::new(),
            captioner: String::new(),
            center_tags: Some("{".into()),
            surrounding_tags: Some(r#"[{"a":"b"},{"a":"b"},{}]"#.into()),
            review: None,
            pending: false,
            token: "t".into(),
        };
        let shown = shown(looked);
        assert!(shown.tags.is_empty());
        assert_eq!(shown.around, [["a=b"]]);
    }
}
