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

/// Nodes of jobs that run or end beside a driver, which are nobody's any more; but for the driver's own.
pub(super) fn lost_nodes(queued: &[Queued], own_job: &str, own_node: &str) -> BTreeSet<String> {
    let others = queued.iter().filter(|job| job.job != own_job && job.state != "PENDING");
    others.map(|job| job.nodes.clone()).filter(|node| !node.is_empty() && node != own_node).collect()
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
            index: None,
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
        assert_eq!(lost_nodes(&queued, "7", "node1"), ["node2".to_owned(), "node3".to_owned()].into());
        assert!(lost_nodes(&queued[..1], "7", "node1").is_empty());
        assert!(lost_nodes(&queued[1..2], "7", "node2").is_empty(), "the node that it runs on lives");
    }
}
