//! How a build is to be run.

/// How to run.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Computes rows again that failed before.
    pub retry_errors: bool,
    /// Trains anew, even where a finished run is up to date.
    pub retrain: bool,
    /// Go on where most rows of the tables are no longer in the source.
    pub accept_removals: bool,
    /// The last step to run; all of them without one.
    pub until: Option<String>,
    /// Shards that workers may leave as failed before a run ends with an error.
    pub allow_failed: usize,
    /// What `--set` said, for later commands to know.
    pub set: Vec<String>,
}
