//! What commands print of builds, plans and experiments.

use anyhow::Result;
use manifests::words::count;
use serde::Serialize;
use stages::evaluate::Evaluation;
use training::recall::beside_chance;

use super::{figures, report_commands};
use crate::ablate::{Ablation, Difference, Variant};
use crate::build::Build;
use crate::pair::Tested;
use crate::preview::{Failed, PlanLine};
use crate::run::Quarantined;
use crate::run_options::RunOptions;
use crate::say;
use crate::status::StatusLine;
use crate::sweep::{Curve, Point};
use crate::terminal::plain_lines;

pub(super) fn print_plan(lines: &[PlanLine]) -> Result<()> {
    say!("{:21} {:>12} {:>10}  why", "step", "to compute", "up to date");
    for line in lines {
        let rows = if line.exact || line.rows == 0 { line.rows.to_string() } else { format!("≤ {}", line.rows) };
        let mut why: Vec<String> = line.reasons.iter().map(|(r, n)| format!("{n} {}", r.words())).collect();
        if line.carried > 0 {
            why.push(format!("{} kept: same words", line.carried));
        }
        why.extend(line.finished.map(|finished| finished.in_words()));
        why.extend(line.failed.as_ref().map(Failed::in_words));
        if !line.note.is_empty() {
            why.push(line.note.clone());
        }
        say!("{:21} {rows:>12} {:>10}  {}", line.step, line.kept, plain_lines(&why.join(", ")));
    }
    Ok(())
}

pub(super) fn print_status(lines: Vec<StatusLine>) -> Result<()> {
    let head = ["rows", "excluded", "errors", "table version", "seconds"];
    say!("{:21} {:>10} {:>8} {:>8} {:>13} {:>9}  state", "step", head[0], head[1], head[2], head[3], head[4]);
    for line in lines {
        let [excluded, errors, version] =
            [line.excluded, line.errors, line.version].map(|n| n.map_or(String::new(), |n| n.to_string()));
        let seconds = line.seconds.map_or(String::new(), |s| format!("{s:.1}"));
        say!("{:21} {:>10} {excluded:>8} {errors:>8} {version:>13} {seconds:>9}  {}", line.step, line.rows, line.state);
    }
    Ok(())
}

/// How a run that has done all has ended, for programs.
#[derive(Serialize)]
struct Outcome<'a> {
    event: &'static str,
    quarantined: &'a [Quarantined],
    evaluation: Option<Evaluation>,
    report: Option<String>,
}

/// What a run that has done all says, and the page that it leaves.
pub(super) async fn end_of_run(build: &Build, options: &RunOptions, quarantined: &[Quarantined]) -> Result<()> {
    let mut outcome = Outcome { event: "outcome", quarantined, evaluation: None, report: None };
    if options.until.is_none() {
        let path = crate::page::keep(build).await?;
        outcome.evaluation = crate::evaluate::stored(build).await?;
        outcome.report = Some(shown(build, &path));
    }
    if crate::logs::on_output() {
        say!("{}", serde_json::to_string(&outcome)?);
        return Ok(());
    }
    print_quarantine(quarantined)?;
    if let Some(evaluation) = outcome.evaluation {
        report_commands::print_recall(&[evaluation])?;
    }
    if let Some(report) = outcome.report {
        say!("report: {report}");
    }
    Ok(())
}

fn print_quarantine(quarantined: &[Quarantined]) -> Result<()> {
    let rows: u64 = quarantined.iter().map(|q| q.rows).sum();
    say!("{} quarantined", count(rows, "row"));
    for one in quarantined {
        match one.rows {
            0 => say!("  problems of the source that cost no row: {}", one.listing),
            rows => say!("  {rows} in {}: {}", one.stage, one.listing),
        }
    }
    Ok(())
}

/// An object of the work store, as a path where it is a file.
pub(super) fn shown(build: &Build, path: &str) -> String {
    match build.work.local_folder() {
        Some(folder) => folder.join(path).display().to_string(),
        None => format!("{}{path}", build.work.url()),
    }
}

/// The figures of one model on a pair's test part.
pub(super) fn say_tested(when: &str, tested: &Tested, country: &str) -> Result<()> {
    let images = count(tested.recall.image_gallery, "image");
    say!("{when:6} {} on {country}, {images}", figures(&tested.recall.exact.pessimistic));
    Ok(())
}

pub(super) fn print_curves(curves: &[Curve]) -> Result<()> {
    for curve in curves {
        say!("{} of {}", curve.field, curve.country);
        for point in &curve.points {
            let recall = beside_chance(point.validation_mean_recall, point.validation_chance);
            let how = match point {
                Point { from_earlier_weights: true, .. } => "; went on from earlier weights, so it learnt for longer",
                Point { of_earlier_tables: true, .. } => "; of tables before their last changes",
                _ => "",
            };
            say!("  {:>12}  validation {recall} in epoch {}{how}", point.name(), point.best_epoch + 1);
        }
    }
    Ok(())
}

pub(super) fn print_ablation(ablation: &Ablation) -> Result<()> {
    let runs = ablation.lines.iter().map(|line| line.runs.len()).max().unwrap_or(0);
    say!("{} ({}, mean ± standard deviation, percent)", ablation.pair, count(runs, "seed"));
    let mean_recall = ablation.chance().map_or("mR".into(), |chance| format!("mR (chance {chance:.2})"));
    let names = ["i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10"].map(|n| format!("{n:>14}")).concat();
    say!("{:14} {names}{mean_recall:>20}", "");
    for line in &ablation.lines {
        let mut cells =
            line.figures().map(|f| format!("{:>14}", format!("{:.2} ± {:.2}", f.mean, f.standard_deviation)));
        cells[6] = format!("{:>20}", cells[6]);
        say!("{:14} {}", line.variant.words(), cells.concat());
    }
    print_differences(ablation.lines.iter().map(|l| (l.variant, l.over_fine_tuning, l.over_joint_training)))?;
    say!("{}", ablation.verdict());
    Ok(())
}

/// Differences of each variant to both controls, where there are seeds enough for any.
pub(super) fn print_differences(
    lines: impl Iterator<Item = (Variant, Option<Difference>, Option<Difference>)>,
) -> Result<()> {
    let lines: Vec<_> = lines.filter(|(_, tuned, joint)| tuned.is_some() || joint.is_some()).collect();
    if lines.is_empty() {
        return Ok(());
    }
    say!("differences in points of mR, seed by seed, ± standard error");
    say!("{:14} {:>20}{:>20}", "", "over fine-tuning", "over joint training");
    for (variant, tuned, joint) in lines {
        let cells = [tuned, joint].map(|d| format!("{:>20}", d.map_or("-".into(), |d| d.to_string())));
        say!("{:14} {}", variant.words(), cells.concat());
    }
    Ok(())
}
