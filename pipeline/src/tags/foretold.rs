//! What a run would make again after a refresh that nobody has made yet, step by step.

use std::collections::BTreeMap;

use manifests::words::count;
use manifests::{Artifact, BuildSpec, Reason};
use stages::stage::Stage;
use stages::{Step, Training};
use workers::tag_refreshes::Foretold;

use crate::preview::{PlanLine, empty_line};

/// Rows of each step that the refresh alone makes stale: what `plan` shows already comes on top. A step that reads what a step
/// above writes has at most so many.
pub fn steps(spec: &BuildSpec, foretold: &Foretold) -> Vec<PlanLine> {
    let mut above: BTreeMap<Artifact, u64> = BTreeMap::new();
    let mut lines = Vec::new();
    for step in stages::steps(spec) {
        lines.push(match step {
            Step::Map(stage) => {
                let line = of_stage(&stage, foretold, &above);
                // images that come back are counted in every stage by themselves
                let others = line.rows.saturating_sub(back(foretold));
                if others > 0 && stage.output != Artifact::Geotags {
                    above.insert(stage.output, others);
                }
                line
            }
            // a training reads words and pictures, and no tags
            Step::Train(training) => of_training(spec, training, changed_pairs(&lines, foretold), foretold.done.images),
            Step::Evaluate => {
                let is_open = changed_pairs(&lines, foretold) > 0;
                let note = if is_open { "after the stages above" } else { "" };
                PlanLine { exact: !is_open, note: note.to_owned(), ..empty_line(step.name()) }
            }
        });
    }
    lines
}

/// Images that were left out and that a run makes again, judged or not.
fn back(foretold: &Foretold) -> u64 {
    (foretold.done.back + foretold.done.unjudged) as u64
}

fn of_stage(stage: &Stage, foretold: &Foretold, above: &BTreeMap<Artifact, u64>) -> PlanLine {
    let mut line = empty_line(stage.name);
    let (gone, back) = (foretold.done.gone as u64, back(foretold));
    let images = foretold.done.images as u64;
    line.reasons.insert(Reason::Deleted, gone);
    if stage.output == Artifact::Geotags {
        // those that leave are looked at too, and stay as rows that are left out
        line.reasons = [(Reason::InputChanged, foretold.geotags)].into();
        line.rows = foretold.geotags;
    } else {
        let reads_tags = |digests: &[&str]| digests.contains(&"tags_digest");
        if stage.inputs.iter().any(|input| input.artifact == Artifact::Geotags && reads_tags(input.digests)) {
            line.carried = foretold.stand.get(stage.name).copied().unwrap_or(0);
            line.rows += foretold.retagged.saturating_sub(line.carried);
        }
        let made_again = stage.inputs.iter().filter(|input| !input.digests.is_empty());
        let made_again: u64 = made_again.filter_map(|input| above.get(&input.artifact)).sum();
        if made_again > 0 {
            line.exact = false;
            "depends on the outcome of the stages above".clone_into(&mut line.note);
        }
        line.reasons.insert(Reason::InputChanged, line.rows);
        line.reasons.insert(Reason::New, back);
        line.rows = (line.rows + made_again + back).min(images);
    }
    if stage.inputs.iter().any(|input| input.artifact == Artifact::Assignment) && gone + back > 0 {
        line.exact = false;
        let verb = if gone + back == 1 { "leaves or comes" } else { "leave or come" };
        line.note = format!("{} {verb} back, which may move others", count(gone + back, "image"));
    }
    if line.exact {
        line.kept = images.saturating_sub(line.rows + line.carried + gone);
    }
    line.reasons.retain(|_, rows| *rows > 0);
    line
}

/// Images whose words would be others, and those that leave or come back.
fn changed_pairs(lines: &[PlanLine], foretold: &Foretold) -> u64 {
    let captions = lines.iter().find(|line| line.step == "captions");
    captions.map_or(foretold.done.changed as u64, |line| line.rows + foretold.done.gone as u64)
}

/// A training runs again by its policy.
fn of_training(spec: &BuildSpec, training: Training, changed: u64, images: usize) -> PlanLine {
    let (share, limit) = (changed as f64 / images.max(1) as f64, spec.pretrain.retrain_above);
    let words = format!("up to {:.1} % of its rows change; it runs again above {:.1} %", 100.0 * share, 100.0 * limit);
    let rows = if share > limit { images as u64 } else { 0 };
    PlanLine { rows, exact: false, note: words, ..empty_line(training.name()) }
}

#[cfg(test)]
mod tests {
    use workers::tag_refreshes::Refreshment;

    use super::*;

    fn foretold(retagged: u64, stand: u64, gone: usize, back: usize) -> Foretold {
        let done =
            Refreshment { images: 100, changed: retagged as usize + gone + back, gone, back, ..Refreshment::default() };
        let stand = [("captions", stand)].into();
        Foretold { done, geotags: retagged + (gone + back) as u64, retagged, stand }
    }

    fn lines(foretold: &Foretold) -> BTreeMap<&'static str, PlanLine> {
        let spec = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n[pretrain]\nretrain_above = 0.05\n";
        let spec = BuildSpec::parse(spec, "t", &[]).unwrap();
        steps(&spec, foretold).into_iter().map(|line| (line.step, line)).collect()
    }

    #[test]
    fn only_what_reads_tags_is_made_again_and_only_other_words() {
        let lines = lines(&foretold(4, 3, 0, 0));
        let of = |step: &str| (lines[step].rows, lines[step].exact, lines[step].carried);
        assert_eq!((of("geotags"), of("captions")), ((4, true, 0), (1, true, 3)));
        assert_eq!(of("text_embeddings"), (1, false, 0), "at most");
        for step in ["images", "segments", "image_embeddings"] {
            assert_eq!(of(step), (0, true, 0), "{step}");
        }
        assert_eq!((lines["pretrain"].rows, lines["pretrain"].exact), (0, false));
    }

    #[test]
    fn what_comes_back_is_made_everywhere_and_what_leaves_nowhere() {
        let lines = lines(&foretold(13, 10, 2, 1));
        assert_eq!((lines["captions"].rows, lines["segments"].rows), (4, 1));
        assert_eq!((lines["segments"].kept, lines["captions"].kept), (97, 84));
        assert_eq!(lines["segments"].reasons, [(Reason::New, 1), (Reason::Deleted, 2)].into());
        assert_eq!(lines["pretrain"].rows, 100, "6 % are more than 5 %");
        assert!(lines["splits"].note.contains("3 images leave or come back"), "{}", lines["splits"].note);
    }

    #[test]
    fn what_comes_back_unjudged_is_made_everywhere_too() {
        let mut foretold = foretold(0, 0, 0, 0);
        foretold.done.unjudged = 1;
        let lines = lines(&foretold);
        assert_eq!((lines["captions"].rows, lines["segments"].rows), (1, 1));
        assert!(lines["splits"].note.contains("1 image leaves or comes back"), "{}", lines["splits"].note);
    }
}
