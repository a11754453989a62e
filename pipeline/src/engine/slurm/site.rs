//! What a site's settings mean for builds.

use engines::Profile;
use workers::WorkerError;

use super::programs::ask;

/// What a site's settings mean for builds, each with whether it is as it should be.
///
/// # Errors
/// Slurm is not there, or does not answer.
pub async fn examine(profile: &Profile) -> Result<Vec<(&'static str, Result<String, String>)>, WorkerError> {
    let version = ask("sinfo", &["--version"], None).await?;
    let config = ask("scontrol", &["show", "config"], None).await?;
    let partitions = ask("sinfo", &["--noheader", "--format=%R"], None).await?;
    let mut found = vec![("slurm", Ok(version.trim().to_owned()))];
    found.extend(settings(&config));
    let wanted = profile.stage.values().map(|of| &of.partition).chain([&profile.slurm.partition]);
    let absent: Vec<&str> = wanted
        .filter(|wanted| !wanted.is_empty() && !partitions.split_whitespace().any(|there| there == wanted.as_str()))
        .map(String::as_str)
        .collect();
    let there = partitions.split_whitespace().collect::<Vec<_>>().join(", ");
    found.push(match absent.is_empty() {
        true => ("partitions", Ok(there)),
        false => ("partitions", Err(format!("there is no {}; there are {there}", absent.join(", ")))),
    });
    Ok(found)
}

/// What `scontrol show config` says that builds depend on.
fn settings(config: &str) -> Vec<(&'static str, Result<String, String>)> {
    let of = |name: &str| {
        let mut lines = config.lines().filter_map(|line| line.split_once('='));
        lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
    };
    let shown = |name: &str| format!("{name} = {}", of(name).unwrap_or_else(|| "unknown".to_owned()));
    let warns = of("SlurmctldParameters").is_some_and(|parameters| parameters.contains("preempt_send_user_signal"));
    let preempts = of("PreemptMode").is_some_and(|mode| mode != "OFF");
    let preemption = match (preempts, warns) {
        (false, _) => Ok("jobs are not preempted".to_owned()),
        (true, true) => Ok("preempted jobs are told before they end".to_owned()),
        (true, false) => {
            Ok("preempted jobs are not told before they end (no preempt_send_user_signal in SlurmctldParameters): \
                             their unfinished shards begin again"
                .to_owned())
        }
    };
    let requeues = match of("JobRequeue").as_deref() {
        Some("0") => Err("JobRequeue = 0: jobs of lost nodes do not come back".to_owned()),
        _ => Ok("jobs are queued again".to_owned()),
    };
    vec![
        ("arrays", Ok(shown("MaxArraySize"))),
        ("time to end", Ok(shown("KillWait"))),
        ("lost nodes", Ok(format!("seen by Slurm after {}", shown("SlurmdTimeout")))),
        ("preemption", preemption),
        ("requeue", requeues),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sites_settings_are_told_in_words() {
        let of = |config: &str| {
            let all = settings(config).into_iter();
            all.map(|(what, found)| format!("{what}: {found:?}")).collect::<Vec<_>>().join("\n")
        };
        let good =
            of("KillWait                = 30 sec\nMaxArraySize            = 1001\nPreemptMode             = REQUEUE\n\
                       SlurmctldParameters     = preempt_send_user_signal\nJobRequeue              = 1\n");
        assert!(good.contains("MaxArraySize = 1001") && good.contains("KillWait = 30 sec"), "{good}");
        assert!(good.contains("are told before") && !good.contains("Err"), "{good}");
        let bad = of("PreemptMode = REQUEUE\nSlurmctldParameters = (null)\nJobRequeue = 0\n");
        assert!(bad.contains("are not told") && bad.contains("Err(\"JobRequeue = 0"), "{bad}");
        assert!(of("PreemptMode = OFF").contains("not preempted"));
    }
}
