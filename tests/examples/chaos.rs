//! Disturbs builds in every way we know and compares what is left with builds that nobody disturbed.
//!
//! ```text
//! chaos [--seed N] [--scenario NAME] [--rounds N] [--round N] [--long] [--binary PATH] [--keep FOLDER]
//! ```

use std::path::PathBuf;
use std::time::Instant;

use pipeline_tests::chaos::scenarios::{SCENARIOS, Scenario};
use pipeline_tests::chaos::shim;
use pipeline_tests::chaos::trial::{Arsenal, Trial};

#[derive(Default)]
struct Options {
    seed: u64,
    scenario: Option<String>,
    rounds: Option<u64>,
    round: Option<u64>,
    long: bool,
    binary: Option<PathBuf>,
    keep: Option<PathBuf>,
}

fn options() -> Result<Options, String> {
    let mut options = Options { seed: 1, ..Options::default() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg}: which one?"));
        let number = |text: String| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
        match arg.as_str() {
            "--seed" => options.seed = number(value()?)?,
            "--scenario" => options.scenario = Some(value()?),
            "--rounds" => options.rounds = Some(number(value()?)?),
            "--round" => options.round = Some(number(value()?)?),
            "--long" => options.long = true,
            "--binary" => options.binary = Some(value()?.into()),
            "--keep" => options.keep = Some(value()?.into()),
            other => return Err(format!("{other}: no such option")),
        }
    }
    Ok(options)
}

fn main() -> Result<(), String> {
    let options = options()?;
    let folder = options
        .keep
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("urbancross-chaos-{}", std::process::id())));
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let folder = folder.canonicalize().map_err(|e| e.to_string())?;
    let shim = match shim::build(&folder) {
        Ok(shim) => shim,
        Err(why) => {
            println!("skipped: {why}");
            return Ok(());
        }
    };
    let world = folder.join("world");
    let settings = sandbox::Settings { tiles_per_country: 24, side_px: 80, seed: 7 };
    sandbox::generate(&world, &settings, &mut |_, _| {}).map_err(|e| e.to_string())?;
    let program = options.binary.clone().unwrap_or_else(pipeline_tests::urbancross);
    let arsenal = Arsenal { program, shim, world, folder };
    println!("seed {}", options.seed);
    let mut failures = 0;
    for scenario in SCENARIOS.iter().filter(|s| options.scenario.as_deref().is_none_or(|name| name == s.name)) {
        let began = Instant::now();
        let rounds = match options.round {
            Some(round) => round..round + 1,
            None => 0..options.rounds.unwrap_or(scenario.rounds[usize::from(options.long)]),
        };
        for round in rounds {
            failures += u32::from(!tell(&arsenal, scenario, options.seed, round)?);
        }
        println!("{} {:.1} s", scenario.name, began.elapsed().as_secs_f64());
    }
    if failures > 0 { Err(format!("{failures} failures")) } else { Ok(()) }
}

fn tell(arsenal: &Arsenal, scenario: &Scenario, seed: u64, round: u64) -> Result<bool, String> {
    let mut trial = Trial::new(arsenal, seed, scenario.name, round)?;
    match (scenario.tell)(&mut trial) {
        Ok(()) => {
            let _ = std::fs::remove_dir_all(&trial.folder);
            Ok(true)
        }
        Err(why) => {
            println!("FAILED {} round {round}: {why}", scenario.name);
            for step in &trial.story {
                println!("    {step}");
            }
            println!("    store: {}", trial.work().display());
            println!("    again: chaos --seed {seed} --scenario {} --round {round}", scenario.name);
            Ok(false)
        }
    }
}
