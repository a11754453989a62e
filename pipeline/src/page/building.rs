//! How a build was made: its methods, its data flow, and when each stage ran.

use std::collections::BTreeMap;

use manifests::Artifact;
use manifests::spec::{CaptionSpec, Captioner, SegmentSpec, Segmenter};
use manifests::words::count;
use report::{Block, Cell, Column, Flow, FlowStage, Span, Table, Timeline};
use stages::{Step, Training};

use super::Gathered;

pub(super) fn blocks(one: &Gathered<'_>) -> Vec<Block> {
    let steps: Vec<Step> = stages::steps(&one.build.spec);
    let summary = |name: &str| one.summaries.get(name);
    let start = one.summaries.values().map(|s| s.started_unix_seconds).fold(f64::INFINITY, f64::min);
    let spans = steps
        .iter()
        .filter_map(|s| summary(s.name()))
        .map(|s| Span {
            stage: s.stage.clone(),
            start_seconds: (s.started_unix_seconds - start).max(0.0),
            duration_seconds: s.seconds,
            rows: s.rows,
        })
        .collect();
    let rows = steps
        .iter()
        .filter_map(|s| summary(s.name()))
        .map(|s| {
            let mut reasons: Vec<String> = s.reasons.iter().map(|(r, n)| format!("{n} {r}")).collect();
            reasons.extend((s.by_other_runs > 0).then(|| format!("{} made by other runs", s.by_other_runs)));
            reasons.extend(s.notes.iter().map(|(k, v)| format!("{k} {v}")));
            vec![
                Cell::Text(s.stage.clone()),
                Cell::Number(s.rows as f64),
                Cell::Number(s.computed as f64),
                Cell::Number((s.kept + s.carried) as f64),
                Cell::Number(s.errors as f64),
                Cell::Number(s.excluded as f64),
                Cell::Number(s.seconds),
                Cell::Text(reasons.join(", ")),
            ]
        })
        .collect();
    let columns = vec![
        Column::text("stage"),
        Column::number("rows"),
        Column::number("computed"),
        Column::number("copied"),
        Column::number("errors"),
        Column::number("excluded"),
        Column::number("time").unit("s").decimals(1),
        Column::text("why"),
    ];
    let mut blocks = vec![
        Block::Table(methods(one)),
        Block::Flow(flow(one, &steps)),
        Block::Timeline(Timeline { caption: "When each stage ran last.".into(), spans }),
        Block::Table(Table { caption: "What each stage did when it last had something to do.".into(), columns, rows }),
    ];
    blocks.extend(super::failed::blocks(&one.failed));
    blocks.extend([
        Block::Details {
            summary: "Versions of tables, and the programs that made them".into(),
            blocks: vec![Block::Table(made_by(one, &steps))],
        },
        Block::Details {
            summary: "The build spec, with every default".into(),
            blocks: vec![Block::Code { language: "toml".into(), text: one.build.spec.to_toml() }],
        },
    ]);
    blocks
}

/// Which program, where and when, left what a step's table is.
fn made_by(one: &Gathered<'_>, steps: &[Step]) -> Table {
    let rows = steps.iter().filter_map(|step| one.summaries.get(step.name())).map(|summary| {
        let ended = summary.started_unix_seconds + summary.seconds;
        vec![
            Cell::Text(summary.stage.clone()),
            summary.version.map_or(Cell::Empty, |version| Cell::Number(version as f64)),
            Cell::Text(crate::clock::at(ended.max(0.0) as u64)),
            Cell::Text(summary.made_by.clone()),
        ]
    });
    Table {
        caption: "As each step left its table when it last had something to do.".into(),
        columns: vec![Column::text("step"), Column::number("table version"), Column::text("when"), Column::text("by")],
        rows: rows.collect(),
    }
}

fn captions_in_words(caption: &CaptionSpec) -> String {
    let mut words = captioner_in_words(caption);
    match caption.structured_by() {
        Some(Captioner::Instructblip) => words += "; five structured variants by InstructBLIP",
        Some(Captioner::Llava) => words += "; five structured variants by LLaVA",
        Some(Captioner::Server) => words += &format!("; five structured variants by {}", caption.server.model),
        Some(Captioner::Given) => words += &format!("; structured variants of {}", caption.structured_file),
        Some(Captioner::Geotags) => words += "; five structured variants from the tags",
        None => {}
    }
    if !caption.score.clip.is_empty() {
        words += &format!("; scored by {}", caption.score.clip);
    }
    words
}

fn captioner_in_words(caption: &CaptionSpec) -> String {
    match caption.captioner {
        Captioner::Geotags => "geo-tags in plain English, no weights".to_owned(),
        Captioner::Given => "given with the images".to_owned(),
        Captioner::Server => format!("{} on a server, prompted by the geo-tags", caption.server.model),
        Captioner::Instructblip => {
            let blip = &caption.instructblip;
            format!("InstructBLIP prompted by the geo-tags, {}, {}", count(blip.num_beams, "beam"), blip.weights)
        }
        Captioner::Llava => {
            let llava = &caption.llava;
            format!("LLaVA prompted by the geo-tags, {}, {}", count(llava.num_beams, "beam"), llava.weights)
        }
    }
}

fn segments_in_words(segment: &SegmentSpec) -> String {
    match segment.segmenter {
        Segmenter::None => "none".to_owned(),
        Segmenter::Felzenszwalb => "graph-based (Felzenszwalb and Huttenlocher 2004), no weights".to_owned(),
        Segmenter::Sam => {
            format!(
                "Segment Anything, {} per side, {}",
                count(segment.sam.points_per_side, "point"),
                segment.sam.weights
            )
        }
    }
}

/// The methods that this build used, in words.
fn methods(one: &Gathered<'_>) -> Table {
    let spec = &one.build.spec;
    let score = match spec.score.clip.as_str() {
        _ if !spec.uses_segments() => "no segments are trained on".to_owned(),
        "none" => "every candidate has weight 1, no similarity threshold (no scoring model)".to_owned(),
        "bootstrap" => {
            format!("similarity to the caption by a bootstrap model of {}", count(spec.score.bootstrap_epochs, "epoch"))
        }
        checkpoint => format!("similarity to the caption by {checkpoint}"),
    };
    let rows = [
        ("captions", captions_in_words(&spec.caption)),
        ("segments", segments_in_words(&spec.segment)),
        ("segment weights", score),
        (
            "model",
            format!(
                "{}, {}",
                spec.model.preset.name(),
                if spec.model.init.is_empty() { "trained from scratch" } else { &spec.model.init }
            ),
        ),
        ("vocabulary", spec.model.tokenizer.clone()),
        ("source", one.build.source.url().to_string()),
    ];
    Table {
        caption: "Methods of this build.".into(),
        columns: vec![Column::text("part"), Column::text("method")],
        rows: rows.map(|(part, method)| vec![Cell::Text(part.into()), Cell::Text(method)]).into(),
    }
}

fn flow(one: &Gathered<'_>, steps: &[Step]) -> Flow {
    let mut stages = Vec::new();
    let mut edges = Vec::new();
    let mut writer_of: BTreeMap<Artifact, String> = BTreeMap::new();
    let model_edge = |edges: &mut Vec<(String, String)>, training: Training, to: &str| {
        edges.push((training.name().to_owned(), to.to_owned()))
    };
    for step in steps {
        let name = step.name().to_owned();
        let summary = one.summaries.get(&name);
        stages.push(FlowStage {
            name: name.clone(),
            computed: summary.map_or(0, |s| s.computed),
            copied: summary.map_or(0, |s| s.kept + s.carried),
            errors: summary.map_or(0, |s| s.errors),
        });
        match step {
            Step::Map(stage) => {
                edges.extend(stage.tables().filter_map(|a| Some((writer_of.get(&a)?.clone(), name.clone()))));
                match stage.model {
                    stages::ModelUse::Scoring if one.build.spec.score.clip == "bootstrap" => {
                        model_edge(&mut edges, Training::Bootstrap, &name)
                    }
                    stages::ModelUse::Retrieval => model_edge(&mut edges, Training::Pretrain, &name),
                    _ => {}
                }
                writer_of.insert(stage.output, name);
            }
            Step::Train(training) => {
                let inputs = workers::train::training_inputs(&one.build.spec, *training);
                edges.extend(inputs.iter().filter_map(|a| Some((writer_of.get(a)?.clone(), name.clone()))));
            }
            Step::Evaluate => {
                let mut inputs = crate::evaluate::vectors_of(&one.build.spec);
                inputs.push(Artifact::Splits);
                edges.extend(inputs.iter().filter_map(|a| Some((writer_of.get(a)?.clone(), name.clone()))));
            }
        }
    }
    Flow {
        caption: "Data flow. Numbers are the rows computed and copied when each stage last ran.".into(),
        stages,
        edges,
    }
}
