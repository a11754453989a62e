//! Everything that touches a store: listing the source, Delta tables, planning and computing shards, publishing the
//! results, and running trainings.

pub mod accept;
pub mod adapt;
pub mod archive;
pub mod assignment;
mod attempt;
mod backoff;
mod cache_folder;
pub mod cause;
pub mod changes;
pub mod chat_server;
pub mod claims;
mod compute;
pub mod concurrently;
pub mod durable;
pub mod error;
pub mod export;
pub mod fetch;
pub mod headway;
pub mod join;
pub mod layout;
pub mod lease;
pub mod listing;
pub mod map;
pub mod metrics;
pub mod parts;
pub mod planning;
mod process;
pub mod publish;
pub mod pull;
pub mod rank_env;
pub mod rates;
pub mod removals;
mod rendezvous_store;
pub mod reviews;
pub mod search;
pub mod slices;
pub mod stores;
pub mod tables;
pub mod tag_refreshes;
pub mod train;
pub mod upkeep;
pub mod weights;

pub use error::WorkerError;
pub use process::host;
