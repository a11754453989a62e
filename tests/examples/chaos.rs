//! Disturbs builds in every way we know, and compares what they leave with what an undisturbed build leaves.
//!
//! ```text
//! chaos [--seed N] [--scenario NAME] [--rounds N] [--round N] [--long] [--seconds N] [--jobs N] [--binary PATH]
//!       [--keep FOLDER] [--list]
//! ```
//!
//! Without `--long` it is the bounded form: fewer trials, and none begins after `--seconds`. `--round` repeats one trial.
//! Trials lie in memory, or below `--keep`. The folder of a trial that failed is kept, with the store, the outputs of all
//! workers and the journal of changes. On a machine that cannot disturb a program it ends with 77.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pipeline_tests::chaos::figures::{HEADER, Line};
use pipeline_tests::chaos::scenarios::{SCENARIOS, Scenario};
use pipeline_tests::chaos::trial::{Arsenal, Trial, Unarmed};

/// The bounded form begins no trial after this.
const BOUND: Duration = Duration::from_secs(180);
/// Exit code where no trial can be made on this machine.
const UNARMED: u8 = 77;

struct Options {
    seed: u64,
    scenario: Option<String>,
    rounds: Option<u64>,
    round: Option<u64>,
    long: bool,
    bound: Option<Duration>,
    jobs: usize,
    binary: Option<PathBuf>,
    keep: PathBuf,
    list: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        seed: 1,
        scenario: None,
        rounds: None,
        round: None,
        long: false,
        bound: None,
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        binary: None,
        keep: memory_or_temporary(),
        list: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg}: which one?"));
        let number = |text: String| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
        match arg.as_str() {
            "--seed" => options.seed = number(value()?)?,
            "--scenario" => options.scenario = Some(value()?),
            "--rounds" => options.rounds = Some(number(value()?)?),
            "--round" => options.round = Some(number(value()?)?),
            "--seconds" => options.bound = Some(Duration::from_secs(number(value()?)?)),
            "--jobs" => options.jobs = number(value()?)?.max(1) as usize,
            "--binary" => options.binary = Some(value()?.into()),
            "--keep" => options.keep = value()?.into(),
            "--long" => options.long = true,
            "--list" => options.list = true,
            other => return Err(format!("{other}: no such option; the head of tests/examples/chaos.rs has them")),
        }
    }
    Ok(options)
}

/// Builds sync much: in memory that costs nothing, and no power cut of a trial is a real one.
fn memory_or_temporary() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

impl Options {
    fn rounds_of(&self, scenario: &Scenario) -> u64 {
        self.rounds.unwrap_or(scenario.rounds[usize::from(self.long)])
    }

    /// What is to be told: every scenario advances at the same pace, so that a bound cuts all of them alike.
    fn trials(&self) -> Vec<(&'static Scenario, u64)> {
        let mut trials = Vec::new();
        for scenario in SCENARIOS.iter().filter(|s| self.scenario.as_deref().is_none_or(|name| name == s.name)) {
            let rounds = self.rounds_of(scenario);
            let wanted = match self.round {
                Some(round) => round..round + 1,
                None => 0..rounds,
            };
            trials.extend(wanted.map(|round| (scenario, round)));
        }
        trials.sort_by_key(|&(scenario, round)| round * 1_000_000 / self.rounds_of(scenario).max(1));
        trials
    }
}

fn main() -> ExitCode {
    // SAFETY: no other thread runs yet. Workers and the oracle take the server's credentials from here.
    unsafe {
        std::env::set_var("AWS_ACCESS_KEY_ID", "testing");
        std::env::set_var("AWS_SECRET_ACCESS_KEY", "testing");
    }
    match options().and_then(|options| all(&options)) {
        Ok(None) => ExitCode::from(UNARMED),
        Ok(Some(0)) => ExitCode::SUCCESS,
        Ok(Some(failed)) => {
            println!("{failed} trials failed");
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("chaos: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Tells all trials; how many failed, or `None` where this machine can make none.
fn all(options: &Options) -> Result<Option<u32>, String> {
    if options.list {
        SCENARIOS.iter().for_each(|s| println!("{:12} {}", s.name, s.what));
        return Ok(Some(0));
    }
    let trials = options.trials();
    if trials.is_empty() {
        return Err("no such scenario; --list names them".into());
    }
    let folder = options.keep.join(format!("urbancross-chaos-{}", std::process::id()));
    let said = |e: std::io::Error| format!("{}: {e}", folder.display());
    std::fs::create_dir_all(&folder).map_err(said)?;
    let folder = folder.canonicalize().map_err(said)?;
    let program = options.binary.clone().unwrap_or_else(pipeline_tests::urbancross);
    let arsenal = match Arsenal::new(program, folder) {
        Ok(arsenal) => arsenal,
        Err(Unarmed::Here(why)) => {
            println!("skipped: {why}");
            return Ok(None);
        }
        Err(Unarmed::Program(why)) => return Err(why),
    };
    println!("seed {}, {} trials of {}", options.seed, trials.len(), arsenal.program.display());
    println!(
        "a first build makes {} changes in {} steps, one after an edit has {} steps",
        arsenal.changes,
        arsenal.first_steps.len(),
        arsenal.later_steps.len()
    );
    let lines = in_parallel(options, &arsenal, &trials);
    Ok(Some(summed(&arsenal, &trials, &lines)))
}

fn in_parallel(options: &Options, arsenal: &Arsenal, trials: &[(&Scenario, u64)]) -> Vec<Line> {
    let bound = options.bound.or((!options.long).then_some(BOUND)).unwrap_or(Duration::MAX);
    let (began, next, lines) = (Instant::now(), AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                while began.elapsed() < bound
                    && let Some(&(scenario, round)) = trials.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let line = tell(options, arsenal, scenario, round);
                    lines.lock().expect("nobody panics with it").push(line);
                }
            });
        }
    });
    println!("{:.0} s", began.elapsed().as_secs_f64());
    lines.into_inner().expect("nobody panics with it")
}

fn tell(options: &Options, arsenal: &Arsenal, scenario: &Scenario, round: u64) -> Line {
    let rounds = options.rounds_of(scenario);
    let mut line = Line { name: scenario.name.to_owned(), trials: 1, ..Line::default() };
    let (why, trial) = match Trial::new(arsenal, options.seed, scenario.name, (round, rounds)) {
        Err(why) => (Err(why), None),
        Ok(mut trial) => ((scenario.tell)(&mut trial), Some(trial)),
    };
    if let Some(trial) = &trial {
        line.counts = trial.counts;
    }
    match (why, trial) {
        (Ok(()), Some(trial)) => trial.remove(),
        (why, trial) => {
            line.failed = 1;
            let why = why.err().unwrap_or_default();
            if let Some(trial) = &trial {
                let _ = std::fs::write(trial.folder.join("why"), &why);
            }
            let why = why.lines().next().unwrap_or_default();
            let story = trial.map_or(String::new(), |t| {
                format!("    {}\n    kept: {}\n", t.story.join("\n    "), t.folder.display())
            });
            println!(
                "FAILED {name} {round}: {why}\n{story}    again: chaos --binary {binary} --seed {seed} --scenario {name} --rounds {rounds} --round {round}",
                name = scenario.name,
                binary = arsenal.program.display(),
                seed = options.seed,
            );
        }
    }
    line
}

/// Prints the table of figures, and what was left out.
fn summed(arsenal: &Arsenal, trials: &[(&Scenario, u64)], lines: &[Line]) -> u32 {
    let mut total = Line { name: "all".into(), ..Line::default() };
    println!("{HEADER}");
    for scenario in &SCENARIOS {
        let mut line = Line { name: scenario.name.to_owned(), ..Line::default() };
        lines.iter().filter(|l| l.name == scenario.name).for_each(|l| line += l);
        if line.trials > 0 {
            println!("{line}");
        }
        total += &line;
    }
    println!("{total}");
    if lines.len() < trials.len() {
        println!("time was up: {} trials were left out", trials.len() - lines.len());
    }
    if total.failed == 0 {
        let _ = std::fs::remove_dir_all(&arsenal.folder);
    }
    total.failed
}
