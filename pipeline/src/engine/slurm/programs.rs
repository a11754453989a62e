//! Slurm's programs, started as processes.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use workers::WorkerError;

/// Gives a script to Slurm; the number of its job.
pub(super) async fn submit(script: &str, arguments: &[String]) -> Result<String, WorkerError> {
    let arguments: Vec<&str> = ["--parsable"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    let answer = ask("sbatch", &arguments, Some(script)).await?;
    Ok(answer.trim().split(';').next().unwrap_or_default().to_owned())
}

/// Runs one of Slurm's programs.
pub(super) async fn ask(program: &str, arguments: &[&str], input: Option<&str>) -> Result<String, WorkerError> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // what this process was started with would become what its jobs ask for; of the three ways to say how much memory,
    // `srun` takes one
    for name in [
        "SLURM_CPUS_PER_TASK",
        "SLURM_NTASKS",
        "SLURM_MEM_PER_CPU",
        "SLURM_MEM_PER_GPU",
        "SLURM_MEM_PER_NODE",
        "SLURM_GPUS_PER_NODE",
        "SBATCH_GPUS_PER_NODE",
    ] {
        command.env_remove(name);
    }
    let absent = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => WorkerError::Configuration(format!(
            "there is no {program} on this machine: run this where Slurm's commands are"
        )),
        _ => WorkerError::of_io(program.as_ref(), &error),
    };
    let mut child = command.spawn().map_err(absent)?;
    if let Some(mut stdin) = child.stdin.take() {
        // a program that ends early says why itself
        _ = stdin.write_all(input.unwrap_or_default().as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(absent)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(refusal(program, &String::from_utf8_lossy(&output.stderr)))
}

/// Sorts what Slurm's programs say: a controller that does not answer may do so later.
fn refusal(program: &str, said: &str) -> WorkerError {
    const PASSING: [&str; 6] = [
        "Unable to contact",
        "Socket timed out",
        "Connection refused",
        "Connection timed out",
        "temporarily",
        "Zero Bytes were transmitted",
    ];
    let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    match PASSING.iter().any(|words| said.contains(words)) {
        true => WorkerError::Transient(format!("{program}: {said}")),
        false => WorkerError::Configuration(format!("{program}: {said}; look at the profile")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_slurm_refuses_for_good_is_told_from_a_controller_that_is_away() {
        let code = |said: &str| refusal("sbatch", said).exit_code();
        assert_eq!(
            code("sbatch: error: Batch job submission failed: Invalid account or account/partition combination"),
            65
        );
        assert_eq!(code("sbatch: error: invalid partition specified: nowhere"), 65);
        assert_eq!(code("slurm_load_jobs error: Unable to contact slurm controller (connect failure)"), 75);
        assert_eq!(code("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"), 75);
    }

    #[tokio::test]
    async fn a_machine_without_slurm_is_named() {
        let error = ask("no-such-sbatch", &[], None).await.unwrap_err();
        assert!(error.exit_code() == 65 && error.to_string().contains("no-such-sbatch"), "{error}");
    }
}
