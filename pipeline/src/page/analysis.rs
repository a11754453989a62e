//! The page of an analysis, and the section of it that a report has.

mod compared;

use std::borrow::Borrow;
use std::collections::BTreeMap;

use manifests::words::count;
use report::{
    Block, Cell, Cluster, Column, Fact, Histogram, Report, Scatter, Section, Table, TagCloud, TagGroup, format_number,
};

use workers::WorkerError;

use super::pictures::thumbnails;
use super::{adapted, capitalised};
use crate::analyse::{Analysis, BeforeAndAfter, Group, Related};
use crate::build::Build;
use crate::pair::Pair;

/// Bars of a histogram of counts.
const BINS: usize = 16;

/// A page about countries, with the build of each, and about pairs of them.
///
/// # Errors
/// [`WorkerError::Broken`] for pictures that cannot be read; a store that does not answer.
pub async fn make(
    all: &[(&Build, Analysis)],
    pairs: &[(impl Borrow<Pair>, BeforeAndAfter)],
    generated_at: &str,
) -> Result<String, WorkerError> {
    let analyses = || all.iter().map(|(_, one)| one);
    let images: u64 = analyses().map(|one| one.tags.images).sum();
    let tags: u64 = analyses().map(|one| one.tags.tags).sum();
    let mut sections = Vec::new();
    if !all.is_empty() {
        sections.push(Section {
            id: "tags".into(),
            title: "Tags of the countries".into(),
            lead: "Of the objects that pictures were taken for, and of those around them.".into(),
            blocks: vec![
                Block::Table(overview(analyses())),
                cloud(analyses().map(|one| group(&capitalised(&one.name()), one)).collect()),
            ],
        });
    }
    sections.extend(analyses().map(|one| Section {
        id: one.name(),
        title: capitalised(&one.name()),
        lead: String::new(),
        blocks: [vec![words(one)], tag_blocks(one)].concat(),
    }));
    for (build, one) in all {
        let comparisons =
            [("prompts", "prompts side by side", &one.prompts), ("compared", "side by side", &one.compared)];
        for (id, title, comparison) in comparisons {
            let Some(comparison) = comparison else { continue };
            let pictures = thumbnails(build, &compared::shown(comparison)).await?;
            let head = (format!("{}-{id}", one.name()), format!("{}: {title}", capitalised(&one.name())));
            sections.push(compared::section(head, comparison, &pictures));
        }
    }
    for (pair, of) in pairs {
        sections.push(adapted::section(pair.borrow(), of).await?);
    }
    let counted = [("images", images), ("tags", tags)].into_iter().filter(|_| !all.is_empty());
    let facts = counted.map(|(name, number)| Fact::new(name, format_number(number as f64, Some(0)))).collect();
    let (title, subtitle) = match all.is_empty() {
        true => ("What adaptation changes", "Queries before and after it."),
        false => ("What the data are like", "Geo-tags and captions of the builds."),
    };
    Ok(report::render(&Report {
        title: title.into(),
        subtitle: subtitle.into(),
        generated_at: generated_at.to_owned(),
        facts,
        sections,
    }))
}

/// Tags, sized by the images that have them.
fn cloud(groups: Vec<TagGroup>) -> Block {
    Block::TagCloud(TagCloud {
        caption: "Tags that can be seen from above, larger the more images have them.".into(),
        groups,
    })
}

/// Tags of one country, for a report of its build.
pub(super) fn section_blocks(one: &Analysis) -> Vec<Block> {
    [vec![cloud(vec![group("", one)])], tag_blocks(one)].concat()
}

fn group(name: &str, one: &Analysis) -> TagGroup {
    let tags = one.tags.visible.iter().map(|(tag, images)| (tag.clone(), *images as f64)).collect();
    TagGroup { name: name.to_owned(), tags }
}

fn overview<'a>(all: impl Iterator<Item = &'a Analysis>) -> Table {
    let number = |value: u64| Cell::Number(value as f64);
    let row = |one: &Analysis| {
        let tags = &one.tags;
        let mean = Cell::Number(tags.mean_tags);
        let counts = [tags.tags, tags.distinct_tags, tags.distinct_keys].map(number);
        let captions = number(one.captions_by_words.values().sum());
        let words = Cell::Number(mean_words(one));
        let head = [Cell::Text(capitalised(&one.name())), number(tags.images)];
        head.into_iter().chain(counts).chain([mean, captions, words]).collect()
    };
    Table {
        caption: "Geo-tags and captions of each country.".into(),
        columns: vec![
            Column::text("country"),
            Column::number("images"),
            Column::number("tags"),
            Column::number("different tags"),
            Column::number("keys"),
            Column::number("tags an image").decimals(1),
            Column::number("captions"),
            Column::number("words a caption").decimals(1),
        ],
        rows: all.map(row).collect(),
    }
}

fn mean_words(one: &Analysis) -> f64 {
    let captions: u64 = one.captions_by_words.values().sum();
    let words: u64 = one.captions_by_words.iter().map(|(words, captions)| words * captions).sum();
    words as f64 / captions.max(1) as f64
}

fn words(one: &Analysis) -> Block {
    histogram("Words of a caption.", "words", "captions", &one.captions_by_words)
}

/// What there is to see of one country's tags.
fn tag_blocks(one: &Analysis) -> Vec<Block> {
    let classes =
        [("source", &one.tags.by_source), ("year", &one.tags.by_year), ("ground resolution", &one.tags.by_resolution)];
    let mut blocks = vec![
        histogram("Tags of an image, all of its objects together.", "tags", "images", &one.tags.images_by_tags),
        Block::Row(classes.into_iter().map(|(name, groups)| Block::Table(by_class(name, groups))).collect()),
    ];
    if !one.plane.tags.is_empty() {
        blocks.push(Block::Scatter(plane(one)));
    }
    blocks.extend(one.related.iter().map(|related| Block::Table(near(related))));
    let rows = one.tags.frequent.iter().map(|(tag, n)| vec![Cell::Text(tag.clone()), Cell::Number(*n as f64)]);
    blocks.push(Block::Details {
        summary: "The most frequent tags of all, names and addresses among them".into(),
        blocks: vec![Block::Table(Table {
            caption: String::new(),
            columns: vec![Column::text("tag"), Column::number("images")],
            rows: rows.collect(),
        })],
    });
    blocks
}

fn histogram(caption: &str, x: &str, y: &str, counts: &BTreeMap<u64, u64>) -> Block {
    let most = counts.keys().last().copied().unwrap_or(0) + 1;
    let width = most.div_ceil(BINS as u64).max(1);
    let bins = most.div_ceil(width);
    let of = |bin: u64| counts.range(bin * width..(bin + 1) * width).map(|(_, n)| n).sum();
    Block::Histogram(Histogram {
        caption: caption.into(),
        x_label: x.into(),
        y_label: y.into(),
        edges: (0..=bins).map(|bin| (bin * width) as f64).collect(),
        counts: (0..bins).map(of).collect(),
    })
}

fn by_class(name: &str, groups: &[Group]) -> Table {
    let row = |group: &Group| {
        let mean = group.tags as f64 / group.images.max(1) as f64;
        vec![Cell::Text(group.name.clone()), Cell::Number(group.images as f64), Cell::Number(mean)]
    };
    Table {
        caption: format!("By {name}."),
        columns: vec![Column::text(name), Column::number("images"), Column::number("tags an image").decimals(1)],
        rows: groups.iter().map(row).collect(),
    }
}

fn plane(one: &Analysis) -> Scatter {
    let number = one.plane.tags.iter().map(|placed| placed.cluster + 1).max().unwrap_or(0);
    let cluster = |of: usize| {
        let members: Vec<_> = one.plane.tags.iter().filter(|placed| placed.cluster == of).collect();
        let names: Vec<&str> = members.iter().take(2).map(|placed| placed.tag.as_str()).collect();
        let points = members.iter().map(|placed| {
            let [x, y] = placed.place.map(f64::from);
            (x, y, format!("{}: {}", placed.tag, count(placed.images, "image")))
        });
        Cluster { name: names.join(", "), points: points.collect() }
    };
    let [first, second] = one.plane.shares.map(|share| 100.0 * share);
    Scatter {
        caption: "Tags by the tags that they are in one image with: those near each other go with the same ones. Clusters are \
                  named by their most frequent tags; rest the pointer on a point for its tag."
            .into(),
        x_label: format!("first component, {first:.0} % of the variance"),
        y_label: format!("second component, {second:.0} %"),
        clusters: (0..number).map(cluster).collect(),
    }
}

fn near(related: &Related) -> Table {
    Table {
        caption: format!("Tags that are close to \"{}\", by the model's text encoder.", related.text),
        columns: vec![Column::text("tag"), Column::number("cosine").decimals(3)],
        rows: related.tags.iter().map(|(tag, score)| vec![Cell::Text(tag.clone()), Cell::Number(*score)]).collect(),
    }
}
