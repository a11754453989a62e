//! Stores, the work folder and the split.

use serde::{Deserialize, Serialize};

/// How a store is reached. Credentials never stand here: they come from the environment or a role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreOptions {
    pub endpoint: String,
    pub region: String,
    pub path_style: bool,
    pub allow_http: bool,
    /// Unsigned requests. Default: true for the source store, false for the work store.
    pub anonymous: Option<bool>,
    pub timeout_seconds: u64,
    pub retries: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            region: String::new(),
            path_style: false,
            allow_http: false,
            anonymous: None,
            timeout_seconds: 30,
            retries: 8,
        }
    }
}

/// Where tables, checkpoints and reports go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkSpec {
    pub url: String,
    pub options: StoreOptions,
    /// Number of shards; fixed for the life of a work store.
    pub shards: u32,
    /// Requests to the stores in flight at once.
    pub concurrency: usize,
    /// Largest coalesced request.
    pub request_mib: u64,
    /// A run of a country waits for another one until that has not been heard of for so long. 0: it does not wait; the
    /// tables are right all the same.
    pub lease_seconds: u64,
}

impl Default for WorkSpec {
    fn default() -> Self {
        Self {
            url: "work".into(),
            options: StoreOptions::default(),
            shards: 16,
            concurrency: 16,
            request_mib: 8,
            lease_seconds: 60,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitSpec {
    /// train : val : test. `[7, 1, 2]` for pre-training, `[2, 1, 7]` for the target of an adaptation.
    pub ratio: [u32; 3],
    /// Captioned folders without a validation split: this share of train, by hash.
    pub val_share: f64,
}

impl Default for SplitSpec {
    fn default() -> Self {
        Self { ratio: [7, 1, 2], val_share: 0.1 }
    }
}

/// Fetching of weights and vocabularies that lie in a store or on the hub.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WeightsSpec {
    pub options: StoreOptions,
}
