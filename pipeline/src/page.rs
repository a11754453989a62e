//! The report of a build: reads what the stages left behind and lays it out.

pub mod ablation;
mod across;
mod adapted;
pub mod analysis;
mod building;
mod captions;
mod chance;
mod failed;
mod failures;
mod kept;
pub(crate) mod pictures;
mod queries;
pub(crate) mod reranked;
mod sampled;
pub mod search;
mod seen;
mod statistics;
pub mod sweep;
mod tables;
mod tally;
mod text_retrieval;

use std::collections::{BTreeMap, BTreeSet};

use manifests::paths;
use manifests::words::count;
use report::{
    Best, Block, Cell, Column, Fact, Histogram, Level, LineChart, Report, Section, Series, Table, TagCloud, TagGroup,
    format_count, format_duration, format_number,
};
use stages::evaluate::Evaluation;
use stages::fit::{CURVE_FILE, CurvePoint, Trained, read_curve};
use stages::{Step, Training};
use training::recall::BothWays;
use workers::WorkerError;
use workers::publish::Summary;

use crate::analyse::Analysis;
use crate::build::Build;
use crate::trainings::current_record;
pub(crate) use kept::keep;
pub(crate) use pictures::{encoded, thumbnail_of};

/// A build with everything that a report shows of it.
struct Gathered<'a> {
    build: &'a Build,
    summaries: BTreeMap<String, Summary>,
    evaluation: Option<Evaluation>,
    curves: Vec<(Training, Trained, Vec<CurvePoint>)>,
    analysis: Option<Analysis>,
    statistics: statistics::Statistics,
    captions: captions::CaptionQuality,
    failed: failed::AllFailed,
    /// That the evaluation is of another model than the newest.
    outdated: Option<String>,
    /// Steps that have left nothing yet, in order.
    missing: Vec<&'static str>,
    /// Stages of which no run has looked at the rows since something changed that they are made from.
    behind: Vec<&'static str>,
}

/// Makes the page of one or several builds; `across` holds evaluations of each model on the other
/// countries.
///
/// # Errors
/// A build of which nothing is there.
pub async fn make(builds: &[Build], across: &[Evaluation], generated_at: &str) -> Result<String, WorkerError> {
    make_with(builds, across, &[], generated_at).await
}

/// The same page, which begins with what some texts find.
///
/// # Errors
/// As [`make`]; with texts, a build that is not finished.
pub async fn make_with(
    builds: &[Build],
    across: &[Evaluation],
    searches: &[String],
    generated_at: &str,
) -> Result<String, WorkerError> {
    let mut gathered = Vec::with_capacity(builds.len());
    for build in builds {
        gathered.push(gather(build).await?);
    }
    let countries: Vec<String> = builds.iter().map(|b| capitalised(&b.spec.country)).collect();
    let mut report = Report {
        title: format!("Retrieval of satellite images: {}", countries.join(", ")),
        subtitle: "Find images by text and text by images: how the data was prepared, how the model was trained, what it finds.".into(),
        generated_at: generated_at.to_owned(),
        facts: facts(&gathered),
        sections: Vec::new(),
    };
    if !searches.is_empty() {
        report.sections.push(queries::section(builds, searches).await?);
    }
    if builds.len() > 1 {
        report.sections.push(across::section(&gathered, across));
    }
    for one in &gathered {
        report.sections.extend(country_sections(one, builds.len() > 1).await?);
    }
    Ok(report::render(&report))
}

/// When a build last changed, as far as its steps left word: with this date its page is the same until it changes again.
pub(crate) async fn changed_at(build: &Build) -> Result<String, WorkerError> {
    let mut last = 0.0_f64;
    for step in stages::steps(&build.spec) {
        let path = paths::summary(&build.spec.country, step.name());
        let summary = build.work.get_record::<Summary>(&path).await?;
        last = summary.map_or(last, |summary| last.max(summary.started_unix_seconds + summary.seconds));
    }
    Ok(if last > 0.0 { crate::clock::at(last as u64) } else { crate::clock::now() })
}

async fn gather(build: &Build) -> Result<Gathered<'_>, WorkerError> {
    let mut summaries = BTreeMap::new();
    let (mut curves, mut missing) = (Vec::new(), Vec::new());
    let evaluation = crate::evaluate::stored(build).await?;
    let steps = stages::steps(&build.spec);
    for step in &steps {
        let name = step.name();
        let trained = curves.len();
        if let Some(summary) = build.work.get_record::<Summary>(&paths::summary(&build.spec.country, name)).await? {
            summaries.insert(name.to_owned(), summary);
        }
        if let Step::Train(training) = *step
            && let Some(record) = current_record(build, training).await?
        {
            let run = paths::training_run(&build.spec.country, training.name(), &record.key);
            let text = build.work.get(&format!("{run}/{CURVE_FILE}")).await?.unwrap_or_default();
            curves.push((training, record.trained, read_curve(&String::from_utf8_lossy(&text))));
        }
        let there = match step {
            Step::Map(stage) => !build.pin(stage.output).await?.parts.is_empty(),
            Step::Train(_) => curves.len() > trained,
            Step::Evaluate => evaluation.is_some(),
        };
        if !there {
            missing.push(name);
        }
    }
    if missing.len() == steps.len() {
        return Err(WorkerError::Configuration(format!(
            "{}: nothing is built in {} yet; run its build first (`urbancross run` with its spec)",
            build.spec.country,
            build.work.url()
        )));
    }
    let mut quality = captions::CaptionQuality::default();
    let statistics = statistics::gather(build, &mut quality).await?;
    captions::gather(build, &mut quality).await?;
    let failed = failed::gather(build).await?;
    let behind = crate::settled::behind(build).await?;
    let outdated = crate::evaluate::outdated(build).await?;
    let analysis = match crate::analyse::analyse(build).await {
        // without geo-tags there is nothing to analyse
        Err(WorkerError::Configuration(_)) => None,
        analysed => Some(analysed?).filter(|analysis| analysis.tags.tags > 0),
    };
    Ok(Gathered {
        build,
        analysis,
        summaries,
        evaluation,
        curves,
        statistics,
        captions: quality,
        failed,
        outdated,
        missing,
        behind,
    })
}

fn facts(all: &[Gathered<'_>]) -> Vec<Fact> {
    let images: u64 = all.iter().map(|g| g.statistics.images).sum();
    let captions: u64 = all.iter().map(|g| g.statistics.captions).sum();
    let segments: u64 = all.iter().map(|g| g.statistics.segments).sum();
    let seconds: f64 = all.iter().flat_map(|g| g.summaries.values()).map(|s| s.seconds).sum();
    let mut facts = vec![
        Fact::new("images", format_number(images as f64, Some(0))),
        Fact::new("captions", format_number(captions as f64, Some(0))),
    ];
    if segments > 0 {
        facts.push(Fact::new("segments", format_number(segments as f64, Some(0))));
    }
    for one in all {
        if let Some(evaluation) = &one.evaluation {
            let label = if all.len() > 1 {
                format!("mR {}", capitalised(&one.build.spec.country))
            } else {
                "mean recall".into()
            };
            let chance = evaluation.quoted().chance_mean_recall;
            facts.push(Fact::new(format!("{label} (chance {chance:.1})"), format!("{:.1}", evaluation.mean_recall())));
        }
    }
    facts.push(Fact::new("time in stages", format_duration(seconds)));
    facts
}

/// Heads of [`BothWays::figures`].
const FIGURES: [&str; 7] = ["i→t R@1", "R@5", "R@10", "t→i R@1", "R@5", "R@10", "mR"];

fn figure_columns() -> Vec<Column> {
    FIGURES.map(|name| Column::number(name).decimals(2)).into()
}

fn figures(both: &BothWays) -> Vec<Cell> {
    both.figures().map(Cell::Number).into()
}

async fn country_sections(one: &Gathered<'_>, prefixed: bool) -> Result<Vec<Section>, WorkerError> {
    let country = &one.build.spec.country;
    let title = |text: &str| if prefixed { format!("{}: {text}", capitalised(country)) } else { text.to_owned() };
    let id = |text: &str| if prefixed { format!("{country}-{text}") } else { text.to_owned() };
    let mut sections = Vec::new();
    let unfinished: Vec<Block> = [
        (!one.missing.is_empty())
            .then(|| format!("Missing so far: {}. Run the build to its end to get them.", one.missing.join(", "))),
        (!one.behind.is_empty()).then(|| {
            format!(
                "What these are made from may have changed since: {}. Figures below may be of other rows than captions and \
                 counts beside them, until the build is run to its end.",
                one.behind.join(", ")
            )
        }),
        one.outdated.as_ref().map(|why| format!("{}.", capitalised(why))),
    ]
    .into_iter()
    .flatten()
    .map(|text| Block::Note { level: Level::Warning, text })
    .collect();
    if !unfinished.is_empty() {
        sections.push(Section {
            id: id("unfinished"),
            title: title("Unfinished"),
            lead: String::new(),
            blocks: unfinished,
        });
    }
    if let Some(evaluation) = &one.evaluation {
        sections.push(Section {
            id: id("recall"),
            title: title("Recall"),
            lead: format!(
                "{} and {}; figures are comparable only with galleries of the same size.",
                count(evaluation.recall.image_gallery, "test image"),
                count(evaluation.recall.caption_gallery, "caption")
            ),
            blocks: recall_blocks(evaluation),
        });
        sections.push(Section {
            id: id("found"),
            title: title("What it finds"),
            lead: "The best queries: the first five answers of each, with their scores.".into(),
            blocks: pictures::retrieval(one.build, evaluation).await?,
        });
        let failures = failures::blocks(one.build, evaluation).await?;
        if !failures.is_empty() {
            sections.push(Section {
                id: id("failures"),
                title: title("Where it fails"),
                lead: failures::lead(evaluation),
                blocks: failures,
            });
        }
    }
    if let Some(evaluation) = one.evaluation.as_ref().filter(|evaluation| !evaluation.reranked.is_empty()) {
        sections.push(Section {
            id: id("reranked"),
            title: title("After reranking"),
            lead: reranked::LEAD.into(),
            blocks: reranked::blocks(evaluation),
        });
    }
    if let Some(text) = one.evaluation.as_ref().and_then(|evaluation| evaluation.text.as_ref()) {
        sections.push(Section {
            id: id("text-by-text"),
            title: title("Text by text"),
            lead: text_retrieval::LEAD.into(),
            blocks: text_retrieval::blocks(text),
        });
    }
    sections.push(Section {
        id: id("segments"),
        title: title("Images and segments"),
        lead: "A few images with their captions, and with the segments that the model is trained on.".into(),
        blocks: pictures::overlays(one.build).await?,
    });
    sections.push(Section {
        id: id("learning"),
        title: title("Learning"),
        lead: "Loss by step and recall on the validation split by epoch.".into(),
        blocks: one
            .curves
            .iter()
            .flat_map(|(training, trained, points)| {
                [curve_blocks(*training, trained, points), seen::blocks(training.name(), points)].concat()
            })
            .chain(chance::validated_no_better(one.curves.iter().map(|(training, trained, _)| {
                (training.name().to_owned(), trained.best_validation_mean_recall, trained.validation_chance)
            })))
            .collect(),
    });
    sections.push(Section {
        id: id("data"),
        title: title("The data"),
        lead: "Splits, captions and tags of the rows that passed.".into(),
        blocks: [data_blocks(&one.statistics), one.captions.blocks()].concat(),
    });
    if let Some(analysis) = &one.analysis {
        sections.push(Section {
            id: id("tags"),
            title: title("Geo-tags"),
            lead: "Of the objects that pictures were taken for, and of those around them.".into(),
            blocks: analysis::section_blocks(analysis),
        });
    }
    sections.push(Section {
        id: id("build"),
        title: title("The build"),
        lead: "Which methods ran, on how many rows, for how long, what failed, and what made it.".into(),
        blocks: building::blocks(one),
    });
    Ok(sections)
}

fn recall_blocks(evaluation: &Evaluation) -> Vec<Block> {
    let r = &evaluation.recall;
    let mut columns = vec![Column::text("positives"), Column::text("ties")];
    columns.extend(figure_columns());
    columns.push(chance::chance_column());
    let row = |name: &str, ties: &str, both: &BothWays| {
        let mut row = vec![Cell::Text(name.into()), Cell::Text(ties.into())];
        row.extend(figures(both));
        row.push(chance::chance(both));
        row
    };
    let mut blocks = vec![Block::Table(Table {
        caption: format!(
            "Recall in percent over {} and {}. Exact: only an image's own captions. Group: an equal caption counts too. Chance: the mR of guessing.",
            count(r.image_gallery, "image"),
            count(r.caption_gallery, "caption")
        ),
        columns,
        rows: vec![
            row("exact", "lost", &r.exact.pessimistic),
            row("exact", "won", &r.exact.optimistic),
            row("group", "lost", &r.group.pessimistic),
            row("group", "won", &r.group.optimistic),
        ],
    })];
    blocks.extend(chance::no_better_than_chance("This model", r));
    blocks.push(Block::Paragraph(format!(
        "Median rank: {} for image queries, {} for caption queries. Distinct are {} of {} and {} of {}.",
        r.exact.pessimistic.i2t.median_rank,
        r.exact.pessimistic.t2i.median_rank,
        r.distinct_captions,
        count(r.caption_gallery, "caption"),
        r.distinct_images,
        count(r.image_gallery, "image"),
    )));
    if let Some(left_out) = &evaluation.left_out {
        blocks.push(Block::Note { level: Level::Info, text: format!("{left_out}.") });
    }
    if evaluation.average_over_turns {
        blocks.push(Block::Note {
            level: Level::Info,
            text: "Image vectors are the mean over the eight flips and quarter turns of each image (test-time augmentation).".into(),
        });
    }
    let other = r.i2t_ties.other_moves_points.max(r.t2i_ties.other_moves_points);
    if other > training::recall::OTHER_TIES_BOUND_POINTS {
        blocks.push(Block::Note {
            level: Level::Warning,
            text: format!(
                "Ties between different items move a figure by {other:.2} points: the embeddings may have collapsed."
            ),
        });
    }
    blocks
}

fn curve_blocks(training: Training, trained: &Trained, points: &[CurvePoint]) -> Vec<Block> {
    let series = |name: &str, of: &dyn Fn(&CurvePoint) -> Option<f64>| Series {
        name: name.to_owned(),
        points: points.iter().filter_map(|p| Some((p.epoch, of(p)?))).collect(),
    };
    let names: BTreeSet<&String> = points.iter().flat_map(|p| p.parts.keys()).collect();
    let mut losses = vec![series("total", &|p| p.loss)];
    // a single part is the total
    if names.len() > 1 {
        losses.extend(names.into_iter().map(|name| series(&name.replace('_', "–"), &|p| p.parts.get(name).copied())));
    }
    losses.retain(|s| !s.points.is_empty());
    let validated = || points.iter().filter(|p| p.validation_mean_recall.is_some());
    let chart = |caption: String, y_label: &str, series: Vec<Series>, best: Option<Best>| {
        Block::LineChart(LineChart {
            caption,
            x_label: "epoch".into(),
            y_label: y_label.into(),
            x_log: false,
            y_log: false,
            series,
            best,
        })
    };
    vec![Block::Row(vec![
        chart(format!("Loss of {}.", training.name()), "loss", losses, None),
        chart(
            format!("Validation recall of {}.", training.name()),
            "mR, percent",
            chance::validation_series(
                validated().filter_map(|p| Some((p.epoch, p.validation_mean_recall?))),
                validated().filter_map(|p| Some((p.epoch, trained.validation_chance?))),
            ),
            Some(Best::Highest),
        ),
    ])]
}

fn data_blocks(s: &statistics::Statistics) -> Vec<Block> {
    let total = s.splits.values().sum::<u64>().max(1) as f64;
    let splits =
        ["train", "val", "test"].into_iter().filter_map(|name| s.splits.get(name).map(|n| (name.to_owned(), *n)));
    let dropped = s.dropped.iter().map(|(reason, n)| (format!("dropped: {}", reason.words()), *n));
    let rows = splits
        .chain(dropped)
        .map(|(name, n)| vec![Cell::Text(name), Cell::Number(n as f64), Cell::Number(100.0 * n as f64 / total)])
        .collect();
    let mut blocks = vec![
        Block::Row(vec![
            Block::Table(Table {
                caption: "Splits. Shares are what the hash of the cells gives; they are reported, never rebalanced."
                    .into(),
                columns: vec![
                    Column::text("split"),
                    Column::number("images"),
                    Column::number("share").unit("%").decimals(1),
                ],
                rows,
            }),
            Block::Histogram(Histogram {
                caption: "Words per caption.".into(),
                x_label: "words".into(),
                y_label: "captions".into(),
                ..s.caption_words.histogram(16)
            }),
        ]),
        Block::Paragraph(format!(
            "{}, {}{} of them distinct.",
            format_count(s.captions, "caption"),
            if s.distinct_captions.is_exact() { "" } else { "about " },
            format_number(s.distinct_captions.count() as f64, Some(0))
        )),
    ];
    if !s.tags.is_empty() {
        let tags = s.tags.iter().map(|(tag, n)| (tag.clone(), *n as f64)).collect();
        blocks.push(Block::TagCloud(TagCloud {
            caption: "Words of the captions, by frequency.".into(),
            groups: vec![TagGroup { name: String::new(), tags }],
        }));
    }
    if !s.dropped_tags.is_empty() {
        let rows =
            s.dropped_tags.iter().map(|(tag, n)| vec![Cell::Text(tag.clone()), Cell::Number(*n as f64)]).collect();
        blocks.push(Block::Details {
            summary: "Tags that were left out of captions".into(),
            blocks: vec![Block::Table(Table {
                caption: "They cannot be seen from above, or no word for them is known.".into(),
                columns: vec![Column::text("tag"), Column::number("images")],
                rows,
            })],
        });
    }
    blocks
}

pub(crate) fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
