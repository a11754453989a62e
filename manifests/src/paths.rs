//! Where things lie in the work store.

use crate::artifact::Artifact;

/// Root of a table.
pub fn table(artifact: Artifact) -> String {
    format!("tables/{}", artifact.name())
}

/// Part file below its table's root. `attempt` makes it unique, so that two workers on one shard
/// never write the same object.
pub fn part(country: &str, shard: u32, attempt: &str) -> String {
    format!("country={country}/part-{shard:05}-{attempt}.parquet")
}

/// Shard of a part file, from its name.
pub fn shard_of_part(path: &str) -> Option<u32> {
    let name = path.rsplit('/').next()?;
    name.strip_prefix("part-")?.split('-').next()?.parse().ok()
}

pub fn plan(country: &str, stage: &str, key: &str) -> String {
    format!("plans/{country}/{stage}/{key}.json")
}

pub fn marker(country: &str, stage: &str, key: &str, shard: u32) -> String {
    format!("{}/{shard:05}.json", markers(country, stage, key))
}

pub fn markers(country: &str, stage: &str, key: &str) -> String {
    format!("markers/{country}/{stage}/{key}")
}

/// The last summary of a stage: advisory, overwritten, read by `status` and the report.
pub fn summary(country: &str, stage: &str) -> String {
    format!("summaries/{country}/{stage}.json")
}

/// What `--set` said in the last run of a country: advisory, overwritten.
pub fn last_set(country: &str) -> String {
    format!("settings/{country}.json")
}

/// Rows of a stage that failed, one JSON object per line.
pub fn quarantine(country: &str, stage: &str) -> String {
    format!("quarantine/{country}/{stage}.jsonl")
}

/// Members of an archive that a build wants, by the archive's identity.
pub fn members(key: &str) -> String {
    format!("members/{key}.json")
}

/// Folder of one training run.
pub fn training_run(country: &str, stage: &str, key: &str) -> String {
    format!("checkpoints/{country}/{stage}/{key}")
}

pub fn training_runs(country: &str, stage: &str) -> String {
    format!("checkpoints/{country}/{stage}")
}

/// Digests of weights made elsewhere, by the digest of their source.
pub fn weights_lock(key: &str) -> String {
    format!("weights/{key}.json")
}

pub fn evaluation(country: &str, key: &str) -> String {
    format!("evaluations/{country}/{key}.json")
}

pub fn report(country: &str) -> String {
    format!("reports/{country}.html")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_survives_the_path() {
        assert_eq!(shard_of_part(&part("finland", 17, "0a-b")), Some(17));
        assert_eq!(shard_of_part("country=x/other.parquet"), None);
    }
}
