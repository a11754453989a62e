//! Folders of images with captions.

use std::collections::BTreeMap;

use manifests::digest;
use manifests::spec::{BuildSpec, SourceSpec};
use manifests::words::count;
use sources::captioned::{self, CaptionFormat, CaptionedImage};
use sources::split::Split;
use sources::tar;

use super::folder::{self, Folder};
use super::{Collected, ListedRow, ObjectRange, webdataset};
use crate::error::WorkerError;
use crate::stores::{SourceStore, WorkStore, tag};

/// A folder of images with captions, or of archives of them. The caption files or archives are those that the spec names,
/// or those that the folder has.
pub(super) async fn list(source: &SourceStore, work: &WorkStore, spec: &BuildSpec) -> Result<Collected, WorkerError> {
    let has_no_listing = matches!(source.url().scheme(), "http" | "https");
    let names_archives = !spec.source.tables.is_empty() && spec.source.tables.iter().all(|name| tar::is_tar(name));
    if has_no_listing && !names_archives {
        return Err(WorkerError::Configuration(format!(
            "{}: a folder of captioned images has to be listed, and plain HTTP has no listing; copy it to this machine \
             or to an object store, or name tar archives of WebDataset in source.tables",
            source.url()
        )));
    }
    let paths = match tables(source, spec).await? {
        Tables::Files(paths) => paths,
        Tables::Archives(archives) => return webdataset::list(source, work, spec, archives).await,
    };
    let mut listing = Collected::new(spec.work.shards);
    let mut files = Vec::new();
    for path in paths {
        let images = read_captions(source, &path).await?;
        listing.listing.notes.push(format!(
            "captions of {} read from {}{path}",
            count(images.len(), "image"),
            source.url()
        ));
        files.push((path, images));
    }
    let images = captioned::join(files).map_err(|e| WorkerError::Broken(format!("{}: {e}", source.url())))?;
    let without = images.iter().filter(|image| image.split.is_none()).count();
    if 0 < without && without < images.len() {
        let all = images.len();
        listing.listing.notes.push(format!(
            "{without} of {all} captioned images without a split, which others have: placed by split.ratio"
        ));
    }
    let mut rows: BTreeMap<String, CaptionedImage> = BTreeMap::new();
    for image in images {
        let id = image_id_of(&image.file);
        if image.captions.is_empty() {
            listing.leave_out(image.file, "all of its captions are blank");
        } else if let Some(known) = rows.get(&id) {
            let why = format!("its id {id} is taken by {}; rename one of them", known.file);
            listing.leave_out(image.file, why);
        } else {
            rows.insert(id, image);
        }
    }
    if spec.source.max_images > 0 {
        while rows.len() > spec.source.max_images {
            rows.pop_last();
        }
    }
    place(source, &spec.source, rows, &mut listing).await?;
    Ok(listing)
}

/// Lists the images that are there. The folder is read once.
async fn place(
    source: &SourceStore,
    spec: &SourceSpec,
    rows: BTreeMap<String, CaptionedImage>,
    listing: &mut Collected,
) -> Result<(), WorkerError> {
    let image_folder = spec.image_folder();
    let prefix = if image_folder.is_empty() { String::new() } else { format!("{image_folder}/") };
    let folder = Folder::below(source, image_folder).await?;
    let (present, missing): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|(_, image)| folder.files.contains_key(&image.file));
    if present.is_empty() && !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(|(_, image)| image.file.as_str()).collect();
        let top = Folder::top(source).await?;
        let there = what_is_there(&folder, &top);
        return Err(WorkerError::Configuration(nothing_found(source.url().as_str(), &prefix, &names, &there)));
    }
    for problem in folder.left_out {
        listing.problem(format!("{prefix}{}", problem.what), problem.why);
    }
    for (_, image) in missing {
        listing.leave_out(image.file, format!("it is not in {}{prefix}", source.url()));
    }
    let objects = present.iter().map(|(_, image)| {
        let file = &folder.files[&image.file];
        (file, format!("{prefix}{}", file.name))
    });
    let seen = folder::seen(source, objects.clone()).await?;
    let objects: Vec<String> = objects.map(|(_, object)| object).collect();
    for (((image_id, image), object), seen) in present.into_iter().zip(objects).zip(seen) {
        let image_digest = digest::of_bytes(seen.identity.as_bytes());
        let picture = ObjectRange { object, etag: seen.etag, bytes: seen.bytes, member: None };
        // what says where it lies is the picture itself
        let meta = (spec.georeferenced && super::is_tiff(&image.file)).then(|| picture.clone());
        listing.push(&ListedRow {
            image_id,
            filepath: image.file,
            image: picture,
            meta_digest: if meta.is_some() { image_digest.clone() } else { String::new() },
            meta,
            title: None,
            title_multi_objects: None,
            captions: image.captions,
            given_split: image.split.map(|s| s.as_str().to_owned()),
            image_digest,
        });
    }
    Ok(())
}

/// What a folder holds in place of the images, in words.
fn what_is_there(folder: &Folder, top: &Folder) -> String {
    if !folder.files.is_empty() {
        let names: Vec<&str> = folder.files.keys().map(String::as_str).collect();
        format!("it holds {}", some_of(&names))
    } else if !top.folders.is_empty() {
        let names: Vec<&str> = top.folders.iter().map(String::as_str).collect();
        format!("it is empty or not there; the source holds the folders {}", some_of(&names))
    } else {
        "it is empty or not there, and the source holds no folder".to_owned()
    }
}

fn nothing_found(url: &str, prefix: &str, names: &[&str], there: &str) -> String {
    format!(
        "none of {} is in {url}{prefix}: looked for {} there; {there}; set source.image_folder \
         to the folder that these names are relative to (\"\" for source.url itself)",
        count(names.len(), "captioned image"),
        some_of(names)
    )
}

/// The first three of some names, and how many there are beside them.
fn some_of(names: &[&str]) -> String {
    let shown = names[..names.len().min(3)].join(", ");
    match names.len().saturating_sub(3) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The file's path without its extension.
fn image_id_of(file: &str) -> String {
    match file.rsplit_once('.') {
        Some((stem, extension)) if !extension.contains('/') => stem.to_owned(),
        _ => file.to_owned(),
    }
}

/// What tells of the images.
enum Tables {
    /// Caption files, and images beside them.
    Files(Vec<String>),
    /// Archives that hold both.
    Archives(Vec<String>),
}

/// What the spec names, or all that the source has.
async fn tables(source: &SourceStore, spec: &BuildSpec) -> Result<Tables, WorkerError> {
    let named = &spec.source.tables;
    let (archives, files): (Vec<_>, Vec<_>) = named.iter().cloned().partition(|name| tar::is_tar(name));
    if let (Some(archive), Some(file)) = (archives.first(), files.first()) {
        return Err(WorkerError::Configuration(format!(
            "source.tables names {archive}, an archive, and {file}, a caption file: a build reads one kind, so make two"
        )));
    }
    if !named.is_empty() {
        return Ok(if files.is_empty() { Tables::Archives(archives) } else { Tables::Files(files) });
    }
    let mut candidates = Vec::new();
    let top = Folder::top(source).await?;
    // an image folder may have a metadata file in the folder of each split
    let splits = top.folders.iter().filter(|folder| Split::parse(folder.trim_end_matches('/')).is_some());
    let metadata = splits.flat_map(|folder| ["csv", "jsonl"].map(|ending| format!("{folder}metadata.{ending}")));
    let names = top.files.values().map(|file| file.name.clone()).filter(|name| captioned::may_hold_captions(name));
    for name in names.chain(metadata) {
        let Some(meta) = source.head(&name).await? else { continue };
        let head = source.get_range(&name, 0..meta.size.min(captioned::HEAD_BYTES), None).await?;
        candidates.extend(captioned::sniff(&name, &head).map(|format| (name, format)));
    }
    let archives: Vec<String> =
        top.files.values().map(|file| file.name.clone()).filter(|name| tar::is_tar(name)).collect();
    match (candidates.first(), archives.first()) {
        (None, Some(_)) => return Ok(Tables::Archives(archives)),
        (Some((file, _)), Some(archive)) => {
            return Err(WorkerError::Configuration(format!(
                "{} holds archives, such as {archive}, and the caption file {file}: name those that count in source.tables",
                source.url()
            )));
        }
        (_, None) => {}
    }
    let files = captioned::choose(candidates);
    files.map(Tables::Files).map_err(|why| WorkerError::Configuration(format!("{}: {why}", source.url())))
}

/// Largest caption file: it is held whole.
const MAX_CAPTION_BYTES: u64 = 1 << 30;

async fn read_captions(source: &SourceStore, path: &str) -> Result<Vec<CaptionedImage>, WorkerError> {
    let whole = |path: String| async move {
        let refused = |why: String| WorkerError::Configuration(format!("{}{path} {why}", source.url()));
        let meta = source.head(&path).await?.ok_or_else(|| refused("is not there".into()))?;
        if meta.size > MAX_CAPTION_BYTES {
            let why = format!("has {} bytes, over the limit of {MAX_CAPTION_BYTES}: split it into several", meta.size);
            return Err(refused(why));
        }
        source.get_range(&path, 0..meta.size, tag(&meta).as_deref()).await
    };
    let bytes = whole(path.to_owned()).await?;
    let format = captioned::sniff(path, &bytes).ok_or_else(|| {
        WorkerError::Configuration(format!("{}{path} is no caption file that is known here", source.url()))
    })?;
    let images = match format {
        CaptionFormat::Jsonl => captioned::read_jsonl(&bytes),
        CaptionFormat::Csv => captioned::read_csv(&bytes),
        CaptionFormat::Karpathy => captioned::read_karpathy(&bytes),
        CaptionFormat::Nwpu => captioned::read_nwpu(&bytes),
        CaptionFormat::Coco { split } => captioned::read_coco(&bytes, split),
        CaptionFormat::MetadataCsv(at) => captioned::read_metadata_csv(&bytes, &at),
        CaptionFormat::MetadataJsonl(at) => captioned::read_metadata_jsonl(&bytes, &at),
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

    #[test]
    fn what_was_looked_for_and_what_is_there_is_said() {
        let names = ["images/a.jpg", "images/b.jpg", "images/c.jpg", "images/d.jpg"];
        let top = Folder { folders: vec!["pictures/".into()], ..Folder::default() };
        let text = nothing_found("file:///x/", "images/", &names, &what_is_there(&Folder::default(), &top));
        for part in
            ["4 captioned", "file:///x/images/", "images/a.jpg", "and 1 more", "pictures/", "source.image_folder"]
        {
            assert!(text.contains(part), "{text}");
        }
    }
}
