//! Power cuts.

use super::super::Outcome;
use super::super::image::Image;
use super::super::journal;
use super::super::power::{Disk, Loss};
use super::super::shim::{Action, Strike};
use super::super::trial::Trial;

/// Lost names and files that a story names.
const MOST_TOLD: usize = 12;

/// Once or twice on the way to the end.
pub fn at_a_change(trial: &mut Trial<'_>) -> Outcome {
    let all = trial.arsenal.changes;
    let places = [trial.walk(all), 1 + trial.dice.below(all)];
    for at in &places[..1 + trial.dice.below(2)] {
        let strike = Strike { after: trial.dice.coin(), ..Strike::at(Action::Kill, *at) };
        let disk = disk(trial)?;
        trial.start(Some(&strike))?.end()?;
        cut(trial, disk)?;
    }
    trial.comes_to_the_right_end()
}

/// A finished build is finished, whatever happens next.
pub fn after_the_end(trial: &mut Trial<'_>) -> Outcome {
    if trial.dice.coin() {
        trial.start(None)?.ends_with(&[0])?;
        trial.edit()?;
    }
    let disk = disk(trial)?;
    trial.start(None)?.ends_with(&[0])?;
    cut(trial, disk)?;
    trial.is_right().map_err(|why| format!("lost after exit 0: {why}"))?;
    trial.comes_to_the_right_end()
}

/// The same with the kernel's own file system in place of our idea of one: killed at a change, or finished, and then all
/// is gone that had not reached the disk.
pub fn of_ext4(trial: &mut Trial<'_>) -> Outcome {
    let Some(mut image) = Image::mount(&trial.folder.join("image"), &trial.work())? else {
        trial.counts.missed += 1;
        return Ok(());
    };
    let at = trial.walk(trial.arsenal.changes);
    let is_finished = trial.dice.below(3) == 0;
    if is_finished {
        trial.start(None)?.ends_with(&[0])?;
    } else {
        trial.start(Some(&Strike::at(Action::Kill, at)))?.end()?;
    }
    image.cut_power()?;
    trial.tell("the power of the ext4 image is cut");
    trial.counts.cuts += 1;
    if is_finished {
        trial.is_right().map_err(|why| format!("lost after exit 0: {why}"))?;
    }
    trial.comes_to_the_right_end()
}

/// The disk as it is, everything on it durable.
fn disk(trial: &Trial<'_>) -> Result<Disk, String> {
    trial.forget_journal();
    Disk::new(&trial.work(), &trial.folder.join("keep"))
}

fn cut(trial: &mut Trial<'_>, mut disk: Disk) -> Outcome {
    for change in journal::read(&trial.journal())? {
        disk.follow(&change)?;
    }
    let loss = *trial.dice.choose(&[Loss::Everything, Loss::Bytes, Loss::Some]);
    let left = trial.folder.join("left");
    let lost = disk.cut(loss, &mut trial.dice, &left)?;
    // the last ones are those that count
    let told = lost[lost.len().saturating_sub(MOST_TOLD)..].join(", ");
    trial.tell(format!("power cut, {loss:?} lost, {} things: … {told}", lost.len()));
    trial.counts.cuts += 1;
    let replaced = std::fs::remove_dir_all(trial.work()).and_then(|()| std::fs::rename(&left, trial.work()));
    replaced.map_err(|e| format!("{}: {e}", left.display()))
}
