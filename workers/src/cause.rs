//! What lies under an error: its chain of causes, and whether the same request can succeed later.

use object_store::Error as StoreError;
use stages::io_fault::IoFault;
use stages::stage::is_disk_full;

/// An entry of a table's log that was not written whole.
#[derive(Debug, thiserror::Error)]
#[error(
    "{location} is torn: it has {bytes} bytes and is no log entry. Put it back from a copy; or, if no entry has a higher \
     number, delete it: what it added is lost with it, and the next run computes that again"
)]
pub(crate) struct TornEntry {
    pub(crate) location: String,
    pub(crate) bytes: usize,
}

/// An error with its causes, each once.
pub fn whole_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// The causes beneath an error, without its own words; `None`: it has none.
pub fn beneath(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let causes = std::iter::successors(error.source(), |error| error.source());
    let words: Vec<String> = causes.map(ToString::to_string).collect();
    (!words.is_empty()).then(|| words.join(": "))
}

/// May the same request succeed later? What a store says about the object or the caller lasts; what happens on the way
/// to it, or in it, passes.
pub(crate) fn may_pass(error: &StoreError) -> bool {
    match error {
        StoreError::Generic { store: "LocalFileSystem", .. } if is_for_good(error) => false,
        StoreError::Generic { .. } => {
            let text = whole_chain(error);
            let passes = |code: &&str| text.contains(&format!("status code: {code}"));
            // a store that waited in vain for the rest of a request answers 400, and one whose token was for a time
            let refused = text.contains("status code: 4")
                && !["408", "409", "425", "429"].iter().any(passes)
                && !["<Code>RequestTimeout</Code>", "<Code>ExpiredToken</Code>"].iter().any(|code| text.contains(code));
            !refused && way_in(error).is_empty() && !is_disk_full(error)
        }
        StoreError::JoinError { .. } => true,
        _ => false,
    }
}

/// What helps where requests go another way than the store wants; empty: it says nothing of that.
pub(crate) fn way_in(error: &StoreError) -> &'static str {
    const REGION: &str = "; set options.region to the region of the bucket";
    let text = whole_chain(error);
    let ways = [
        ("redirect without LOCATION", REGION),
        ("<Code>AuthorizationHeaderMalformed</Code>", REGION),
        ("URL scheme is not allowed", "; write https://, or set options.allow_http = true"),
    ];
    ways.into_iter().find(|(said, _)| text.contains(said)).map_or("", |(_, helps)| helps)
}

/// Was a range asked for that lies behind the end of the object?
pub(crate) fn is_beyond_end(error: &StoreError) -> bool {
    let text = whole_chain(error);
    // of a server, and of a file
    text.contains("status code: 416") || text.contains("Requested range was invalid")
}

/// Is there a fault of a store among the causes that may pass?
pub(crate) fn is_passing(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| cause.downcast_ref::<StoreError>().is_some_and(may_pass))
}

/// Is an error of the local file system one that another try meets again: a name or a right, and not the disk?
fn is_for_good(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    match causes.find_map(|cause| cause.downcast_ref::<std::io::Error>()) {
        Some(io) => IoFault::of(io) == IoFault::ForGood,
        None => true,
    }
}
