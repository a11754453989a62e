//! Nodes that are not to be used.

use std::collections::BTreeSet;

use engines::slurm::Queued;

use crate::run_record::ProcessEnd;

/// Nodes on which at least two processes failed with what another try may help, and none did not, while others did well
/// elsewhere: each job that ends at once there makes room for the next one.
pub(super) fn bad_nodes(ends: &[(String, ProcessEnd)]) -> BTreeSet<String> {
    let on = |node: &str, code: u8| ends.iter().filter(|(_, end)| end.by.node == node && end.code == code).count();
    let nodes: BTreeSet<&str> = ends.iter().map(|(_, end)| end.by.node.as_str()).collect();
    let is_bad = |node: &&str| on(node, 75) >= 2 && on(node, 0) == 0;
    let (bad, others): (Vec<&str>, Vec<&str>) = nodes.into_iter().partition(is_bad);
    match others.is_empty() {
        true => BTreeSet::new(),
        false => bad.into_iter().map(str::to_owned).collect(),
    }
}

/// Name of a job, or of one index of an array, as its process knows it.
fn known_as(job: &Queued) -> String {
    job.index.map_or_else(|| job.job.clone(), |index| format!("{}_{index}", job.job))
}

/// Nodes of jobs that run or end beside a driver, which are nobody's any more; but for the driver's own. Of jobs that have
/// `ended` by their own word a node is only being cleaned up, and a driver holds nothing.
pub(super) fn lost_nodes(
    queued: &[Queued],
    ended: &BTreeSet<String>,
    (own_job, own_node): (&str, &str),
) -> BTreeSet<String> {
    let others = queued.iter().filter(|job| {
        job.job != own_job && job.state != "PENDING" && !is_driver(&job.name) && !ended.contains(&known_as(job))
    });
    others.map(|job| job.nodes.clone()).filter(|node| !node.is_empty() && node != own_node).collect()
}

/// Whether a job waits or runs. One that is ending brings nobody back, however long a site cleans up after it.
pub(super) fn lives(job: &Queued) -> bool {
    job.state != "COMPLETING"
}

/// Is a job of this name a driver?
pub(super) fn is_driver(name: &str) -> bool {
    name.ends_with("-drive")
}

#[cfg(test)]
mod tests {
    use workers::claims::Claimant;

    use super::*;

    #[test]
    fn a_node_on_which_all_fail_is_no_longer_used() {
        let end = |node: &str, code| {
            let by = Claimant { worker: "0".into(), node: node.into(), engine_job: None };
            ("0".to_owned(), ProcessEnd { code, message: "no GPU".into(), of: "9f".into(), by })
        };
        let ends = [end("node1", 75), end("node1", 75), end("node2", 0), end("node3", 75)];
        assert_eq!(bad_nodes(&ends), ["node1".to_owned()].into());
        assert!(bad_nodes(&ends[..2]).is_empty(), "where all fail it is not the node");
        assert!(bad_nodes(&[end("node1", 75), end("node1", 75), end("node1", 0), end("node2", 0)]).is_empty());
    }

    #[test]
    fn nodes_whose_jobs_should_have_ended_are_lost() {
        let job = |job: &str, state: &str, nodes: &str| Queued {
            name: "uc-1a-images-9f".into(),
            job: job.into(),
            index: (job == "5").then_some(1),
            state: state.into(),
            reason: String::new(),
            nodes: nodes.into(),
        };
        let queued = [
            job("7", "RUNNING", "node1"),
            job("5", "RUNNING", "node2"),
            job("5", "PENDING", ""),
            job("4", "COMPLETING", "node3"),
        ];
        let none = BTreeSet::new();
        assert_eq!(lost_nodes(&queued, &none, ("7", "node1")), ["node2".to_owned(), "node3".to_owned()].into());
        assert!(lost_nodes(&queued[..1], &none, ("7", "node1")).is_empty());
        assert!(lost_nodes(&queued[1..2], &none, ("7", "node2")).is_empty(), "the node that it runs on lives");
        // what has said that it ended is only cleaned up after
        let ended = ["5_1".to_owned(), "4".to_owned()].into();
        assert!(lost_nodes(&queued, &ended, ("7", "node1")).is_empty());
        let driver = Queued { name: "uc-1a-images-drive".into(), ..job("3", "COMPLETING", "node3") };
        assert!(lost_nodes(&[driver], &none, ("7", "node1")).is_empty());
    }
}
