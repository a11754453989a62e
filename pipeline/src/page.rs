//! The report of a build: reads what the stages left behind and lays it out.

pub mod ablation;
mod building;
mod captions;
mod pictures;
mod statistics;
pub mod sweep;

use std::collections::{BTreeMap, BTreeSet};

use manifests::paths;
use report::{
    Best, Block, Cell, Column, Fact, Heatmap, Histogram, Level, LineChart, Report, Section, Series, Table, TagCloud,
    TagGroup, format_duration, format_number,
};
use stages::evaluate::Evaluation;
use stages::pretrain::{CURVE_FILE, CurvePoint, read_curve};
use stages::{Step, Training};
use training::recall::{BothWays, RecallReport};
use workers::WorkerError;
use workers::publish::Summary;

use crate::build::Build;
use crate::trainings::standing_record;

/// A build with everything that a report shows of it.
struct Gathered<'a> {
    build: &'a Build,
    summaries: BTreeMap<String, Summary>,
    evaluation: Option<Evaluation>,
    curves: Vec<(Training, Vec<CurvePoint>)>,
    statistics: statistics::Statistics,
    captions: captions::CaptionQuality,
}

/// Makes the page of one or several builds; `across` holds evaluations of each model on the other
/// countries.
pub async fn make(builds: &[Build], across: &[Evaluation], generated_at: &str) -> Result<String, WorkerError> {
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
    if builds.len() > 1 {
        report.sections.push(across_section(&gathered, across));
    }
    for one in &gathered {
        report.sections.extend(country_sections(one, builds.len() > 1).await?);
    }
    Ok(report::render(&report))
}

async fn gather(build: &Build) -> Result<Gathered<'_>, WorkerError> {
    let mut summaries = BTreeMap::new();
    let mut curves = Vec::new();
    for step in stages::steps(&build.spec) {
        let name = step.name();
        if let Some(summary) = build.work.get_json::<Summary>(&paths::summary(&build.spec.country, name)).await? {
            summaries.insert(name.to_owned(), summary);
        }
        if let Step::Train(training) = step
            && let Some(record) = standing_record(build, training).await?
        {
            let run = paths::training_run(&build.spec.country, training.name(), &record.key);
            let text = build.work.get(&format!("{run}/{CURVE_FILE}")).await?.unwrap_or_default();
            curves.push((training, read_curve(&String::from_utf8_lossy(&text))));
        }
    }
    let evaluation = crate::evaluate::stored(build).await?;
    let statistics = statistics::gather(build).await?;
    let captions = captions::gather(build).await?;
    Ok(Gathered { build, summaries, evaluation, curves, statistics, captions })
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
            facts.push(Fact::new(label, format!("{:.1}", evaluation.mean_recall())));
        }
    }
    facts.push(Fact::new("time in stages", format_duration(seconds)));
    facts
}

fn across_section(all: &[Gathered<'_>], across: &[Evaluation]) -> Section {
    let names: Vec<String> = all.iter().map(|g| g.build.spec.country.clone()).collect();
    let find = |model: &str, country: &str| {
        let own = all.iter().filter_map(|g| g.evaluation.as_ref());
        own.chain(across).find(|e| e.model_of == model && e.country == country)
    };
    let values = names
        .iter()
        .map(|model| names.iter().map(|c| find(model, c).map_or(f64::NAN, Evaluation::mean_recall)).collect())
        .collect();
    let rows = names
        .iter()
        .flat_map(|model| names.iter().map(move |country| (model, country)))
        .filter_map(|(model, country)| find(model, country))
        .map(|e| {
            let mut row = vec![Cell::Text(capitalised(&e.model_of)), Cell::Text(capitalised(&e.country))];
            row.extend(figures(&e.recall.exact.pessimistic));
            row.push(Cell::Number(e.recall.image_gallery as f64));
            row.push(Cell::Number(e.recall.caption_gallery as f64));
            row
        })
        .collect();
    let mut columns = vec![Column::text("model of"), Column::text("images of")];
    columns.extend(figure_columns());
    columns.extend([Column::number("images"), Column::number("captions")]);
    Section {
        id: "across".into(),
        title: "Across countries".into(),
        lead: "Each model on every country's test images. The diagonal is home; what is lost beside it is what adaptation is for.".into(),
        blocks: vec![
            Block::Heatmap(Heatmap {
                caption: "Mean recall in percent, ties lost.".into(),
                row_title: "model of".into(),
                column_title: "images of".into(),
                row_labels: names.iter().map(|n| capitalised(n)).collect(),
                column_labels: names.iter().map(|n| capitalised(n)).collect(),
                values,
                unit: "%".into(),
                decimals: Some(1),
            }),
            Block::Table(Table { caption: "Recall in percent at 1, 5 and 10, both ways.".into(), columns, rows }),
        ],
    }
}

/// Heads of [`BothWays::figures`].
const FIGURES: [&str; 7] = ["i→t R@1", "i→t R@5", "i→t R@10", "t→i R@1", "t→i R@5", "t→i R@10", "mR"];

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
    if let Some(evaluation) = &one.evaluation {
        sections.push(Section {
            id: id("recall"),
            title: title("Recall"),
            lead: format!(
                "{} test images and {} captions; figures are comparable only with galleries of the same size.",
                evaluation.recall.image_gallery, evaluation.recall.caption_gallery
            ),
            blocks: recall_blocks(evaluation),
        });
        sections.push(Section {
            id: id("found"),
            title: title("What it finds"),
            lead: "Best and worst queries: the first five answers of each, with their scores.".into(),
            blocks: pictures::retrieval(one.build, evaluation).await?,
        });
    }
    sections.push(Section {
        id: id("segments"),
        title: title("Images and segments"),
        lead: "A few images as they are, with their captions, and with the segments that train the model.".into(),
        blocks: pictures::overlays(one.build).await?,
    });
    sections.push(Section {
        id: id("learning"),
        title: title("Learning"),
        lead: "Loss by step and recall on the validation split by epoch.".into(),
        blocks: one.curves.iter().flat_map(|(training, points)| curve_blocks(*training, points)).collect(),
    });
    sections.push(Section {
        id: id("data"),
        title: title("The data"),
        lead: "Splits, captions and tags of the rows that passed.".into(),
        blocks: [data_blocks(&one.statistics), one.captions.blocks()].concat(),
    });
    sections.push(Section {
        id: id("build"),
        title: title("The build"),
        lead: "Which methods ran, on how many rows, for how long, and what was left out.".into(),
        blocks: building::blocks(one),
    });
    Ok(sections)
}

fn recall_blocks(evaluation: &Evaluation) -> Vec<Block> {
    let r = &evaluation.recall;
    let mut columns = vec![Column::text("positives"), Column::text("ties")];
    columns.extend(figure_columns());
    let row = |name: &str, ties: &str, both: &BothWays| {
        let mut row = vec![Cell::Text(name.into()), Cell::Text(ties.into())];
        row.extend(figures(both));
        row
    };
    let mut blocks = vec![Block::Table(Table {
        caption: format!(
            "Recall in percent over {} images and {} captions. Exact: only an image's own captions. Group: an equal caption counts too.",
            r.image_gallery, r.caption_gallery
        ),
        columns,
        rows: vec![
            row("exact", "lost", &r.exact.pessimistic),
            row("exact", "won", &r.exact.optimistic),
            row("group", "lost", &r.group.pessimistic),
            row("group", "won", &r.group.optimistic),
        ],
    })];
    let chance = chance_mean_recall(r);
    blocks.push(Block::Paragraph(format!(
        "Median rank: {} for image queries, {} for caption queries. A model that guesses would have mR about {chance:.2}. \
         {} of {} captions are distinct, {} of {} images.",
        r.exact.pessimistic.i2t.median_rank,
        r.exact.pessimistic.t2i.median_rank,
        r.distinct_captions,
        r.caption_gallery,
        r.distinct_images,
        r.image_gallery,
    )));
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

/// Mean recall of random scores: K of the gallery, both ways.
fn chance_mean_recall(r: &RecallReport) -> f64 {
    let per_image = r.caption_gallery as f64 / r.image_queries.max(1) as f64;
    let hit = |k: f64, gallery: usize, positives: f64| {
        100.0 * (1.0 - (1.0 - k / gallery.max(1) as f64).max(0.0).powf(positives))
    };
    [1.0, 5.0, 10.0].map(|k| hit(k, r.caption_gallery, per_image) + hit(k, r.image_gallery, 1.0)).iter().sum::<f64>()
        / 6.0
}

fn curve_blocks(training: Training, points: &[CurvePoint]) -> Vec<Block> {
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
            vec![series("validation", &|p| p.validation_mean_recall)],
            Some(Best::Highest),
        ),
    ])]
}

fn data_blocks(s: &statistics::Statistics) -> Vec<Block> {
    let total = s.splits.values().sum::<u64>().max(1) as f64;
    let rows = ["train", "val", "test", "dropped"]
        .iter()
        .filter_map(|name| s.splits.get(*name).map(|n| (*name, *n)))
        .map(|(name, n)| vec![Cell::Text(name.into()), Cell::Number(n as f64), Cell::Number(100.0 * n as f64 / total)])
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
                ..Histogram::from_values(&s.caption_words, 16)
            }),
        ]),
        Block::Paragraph(format!(
            "{} captions, {} of them distinct.",
            format_number(s.captions as f64, Some(0)),
            format_number(s.distinct_captions as f64, Some(0))
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

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
