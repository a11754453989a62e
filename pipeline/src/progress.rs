//! Progress: bars with rates and remaining time on a terminal, plain lines in a log.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use manifests::words::count;
use stages::fit::Trained;
use training::trainer::{Event as TrainingEvent, Phases};
use workers::map::Observer;
use workers::publish::Summary;

use crate::logs::Event;

/// Under which the summary of a stage says what a server was asked for.
pub(crate) const ASKED: &str = "server";

/// Seconds between lines of a log.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Where progress goes.
pub struct Progress {
    terminal: bool,
    quiet: bool,
    /// Name of one of several tasks, which stands before its lines; empty: there is one alone.
    task: String,
    bars: MultiProgress,
}

impl Progress {
    /// Bars if standard error is a terminal. `quiet`: nothing at all (for `--json`).
    pub fn new(quiet: bool) -> Self {
        let task = crate::logs::task().to_owned();
        // the driver has the terminal: a process of one of its tasks says lines
        let terminal = std::io::stderr().is_terminal() && !crate::logs::is_json() && task.is_empty();
        Self { terminal, quiet: quiet || crate::logs::is_quiet(), task, bars: MultiProgress::new() }
    }

    /// That of one of several tasks, which others run beside.
    pub(crate) fn of_task(&self, name: &str) -> Self {
        let (terminal, quiet, bars) = (self.terminal, self.quiet, self.bars.clone());
        Self { terminal, quiet, task: name.to_owned(), bars }
    }

    /// Name of the task, if there are several.
    pub(crate) fn task(&self) -> &str {
        &self.task
    }

    /// A line of its own.
    pub fn note(&self, text: &str) {
        if self.quiet {
            return;
        }
        if crate::logs::is_json() {
            let level = crate::logs::level_of(text);
            return self.event(&Event { level, event: "note", message: text, ..Event::default() });
        }
        let text = of_task(&self.task, text);
        if self.terminal {
            return self.bars.suspend(|| crate::aside!("{text}"));
        }
        crate::aside!("{text}");
    }

    /// A line about a step that ended, with the name of what happened for programs.
    fn tell(&self, event: &str, step: &str, seconds: Option<f64>, message: &str) {
        match crate::logs::is_json() {
            false => self.note(&format!("{step:21} {message}")),
            true if self.quiet => {}
            true => {
                self.event(&Event { level: "info", event, stage: Some(step), seconds, message, ..Event::default() })
            }
        }
    }

    /// A line of JSON, with the name of the task.
    fn event(&self, event: &Event<'_>) {
        let task = Some(self.task.as_str()).filter(|task| !task.is_empty());
        crate::logs::event(&Event { task, ..event.clone() });
    }

    fn bar(&self, total: u64, name: &str, template: &str) -> ProgressBar {
        let mut bar = ProgressBar::new(total);
        if self.terminal && !self.quiet {
            bar = self.bars.add(bar);
            if let Ok(style) = ProgressStyle::with_template(template) {
                // its own rates have all digits of a floating-point number
                let style = style.with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    _ = out.write_str(&rate(state.per_sec()));
                });
                bar.set_style(style.progress_chars("━╸ "));
            }
            bar.set_prefix(of_task(&self.task, name));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        bar
    }

    /// A stage of `total` rows.
    pub fn stage(&self, name: &'static str, total: u64) -> StageBar<'_> {
        let bar = self.bar(total, name, "{prefix:21} {bar:28.cyan} {pos:>7}/{len} rows {rate:>9} eta {eta:>4} {msg}");
        StageBar { progress: self, name, bar, total, errors: Mutex::new(0), logged: Mutex::new(Instant::now()) }
    }

    /// A training of `epochs` epochs.
    pub fn training(&self, name: &'static str, epochs: usize) -> TrainingBar<'_> {
        let bar =
            self.bar(epochs as u64, name, "{prefix:21} {bar:28.magenta} {pos:>3}/{len} epochs eta {eta:>4} {msg}");
        TrainingBar { progress: self, name, bar, epochs, epoch: Mutex::default() }
    }
}

/// A line with the name of its task, behind what says how grave it is.
fn of_task(task: &str, text: &str) -> String {
    if task.is_empty() {
        return text.to_owned();
    }
    let level = ["error: ", "warning: "].into_iter().find(|level| text.starts_with(level)).unwrap_or("");
    format!("{level}{task}: {}", &text[level.len()..])
}

/// A rate with as many digits as say something.
fn rate(per_second: f64) -> String {
    let decimals = if per_second < 100.0 { 1 } else { 0 };
    format!("{per_second:.decimals$}/s")
}

/// Progress of one stage; handed to the workers.
pub struct StageBar<'p> {
    progress: &'p Progress,
    name: &'static str,
    bar: ProgressBar,
    total: u64,
    errors: Mutex<u64>,
    logged: Mutex<Instant>,
}

impl StageBar<'_> {
    /// Ends the bar of a stage that had nothing to do; `rows` stay as they are.
    pub fn unchanged(&self, rows: u64) {
        self.bar.finish_and_clear();
        self.progress.tell("stage", self.name, None, &format!("{} up to date, nothing to do", count(rows, "row")));
    }

    /// So many rows of the stage are kept, which may be fewer than before.
    pub(crate) fn stand_at(&self, rows: u64) {
        self.bar.set_position(rows);
        self.log();
    }

    /// A line in a log, now and then.
    fn log(&self) {
        if self.progress.terminal {
            return;
        }
        if let Ok(mut logged) = self.logged.lock()
            && logged.elapsed() > LOG_EVERY
        {
            *logged = Instant::now();
            let done = self.bar.position();
            // before the first row there is no rate to foretell anything by
            let ahead = match done {
                0 => String::new(),
                _ => format!(", {}, {} s left", rate(self.bar.per_sec()), self.bar.eta().as_secs()),
            };
            let message = format!("{done}/{} rows{ahead}", self.total);
            self.progress.tell("progress", self.name, None, &message);
        }
    }

    /// Ends the bar without a word.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Ends the bar with what the stage has done.
    pub fn finish(&self, summary: &Summary) {
        self.bar.finish_and_clear();
        let seconds = Some(summary.seconds);
        self.progress.tell("stage", self.name, seconds, &outcome(summary));
    }
}

/// What a stage did, in words.
fn outcome(summary: &Summary) -> String {
    let reasons: Vec<String> = summary.reasons.iter().map(|(reason, rows)| format!("{rows} {reason}")).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    let by_other_runs = match summary.by_other_runs {
        0 => String::new(),
        rows => format!("{rows} made by other runs, "),
    };
    let carried = match summary.carried {
        0 => String::new(),
        rows => format!("{rows} kept: same words, "),
    };
    let asked = summary.notes.get(ASKED).map_or(String::new(), |asked| format!("; asked for {asked}"));
    format!(
        "{} computed{reasons}, {by_other_runs}{carried}{} up to date, {} in {:.1} s{}{asked}",
        summary.computed,
        summary.kept,
        count(summary.errors, "error"),
        summary.seconds,
        summary.version.map_or(String::new(), |v| format!(", table version {v}")),
    )
}

impl Observer for StageBar<'_> {
    fn rows(&self, computed: u64, kept: u64, errors: u64) {
        self.bar.inc(computed + kept);
        if errors > 0
            && let Ok(mut total) = self.errors.lock()
        {
            *total += errors;
            self.bar.set_message(count(*total, "error"));
        }
        self.log();
    }

    fn note(&self, text: &str) {
        self.progress.note(text);
    }
}

/// Sums over the steps of an epoch.
#[derive(Default)]
struct EpochSoFar {
    loss: f64,
    /// The first of them in the epoch, from 0: not that, where a run went on in the middle of one.
    first_step: usize,
    steps: usize,
    seconds: f64,
    wait_seconds: f64,
}

impl EpochSoFar {
    /// The mean loss in words; nothing where a run went on behind the last step of an epoch: there is none then.
    fn mean_loss(&self) -> String {
        match self.steps {
            0 => String::new(),
            steps => {
                let loss = self.loss / steps as f64;
                let from =
                    if self.first_step > 0 { format!(" from step {} on", self.first_step + 1) } else { String::new() };
                format!("loss {loss:.3}{from}, ")
            }
        }
    }

    /// A device that waits is the loader's fault, and the log must say so; a tenth of the time is noise.
    fn waited(&self) -> String {
        let Self { seconds, wait_seconds, .. } = self;
        if *wait_seconds > 0.1 * seconds {
            format!(", waited {wait_seconds:.1} of {seconds:.1} s for data")
        } else {
            String::new()
        }
    }
}

/// Where they are measured: `; data 0.1, forward 3.2, … s`.
fn phases(measured: Option<Phases>) -> String {
    let Some(phases) = measured else { return String::new() };
    let named = phases.named().map(|(name, seconds)| format!("{name} {seconds:.1}"));
    format!("; {} s", named.join(", "))
}

/// Progress of a training.
pub struct TrainingBar<'p> {
    progress: &'p Progress,
    name: &'static str,
    bar: ProgressBar,
    epochs: usize,
    epoch: Mutex<EpochSoFar>,
}

impl TrainingBar<'_> {
    pub(crate) fn event(&self, event: &TrainingEvent) {
        let Ok(mut epoch) = self.epoch.lock() else { return };
        match event {
            TrainingEvent::Step(step) => {
                if epoch.steps == 0 {
                    epoch.first_step = step.step;
                }
                epoch.loss += step.loss;
                epoch.steps += 1;
                epoch.seconds += step.seconds;
                epoch.wait_seconds += step.wait_seconds;
                self.bar.set_message(format!(
                    "loss {:.3} lr {:.1e} {:.0} samples/s, waited {:.0} %",
                    step.loss,
                    step.learning_rate,
                    step.samples_per_second,
                    100.0 * (step.wait_seconds / step.seconds.max(1e-9)).min(1.0),
                ));
                self.bar.tick();
            }
            TrainingEvent::Saved => {}
            TrainingEvent::EpochEnd(end) => {
                let epoch = std::mem::take(&mut *epoch);
                self.bar.set_position(end.epoch as u64 + 1);
                let message = format!(
                    "epoch {}/{}: {}validation mR {:.2} (best {:.2} in epoch {}){}{}",
                    end.epoch + 1,
                    self.epochs,
                    epoch.mean_loss(),
                    end.metric,
                    end.best.metric,
                    end.best.epoch + 1,
                    epoch.waited(),
                    phases(end.phases),
                );
                self.progress.tell("epoch", self.name, Some(epoch.seconds), &message);
            }
        }
    }

    /// Ends the bar with what the training has reached.
    pub fn finish(&self, trained: &Trained) {
        self.bar.finish_and_clear();
        let message = format!(
            "{}, {}, {} in epoch {}; {:.0} s in all, {:.0} of them waiting for data",
            count(trained.epochs, "epoch"),
            count(trained.samples, "sample"),
            trained.best_validation(),
            trained.best_epoch + 1,
            trained.seconds,
            trained.wait_seconds,
        );
        self.progress.tell("training", self.name, Some(trained.seconds), &message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_of_several_tasks_have_its_name() {
        assert_eq!(of_task("", "error: x"), "error: x");
        assert_eq!(of_task("spain", "images   40 computed"), "spain: images   40 computed");
        assert_eq!(of_task("spain", "warning: x"), "warning: spain: x");
    }

    #[test]
    fn rates_are_short() {
        assert_eq!(rate(40.075_726_953_852), "40.1/s");
        assert_eq!(rate(12_345.678), "12346/s");
    }

    #[test]
    fn phases_are_told_by_name() {
        let measured = Phases { data: 0.04, forward: 3.0, backward: 6.26, all_reduce: 0.0, optimiser: 0.5 };
        assert_eq!(phases(None), "");
        assert_eq!(phases(Some(measured)), "; data 0.0, forward 3.0, backward 6.3, all-reduce 0.0, optimiser 0.5 s");
    }

    #[test]
    fn an_epoch_without_a_step_has_no_loss() {
        let none = EpochSoFar::default();
        assert_eq!((none.mean_loss(), none.waited()), (String::new(), String::new()));
        let some = EpochSoFar { loss: 5.0, steps: 2, seconds: 10.0, wait_seconds: 2.0, ..EpochSoFar::default() };
        assert_eq!(some.mean_loss(), "loss 2.500, ");
        // one that went on in the middle of it does not know the rest
        assert_eq!(EpochSoFar { first_step: 40, ..some }.mean_loss(), "loss 2.500 from step 41 on, ");
        let some = EpochSoFar { seconds: 10.0, wait_seconds: 2.0, ..EpochSoFar::default() };
        assert_eq!(some.waited(), ", waited 2.0 of 10.0 s for data");
    }
}
