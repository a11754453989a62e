//! Where things lie in the work store.

use crate::artifact::Artifact;

/// Root of a table, or of the slices of what is none.
pub fn table(artifact: Artifact) -> String {
    let kind = if artifact.is_table() { "tables" } else { "slices" };
    format!("{kind}/{}", artifact.name())
}

/// Part file below its table's root. `attempt` makes it unique, so that two workers on one shard
/// never write the same object.
pub fn part(country: &str, shard: u32, attempt: &str) -> String {
    format!("{}/part-{shard:05}-{attempt}.parquet", partition(country))
}

/// Folder of a country's parts, below a table's root.
pub fn partition(country: &str) -> String {
    format!("country={country}")
}

/// Shard of a part file, from its name; `None`: no name that we give. Other writers' `part-00000-UUID-c000.zstd.parquet`
/// is none.
pub fn shard_of_part(path: &str) -> Option<u32> {
    let name = path.rsplit('/').next()?.strip_suffix(".parquet")?;
    let (shard, attempt) = name.strip_prefix("part-")?.split_once('-')?;
    let is_ours = !attempt.is_empty() && attempt.bytes().all(|b| b.is_ascii_alphanumeric());
    if is_ours { shard.parse().ok() } else { None }
}

/// The same for a path below a table, which must lie in the country's own folder and lead nowhere else.
pub fn shard_of_part_of(country: &str, path: &str) -> Option<u32> {
    let name = path.strip_prefix(&partition(country))?.strip_prefix('/')?;
    if name.contains('/') { None } else { shard_of_part(name) }
}

/// Whether an object lies among the slices of what is no table.
pub fn is_slice(path: &str) -> bool {
    path.starts_with("slices/")
}

/// Slice of an input that is no table, below its root: named by the digests of its rows, so that a worker with a plan reads
/// what the planner saw. The name differs from that of an attempt, which is a time.
pub fn slice(country: &str, shard: u32, content: &str) -> String {
    part(country, shard, &format!("s{content}"))
}

/// A plan, named by its key.
pub fn plan(country: &str, stage: &str, key: &str) -> String {
    format!("plans/{country}/{stage}/{key}.json")
}

/// Folder of everything that workers leave of a stage's shards.
pub fn markers(country: &str, stage: &str) -> String {
    format!("markers/{country}/{stage}")
}

/// The part that finished the work of a shard's key.
pub fn marker(country: &str, stage: &str, shard_key: &str) -> String {
    format!("markers/{country}/{stage}/{shard_key}.json")
}

/// The part that a stopped worker left of a shard's work.
pub fn partial(country: &str, stage: &str, shard_key: &str) -> String {
    format!("markers/{country}/{stage}/{shard_key}.partial.json")
}

/// What a country's last runs left with nothing to do: a hint.
pub fn settled(country: &str) -> String {
    format!("settled/{country}.json")
}

/// Folder of what people accepted of a stage.
pub fn acceptances(country: &str, stage: &str) -> String {
    format!("accepted/{country}/{stage}")
}

/// What somebody accepted of a stage at a moment, in milliseconds since 1970.
pub fn accepted(country: &str, stage: &str, millis: u64) -> String {
    format!("{}/{millis:013}.json", acceptances(country, stage))
}

/// The rows of a shard that were accepted then.
pub fn accepted_rows(country: &str, stage: &str, millis: u64, shard: u32) -> String {
    format!("{}/{millis:013}/{shard:05}.json", acceptances(country, stage))
}

/// Who runs a country's build just now.
pub fn leases(country: &str) -> String {
    format!("leases/{country}")
}

/// What must not change about a country in a store.
pub fn layout(country: &str) -> String {
    format!("layouts/{country}.json")
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

/// Folder of all runs of trainings and adaptations.
pub const CHECKPOINTS: &str = "checkpoints";

/// Folder of one training run.
pub fn training_run(country: &str, stage: &str, key: &str) -> String {
    format!("checkpoints/{country}/{stage}/{key}")
}

/// Folder of all training runs of a stage.
pub fn training_runs(country: &str, stage: &str) -> String {
    format!("checkpoints/{country}/{stage}")
}

/// Digests of external weights, by the digest of their source.
pub fn weights_lock(key: &str) -> String {
    format!("weights/{key}.json")
}

/// Folder of what `tags refresh` knows of the planet around a country's images.
pub fn tag_states(country: &str) -> String {
    format!("osm/{country}")
}

/// Record of one such state, by the number that the commit of its tags names.
pub fn tag_record(country: &str, mark: i64) -> String {
    format!("{}/{mark:016x}.json", tag_states(country))
}

/// The state itself, by the digest of its bytes.
pub fn tag_state(country: &str, digest: &str) -> String {
    format!("{}/{digest}.state", tag_states(country))
}

/// Figures of one evaluation, named by the digest of what it compared.
pub fn evaluation(country: &str, key: &str) -> String {
    format!("evaluations/{country}/{key}.json")
}

/// Figures of a model from elsewhere on a country's images, named by the digest of what was measured.
pub fn zero_shot(country: &str, key: &str) -> String {
    format!("zero_shot/{country}/{key}.json")
}

/// Folder of the vectors of a country's images by a model that is not its build's own, which searches keep; `key` is the
/// digest of the model and of how vectors are made.
pub fn kept_vectors(country: &str, key: &str) -> String {
    format!("{}/{key}", all_kept_vectors(country))
}

/// Folder of all vectors that searches keep of a country's images.
pub fn all_kept_vectors(country: &str) -> String {
    format!("vectors/{country}")
}

/// Name of a file of such vectors: of the rows of one part of `images`, which never changes, by one attempt.
pub fn vectors_of_part(images_part: &str, attempt: &str) -> Option<String> {
    shard_of_part(images_part)?;
    let name = images_part.rsplit('/').next()?.strip_suffix(".parquet")?;
    Some(format!("{name}-{attempt}.parquet"))
}

/// Name of the part of `images` that a file of vectors was made of.
pub fn part_of_vectors(name: &str) -> Option<String> {
    let (part, attempt) = name.strip_suffix(".parquet")?.rsplit_once('-')?;
    let part = format!("{part}.parquet");
    (!attempt.is_empty() && shard_of_part(&part).is_some()).then_some(part)
}

/// Whether an object lies among the vectors that searches keep.
pub fn is_kept_vectors(path: &str) -> bool {
    path.starts_with("vectors/")
}

/// The page of a country.
pub fn report(country: &str) -> String {
    format!("reports/{country}.html")
}

/// What the page of a country was made from.
pub fn report_record(country: &str) -> String {
    format!("reports/{country}.json")
}

/// Folder of a country's runs by engines.
pub fn runs(country: &str) -> String {
    format!("runs/{country}")
}

/// Folder of one run by an engine: who was started for what, and how it ended. Hints, as all that an engine says.
pub fn run(country: &str, id: &str) -> String {
    format!("{}/{id}", runs(country))
}

/// What one process of a run said last.
pub fn last_words(country: &str, run_id: &str, step: &str, process: &str) -> String {
    format!("{}/logs/{step}-{process}.log", run(country, run_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_survives_the_path() {
        assert_eq!(shard_of_part(&part("finland", 17, "0ab")), Some(17));
        for other in
            ["other", "part-00000-358b28f4-12d2-4d2f-9a93-bb95c0f5d997-c000", "part-00000-a.zstd", "part-00000-"]
        {
            assert_eq!(shard_of_part(&format!("country=x/{other}.parquet")), None, "{other}");
        }
    }

    #[test]
    fn vectors_name_the_part_that_they_were_made_of() {
        let name = vectors_of_part(&part("x", 3, "0ab"), "0cd").unwrap();
        assert_eq!(name, "part-00003-0ab-0cd.parquet");
        assert_eq!(part_of_vectors(&name).as_deref(), Some("part-00003-0ab.parquet"));
        for other in ["part-00003-0ab.parquet", "x.parquet", "part-00003-0ab-.parquet", "part-0-a-b-c.parquet", ""] {
            assert_eq!(part_of_vectors(other), None, "{other}");
        }
        assert_eq!(vectors_of_part("country=x/other.parquet", "0cd"), None);
    }

    #[test]
    fn a_part_lies_in_its_countrys_folder() {
        assert_eq!(shard_of_part_of("x", &part("x", 3, "a")), Some(3));
        for elsewhere in [
            "country=y/part-00003-a.parquet",
            "country=xy/part-00003-a.parquet",
            "country=x/../country=y/part-00003-a.parquet",
            "/country=x/part-00003-a.parquet",
            "s3://bucket/country=x/part-00003-a.parquet",
            "part-00003-a.parquet",
        ] {
            assert_eq!(shard_of_part_of("x", elsewhere), None, "{elsewhere}");
        }
    }
}
