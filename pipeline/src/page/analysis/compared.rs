//! Captioners, prompts and segmenters side by side: tables of means, and some images with all that was written of them.

use std::collections::{BTreeMap, BTreeSet};

use manifests::words::count;
use report::{Best, Block, Cell, Column, Level, Picture, Section, SideBySide, Table, Telling, Told};

use crate::analyse::{CaptionerLine, Comparison, Figures, Row, SegmenterLine, Written};

/// Images that the page shows of each comparison.
const SHOWN: usize = 8;
/// Things that a line names.
const NAMED: usize = 8;

/// Images of which the page shows pictures.
pub(super) fn shown(of: &Comparison) -> BTreeSet<String> {
    of.rows.iter().take(SHOWN).map(|row| row.image_id.clone()).collect()
}

/// The section of one comparison. `pictures` are thumbnails by image.
pub(super) fn section((id, title): (String, String), of: &Comparison, pictures: &BTreeMap<String, Vec<u8>>) -> Section {
    let mut blocks = vec![Block::Table(captioners(of))];
    let prompts: BTreeMap<&str, &str> =
        of.captioners.iter().filter_map(|line| Some((line.captioner.as_str(), line.prompt.as_deref()?))).collect();
    if !prompts.is_empty() {
        blocks.push(Block::Details { summary: "The prompts".into(), blocks: vec![Block::Table(prompt_table(of))] });
    }
    if of.judge.is_empty() {
        blocks.push(Block::Note {
            level: Level::Info,
            text: "Nobody has judged the captions: caption.score.clip names no CLIP, such as \
                   openai/clip-vit-base-patch32. Without one there is neither CLIPScore nor PerceptionScore."
                .into(),
        });
    }
    if let Some(line) = of.captioners.iter().find(|line| line.failed > 0) {
        let (failed, why) = (count(line.failed, "image"), line.why.as_deref().unwrap_or_default());
        let text = format!("{failed} without a caption by {}; the first: {why}.", line.captioner);
        blocks.push(Block::Note { level: Level::Warning, text });
    }
    if !of.segmenters.is_empty() {
        blocks.push(Block::Table(segmenters(of)));
    }
    if let Some(price) = of.price_per_hour {
        let text = format!("1,000 images: what they cost where an hour of this machine costs {price}.");
        blocks.push(Block::Paragraph(text));
    }
    blocks.push(Block::SideBySide(SideBySide {
        caption: "Some of the images with their tags in plain words, and what was written of them.".into(),
        rows: of.rows.iter().take(SHOWN).map(|row| told(row, pictures)).collect(),
    }));
    let lead = format!(
        "A sample of {}, drawn by digests of their ids with seed {}; nothing of this is in the build's tables.",
        count(of.images, "image"),
        of.seed
    );
    Section { id, title, lead, blocks }
}

fn captioners(of: &Comparison) -> Table {
    let with_segmenters = of.captioners.iter().any(|line| line.segmenter.is_some());
    let with_price = of.price_per_hour.is_some();
    let mut columns = vec![Column::text("captions")];
    columns.extend(with_segmenters.then(|| Column::text("segments")));
    let with =
        |of_figures: fn(&Figures) -> Option<f64>| of.captioners.iter().any(|line| of_figures(&line.figures).is_some());
    let (with_clip, with_perception) = (with(|of| of.clip_score), with(|of| of.perception_score));
    let with_failed = of.captioners.iter().any(|line| line.failed > 0);
    columns.extend(with_failed.then(|| Column::number("images")));
    columns.extend(with_clip.then(|| Column::number("CLIPScore").decimals(3).best(Best::Highest)));
    columns.extend(with_perception.then(|| Column::number("PerceptionScore").decimals(3).best(Best::Highest)));
    columns.extend([
        Column::number("coverage").unit("%").decimals(1).best(Best::Highest),
        Column::number("hallucination").unit("%").decimals(1).best(Best::Lowest),
        Column::number("words").decimals(1),
        Column::number("a caption").unit("s").decimals(3),
    ]);
    columns.extend(with_price.then(|| Column::number("1,000 images")));
    let row = |line: &CaptionerLine| {
        let Figures { words, clip_score, perception_score, coverage, hallucination } = line.figures;
        let mut row = vec![Cell::from(line.captioner.clone())];
        row.extend(with_segmenters.then(|| Cell::from(line.segmenter.clone())));
        row.extend(with_failed.then(|| Cell::from(line.images)));
        row.extend(with_clip.then(|| Cell::from(clip_score)));
        row.extend(with_perception.then(|| Cell::from(perception_score)));
        row.extend([
            Cell::from(coverage.map(|share| 100.0 * share)),
            Cell::from(hallucination.map(|share| 100.0 * share)),
            Cell::from(words),
            Cell::from(line.seconds_a_caption),
        ]);
        row.extend(with_price.then(|| Cell::from(line.price_of_a_thousand)));
        row
    };
    Table {
        caption: "Means over the images that have a figure. Coverage: share of the tags' things that the caption names. \
                  Hallucination: share of the caption's things that no tag names; since maps are not complete, an upper \
                  bound. Seconds are those of this machine, without loading."
            .into(),
        columns,
        rows: of.captioners.iter().map(row).collect(),
    }
}

fn prompt_table(of: &Comparison) -> Table {
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for line in &of.captioners {
        let row = vec![Cell::from(line.captioner.clone()), Cell::from(line.prompt.clone())];
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    Table { caption: String::new(), columns: vec![Column::text("name"), Column::text("prompt")], rows }
}

fn segmenters(of: &Comparison) -> Table {
    let with_price = of.price_per_hour.is_some();
    let mut columns = vec![
        Column::text("segments"),
        Column::number("images"),
        Column::number("an image").decimals(1),
        Column::number("large enough").decimals(1),
        Column::number("an image").unit("s").decimals(3),
    ];
    columns.extend(with_price.then(|| Column::number("1,000 images")));
    let row = |line: &SegmenterLine| {
        let mut row = vec![
            Cell::from(line.segmenter.clone()),
            Cell::from(line.images),
            Cell::from(line.segments_an_image),
            Cell::from(line.candidates_an_image),
            Cell::from(line.seconds_an_image),
        ];
        row.extend(with_price.then(|| Cell::from(line.price_of_a_thousand)));
        row
    };
    Table {
        caption: "Segments of an image, and those that are large enough for a score.".into(),
        columns,
        rows: of.segmenters.iter().map(row).collect(),
    }
}

fn told(row: &Row, pictures: &BTreeMap<String, Vec<u8>>) -> Told {
    let caption = if row.tags.is_empty() { row.image_id.clone() } else { row.tags.clone() };
    let bytes = pictures.get(&row.image_id).cloned().unwrap_or_default();
    Told { picture: Picture { bytes, caption, ..Picture::default() }, texts: row.written.iter().map(telling).collect() }
}

fn telling(written: &Written) -> Telling {
    let Figures { clip_score, perception_score, coverage, hallucination, .. } = written.figures;
    let number = |name: &str, figure: Option<f64>| figure.map(|figure| format!("{name} {figure:.3}"));
    let share = |name: &str, share: Option<f64>| share.map(|share| format!("{name} {:.0} %", 100.0 * share));
    let untagged = written.untagged.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let facts = [
        number("CLIPScore", clip_score),
        number("PerceptionScore", perception_score),
        share("coverage", coverage),
        share("hallucination", hallucination),
        (!untagged.is_empty()).then(|| format!("in no tag: {untagged}")),
        (written.captions.len() > 1).then(|| format!("the first of {}", written.captions.len())),
    ];
    Telling {
        label: written.captioner.clone(),
        text: written.captions.first().cloned().unwrap_or_default(),
        facts: facts.into_iter().flatten().collect(),
    }
}
