//! A captioned folder of sandbox images in which some captions are swapped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use manifests::Artifact;
use pipeline::build::Build;
use stages::table::Columns;
use workers::parts::PartReader;

/// Writes the images of a build with their captions to `folder`; of a share of them the captions change places. Gives the ids
/// of these.
pub async fn write_swapped(build: &Build, folder: &Path, share: f64) -> BTreeSet<String> {
    let mut images = BTreeMap::new();
    for part in build.pin(Artifact::Images).await.expect("images").parts {
        let reader = PartReader::open(&build.work, Artifact::Images, &part).await.expect("a part");
        let batch = reader.read(&["image_id", "bytes"]).await.expect("columns");
        let columns = Columns::new(Artifact::Images, &batch);
        let (ids, bytes) = (columns.text("image_id").expect("ids"), columns.binary("bytes").expect("bytes"));
        for row in 0..batch.num_rows() {
            images.insert(ids.value(row).to_owned(), bytes.value(row).to_vec());
        }
    }
    let mut captions = BTreeMap::new();
    for part in build.pin(Artifact::Captions).await.expect("captions").parts {
        let reader = PartReader::open(&build.work, Artifact::Captions, &part).await.expect("a part");
        let batch = reader.read(&["image_id", "captions"]).await.expect("columns");
        let columns = Columns::new(Artifact::Captions, &batch);
        let texts = columns.texts("captions").expect("captions");
        let ids = columns.text("image_id").expect("ids");
        for (row, texts) in texts.into_iter().enumerate().filter(|(_, texts)| !texts.is_empty()) {
            captions.insert(ids.value(row).to_owned(), texts[0].clone());
        }
    }
    captions.retain(|id, _| images.contains_key(id));
    // by digest: no order of the world plays a part
    let mut order: Vec<String> = captions.keys().cloned().collect();
    order.sort_by_key(|id| manifests::digest::of_bytes(id.as_bytes()));
    order.truncate((order.len() as f64 * share) as usize);
    // captions of the same words are no noise
    let moved: Vec<String> = order.iter().cycle().skip(1).take(order.len()).map(|id| captions[id].clone()).collect();
    let mut swapped = BTreeSet::new();
    for (id, caption) in order.into_iter().zip(moved) {
        if captions[&id] != caption {
            swapped.insert(id.clone());
        }
        captions.insert(id, caption);
    }
    std::fs::create_dir_all(folder.join("images")).expect("a folder");
    let mut lines = String::new();
    for (number, (id, caption)) in captions.iter().enumerate() {
        std::fs::write(folder.join(format!("images/{id}.jpg")), &images[id]).expect("an image");
        let split = ["train", "train", "train", "train", "train", "train", "train", "val", "test", "test"][number % 10];
        let line = serde_json::json!({ "file": format!("{id}.jpg"), "split": split, "captions": [caption] });
        lines += &format!("{line}\n");
    }
    std::fs::write(folder.join("captions.jsonl"), lines).expect("captions");
    swapped
}
