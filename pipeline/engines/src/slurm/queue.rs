//! What `squeue` says of the jobs of a run.

use std::collections::BTreeMap;

/// The format that [`queue`] reads.
pub const QUEUE_FORMAT: &str = "%j|%F|%K|%T|%r|%N";

/// One job, or one index of an array, in Slurm's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// Name of the job.
    pub name: String,
    /// Number of the job or its array.
    pub job: String,
    /// Index within the array.
    pub index: Option<u32>,
    /// `PENDING`, `RUNNING`, `COMPLETING` and so on.
    pub state: String,
    /// Why it waits.
    pub reason: String,
    /// Where it runs.
    pub nodes: String,
}

/// Reads the output of `squeue --noheader --array --format` [`QUEUE_FORMAT`]. Lines that are none are passed over.
pub fn queue(output: &str) -> Vec<Queued> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.trim().split('|').collect();
        let [name, job, index, state, reason, nodes] = fields[..] else { return None };
        Some(Queued {
            name: name.to_owned(),
            job: job.to_owned(),
            index: index.parse().ok(),
            state: state.to_owned(),
            reason: reason.to_owned(),
            nodes: nodes.to_owned(),
        })
    };
    output.lines().filter_map(line).collect()
}

/// Jobs by name and state: how many indices are in which.
pub fn arrays(queued: &[Queued]) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for job in queued {
        *counts.entry((job.name.clone(), job.state.clone())).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_squeue_are_read_and_others_passed_over() {
        let output = "uc-1a-images-9f|17|0|RUNNING|None|node1\nuc-1a-images-9f|17|1|PENDING|Resources|\n\
                      uc-1a-images-drive|18|N/A|PENDING|Dependency|\nslurm_load_jobs error: x\n";
        let read = queue(output);
        assert_eq!(read.len(), 3);
        assert_eq!((read[0].index, read[0].nodes.as_str()), (Some(0), "node1"));
        assert_eq!((read[2].index, read[2].reason.as_str()), (None, "Dependency"));
        assert_eq!(arrays(&read)[&("uc-1a-images-9f".to_owned(), "PENDING".to_owned())], 1);
    }
}
