//! What is best of figures.

use serde::{Deserialize, Serialize};

/// Which end of a range is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Best {
    /// Recall, say.
    Highest,
    /// A loss, say.
    Lowest,
}

impl Best {
    /// The best of the finite values; `None` when there is none.
    pub(crate) fn of(self, values: impl Iterator<Item = f64>) -> Option<f64> {
        let finite = values.filter(|value| value.is_finite());
        match self {
            Best::Highest => finite.reduce(f64::max),
            Best::Lowest => finite.reduce(f64::min),
        }
    }
}
