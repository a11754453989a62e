//! Other programs at our tables.

use std::process::Command;

use super::super::Outcome;
use super::super::trial::Trial;
use super::super::worker::End;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/chaos/foreign.py");
/// Tables early and late in a build.
const TABLES: [&str; 6] = ["geotags", "images", "captions", "segments", "image_embeddings", "text_embeddings"];
const VERBS: [&str; 4] = ["restore", "delete", "optimize", "vacuum"];

/// After maintenance by others a run makes the tables right, or refuses and says at which table; then the version before
/// the maintenance is brought back, and all is well.
pub fn maintenance(trial: &mut Trial<'_>) -> Outcome {
    let Some(python) = trial.arsenal.python else {
        trial.counts.missed += 1;
        return Ok(());
    };
    trial.start(None)?.ends_with(&[0])?;
    trial.edit()?;
    trial.start(None)?.ends_with(&[0])?;
    let table = *trial.dice.choose(&TABLES);
    let verb = VERBS[(trial.walk(VERBS.len() * TABLES.len()) - 1) % VERBS.len()];
    let ask = |trial: &Trial<'_>, args: &[&str]| -> Result<String, String> {
        let folder = trial.work().join("tables").join(table);
        let output = Command::new(python).arg(SCRIPT).arg(folder).args(args).output().map_err(|e| e.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(format!("{args:?} of {table}: {}", String::from_utf8_lossy(&output.stderr))),
        }
    };
    let before = ask(trial, &["version"])?;
    let older = before.parse::<u64>().map_err(|e| format!("{before}: {e}"))?.saturating_sub(1).to_string();
    let args = if verb == "restore" { vec![verb, &older] } else { vec![verb] };
    let said = ask(trial, &args)?;
    trial.counts.foreign += 1;
    trial.tell(format!("{args:?} of {table} at version {before} by another program: {said}"));
    let mut worker = trial.start(None)?;
    if worker.ends_with(&[0, 65])? == End::Code(65) {
        let why = worker.last_words();
        trial.tell(format!("refused: {why}"));
        if verb == "vacuum" || verb == "restore" || !why.contains(table) {
            return Err(format!("{verb} of {table} is no reason to refuse, or the table is not named: {why}"));
        }
        ask(trial, &["restore", &before])?;
    }
    trial.comes_to_the_right_end()
}
