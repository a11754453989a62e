//! Structured captions as RSRT has them: a line of JSON for each image, a file for each split, so that nobody searches images
//! of train among those of test.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use manifests::Artifact;
use serde_json::{Value, json};
use stages::table::{Columns, option_text};

use super::draft::Draft;
use super::rows::{Rows, broken, good_rows};
use super::{ExportRequest, Written, WrittenFile, split_elsewhere, stopped, synced};
use crate::error::WorkerError;

pub(super) async fn write(request: &ExportRequest<'_>, draft: &Draft) -> Result<Written, WorkerError> {
    let rows = Rows::of(request)?;
    let mut written = Written::default();
    let mut files: BTreeMap<String, (BufWriter<File>, u64)> = BTreeMap::new();
    let mut shards = rows.ahead(lines);
    while let Some(lines) = shards.try_next().await? {
        stopped(request.stop)?;
        for (split, line, variants) in lines {
            *written.images.entry(split.clone()).or_default() += 1;
            written.captions += variants;
            let name = name_of(&split);
            let path = draft.folder().join(&name);
            if !files.contains_key(&name) {
                let file = File::create(&path).map_err(|e| WorkerError::of_io(&path, &e))?;
                files.insert(name.clone(), (BufWriter::new(file), 0));
            }
            let Some((file, images)) = files.get_mut(&name) else { continue };
            writeln!(file, "{line}").map_err(|e| WorkerError::of_io(&path, &e))?;
            *images += 1;
        }
    }
    for (name, (file, images)) in files {
        let path = draft.folder().join(&name);
        let bytes = finished(file, &path)?;
        let split = name.strip_suffix(".jsonl").map(str::to_owned);
        written.files.push(WrittenFile { path: name, split, rows: images, bytes, sha256: None });
    }
    Ok(written)
}

fn name_of(split: &str) -> String {
    format!("{}.jsonl", split_elsewhere(split))
}

fn finished(file: BufWriter<File>, path: &Path) -> Result<u64, WorkerError> {
    synced(file.into_inner().map_err(|e| WorkerError::of_io(path, e.error()))?, path)
}

/// Images of a shard that have structured captions, in order of their ids: split, line, number of variants.
async fn lines(rows: Arc<Rows>, shard: u32) -> Result<Vec<(String, Value, u64)>, WorkerError> {
    let (splits, geotags, captions) = tokio::try_join!(
        rows.splits(shard),
        rows.read(Artifact::Geotags, shard, &["image_id", "status", "filepath"]),
        rows.read(Artifact::StructuredCaptions, shard, &["image_id", "status", "captioner", "variants"]),
    )?;
    let mut paths: BTreeMap<String, String> = BTreeMap::new();
    if let Some(batch) = geotags {
        let columns = Columns::new(Artifact::Geotags, &batch);
        let filepath = columns.text("filepath").map_err(broken)?;
        for (row, id) in good_rows(&columns, batch.num_rows())? {
            if let Some(path) = option_text(filepath, row) {
                paths.insert(id.to_owned(), path.to_owned());
            }
        }
    }
    let Some(batch) = captions else { return Ok(Vec::new()) };
    let columns = Columns::new(Artifact::StructuredCaptions, &batch);
    let captioner = columns.text("captioner").map_err(broken)?;
    let mut lines = BTreeMap::new();
    for (row, id) in good_rows(&columns, batch.num_rows())? {
        let Some(split) = splits.get(id) else { continue };
        let variants = columns.structs("variants", row).map_err(broken)?;
        let inner = columns.inner(&variants);
        let field = |name: &str| inner.text(name).map_err(broken);
        let (sentence, feature, caption) = (field("one_sentence")?, field("feature")?, field("caption")?);
        let variants: Vec<Value> = (0..variants.num_rows())
            .map(|at| {
                json!({
                    "one_sentence": sentence.value(at),
                    "feature": feature.value(at),
                    "caption": caption.value(at),
                })
            })
            .collect();
        let number = variants.len() as u64;
        let image = paths.get(id).map_or(id, String::as_str);
        let line = json!({ "image": image, "variants": variants, "model": option_text(captioner, row) });
        lines.insert(id.to_owned(), (split.clone(), line, number));
    }
    Ok(lines.into_values().collect())
}
