//! Object stores whose requests go wrong.

use super::super::Outcome;
use super::super::proxy::Proxy;
use super::super::trial::Trial;
use super::super::worker::End;
use crate::s3::{Server, options};

/// Runs within which a build must be done, however its store behaves.
const MOST_RUNS: usize = 3;

/// One request in five goes wrong: a run may say "try again", but not for ever, and nothing else.
pub fn faults(trial: &mut Trial<'_>) -> Outcome {
    let Some(python) = trial.arsenal.python_with_s3 else {
        trial.counts.missed += 1;
        return Ok(());
    };
    let empty = trial.folder.join("empty");
    std::fs::create_dir_all(&empty).map_err(|e| e.to_string())?;
    let server = Server::start(python, &empty);
    let proxy = Proxy::start(&server.endpoint, trial.dice.split()).map_err(|e| e.to_string())?;
    let at = |endpoint: &str| ["work.url=s3://work/build".to_owned(), format!("work.options={}", options(endpoint))];
    for edited in [false, true] {
        if edited && trial.dice.coin() {
            trial.edit()?;
        }
        trial.moves_to(&at(&proxy.endpoint))?;
        let mut ends = Vec::new();
        while ends.last() != Some(&End::Code(0)) {
            if ends.len() == MOST_RUNS {
                return Err(format!("not done after {MOST_RUNS} runs"));
            }
            ends.push(trial.start(None)?.ends_with(&[0, 75])?);
        }
        trial.tell(format!("with {} faults so far: {ends:?}", proxy.faults()));
        trial.counts.faults = proxy.faults();
        trial.moves_to(&at(&server.endpoint))?;
        trial.is_right()?;
    }
    trial.comes_to_the_right_end()
}
