//! What is kept of a model's plots: made when somebody first asks, by those who draw them.

use std::collections::BTreeMap;
use std::sync::Arc;

use atlas::Plot;
use tokio::sync::OnceCell;

/// What is plotted of a model.
#[derive(Default)]
pub(super) struct Plots {
    pub(super) by_variance: OnceCell<Arc<Plot>>,
    pub(super) by_neighbours: OnceCell<Arc<Plot>>,
    pub(super) errors: OnceCell<Errors>,
}

/// Places of a model's test images.
pub(super) struct Errors {
    /// By country and id.
    pub(super) places: BTreeMap<(usize, String), u32>,
    /// Countries that have none, and why.
    pub(super) unmeasured: Vec<String>,
}
