//! Folders of images with captions.

use std::collections::{BTreeMap, HashMap};

use manifests::build::BuildSpec;
use manifests::digest;
use sources::captioned::{self, CaptionFormat, CaptionedImage};

use super::{ListedRow, Listing, Place};
use crate::error::WorkerError;
use crate::stores::SourceStore;

/// A folder of images with captions. The caption file is the one that the spec names, or the first
/// in order of name that looks like one.
pub(super) async fn list(source: &SourceStore, spec: &BuildSpec) -> Result<Listing, WorkerError> {
    let tables =
        if spec.source.tables.is_empty() { vec![find_caption_file(source).await?] } else { spec.source.tables.clone() };
    let mut listing = Listing::new(spec.work.shards);
    let mut rows: BTreeMap<String, CaptionedImage> = BTreeMap::new();
    for path in &tables {
        for image in read_captions(source, path).await? {
            if image.captions.is_empty() {
                listing.problem(image.file, "all of its captions are blank");
                continue;
            }
            let id = image_id_of(&image.file);
            match rows.get_mut(&id) {
                // another caption file of the same image (train and test lists, or more captions)
                Some(known) if known.file == image.file => known.captions.extend(image.captions),
                Some(known) => {
                    let why = format!("its id {id} is taken by {}; rename one of them", known.file);
                    listing.problem(image.file, why);
                }
                None => _ = rows.insert(id, image),
            }
        }
    }
    if spec.source.max_images > 0 {
        while rows.len() > spec.source.max_images {
            rows.pop_last();
        }
    }
    // the folder is listed once: sizes and times tell changed files
    let present: HashMap<String, String> =
        source.list_identities(&spec.source.image_folder).await?.into_iter().collect();
    for (image_id, image) in rows {
        let Some(identity) = present.get(&image.file) else {
            listing.problem(image.file, format!("it is not in {}", spec.source.image_folder));
            continue;
        };
        let object = format!("{}/{}", spec.source.image_folder.trim_end_matches('/'), image.file);
        listing.push(ListedRow {
            image_id,
            filepath: image.file,
            image: Place { object, member: None },
            meta: None,
            title: None,
            title_multi_objects: None,
            captions: image.captions,
            given_split: image.split.map(|s| s.as_str().to_owned()),
            image_digest: digest::of_bytes(identity.as_bytes()),
            meta_digest: String::new(),
        });
    }
    Ok(listing)
}

/// The file's path without its extension.
fn image_id_of(file: &str) -> String {
    match file.rsplit_once('.') {
        Some((stem, extension)) if !extension.contains('/') => stem.to_owned(),
        _ => file.to_owned(),
    }
}

async fn find_caption_file(source: &SourceStore) -> Result<String, WorkerError> {
    for name in source.list_top().await? {
        let Some(meta) = source.head(&name).await? else { continue };
        let head = source.get_range(&name, 0..meta.size.min(512), None).await?;
        if captioned::sniff(&name, &head).is_some() {
            return Ok(name);
        }
    }
    Err(WorkerError::Configuration(format!(
        "{}: no caption file found; name it with source.tables = [\"captions.jsonl\"]",
        source.url()
    )))
}

async fn read_captions(source: &SourceStore, path: &str) -> Result<Vec<CaptionedImage>, WorkerError> {
    let whole = |path: String| async move {
        source
            .get(&path)
            .await?
            .ok_or_else(|| WorkerError::Configuration(format!("{}{path} is not there", source.url())))
    };
    let bytes = whole(path.to_owned()).await?;
    let format = captioned::sniff(path, &bytes[..bytes.len().min(512)]).ok_or_else(|| {
        WorkerError::Configuration(format!("{}{path} is no caption file that is known here", source.url()))
    })?;
    let images = match format {
        CaptionFormat::Jsonl => captioned::read_jsonl(&bytes),
        CaptionFormat::Csv => captioned::read_csv(&bytes),
        CaptionFormat::Karpathy => captioned::read_karpathy(&bytes),
        CaptionFormat::Lines { filenames, split } => captioned::read_lines(&whole(filenames).await?, &bytes, split),
    };
    images.map_err(|e| WorkerError::Broken(format!("{}{path}: {e}", source.url())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_files_keep_their_folders() {
        assert_eq!(image_id_of("airport_3.jpg"), "airport_3");
        assert_eq!(image_id_of("a.b/c"), "a.b/c");
    }
}
