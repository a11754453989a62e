//! The task of a run of several that a process works for.

use std::sync::OnceLock;

/// Variable in which a driver tells it to the processes that it starts.
pub(crate) const TASK: &str = "URBANCROSS_TASK";

/// Its name, which stands before lines; empty: there is one task alone.
pub fn task() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| std::env::var(TASK).unwrap_or_default())
}
