//! The shape of a cluster, in the words of a command line: `64xH100,8/node`.

use std::str::FromStr;

use manifests::spec::DeviceKind;

/// More GPUs than one build ever had.
pub const MOST_GPUS: usize = 16_384;

/// GPUs of a node where nothing is said about it; of CPUs, each is a node.
const PER_NODE: usize = 8;

/// GPUs of one kind, on nodes of equal size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterShape {
    /// All of them.
    pub gpus: usize,
    /// Name of their kind.
    pub kind: String,
    /// Those of one node.
    pub per_node: usize,
}

impl ClusterShape {
    /// What computes there: the kinds `cpu` and `cpus` are of machines without GPUs, each with one worker.
    pub fn device(&self) -> DeviceKind {
        match self.kind.to_lowercase().as_str() {
            "cpu" | "cpus" => DeviceKind::Cpu,
            _ => DeviceKind::Cuda,
        }
    }

    /// What one of its devices is called.
    pub fn unit(&self) -> &'static str {
        match self.device() {
            DeviceKind::Cpu => "CPU",
            DeviceKind::Cuda => "GPU",
        }
    }
}

impl FromStr for ClusterShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!("{text:?}: {what}; say how many GPUs of which kind, and how many a node has, as `64xH100,8/node`")
        };
        let number = |digits: &str, what: &str| {
            let read = digits.trim().parse().ok().filter(|n| (1..=MOST_GPUS).contains(n));
            read.ok_or_else(|| wrong(&format!("{what} must be a whole number between 1 and {MOST_GPUS}")))
        };
        let (gpus, nodes) = text.split_once(',').map_or((text, None), |(gpus, nodes)| (gpus, Some(nodes)));
        let (count, kind) = gpus.split_once('x').ok_or_else(|| wrong("there is no `x` after the number of GPUs"))?;
        let gpus = number(count, "the number of GPUs")?;
        let kind = kind.trim();
        if kind.is_empty() || !kind.chars().all(|c| c.is_ascii_alphanumeric() || "-_. ".contains(c)) {
            return Err(wrong("the kind of GPU is missing or is no name"));
        }
        let shape = Self { gpus, kind: kind.to_owned(), per_node: 1 };
        let per_node = match nodes {
            None if shape.device() == DeviceKind::Cpu => 1,
            None => PER_NODE.min(gpus),
            Some(nodes) => {
                let count =
                    nodes.trim().strip_suffix("/node").ok_or_else(|| wrong("what a node has ends with `/node`"))?;
                number(count, "the number of GPUs of a node")?
            }
        };
        if per_node > gpus {
            return Err(wrong(&format!("a node of {per_node} is larger than the whole cluster of {gpus}")));
        }
        Ok(Self { per_node, ..shape })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_read() {
        let shape = |gpus, kind: &str, per_node| ClusterShape { gpus, kind: kind.into(), per_node };
        assert_eq!("64xH100,8/node".parse(), Ok(shape(64, "H100", 8)));
        assert_eq!("4xA100".parse(), Ok(shape(4, "A100", 4)));
        assert_eq!(" 512 x H200 , 4/node".parse(), Ok(shape(512, "H200", 4)));
    }

    #[test]
    fn machines_without_gpus_are_of_the_kind_cpu() {
        let of = |text: &str| text.parse::<ClusterShape>().map(|shape| (shape.device(), shape.unit()));
        assert_eq!(of("16xCPU,1/node"), Ok((DeviceKind::Cpu, "CPU")));
        assert_eq!(of("16xcpu"), Ok((DeviceKind::Cpu, "CPU")));
        assert_eq!(of("16xCPUs"), Ok((DeviceKind::Cpu, "CPU")));
        assert_eq!("16xcpu".parse::<ClusterShape>().map(|shape| shape.per_node), Ok(1));
        assert_eq!(of("64xH100,8/node"), Ok((DeviceKind::Cuda, "GPU")));
    }

    #[test]
    fn what_is_no_shape_is_refused_with_the_right_one() {
        for wrong in [
            "",
            "64",
            "xH100",
            "0xH100",
            "-1xH100",
            "64x",
            "64xH100,8",
            "64xH100,0/node",
            "4xH100,8/node",
            "99999999xH100",
            "4x\u{1b}",
        ] {
            let error = wrong.parse::<ClusterShape>().unwrap_err();
            assert!(error.contains("`64xH100,8/node`"), "{error}");
        }
    }
}
