//! What the pages of a build at work ask for, as plain data: how far it is, and which captions wait for a person.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::ask::ImageName;
use crate::edits::{Edit, Edited};
use crate::trouble::Trouble;

/// Builds, finished or not, seen through their stores alone.
#[async_trait]
pub trait Desk: Send + Sync + 'static {
    /// Countries of the builds.
    fn countries(&self) -> Vec<String>;

    /// How far all builds are.
    async fn states(&self) -> Result<Vec<BuildState>, Trouble>;

    /// Rows that a step could not make, the first of them.
    async fn failures(&self, country: String, step: String) -> Result<Vec<Failure>, Trouble>;

    /// Captions that wait for a person.
    async fn waiting(&self, asked: WaitingAsked) -> Result<Waiting, Trouble>;

    /// Decides about one of them.
    async fn decide(&self, asked: DecisionAsked) -> Result<Decision, Trouble>;

    /// The last refreshes of a country's tags that moved rows, the newest first.
    async fn edits(&self, country: String) -> Result<Vec<Edit>, Trouble>;

    /// What became of one of them, by its version.
    async fn edited(&self, country: String, version: u64) -> Result<Edited, Trouble>;

    /// A picture, as a JPEG that this program has encoded.
    async fn picture(&self, image: ImageName) -> Result<Vec<u8>, Trouble>;
}

/// How far a build is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BuildState {
    /// Country of the build.
    pub country: String,
    /// Whether somebody runs it just now, as far as one look can tell.
    pub at_work: bool,
    /// Its steps, in order.
    pub steps: Vec<StepState>,
    /// Which step reads what which makes, by name.
    pub edges: Vec<(String, String)>,
    /// Learning curves of trainings, the unfinished among them.
    pub curves: Vec<Curve>,
    /// What clusters do, in words.
    pub runs: Vec<Vec<String>>,
}

/// What a step is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// It has nothing to show yet.
    #[default]
    Waits,
    /// It is worked on.
    Runs,
    /// It was begun, and nobody works on it.
    Stopped,
    /// It has come to its end.
    Done,
}

/// How far a step is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StepState {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub doing: Doing,
    /// Rows of its table, or images that a model learnt from.
    pub rows: Option<u64>,
    /// Rows in quarantine.
    pub errors: u64,
    /// Rows that are left out on purpose.
    pub excluded: u64,
    /// Version of its table.
    pub version: Option<u64>,
    /// How long it took when it last had something to do.
    pub seconds: Option<f64>,
    /// When that ended, in seconds since 1970.
    pub ended: Option<f64>,
    /// What it did then, and why: `3 reviewed`.
    pub moved: Vec<String>,
    /// Of what it works on: shards that are done, and all.
    pub shards: Option<(u64, u64)>,
    /// Rows a second.
    pub rows_per_second: Option<f64>,
    /// Seconds that are left at that rate.
    pub seconds_left: Option<f64>,
    /// What else there is to say.
    pub note: String,
}

/// How a model learns.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Curve {
    /// The training.
    pub step: String,
    /// Whether it has come to its end.
    pub finished: bool,
    /// Epochs done, and the loss there.
    pub loss: Vec<(f64, f64)>,
    /// Epochs done, and the mean recall on the validation split, in percent.
    pub recall: Vec<(f64, f64)>,
}

/// A row that could not be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The image, or the file of the source.
    pub what: String,
    /// Why.
    pub why: String,
    /// Whether there may be a picture of it.
    pub pictured: bool,
}

/// Which waiting captions are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WaitingAsked {
    /// Country of the build.
    pub country: String,
    /// `failed`, `flagged` or `review_again`; empty: any.
    pub why: String,
    /// The image to go on after; empty: from the beginning.
    pub after: String,
}

/// Captions that wait.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Waiting {
    /// How many wait, by why.
    pub tally: Vec<(String, u64)>,
    /// Decisions that the next run makes use of.
    pub pending: u64,
    /// Some of those that wait.
    pub captions: Vec<WaitingCaption>,
    /// The image to go on after; `None`: these are all.
    pub next: Option<String>,
}

/// A caption as a person sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WaitingCaption {
    /// The image.
    pub id: String,
    /// Why it waits, in a word or two.
    pub waits: String,
    /// The same at length.
    pub why: String,
    /// The words that stand.
    pub captions: Vec<String>,
    /// Who wrote them.
    pub captioner: String,
    /// Tags of the object that the picture was taken for.
    pub tags: Vec<String>,
    /// Tags of objects around.
    pub around: Vec<Vec<String>>,
    /// What was decided last, in words.
    pub decided: Option<String>,
    /// Identity of what is seen: a decision names it.
    pub seen: String,
}

/// What a person decides.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionAsked {
    /// Country of the build.
    pub country: String,
    /// The image.
    pub id: String,
    /// `accept`, `edit`, `reject` or `withdraw`.
    pub wish: String,
    /// Captions of an edit.
    #[serde(default)]
    pub texts: Vec<String>,
    /// Who decides.
    pub author: String,
    /// [`WaitingCaption::seen`].
    pub seen: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Decision {
    /// It is written.
    Done,
    /// The image is another than its reader saw, and nothing was written: why, and what it is now.
    Changed {
        /// In words.
        why: String,
        /// As it is now.
        now: Box<WaitingCaption>,
    },
}
