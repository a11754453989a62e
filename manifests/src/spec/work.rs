//! Stores, the work folder and the split.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Problems;

/// Shards of a country: their numbers have five digits in the names of parts.
pub const MOST_SHARDS: u32 = 100_000;

/// How a store is reached. Credentials never stand here: they come from the environment or a role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreOptions {
    /// Address of an S3-compatible server; empty: the provider's.
    pub endpoint: String,
    /// Region of the bucket; empty: from the environment.
    pub region: String,
    /// The bucket is part of the path, not of the host name.
    pub path_style: bool,
    /// Permit plain `http`.
    pub allow_http: bool,
    /// Unsigned requests, without the credentials of the environment. Default: true for the source and for weights,
    /// false for the work store.
    pub anonymous: Option<bool>,
    /// Seconds until a request is given up.
    pub timeout_seconds: u64,
    /// Further tries of a request that failed.
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

impl StoreOptions {
    pub(super) fn check(&self, path: &str, problems: &mut Problems) {
        let mut of = problems.section(path);
        of.count("timeout_seconds", self.timeout_seconds, 86_400);
        of.within("retries", self.retries, 0..=1000, "0 tries once");
    }
}

/// Where tables, checkpoints and reports go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkSpec {
    /// Folder of the work store: a plain path, `file://`, `s3://`, `gs://` or `az://`.
    pub url: String,
    /// How the work store is reached.
    pub options: StoreOptions,
    /// Number of shards; fixed for the life of a work store.
    pub shards: u32,
    /// Requests to the stores in flight at once.
    pub concurrency: usize,
    /// Largest coalesced request.
    pub request_mib: u64,
    /// A run of a country waits for another one until that has not been heard of for so long; for one of this machine
    /// that has ended or is stopped no longer than a moment. 0: it does not wait, and `gc` does not see that it is at
    /// work; the tables are right all the same.
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

impl WorkSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        self.options.check("work.options", problems);
        let mut of = problems.section("work");
        of.count("shards", self.shards, MOST_SHARDS);
        of.count("concurrency", self.concurrency, 4096);
        of.count("request_mib", self.request_mib, 4096);
        of.within("lease_seconds", self.lease_seconds, 0..=86_400, "0 waits for no other run");
    }
}

/// `[split]`: which images are for training, validation and test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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

impl SplitSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        if let Err(why) = check_ratio(self.ratio) {
            problems.section("split").refuse("ratio", self.ratio, &why);
        }
        problems.section("split").part("val_share", self.val_share, "0 takes nothing from train");
    }
}

/// Whether parts of a whole make one.
pub(crate) fn check_ratio(ratio: [u32; 3]) -> Result<(), String> {
    match ratio.iter().try_fold(0, |sum: u32, part| sum.checked_add(*part)) {
        Some(0) => Err("at least one part must be above 0".into()),
        Some(_) => Ok(()),
        None => Err(format!("its parts may add up to {} at most", u32::MAX)),
    }
}

/// Fetching of weights and vocabularies that lie in a store or on the hub.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WeightsSpec {
    /// How the stores that hold them are reached.
    pub options: StoreOptions,
}
