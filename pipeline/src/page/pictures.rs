//! Pictures of the report: retrieval panels and segment overlays, as small JPEGs.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use manifests::words::count;
use manifests::{Artifact, PartFile, shard_of};
use pixels::{DecodeLimits, Rgb};
use report::{Block, Hit, ImageGrid, Level, Mark, Picture, Retrieval, RetrievalPanel, Subject, Swatch};
use stages::evaluate::{Evaluation, Item, PANELS, Panel};
use stages::table::{Columns, TableError};
use stages::train_rows::TrainRows;
use workers::WorkerError;
use workers::concurrently::in_order;
use workers::parts::PartReader;
use workers::stores::WorkStore;
use workers::train::{Members, TableRows};

use crate::build::Build;

const THUMBNAIL_PX: u32 = 168;
const OVERLAYS: usize = 8;

fn thumbnail(rgb: &Rgb) -> Vec<u8> {
    let scale = f64::from(THUMBNAIL_PX) / f64::from(rgb.width.max(rgb.height).max(1));
    let side = |px: u32| ((f64::from(px) * scale).round() as u32).max(1);
    let small = if scale < 1.0 {
        pixels::resize(rgb, side(rgb.width), side(rgb.height), pixels::Filter::Bicubic)
    } else {
        rgb.clone()
    };
    pixels::encode_jpeg(&small, 80)
}

/// A thumbnail of an encoded picture, of which nothing is known yet; `None`: it is larger than `limits`, or broken.
pub(crate) fn thumbnail_of(bytes: &[u8], limits: &DecodeLimits) -> Option<Vec<u8>> {
    pixels::decode(bytes, limits).ok().map(|rgb| thumbnail(&rgb))
}

/// Thumbnails of some images, by id.
pub(crate) async fn thumbnails(
    build: &Build,
    ids: &BTreeSet<String>,
) -> Result<BTreeMap<String, Vec<u8>>, WorkerError> {
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let limits = stages::images::limits(&build.spec);
    let small = encoded(build, ids).await?.into_iter().map(move |(id, bytes)| async move {
        let small = tokio::task::spawn_blocking(move || thumbnail_of(&bytes, &limits)).await;
        let small = small.map_err(|e| WorkerError::Broken(format!("picture of {id}: {e}")))?;
        Ok(small.map(|small| (id, small)))
    });
    let all: Vec<_> = in_order(small, at_once, "pictures").try_collect().await?;
    Ok(all.into_iter().flatten().collect())
}

/// Pictures of some images as the table has them, by id.
pub(crate) async fn encoded(build: &Build, ids: &BTreeSet<String>) -> Result<BTreeMap<String, Vec<u8>>, WorkerError> {
    let images = build.pin(Artifact::Images).await?;
    let mut by_shard: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for id in ids {
        by_shard.entry(shard_of(id, build.spec.work.shards)).or_default().insert(id.clone());
    }
    let of_shards = by_shard.into_iter().filter_map(|(shard, ids)| {
        let (work, part) = (build.work.clone(), images.part(shard)?.clone());
        Some(async move { encoded_of(&work, &part, &ids).await })
    });
    Ok(in_order(of_shards, build.spec.work.concurrency, "pictures").try_concat().await?.into_iter().collect())
}

async fn encoded_of(
    work: &WorkStore,
    part: &PartFile,
    wanted: &BTreeSet<String>,
) -> Result<Vec<(String, Vec<u8>)>, WorkerError> {
    let broken = |e: TableError| WorkerError::Broken(e.to_string());
    let reader = PartReader::open(work, Artifact::Images, part).await?;
    let all = reader.read(&["image_id", "status"]).await?;
    let columns = Columns::new(Artifact::Images, &all);
    let (all_ids, status) = (columns.text("image_id").map_err(broken)?, columns.text("status").map_err(broken)?);
    let rows: Vec<usize> =
        (0..all.num_rows()).filter(|&r| status.value(r) == "ok" && wanted.contains(all_ids.value(r))).collect();
    let batch = reader.read_rows(&["image_id", "bytes"], &rows).await?;
    let columns = Columns::new(Artifact::Images, &batch);
    let (found, bytes) = (columns.text("image_id").map_err(broken)?, columns.binary("bytes").map_err(broken)?);
    Ok((0..batch.num_rows()).map(|row| (found.value(row).to_owned(), bytes.value(row).to_vec())).collect())
}

/// Panels of the best queries.
pub async fn retrieval(build: &Build, evaluation: &Evaluation) -> Result<Vec<Block>, WorkerError> {
    let best = |text_queries: bool| -> Vec<&Panel> {
        // the evaluation puts the best queries first
        evaluation.panels.iter().filter(|p| asks_by_text(p) == text_queries).take(PANELS).collect()
    };
    let (texts, images) = (best(true), best(false));
    let pictures = thumbnails(build, &images_of(texts.iter().chain(&images).copied())).await?;
    let panels = |of: &[&Panel]| of.iter().map(|p| panel("best", p, &pictures)).collect();
    Ok(vec![
        Block::Retrieval(Retrieval { caption: "Text queries: which images they find.".into(), panels: panels(&texts) }),
        Block::Retrieval(Retrieval {
            caption: "Image queries: which captions they find.".into(),
            panels: panels(&images),
        }),
    ])
}

pub(super) fn asks_by_text(panel: &Panel) -> bool {
    matches!(panel.query, Item::Caption(_))
}

/// Images that panels show.
pub(super) fn images_of<'p>(panels: impl Iterator<Item = &'p Panel>) -> BTreeSet<String> {
    let found = panels.flat_map(|p| {
        p.found.iter().chain(&p.missed).flat_map(|f| [Some(&f.item), f.of.as_ref()]).chain([Some(&p.query)])
    });
    found.flatten().filter_map(|item| if let Item::Image(id) = item { Some(id.clone()) } else { None }).collect()
}

/// One query with what it finds.
pub(super) fn panel(label: &str, panel: &Panel, pictures: &BTreeMap<String, Vec<u8>>) -> RetrievalPanel {
    let subject = |item: &Item| match item {
        Item::Caption(text) => Subject::Text(text.clone()),
        Item::Image(id) => Subject::Picture(Picture {
            bytes: pictures.get(id).cloned().unwrap_or_default(),
            caption: id.clone(),
            ..Picture::default()
        }),
    };
    // a right answer that was not found follows at its own rank
    let ranked = (1..).zip(&panel.found).chain(panel.missed.iter().map(|missed| (panel.rank + 1, missed)));
    let hits = ranked.map(|(rank, found)| Hit {
        rank,
        score: f64::from(found.score),
        mark: if found.correct { Mark::Correct } else { Mark::Wrong },
        subject: subject(&found.item),
    });
    RetrievalPanel {
        label: label.to_owned(),
        query: subject(&panel.query),
        hits: hits.collect(),
        true_rank: Some(panel.rank + 1),
    }
}

/// A few images with captions and with the segments that train the model.
pub async fn overlays(build: &Build) -> Result<Vec<Block>, WorkerError> {
    let mut inputs = Vec::new();
    for artifact in
        [Artifact::Images, Artifact::Captions, Artifact::Splits, Artifact::Segments, Artifact::SegmentScores]
    {
        inputs.push(build.pin(artifact).await?);
    }
    // a few shards tell enough of a table of thousands
    for table in inputs.iter_mut().filter(|table| table.artifact == Artifact::Images) {
        let stride = table.parts.len().div_ceil(2 * OVERLAYS).max(1);
        table.parts = table.parts.iter().step_by(stride).cloned().collect();
    }
    let (with_segments, limits) = (build.spec.uses_segments(), stages::images::limits(&build.spec));
    let mut rows = TableRows::open(&build.work, &inputs, Members::Split("train")).await?;
    let groups: Vec<usize> = (0..rows.groups().len()).filter(|&g| rows.groups()[g] > 0).collect();
    // spread over the table, so that not all come from one shard
    let stride = (groups.len() / OVERLAYS).max(1);
    let (mut plain, mut overlaid) = (Vec::new(), Vec::new());
    for group in groups.into_iter().step_by(stride).take(OVERLAYS) {
        let read = tokio::task::block_in_place(|| rows.read(group))?;
        let Some(row) = read.into_iter().max_by_key(|r| r.segments.len()) else { continue };
        let Ok(rgb) = pixels::decode(&row.bytes, &limits) else { continue };
        let caption = row.captions.first().cloned().unwrap_or_default();
        plain.push(Picture { bytes: thumbnail(&rgb), caption, ..Picture::default() });
        let masks: Vec<_> = row.segments.iter().map(|(rle, _)| rle.clone()).collect();
        let weight = |(index, (_, weight)): (usize, &(_, f32))| Swatch {
            colour: pixels::overlay::colour(index),
            text: format!("{weight:.2}"),
        };
        let swatches: Vec<Swatch> = row.segments.iter().enumerate().map(weight).collect();
        let caption = if swatches.is_empty() { "no segment was selected" } else { "weights" };
        overlaid.push(Picture {
            bytes: thumbnail(&pixels::overlay::overlay(&rgb, &masks, 0.3)),
            caption: caption.into(),
            badge: count(masks.len(), "segment"),
            swatches,
            ..Picture::default()
        });
    }
    let mut blocks = vec![Block::Images(ImageGrid {
        caption: "Images of the train split with a caption each.".into(),
        images: plain,
    })];
    if with_segments {
        blocks.push(Block::Images(ImageGrid {
            caption: "The same images with their selected segments.".into(),
            images: overlaid,
        }));
    } else {
        blocks.push(Block::Note {
            level: Level::Info,
            text: "This build trains on whole images only: no segments were selected.".into(),
        });
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_says_how_large_pictures_may_be() {
        let png = pixels::encode_png(&Rgb::new(40, 20, vec![9; 40 * 20 * 3]).unwrap());
        let of = |most: u64| thumbnail_of(&png, &DecodeLimits { max_pixels: most, ..DecodeLimits::default() });
        assert!(of(800).is_some() && of(799).is_none());
    }
}
