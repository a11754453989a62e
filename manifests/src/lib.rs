//! Plain data of the pipeline: specs, tables and their schemas, recipes of rows, plans and commits.
//!
//! Plain data and pure functions only: no store, no tensor, no clock.

pub mod address;
pub mod artifact;
pub mod attempts;
pub mod commit;
pub mod digest;
mod meant;
pub mod pair;
pub mod part;
pub mod paths;
pub mod plan;
pub mod recipe;
pub mod review;
pub mod schema;
pub mod shard;
pub mod spec;
pub mod weights;
pub mod words;

pub use artifact::{Artifact, Field, FieldType};
pub use digest::Digest;
pub use meant::is_spec;
pub use pair::{PairSpec, are_two};
pub use part::PartFile;
pub use plan::{Marker, Plan, PlanCounts, RowStatuses, ShardPlan};
pub use recipe::{Reason, RecipeParts, RowAction};
pub use shard::shard_of;
pub use spec::{BuildSpec, SpecError};
