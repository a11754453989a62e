//! Review of captions by people: what waits, and what somebody decides. Plain data in and out, for the command line and for
//! pages.

use manifests::BuildSpec;
use manifests::review::{Asked, Wish};
use stages::reviews::{written_author, written_captions};
use workers::WorkerError;
use workers::reviews::{Decided, Looked, Reviews};
use workers::stores::WorkStore;
use workers::tables::Tables;

pub use manifests::review::Waits;
pub use workers::reviews::{Queue, Tally};

/// Images of one page of the queue, at most.
pub const MOST_LISTED: usize = 10_000;

/// The reviews of a build, with nothing but its work store.
///
/// # Errors
/// [`WorkerError::Configuration`] for a store that is not there, or was built with another number of shards.
pub async fn open(spec: &BuildSpec) -> Result<Reviews, WorkerError> {
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    work.required().await?;
    workers::layout::check(&work, spec).await?;
    Ok(Reviews::of(&work, &Tables::new(&work), spec))
}

/// What somebody asks to become of an image.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Which image.
    pub image_id: String,
    /// What is to become of it.
    pub wish: Wish,
    /// Who says so.
    pub author: String,
    /// [`Looked::token`] of what the author saw; `None`: whatever is there now, but for what somebody else has decided.
    pub seen: Option<String>,
}

/// Decides about an image, now.
///
/// # Errors
/// [`WorkerError::Configuration`] for words or a name that cannot stand, an image that is not there, and a wish that makes no
/// sense; otherwise as [`Reviews::decide`].
pub async fn decide(reviews: &Reviews, ask: Ask) -> Result<Decided, WorkerError> {
    let cannot = |why: String| WorkerError::Configuration(format!("{}: {why}", ask.image_id));
    let wish = match ask.wish {
        Wish::Edit(texts) => Wish::Edit(written_captions(&texts).map_err(cannot)?),
        other => other,
    };
    let author = written_author(&ask.author).map_err(cannot)?;
    let decided_at = crate::clock::second(crate::clock::unix_seconds() as u64);
    reviews.decide(&ask.image_id, &Asked { wish, author, decided_at, token: ask.seen }).await
}

/// Why a decision was not written: what its author has not seen.
pub fn unseen(now: &Looked) -> String {
    let what = match &now.review {
        Some(review) => format!("it was {} meanwhile", review.in_words()),
        None => "its tags, picture or caption have changed since you looked".to_owned(),
    };
    let words = if now.captions.is_empty() { String::new() } else { format!(": {}", now.captions.join(" | ")) };
    format!("{}: {what}{words}; nothing was written", now.image_id)
}

/// The name of whoever runs this program, as the system knows it.
pub fn user_name() -> Option<String> {
    let name = |variable| std::env::var(variable).ok().filter(|name| !name.trim().is_empty());
    ["USER", "LOGNAME", "USERNAME"].into_iter().find_map(name)
}
