//! Commands that report on builds, and evaluate their models on each other's images.

use std::path::{Path, PathBuf};

use anyhow::Result;
use manifests::words::count;
use manifests::{BuildSpec, PairSpec};
use stages::evaluate::Evaluation;
use stages::text_retrieval::TextEvaluation;
use training::recall::RecallReport;
use workers::WorkerError;

use super::{check_page, figures, stop_flag, write_page};
use crate::build::Build;
use crate::clock::now;
use crate::given::{read_builds, spread};
use crate::left_out::LeftOut;
use crate::progress::Progress;
use crate::{aside, say};

pub(super) async fn report(specs: &[PathBuf], set: &[String], searches: &[String], output: &Path) -> Result<()> {
    check_page(Some(output))?;
    let (builds, mut left_out) = read_all(specs, set)?;
    let builds = open_built(builds, &mut left_out, 0).await?;
    left_out.say();
    let builds: Vec<Build> = builds.into_iter().map(|(_, build)| build).collect();
    warn_of_older_figures(&builds).await?;
    write_report(&builds, &[], searches, output).await?;
    Ok(left_out.end()?)
}

/// Says whose figures are not of the newest model: from a training to the end of its build they are of the one before.
async fn warn_of_older_figures(builds: &[Build]) -> Result<()> {
    for build in builds {
        if let Some(why) = crate::evaluate::outdated(build).await? {
            aside!("warning: {why}");
        }
    }
    Ok(())
}

/// The specs of builds, with their files, and what keeps others from being used; some can.
pub(super) fn read_all(specs: &[PathBuf], set: &[String]) -> Result<(Vec<(PathBuf, BuildSpec)>, LeftOut)> {
    // the pairs of a folder are not builds; one that is named is refused in words
    let is_no_build = |path: &PathBuf| !specs.contains(path) && PairSpec::is_at(path);
    let (pairs, files): (Vec<PathBuf>, Vec<PathBuf>) = spread(specs)?.into_iter().partition(is_no_build);
    let named = pairs.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    if files.is_empty() {
        let why = format!(
            "there are only specs of pairs, and this command is about builds: {named}; name the specs of their builds, \
             or see what `urbancross analyse` says of a pair"
        );
        return Err(WorkerError::Configuration(why).into());
    }
    if !pairs.is_empty() {
        aside!("note: specs of pairs are left out: {named}");
    }
    let all = files.len();
    let (read, mut left_out) = read_builds(files, set)?;
    let builds = one_of_each_country(read, &mut left_out);
    if builds.is_empty() {
        left_out.refuse((all, "spec"))?;
    }
    Ok((builds, left_out))
}

/// Figures are told by country: of two builds of one, each would be taken for the other's.
fn one_of_each_country(read: Vec<(PathBuf, BuildSpec)>, left_out: &mut LeftOut) -> Vec<(PathBuf, BuildSpec)> {
    let mut builds: Vec<(PathBuf, BuildSpec)> = Vec::with_capacity(read.len());
    for (file, spec) in read {
        match builds.iter().find(|(_, known)| known.country == spec.country) {
            None => builds.push((file, spec)),
            Some((other, _)) => {
                let why = format!(
                    "it is a build of {}, as {} is, and figures are told by country: name one of them at a time",
                    spec.country,
                    other.display()
                );
                left_out.add(file.display().to_string(), &WorkerError::Configuration(why));
            }
        }
    }
    builds
}

/// The specs of builds that are all sound.
pub(super) fn sound_specs(specs: &[PathBuf], set: &[String]) -> Result<Vec<BuildSpec>> {
    let (builds, left_out) = read_all(specs, set)?;
    left_out.refuse((builds.len() + left_out.len(), "spec"))?;
    Ok(builds.into_iter().map(|(_, spec)| spec).collect())
}

/// Opens those of several builds that can be opened, each with the file of its spec: at least one, unless there are so many `others`
/// to go on with.
pub(super) async fn open_built(
    specs: Vec<(PathBuf, BuildSpec)>,
    left_out: &mut LeftOut,
    others: usize,
) -> Result<Vec<(PathBuf, Build)>> {
    let (stop, all) = (stop_flag(), specs.len() + left_out.len() + others);
    let mut builds = Vec::with_capacity(specs.len());
    for (file, spec) in specs {
        match Build::open_work(spec, stop.clone()).await {
            Ok(build) => builds.push((file, build)),
            Err(error) if all == 1 || matches!(error, WorkerError::Stopped) => return Err(error.into()),
            Err(error) => left_out.add(file.display().to_string(), &error),
        }
    }
    if builds.is_empty() && others == 0 {
        left_out.refuse((all, "spec"))?;
    }
    Ok(builds)
}

/// The same of a command that computes for hours, and does so of all of them or of none.
pub(super) async fn open_sound(specs: &[PathBuf], set: &[String]) -> Result<Vec<Build>> {
    let (specs, stop) = (sound_specs(specs, set)?, stop_flag());
    let mut builds = Vec::with_capacity(specs.len());
    for spec in specs {
        builds.push(Build::open_work(spec, stop.clone()).await?);
    }
    Ok(builds)
}

pub(super) async fn evaluate(
    specs: &[PathBuf],
    set: &[String],
    (report, searches): (Option<PathBuf>, &[String]),
    json: bool,
) -> Result<()> {
    check_page(report.as_deref())?;
    let builds = open_sound(specs, set).await?;
    let progress = Progress::new(json);
    // before hours may go into the others
    for build in &builds {
        crate::evaluate::finished(build).await?;
    }
    warn_of_older_figures(&builds).await?;
    let mut all = Vec::new();
    for model_of in &builds {
        for on in &builds {
            if model_of.spec.country == on.spec.country {
                all.push(crate::evaluate::finished(on).await?);
            } else {
                progress.note(&format!("model of {} on {}", model_of.spec.country, on.spec.country));
                all.push(crate::evaluate::evaluate_across(model_of, on).await?);
            }
        }
    }
    if json {
        say!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        print_recall(&all)?;
    }
    match report {
        None => Ok(()),
        Some(path) => write_report(&builds, &all, searches, &path).await,
    }
}

async fn write_report(builds: &[Build], across: &[Evaluation], searches: &[String], output: &Path) -> Result<()> {
    let page = crate::page::make_with(builds, across, searches, &now()).await?;
    write_page(output, &page)
}

/// Retrieval of text by text, the trained model beside it, and both.
fn text_lines(text: &TextEvaluation) -> Vec<String> {
    let line = |what: String, recall: &RecallReport| format!("  {what}: {}", figures(&recall.exact.pessimistic));
    let by_text = if text.tags_to_tags { "text by text (tags to tags)" } else { "text by text" };
    let mut lines = vec![line(by_text.into(), &text.text), line("trained model".into(), &text.model)];
    if let Some(fusion) = &text.fusion {
        let both = format!("both, {:.2} of text (chosen on validation)", fusion.alpha);
        lines.push(line(both, &fusion.recall));
    }
    if text.images_without_text + text.images_without_query > 0 {
        lines.push(format!(
            "  without a text: {}, not found; without a query: {}, finding nothing",
            count(text.images_without_text, "image"),
            count(text.images_without_query, "image")
        ));
    }
    lines
}

/// The result table. One line per evaluation begins with `mR`, for scripts.
pub(super) fn print_recall(all: &[Evaluation]) -> Result<()> {
    for e in all {
        let home = if e.model_of == e.country { String::new() } else { format!(" by the model of {}", e.model_of) };
        say!(
            "{} on {}{home}, {}, {}{}",
            figures(e.quoted()),
            e.country,
            count(e.recall.image_gallery, "image"),
            count(e.recall.caption_gallery, "caption"),
            if e.average_over_turns { ", averaged over turns" } else { "" },
        );
        for line in e.text.iter().flat_map(text_lines) {
            say!("{line}");
        }
        if let Some(left_out) = &e.left_out {
            say!("  {left_out}");
        }
        for reranked in &e.reranked {
            let (name, of) = (crate::page::reranked::name(reranked.method), &reranked.recall.exact.pessimistic);
            say!("  {name}: {}", figures(of));
        }
        if let Some(seen) = &e.seen {
            aside!("warning: {} on {}: {seen}", e.model_of, e.country);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_build_of_a_country_is_left_out_by_name() {
        let spec = |country: &str| {
            let text = format!("country = \"{country}\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n");
            (PathBuf::from(format!("{country}.toml")), BuildSpec::parse(&text, "t", &[]).unwrap())
        };
        let mut left_out = LeftOut::default();
        let again = (PathBuf::from("again.toml"), spec("finland").1);
        let builds = one_of_each_country(vec![spec("finland"), spec("spain"), again], &mut left_out);
        assert_eq!(builds.len(), 2);
        let said = left_out.refuse((3, "spec")).unwrap_err().to_string();
        assert!(said.contains("again.toml: it is a build of finland, as finland.toml is"), "{said}");
    }
}
