//! This machine's clock, by which parts are named, against the horizon that `gc` has set.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use manifests::Artifact;

use crate::error::WorkerError;

/// Clocks that are set by the network differ by less. So long is waited for this machine's to come to a horizon.
const CLOCKS_DIFFER: Duration = Duration::from_secs(10);

/// How far this machine's clock is behind a horizon.
pub(super) fn behind(horizon: u64) -> Duration {
    Duration::from_millis(horizon.saturating_sub(now_millis().max(0) as u64))
}

/// Refuses to go on by a clock by which what was just made is from before a horizon: made again, it would be so again.
pub(super) fn check_clock(artifact: Artifact, country: &str, horizon: u64) -> Result<(), WorkerError> {
    let behind = behind(horizon);
    if behind <= CLOCKS_DIFFER {
        return Ok(());
    }
    Err(WorkerError::Transient(format!(
        "table {} of {country}: this machine's clock is {} s or more behind that of another one, by which `gc` has \
         cleared up: what is written here until then counts as old, and is not taken into the table; set the clocks \
         by one server (NTP), or wait so long",
        artifact.name(),
        behind.as_secs()
    )))
}

pub(super) fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_millis() as i64)
}
