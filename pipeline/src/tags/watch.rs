//! Diffs as they come: a refresh again and again, a line each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use manifests::BuildSpec;
use manifests::words::count;
use serde::Serialize;
use workers::WorkerError;
use workers::tag_refreshes::{Refreshment, Until};

use super::Wanted;

/// The shortest pause: publishers of minutely diffs are asked no more often.
pub const LEAST_PAUSE: Duration = Duration::from_secs(10);
/// How soon a stop is seen.
const STEP: Duration = Duration::from_millis(200);

/// What one round did.
#[derive(Debug, Serialize)]
pub struct Round {
    /// When it ended, in UTC.
    pub at: String,
    /// What was done; nothing where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<Refreshment>,
    /// Why it failed, and is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl Round {
    /// For people, in one line.
    pub fn in_words(&self) -> String {
        let Round { at, done, failed } = self;
        let what = match (done, failed) {
            (Some(done), _) if done.diffs == 0 => format!("no new diff; the tags show {}", done.moment),
            (Some(done), _) => {
                let mut words = format!("{}: {}", count(done.diffs, "diff"), done.in_words());
                let others = [
                    (done.gone, "left out"),
                    (done.back, "back"),
                    (done.unjudged, "back unjudged"),
                    (done.unclear, "unclear"),
                ];
                others.iter().filter(|(images, _)| *images > 0).for_each(|(n, what)| words += &format!(", {n} {what}"));
                format!("{words}; they show {}", done.moment)
            }
            (None, failed) => format!("failed, and tried again: {}", failed.as_deref().unwrap_or_default()),
        };
        format!("{at} {what}")
    }
}

/// Whether a fault passes by itself. Settings, and whatever a person has to accept, do not.
fn passes(error: &WorkerError) -> bool {
    matches!(
        error,
        WorkerError::Transient(_)
            | WorkerError::Outdated(_)
            | WorkerError::Unanswered(_)
            | WorkerError::Conflict(_)
            | WorkerError::Broken(_)
            | WorkerError::Missing { .. }
    )
}

/// Refreshes by the diffs that have come since, every so often, until a stop is asked for.
///
/// # Errors
/// What does not pass by itself: [`WorkerError::Configuration`], such as too many changes at once or a gap, a store that lets
/// nobody in, a full disk.
pub async fn watch(
    spec: &BuildSpec,
    diffs: &str,
    (every, accept_share): (Duration, Option<f64>),
    stop: Arc<AtomicBool>,
    tell: &(dyn Fn(&Round) + Sync),
) -> Result<(), WorkerError> {
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let wanted = Wanted::Diffs(diffs.to_owned(), Until(None));
        let made = super::refresh(spec, wanted, accept_share, stop.clone(), &|_| ()).await;
        let at = workers::tag_refreshes::words_of(crate::clock::unix_seconds() as i64);
        match made {
            Ok(done) => tell(&Round { at, done: Some(done), failed: None }),
            Err(WorkerError::Stopped) => break,
            Err(error) if passes(&error) => tell(&Round { at, done: None, failed: Some(error.to_string()) }),
            Err(error) => return Err(error),
        }
        while began.elapsed() < every && !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(STEP.min(every)).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_one_line() {
        let round = |done, failed| Round { at: "2026-11-28T10:00:00Z".into(), done, failed }.in_words();
        let done = Refreshment {
            images: 60,
            changed: 3,
            gone: 1,
            unclear: 2,
            diffs: 1,
            moment: "diff 7, then".into(),
            ..Refreshment::default()
        };
        assert_eq!(
            round(Some(done.clone()), None),
            "2026-11-28T10:00:00Z 1 diff: 3 of 60 images have other tags, 1 left out, 2 unclear; they show diff 7, then"
        );
        let one = Refreshment { changed: 1, gone: 0, unjudged: 1, unclear: 0, ..done.clone() };
        let one = round(Some(one), None);
        assert!(one.contains(": 1 of 60 images has other tags, 1 back unjudged; they"), "{one}");
        let none = round(Some(Refreshment { diffs: 0, ..done }), None);
        assert!(none.ends_with("no new diff; the tags show diff 7, then"), "{none}");
        assert!(round(None, Some("no answer".into())).ends_with("failed, and tried again: no answer"));
    }

    #[test]
    fn what_a_person_has_to_see_ends_it() {
        assert!(passes(&WorkerError::Transient("x".into())) && passes(&WorkerError::Broken("x".into())));
        assert!(!passes(&WorkerError::Configuration("x".into())) && !passes(&WorkerError::Refused("x".into())));
    }
}
