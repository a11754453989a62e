//! Tar archives as WebDataset reads them: an image, its first caption and what is known of it under one key.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::PathBuf;

use serde_json::json;
use sources::webdataset::key_of;

use super::draft::Draft;
use super::rows::{About, ImageRow};
use super::{ExportRequest, PixelWriter, WrittenFile, synced};
use crate::error::WorkerError;

/// The open archive of each split, and those that are closed.
pub(super) struct Shards<'a> {
    folder: PathBuf,
    country: &'a str,
    file_bytes: u64,
    open: BTreeMap<String, Archive>,
    numbers: BTreeMap<String, u32>,
    closed: Vec<WrittenFile>,
}

impl<'a> Shards<'a> {
    pub(super) fn new(draft: &Draft, request: &ExportRequest<'a>) -> Self {
        Self {
            folder: draft.folder().to_owned(),
            country: request.country,
            file_bytes: request.file_bytes,
            open: BTreeMap::new(),
            numbers: BTreeMap::new(),
            closed: Vec::new(),
        }
    }

    fn close(&mut self, split: &str) -> Result<(), WorkerError> {
        if let Some(archive) = self.open.remove(split) {
            self.closed.push(archive.finish(split)?);
        }
        Ok(())
    }
}

impl PixelWriter for Shards<'_> {
    fn write(&mut self, rows: Vec<ImageRow>) -> Result<(), WorkerError> {
        for row in rows {
            let split = super::split_elsewhere(&row.about.split).to_owned();
            if !self.open.contains_key(&split) {
                let number = self.numbers.entry(split.clone()).or_default();
                let name = format!("{split}-{number:05}.tar");
                *number += 1;
                self.open.insert(split.clone(), Archive::create(self.folder.join(&name), name)?);
            }
            let Some(archive) = self.open.get_mut(&split) else { continue };
            archive.add(&row, self.country)?;
            if archive.bytes >= self.file_bytes {
                self.close(&split)?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<WrittenFile>, WorkerError> {
        for split in self.open.keys().cloned().collect::<Vec<_>>() {
            self.close(&split)?;
        }
        Ok(self.closed)
    }
}

/// An archive that is being written. Its members have no owner and no time, so that the same rows give the same bytes.
struct Archive {
    path: PathBuf,
    name: String,
    tar: tar::Builder<BufWriter<File>>,
    /// Of the members so far.
    bytes: u64,
    rows: u64,
}

impl Archive {
    fn create(path: PathBuf, name: String) -> Result<Self, WorkerError> {
        let file = File::create(&path).map_err(|e| WorkerError::of_io(&path, &e))?;
        Ok(Self { path, name, tar: tar::Builder::new(BufWriter::new(file)), bytes: 0, rows: 0 })
    }

    /// An image with what belongs to it. A reader takes neighbours with one key together.
    fn add(&mut self, row: &ImageRow, country: &str) -> Result<(), WorkerError> {
        let key = key_of(&row.about.image_id);
        let about = about(row, country).to_string();
        let caption = row.about.captions.first().map_or("", String::as_str);
        let members: [(&str, &[u8]); 3] =
            [(row.extension(), &row.bytes), ("json", about.as_bytes()), ("txt", caption.as_bytes())];
        for (extension, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            let added = self.tar.append_data(&mut header, format!("{key}.{extension}"), bytes);
            added.map_err(|e| WorkerError::of_io(&self.path, &e))?;
            self.bytes += (bytes.len() as u64).next_multiple_of(512) + 512;
        }
        self.rows += 1;
        Ok(())
    }

    fn finish(self, split: &str) -> Result<WrittenFile, WorkerError> {
        let at = |e: &io::Error| WorkerError::of_io(&self.path, e);
        let file = self.tar.into_inner().map_err(|e| at(&e))?.into_inner().map_err(|e| at(e.error()))?;
        let bytes = synced(file, &self.path)?;
        Ok(WrittenFile { path: self.name, split: Some(split.to_owned()), rows: self.rows, bytes, sha256: None })
    }
}

fn about(row: &ImageRow, country: &str) -> serde_json::Value {
    let About {
        image_id, split, captions, captioner, source, osm_kind, osm_id, year, time, gsd_meters, ground, ..
    } = &row.about;
    // kept as text where it is no JSON: a table of another program
    let tags =
        |text: &Option<String>| text.as_deref().map(|text| serde_json::from_str(text).unwrap_or_else(|_| json!(text)));
    json!({
        "image_id": image_id,
        "country": country,
        "split": split,
        "captions": captions,
        "captioner": captioner,
        "source": source,
        "osm_kind": osm_kind,
        "osm_id": osm_id,
        "year": year,
        "time": time,
        "gsd_meters": gsd_meters,
        "box_wsen": ground,
        "center_tags": tags(&row.about.center_tags),
        "surrounding_tags": tags(&row.about.surrounding_tags),
        "width": row.width,
        "height": row.height,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_back_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let (path, long) = (folder.path().join("a.tar"), "x".repeat(150));
        let mut archive = Archive::create(path.clone(), "a.tar".into()).unwrap();
        for id in ["one", &long, "../up"] {
            let about = About { image_id: id.into(), captions: vec!["a lake".into()], ..About::default() };
            let row = ImageRow { about, width: 1, height: 2, bytes: vec![0xff, 0xd8, 7] };
            archive.add(&row, "finland").unwrap();
        }
        assert_eq!(archive.finish("train").unwrap().rows, 3);
        let mut read = tar::Archive::new(File::open(path).unwrap());
        let names: Vec<_> = read.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names[..4], ["one.jpg", "one.json", "one.txt", &format!("{long}.jpg")]);
        assert_eq!(names[6], "%2E%2E%2Fup.jpg");
    }
}
