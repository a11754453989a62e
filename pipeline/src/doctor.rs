//! `urbancross doctor`: checks whether this machine and a build's stores can be used.

use manifests::words::count;
use manifests::{Artifact, BuildSpec};
use serde::Serialize;
use workers::WorkerError;
use workers::stores::{SourceStore, WorkStore};
use workers::tables::Tables;

use crate::preflight;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// Store, device or field of the spec.
    pub what: String,
    /// Whether it can be used.
    pub good: bool,
    /// What was found, or what to do.
    pub detail: String,
}

fn finding(what: &str, result: Result<String, String>) -> Finding {
    let good = result.is_ok();
    Finding { what: what.to_owned(), good, detail: result.unwrap_or_else(|why| why) }
}

/// Whose machines do the steps of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machines {
    /// This one.
    This,
    /// A cluster's: this one needs neither their GPUs nor their processors.
    Others {
        /// Whether they see its files.
        see_files: bool,
    },
}

/// Looks at everything; a bad finding never hides the others.
pub async fn examine(spec: Option<&BuildSpec>, machines: Machines) -> Vec<Finding> {
    let mut findings = vec![
        finding("version", Ok(format!("urbancross {}", crate::version()))),
        finding("processors", std::thread::available_parallelism().map(|n| n.to_string()).map_err(|e| e.to_string())),
        finding("device", device(spec, machines)),
        finding("ranks", ranks(spec.filter(|_| machines == Machines::This))),
    ];
    let Some(spec) = spec else {
        findings.push(finding("build spec", Ok("none given: stores were not probed".into())));
        return findings;
    };
    let code = || format!("source.country_code = {:?}", spec.source.country_code);
    findings.push(finding("country", preflight::country_code(spec).map(|()| code()).map_err(|e| e.to_string())));
    findings.push(finding("source store", source(spec).await));
    findings.push(finding("work store", work(spec).await));
    if spec.caption.uses_server() {
        let found = workers::chat_server::probe(&spec.caption.server).await.map_err(|e| e.to_string());
        findings.push(finding("caption server", found));
    }
    findings.extend(reviews(spec).await.transpose().map(|found| finding("reviews", found)));
    for (field, found) in preflight::weights(spec) {
        let elsewhere =
            |why: WorkerError| format!("{why}; jobs end there, too, unless their machines have other files");
        let found = match machines {
            Machines::Others { see_files: false } => Ok(found.unwrap_or_else(elsewhere)),
            _ => found.map_err(|e| e.to_string()),
        };
        findings.push(finding(field, found));
    }
    findings
}

/// Looks at a cluster: its programs and settings, and whether a profile fits.
pub async fn examine_slurm(profile: &engines::Profile) -> Vec<Finding> {
    let logs = std::path::Path::new(&profile.slurm.logs);
    // a look leaves nothing behind: a folder that is not there yet is made where its nearest one above is
    let writable = || {
        let there = std::path::absolute(logs).map_err(|error| error.to_string())?;
        let above = there.ancestors().find(|above| above.is_dir()).unwrap_or(std::path::Path::new("/"));
        tempfile::tempfile_in(above).map_err(|error| format!("{}: {error}", above.display()))?;
        let can = if above == there { "can be written to" } else { "can be made" };
        Ok(format!("{} {can}; all nodes must see it", logs.display()))
    };
    let mut findings = vec![finding("logs folder", writable())];
    match crate::engine::examine_slurm(profile).await {
        Ok(found) => findings.extend(found.into_iter().map(|(what, found)| finding(what, found))),
        Err(error) => findings.push(finding("slurm", Err(error.to_string()))),
    }
    findings
}

/// Looks at a cluster of Ray: whether it answers, and whether a profile fits.
pub async fn examine_ray(profile: &engines::Profile) -> Vec<Finding> {
    match crate::engine::examine_ray(profile).await {
        Ok(found) => found.into_iter().map(|(what, found)| finding(what, found)).collect(),
        Err(error) => vec![finding("ray", Err(error.to_string()))],
    }
}

fn device(spec: Option<&BuildSpec>, machines: Machines) -> Result<String, String> {
    let binary = if stages::device::HAS_CUDA { "the CPU and NVIDIA GPUs" } else { "the CPU" };
    let Some(spec) = spec else { return Ok(format!("this binary is for {binary}")) };
    if machines != Machines::This {
        let device = &spec.model.device;
        return Ok(format!("this binary is for {binary}; the spec asks the cluster's machines for {device}"));
    }
    let opened = preflight::device(spec).map_err(|e| e.to_string())?;
    Ok(format!("this binary is for {binary}; the spec asks for {opened}"))
}

/// What a launcher says of this process, and what would carry tensors between GPUs.
fn ranks(spec: Option<&BuildSpec>) -> Result<String, String> {
    spec.map_or(Ok(()), preflight::ranks).map_err(|e| e.to_string())?;
    let info = workers::rank_env::rank_info().map_err(|e| e.to_string())?;
    let launched = info.map_or("no launcher: one rank".to_owned(), |info| {
        let secret = if info.secret.is_some() { "with a secret" } else { "without a secret" };
        format!("rank {} of {}, {secret}", info.rank, info.world_size)
    });
    Ok(format!("{launched}; {}", workers::rank_env::nccl()))
}

async fn source(spec: &BuildSpec) -> Result<String, String> {
    let store = SourceStore::open(&spec.source.url, &spec.source.options).map_err(|e| e.to_string())?;
    store.required().map_err(|e| e.to_string())?;
    let mut seen = Vec::new();
    for table in &spec.source.tables {
        match store.head(table).await.map_err(|e| e.to_string())? {
            Some(meta) => seen.push(format!("{table} ({})", count(meta.size, "byte"))),
            None => return Err(format!("{}{table} is not there; look at source.url and source.tables", store.url())),
        }
    }
    if seen.is_empty() {
        let names = workers::listing::names_at_top(&store).await.map_err(|e| e.to_string())?;
        seen.push(format!("{} at the top", count(names.len(), "entry")));
    }
    Ok(format!("{} answers: {}", store.url(), seen.join(", ")))
}

async fn work(spec: &BuildSpec) -> Result<String, String> {
    let store = WorkStore::open(&spec.work.url, &spec.work.options).map_err(|e| e.to_string())?;
    let Some(folder) = store.local_folder().filter(|folder| !folder.is_dir()) else {
        return probed(&store, store.url().as_str()).await;
    };
    // what only looks makes no work store: a folder beside it is tried, and goes again
    let above = folder.ancestors().find(|above| above.is_dir()).unwrap_or(&folder);
    let cannot = |why: String| format!("{} does not exist and cannot be created: {why}", folder.display());
    let trial = tempfile::tempdir_in(above).map_err(|e| cannot(e.to_string()))?;
    let address = trial.path().to_str().ok_or_else(|| cannot("its path is not UTF-8".into()))?;
    let trial_store = WorkStore::open(address, &spec.work.options).map_err(|e| cannot(e.to_string()))?;
    let found = probed(&trial_store, &above.display().to_string()).await?;
    Ok(format!("{} does not exist yet, `urbancross run` creates it; {found}", folder.display()))
}

/// What people decided, if anybody did: it cannot be made again.
async fn reviews(spec: &BuildSpec) -> Result<Option<String>, String> {
    let store = WorkStore::open(&spec.work.url, &spec.work.options).map_err(|e| e.to_string())?;
    if store.local_folder().is_some_and(|folder| !folder.is_dir()) {
        return Ok(None);
    }
    let tables = Tables::new(&store);
    let pinned = tables.pin(Artifact::CaptionReviews, &spec.country, None).await.map_err(|e| e.to_string())?;
    let lost = workers::parts::lost(&store, &pinned, &spec.country).await.map_err(|e| e.to_string())?;
    match (pinned.parts.len(), lost.len()) {
        (0, _) => Ok(None),
        (_, 0) => {
            Ok(Some(format!("{} by people: keep a copy of tables/caption_reviews", count(pinned.rows(), "decision"))))
        }
        (all, lost) => Err(format!(
            "{lost} of {} of what people decided lost: bring tables/caption_reviews back from a copy, or go back to what \
             they had decided before with `urbancross verify --repair`",
            count(all, "part")
        )),
    }
}

async fn probed(store: &WorkStore, shown: &str) -> Result<String, String> {
    if !store.probe_put_if_absent(8).await.map_err(|e| e.to_string())? {
        return Err(format!(
            "{shown} accepts a second creation of an object: put-if-absent does not hold; run one worker at a time, or \
             use another store"
        ));
    }
    Ok(format!("{shown} keeps put-if-absent (create twice, race of 8){}", free_space(store)))
}

/// Free space of a store on this machine, for a user without privileges.
fn free_space(store: &WorkStore) -> String {
    let Some(folder) = store.local_folder() else { return String::new() };
    // of a folder that is yet to be made: of the one that it will lie in
    let there = folder.ancestors().find(|folder| folder.is_dir());
    let free = there.and_then(|folder| rustix::fs::statvfs(folder).ok()).map(|disk| disk.f_bavail * disk.f_frsize);
    free.map_or(String::new(), |bytes| format!(", {:.1} GiB free", bytes as f64 / (1u64 << 30) as f64))
}
