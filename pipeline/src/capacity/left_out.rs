//! Rates that say nothing of a cluster, as other devices than its own or other settings were measured.

use std::collections::BTreeMap;

use manifests::spec::DeviceKind;
use manifests::words::count;
use workers::rates::{OTHER_SETTINGS, UNKNOWN};

/// Shards by the kind of device that computed them, `cpu` or `cuda`, or by [`OTHER_SETTINGS`], or [`UNKNOWN`], where an earlier program
/// did not say.
pub type LeftOut = BTreeMap<&'static str, u32>;

/// A line for each kind of device whose rates were left out, with the steps of which nothing else was measured.
pub fn in_words(steps: &[(&str, &LeftOut)], wanted: DeviceKind) -> Vec<String> {
    let mut by_kind: BTreeMap<&str, (u32, Vec<&str>)> = BTreeMap::new();
    for (step, left_out) in steps {
        for (kind, shards) in *left_out {
            let of_kind = by_kind.entry(kind).or_default();
            of_kind.0 += shards;
            of_kind.1.push(step);
        }
    }
    let wanted = kind_in_words(wanted.name());
    let line = |(kind, (shards, steps)): (&str, (u32, Vec<&str>))| {
        let (shards, steps) = (count(shards, "shard"), steps.join(", "));
        let why = match kind {
            UNKNOWN => "an earlier version made them and did not write down on what, or with what settings".to_owned(),
            OTHER_SETTINGS => "they were made with other settings or weights".to_owned(),
            kind => format!("{} made them, and these are {wanted}", kind_in_words(kind)),
        };
        format!(
            "left out: the rates of {shards} of {steps}: {why}; run such a step there on a few rows as it is to be, or say --rate \
             STAGE=ROWS"
        )
    };
    by_kind.into_iter().map(line).collect()
}

fn kind_in_words(kind: &str) -> &'static str {
    if kind == DeviceKind::Cpu.name() { "CPUs" } else { "GPUs" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_left_out_and_why() {
        let (cpu, both) = (LeftOut::from([("cpu", 4)]), LeftOut::from([("cpu", 1), ("unknown", 1)]));
        let lines = in_words(&[("segments", &cpu), ("captions", &both), ("images", &LeftOut::new())], DeviceKind::Cuda);
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].contains("5 shards of segments, captions: CPUs made them, and these are GPUs"),
            "{}",
            lines[0]
        );
        assert!(lines[1].contains("1 shard of captions: an earlier version"), "{}", lines[1]);
        assert!(lines.iter().all(|line| line.contains("--rate STAGE=ROWS")));
        let on_cpus = in_words(&[("segments", &LeftOut::from([("cuda", 4)]))], DeviceKind::Cpu);
        assert!(on_cpus[0].contains("GPUs made them, and these are CPUs"), "{on_cpus:?}");
        assert!(in_words(&[("images", &LeftOut::new())], DeviceKind::Cuda).is_empty());
        let others = in_words(&[("images", &LeftOut::from([(OTHER_SETTINGS, 2)]))], DeviceKind::Cuda);
        assert!(others[0].contains("2 shards of images: they were made with other settings"), "{others:?}");
    }
}
