//! Slurm: batch scripts, and what `squeue` says of them.
//!
//! The shape of the scripts is that of measurements on versions 22.05 and 24.11; docs/slurm.md says why each line is there.

mod queue;

pub use queue::{QUEUE_FORMAT, Queued, arrays, queue};

use crate::job::{ADAPT, Job, Run, Work, step_like};
use crate::profile::{Profile, Resources, Slurm};

/// Seconds before a time limit or a preemption at which the workers are told.
const WARNING_SECONDS: u32 = 55;
/// Times that a job puts itself back into the queue.
const MOST_REQUEUES: u32 = 5;
/// Times that a driver asks the controller to do so, every ten seconds.
const CONTROLLER_TRIES: u32 = 60;

/// A script with the arguments of `sbatch` that are no part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Name of the job.
    pub name: String,
    /// The script.
    pub script: String,
}

/// What scripts need to know of the place that they run in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Path of the spec as all nodes see it.
    pub spec: String,
    /// Path of what drivers are given: the same, or the folder of all tasks of the run.
    pub given: String,
    /// Path of the profile as all nodes see it; the driver gives it on.
    pub profile: String,
    /// Largest size of a job array, Slurm's `MaxArraySize`: indices end one below.
    pub most_indices: u32,
}

/// What of a profile cannot stand in a script: values are lines of it.
pub fn problems(profile: &Profile) -> Vec<String> {
    let Slurm { account, partition, qos, time, exclude, options, setup, logs, program, max_workers: _ } =
        &profile.slurm;
    let named = [
        ("account", account),
        ("partition", partition),
        ("qos", qos),
        ("time", time),
        ("exclude", exclude),
        ("logs", logs),
        ("program", program),
    ];
    let named = named.map(|(name, value)| (format!("slurm.{name}"), value));
    let listed = options.iter().map(|line| ("slurm.options".to_owned(), line));
    let listed = listed.chain(setup.iter().map(|line| ("slurm.setup".to_owned(), line)));
    let of_steps = profile.stage.iter().flat_map(|(step, of)| {
        [("memory", &of.memory), ("partition", &of.partition)]
            .map(|(name, value)| (format!("stage.{step}.{name}"), value))
    });
    let all = named.into_iter().chain(listed).chain(of_steps);
    let is_line = |value: &str| !value.chars().any(char::is_control);
    let mut problems: Vec<String> = (all.filter(|(_, value)| !is_line(value)))
        .map(|(name, value)| format!("{name} = {value:?}: it must be one line"))
        .collect();
    if logs.chars().any(|c| c.is_whitespace() || c == '%' || c == '"' || c == '\\') {
        problems
            .push(format!("slurm.logs = {logs:?}: Slurm takes no blanks, quotes or percent signs in a path of logs"));
    }
    problems
}

impl Site {
    /// Where a run's files lie below the folder of logs.
    pub fn of(run: &Run, logs: &str, most_indices: u32) -> Site {
        let folder = format!("{logs}/uc-{}", run.id);
        let spec = format!("{folder}/spec.toml");
        let given = run.whole.as_ref().map_or_else(|| spec.clone(), |whole| format!("{logs}/uc-{whole}"));
        Site { spec, given, profile: format!("{folder}/profile.toml"), most_indices }
    }
}

/// The scripts of a job, in windows of indices where an array cannot hold all workers.
pub fn batches(run: &Run, job: &Job, profile: &Profile, site: &Site) -> Vec<Batch> {
    match &job.work {
        Work::Map { workers, .. } => {
            let window = site.most_indices.max(1);
            let windows = workers.max(&1).div_ceil(window);
            (0..windows).map(|at| map_batch(run, job, profile, site, (*workers.max(&1), at * window, window))).collect()
        }
        Work::Train { .. } => vec![train_batch(run, job, profile, site)],
        Work::Drive => vec![drive_batch(run, job, profile, site)],
    }
}

/// The lines that every script begins with.
fn head(run: &Run, job: &Job, name: &str, profile: &Profile, resources: &Resources, log: &str) -> String {
    let slurm = &profile.slurm;
    let partition = if resources.partition.is_empty() { &slurm.partition } else { &resources.partition };
    let mut lines = vec![
        "#!/bin/bash".to_owned(),
        format!("# {} of run {}, country {}", job.step, run.id, run.country.escape_debug()),
    ];
    let mut option = |text: String| lines.push(format!("#SBATCH {text}"));
    option(format!("--job-name={name}"));
    for (key, value) in [
        ("account", &slurm.account),
        ("partition", partition),
        ("qos", &slurm.qos),
        ("time", &slurm.time),
        ("exclude", &slurm.exclude),
        ("mem", &resources.memory),
    ] {
        if !value.is_empty() {
            option(format!("--{key}={value}"));
        }
    }
    option(format!("--cpus-per-task={}", resources.cpus.max(1)));
    if resources.gpus > 0 {
        option(format!("--gpus-per-node={}", resources.gpus));
    }
    option("--requeue".to_owned());
    option("--open-mode=append".to_owned());
    option(format!("--output={}/{log}", slurm.logs));
    slurm.options.iter().for_each(|line| option(line.clone()));
    lines.join("\n") + "\n"
}

fn setup(profile: &Profile) -> String {
    profile.slurm.setup.iter().map(|line| format!("{line}\n")).collect()
}

fn command(profile: &Profile, arguments: &[String]) -> String {
    let words = arguments.iter().map(|word| quoted(word)).collect::<Vec<_>>();
    format!("{} {}", profile.slurm.program, words.join(" "))
}

/// Lines that run a command to its end and keep its exit code. A signal to the script is given on, and ends `wait` before the command
/// has ended.
fn in_background(command: &str) -> String {
    format!(
        "trap 'kill -TERM $process 2>/dev/null' TERM\n{command} &\nprocess=$!\n\
         while wait $process; code=$?; kill -0 $process 2>/dev/null; do :; done\n"
    )
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

fn map_batch(run: &Run, job: &Job, profile: &Profile, site: &Site, of: (u32, u32, u32)) -> Batch {
    let (workers, offset, window) = of;
    let name = job.name(run);
    let here = window.min(workers - offset);
    let at_once = profile.slurm.max_workers.clamp(1, workers);
    let resources = profile.resources(&job.step);
    let script = [
        head(run, job, &name, profile, &resources, "%x-%A_%a.log"),
        format!("#SBATCH --array=0-{}%{at_once}\n#SBATCH --nodes=1 --ntasks=1\n", here - 1),
        format!("#SBATCH --signal=B:TERM@{WARNING_SECONDS}\n"),
        setup(profile),
        format!("export URBANCROSS_INDEX=$((SLURM_ARRAY_TASK_ID + {offset})) URBANCROSS_COUNT={workers}\n"),
        in_background(&command(profile, &job.arguments(run, &site.spec))),
        "me=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID\ncase $code in\n".to_owned(),
        "0)  # the plan is closed\n".to_owned(),
        // of several arrays one is enough
        if offset == 0 { free_the_driver(run, &job.step, site) } else { String::new() },
        "    scancel --quiet --state=PENDING $SLURM_ARRAY_JOB_ID ;;\n".to_owned(),
        "75|137|143)  # a job that somebody cancels is no longer running, and stays cancelled\n".to_owned(),
        "    state=$(squeue --noheader --array --jobs=$me --format=%T)\n".to_owned(),
        format!(
            "    [ \"$state\" = RUNNING ] && [ ${{SLURM_RESTART_COUNT:-0}} -lt {MOST_REQUEUES} ] && scontrol requeue $me ;;\n"
        ),
        "esac\nexit $code\n".to_owned(),
    ];
    Batch { name, script: script.concat() }
}

/// Lines by which one worker of an array lets the driver begin that waits for the array: it need not wait for nodes that are
/// lost, nor run on one. Workers that live leave within moments.
fn free_the_driver(run: &Run, step: &str, site: &Site) -> String {
    let folder = site.spec.rsplit_once('/').map_or(".", |(folder, _)| folder);
    [
        format!("    if mkdir {}/closed-$SLURM_ARRAY_JOB_ID 2>/dev/null; then\n", quoted(folder)),
        "        for _ in 1 2 3 4; do\n".to_owned(),
        "            others=$(squeue --noheader --jobs=$SLURM_ARRAY_JOB_ID --states=RUNNING --format=%N".to_owned(),
        " | grep -vx \"$SLURMD_NODENAME\" | sort -u | paste -sd,)\n".to_owned(),
        "            [ -z \"$others\" ] && break; sleep 0.7\n        done\n".to_owned(),
        format!(
            "        IFS='|' read -r driver excluded < <(squeue --noheader --states=PENDING --name={} --format='%i|%x')\n",
            driver_name(run, step)
        ),
        "        excluded=$(echo \"${excluded/(null)/},$others\" | sed 's/,,*/,/g; s/^,//; s/,$//')\n".to_owned(),
        "        [ -n \"$driver\" ] && scontrol update JobId=$driver ExcNodeList=$excluded Dependency=\n    fi\n".to_owned(),
    ]
    .concat()
}

/// Name of the driver that comes back to a step.
fn driver_name(run: &Run, step: &str) -> String {
    Job { step: step.to_owned(), work: Work::Drive }.name(run)
}

fn train_batch(run: &Run, job: &Job, profile: &Profile, site: &Site) -> Batch {
    let Work::Train { attempt, nodes, ranks_per_node } = job.work else {
        return Batch { name: String::new(), script: String::new() };
    };
    let name = job.name(run);
    let resources = profile.resources(&job.step);
    let batch = batch_of(run, &job.step).filter(|_| attempt > 1);
    let script = [
        head(run, job, &name, profile, &resources, "%x-%j.log"),
        // after a loss the training goes on with as many machines as there are
        match attempt {
            1 => format!("#SBATCH --nodes={nodes} --ntasks-per-node={ranks_per_node}\n"),
            _ => format!("#SBATCH --nodes=1-{nodes} --ntasks-per-node={ranks_per_node}\n"),
        },
        format!("#SBATCH --signal=TERM@{WARNING_SECONDS}\n"),
        setup(profile),
        format!("export URBANCROSS_RENDEZVOUS={}-{attempt}-$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}\n", run.id),
        batch.map_or_else(String::new, |batch| nodes_that_share(batch, ranks_per_node)),
        // `srun` tells 143 whatever a rank said: the driver reads what the ranks have written
        format!(
            "srun --label --kill-on-bad-exit=1 {}{}\n",
            if batch.is_some() { "--nodes=$nodes --ntasks=$ranks " } else { "" },
            command(profile, &job.arguments(run, &site.spec))
        ),
        "exit $?\n".to_owned(),
    ];
    Batch { name, script: script.concat() }
}

/// Size of a training's batch, as the run's spec has it.
fn batch_of(run: &Run, step: &str) -> Option<u64> {
    let section = if step_like(step) == ADAPT { ADAPT } else { "pretrain" };
    let spec: toml::Table = toml::from_str(&run.spec).ok()?;
    u64::try_from(spec.get(section)?.get("batch")?.as_integer()?).ok()
}

/// Lines that count the machines of a training that are used: all that it was given, but so few that ranks share the batch, each
/// an equal part. They refuse any other.
fn nodes_that_share(batch: u64, ranks_per_node: u32) -> String {
    [
        format!("nodes=$SLURM_NNODES batch={batch} each={ranks_per_node}\n"),
        "while [ $nodes -gt 1 ] && [ $((batch % (nodes * each))) -ne 0 ]; do nodes=$((nodes - 1)); done\n".to_owned(),
        "ranks=$((nodes * each))\n".to_owned(),
    ]
    .concat()
}

fn drive_batch(run: &Run, job: &Job, profile: &Profile, site: &Site) -> Batch {
    let name = job.name(run);
    let driver = profile.driver();
    let cpus = if profile.stage.contains_key("drive") { driver.cpus } else { 1 };
    let resources = Resources { workers: 1, cpus, ..driver };
    let script = [
        head(run, job, &name, profile, &resources, "%x-%j.log"),
        "#SBATCH --nodes=1 --ntasks=1\n".to_owned(),
        setup(profile),
        in_background(&format!(
            "{} --engine slurm --profile {}",
            command(profile, &job.arguments(run, &site.given)),
            quoted(&site.profile)
        )),
        // without it nobody would come back to what it has begun; the controller may be away for longer than it tried
        "case $code in\n75)\n    state=RUNNING\n".to_owned(),
        format!("    [ ${{SLURM_RESTART_COUNT:-0}} -lt {MOST_REQUEUES} ] && for _ in $(seq {CONTROLLER_TRIES}); do\n"),
        "        state=$(squeue --noheader --jobs=$SLURM_JOB_ID --format=%T) && { [ \"$state\" = RUNNING ] || break; }\n".to_owned(),
        "        scontrol requeue $SLURM_JOB_ID && break; sleep 10\n    done ;;\nesac\nexit $code\n".to_owned(),
    ];
    Batch { name, script: script.concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        let options = vec!["--until".to_owned(), "images".to_owned()];
        Run { id: "1a2b3c4d".into(), country: "finland".into(), options, ..Run::default() }
    }

    fn map(workers: u32) -> Job {
        Job { step: "captions".into(), work: Work::Map { plan: "9f8e7d6c5b".into(), workers, lease_seconds: 60 } }
    }

    fn profile() -> Profile {
        let text = "[slurm]\npartition = \"gpu\"\naccount = \"geo\"\nlogs = \"/shared/logs\"\nsetup = [\"module load cuda\"]\n\
                    [stage.captions]\ngpus = 1\ncpus = 8\nmemory = \"32G\"\n";
        Profile::parse(text).unwrap()
    }

    fn site(most_indices: u32) -> Site {
        let spec = "/shared/run/spec.toml".to_owned();
        Site { given: spec.clone(), spec, profile: "/shared/run/profile.toml".into(), most_indices }
    }

    #[test]
    fn a_stage_is_an_array_whose_workers_know_their_numbers() {
        let batch = &batches(&run(), &map(3), &profile(), &site(1001))[0];
        for wanted in [
            "#SBATCH --job-name=uc-1a2b3c4d-captions-9f8e7d6c\n",
            "#SBATCH --array=0-2%3\n",
            "#SBATCH --gpus-per-node=1\n",
            "#SBATCH --account=geo\n",
            "#SBATCH --signal=B:TERM@55\n",
            "module load cuda\n",
            "urbancross worker /shared/run/spec.toml --stage captions --plan 9f8e7d6c5b --count 3 --lease-seconds 60 --run 1a2b3c4d &\n",
            "--name=uc-1a2b3c4d-captions-drive --format=",
        ] {
            assert!(batch.script.contains(wanted), "{wanted}\n{}", batch.script);
        }
        assert!(!batch.script.contains("--qos"), "what is empty is left to the site");
    }

    #[test]
    fn more_workers_than_an_array_holds_are_windows_and_every_index_once() {
        let all = batches(&run(), &map(25), &profile(), &site(11));
        assert_eq!(all.len(), 3);
        let number = |text: &str, after: &str| {
            let rest = text.split(after).nth(1).unwrap();
            rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().unwrap()
        };
        let indices: Vec<u32> = (all.iter())
            .flat_map(|batch| {
                let offset = number(&batch.script, "SLURM_ARRAY_TASK_ID + ");
                (0..=number(&batch.script, "--array=0-")).map(move |index| index + offset)
            })
            .collect();
        assert_eq!(indices, (0..25).collect::<Vec<_>>());
    }

    #[test]
    fn a_training_meets_under_a_name_of_its_attempt_and_a_driver_comes_back() {
        let train = |attempt| {
            let job = Job { step: "pretrain".into(), work: Work::Train { attempt, nodes: 2, ranks_per_node: 4 } };
            batches(&run(), &job, &profile(), &site(1001)).remove(0)
        };
        assert!(train(1).script.contains("--nodes=2 --ntasks-per-node=4\n"), "{}", train(1).script);
        let train = train(2);
        assert!(train.script.contains("--nodes=1-2 --ntasks-per-node=4\n"), "{}", train.script);
        assert!(train.script.contains("URBANCROSS_RENDEZVOUS=1a2b3c4d-2-$SLURM_JOB_ID"), "{}", train.script);
        let drive = &batches(&run(), &Job { step: "captions".into(), work: Work::Drive }, &profile(), &site(1001))[0];
        let wanted = "\nurbancross drive /shared/run/spec.toml --run 1a2b3c4d --until images --engine slurm --profile \
                      /shared/run/profile.toml &\n";
        assert!(drive.script.contains(wanted), "{}", drive.script);
        assert!(drive.script.contains("scontrol requeue $SLURM_JOB_ID"), "{}", drive.script);
        assert!(
            drive.script.contains("--cpus-per-task=1\n") && !drive.script.contains("gpus-per-node"),
            "{}",
            drive.script
        );
        let given = Profile::parse("[stage.default]\ngpus = 8\n[stage.drive]\ngpus = 1\ncpus = 6\n").unwrap();
        let drive = &batches(&run(), &Job { step: "captions".into(), work: Work::Drive }, &given, &site(1001))[0];
        assert!(drive.script.contains("--cpus-per-task=6\n#SBATCH --gpus-per-node=1\n"), "{}", drive.script);
    }

    /// Of the machines that Slurm grants as many are used as can share the batch.
    #[cfg(unix)]
    #[test]
    fn a_training_goes_on_with_machines_that_share_its_batch() {
        let asked = |spec: &str, step: &str, (nodes, ranks_per_node): (u32, u32), granted: u32| {
            let job = Job { step: step.into(), work: Work::Train { attempt: 2, nodes, ranks_per_node } };
            let run = Run { spec: spec.to_owned(), ..run() };
            let script = batches(&run, &job, &Profile::default(), &site(1001)).remove(0).script;
            // what `srun` is told before the program
            let script = format!("srun() {{ words=\"$*\"; echo \"${{words%% urbancross *}}\"; }}\n{script}");
            let granted = granted.to_string();
            let shell = std::process::Command::new("bash").args(["-c", &script]).env("SLURM_NNODES", granted).output();
            String::from_utf8_lossy(&shell.unwrap().stdout).trim().to_owned()
        };
        let given = "--label --kill-on-bad-exit=1";
        let shared = |nodes: u32, ranks: u32| format!("{given} --nodes={nodes} --ntasks={ranks}");
        let spec = "[pretrain]\nbatch = 64\n";
        for (granted, used) in [(4, 4), (3, 2), (2, 2), (1, 1)] {
            assert_eq!(asked(spec, "pretrain", (4, 1), granted), shared(used, used), "of {granted}");
        }
        assert_eq!(asked("[pretrain]\nbatch = 40\n", "bootstrap", (5, 4), 4), shared(2, 8));
        assert_eq!(asked("[adapt]\nbatch = 16\n", crate::job::VARIANT, (4, 2), 3), shared(2, 4));
        // ranks say what is wrong with a batch that those of no number of machines share
        assert_eq!(asked(spec, "pretrain", (4, 3), 4), shared(1, 3));
        assert_eq!(asked("", "pretrain", (4, 1), 3), given);
    }

    #[test]
    fn a_driver_of_a_task_is_given_the_whole_run() {
        let task = Run { id: "1a2b3c4d-1".into(), whole: Some("1a2b3c4d".into()), ..run() };
        let site = Site::of(&task, "/logs", 1001);
        let drive = &batches(&task, &Job { step: "captions".into(), work: Work::Drive }, &profile(), &site)[0];
        let wanted = "\nurbancross drive /logs/uc-1a2b3c4d --run 1a2b3c4d --until images --engine slurm --profile \
                      /logs/uc-1a2b3c4d-1/profile.toml &\n";
        assert!(drive.script.contains(wanted), "{}", drive.script);
        let map = &batches(&task, &map(3), &profile(), &site)[0].script;
        assert!(map.contains("worker /logs/uc-1a2b3c4d-1/spec.toml") && map.contains("--run 1a2b3c4d-1 &"), "{map}");
    }

    #[test]
    fn what_would_be_a_line_of_its_own_is_refused() {
        assert_eq!(problems(&profile()), Vec::<String>::new());
        for hostile in [
            "[slurm]\npartition = \"gpu\\nrm -rf x\"\n",
            "[slurm]\nlogs = \"/a\\n/b\"\n",
            "[slurm]\nlogs = \"/my logs\"\n",
            "[slurm]\noptions = [\"--constraint=a\\ntouch x\"]\n",
            "[stage.images]\npartition = \"gpu\\ntouch x\"\n",
        ] {
            assert!(!problems(&Profile::parse(hostile).unwrap()).is_empty(), "{hostile}");
        }
        let run = Run { country: "x\ntouch y".into(), ..run() };
        let script = &batches(&run, &map(1), &profile(), &site(1001))[0].script;
        assert!(!script.contains("\ntouch"), "{script}");
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quoted("/a/b-c.toml"), "/a/b-c.toml");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }
}
