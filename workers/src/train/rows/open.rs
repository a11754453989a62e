//! Rows of a part by id, as a training reads them.

use std::collections::BTreeMap;

use manifests::{Artifact, PartFile};
use pixels::mask::Rle;
use stages::image_embeddings::mean_direction;
use stages::segment_features::RowSegments;
use stages::table::{Columns, TableError};
use stages::train_rows::Embedded;

use crate::error::WorkerError;
use crate::parts::PartReader;
use crate::stores::WorkStore;
use crate::train::broken;

/// A part file with the places of its good rows.
pub(super) struct OpenPart {
    pub(super) reader: PartReader,
    place_of_id: BTreeMap<String, usize>,
}

impl OpenPart {
    pub(super) async fn open(work: &WorkStore, artifact: Artifact, part: &PartFile) -> Result<Self, WorkerError> {
        let reader = PartReader::open(work, artifact, part).await?;
        let batch = reader.read(&["image_id", "status"]).await?;
        let columns = Columns::new(artifact, &batch);
        let (ids, status) = (columns.text("image_id").map_err(broken)?, columns.text("status").map_err(broken)?);
        let place_of_id = (0..batch.num_rows())
            .filter(|&row| status.value(row) == "ok")
            .map(|row| (ids.value(row).to_owned(), row))
            .collect();
        Ok(Self { reader, place_of_id })
    }

    /// Rows that hold the ids, rising, with the id of each. Failed rows are left out.
    fn places(&self, ids: &[String]) -> (Vec<usize>, Vec<String>) {
        let mut found: Vec<(usize, String)> =
            ids.iter().filter_map(|id| Some((*self.place_of_id.get(id)?, id.clone()))).collect();
        found.sort_unstable();
        found.dedup();
        found.into_iter().unzip()
    }
}

pub(super) async fn captions_of(
    captions: Option<&OpenPart>,
    ids: &[String],
) -> Result<BTreeMap<String, Vec<String>>, WorkerError> {
    let Some(part) = captions else { return Ok(BTreeMap::new()) };
    let (rows, found) = part.places(ids);
    let batch = part.reader.read_rows(&["captions"], &rows).await?;
    let texts = Columns::new(Artifact::Captions, &batch).texts("captions").map_err(broken)?;
    Ok(found.into_iter().zip(texts).collect())
}

/// Embeddings of images and captions, where both tables of them are among the inputs.
pub(super) async fn embedded_of(
    images: Option<&OpenPart>,
    texts: Option<&OpenPart>,
    ids: &[String],
) -> Result<BTreeMap<String, Embedded>, WorkerError> {
    let (Some(images), Some(texts)) = (images, texts) else { return Ok(BTreeMap::new()) };
    let (rows, image_ids) = images.places(ids);
    let (text_rows, text_ids) = texts.places(ids);
    let (batch, text_batch) = tokio::try_join!(
        images.reader.read_rows(&["embedding"], &rows),
        texts.reader.read_rows(&["texts"], &text_rows)
    )?;
    let vectors = Columns::new(Artifact::ImageEmbeddings, &batch).vectors("embedding").map_err(broken)?;
    let vectors: BTreeMap<String, Vec<f32>> = image_ids.into_iter().zip(vectors).collect();
    let columns = Columns::new(Artifact::TextEmbeddings, &text_batch);
    let mut embedded = BTreeMap::new();
    for (row, id) in text_ids.into_iter().enumerate() {
        let texts = columns.structs("texts", row).map_err(broken)?;
        let text = mean_direction(columns.inner(&texts).vectors("embedding").map_err(broken)?);
        if let Some(image) = vectors.get(&id) {
            embedded.insert(id, Embedded { image: image.clone(), text });
        }
    }
    Ok(embedded)
}

/// Selected segments with their weights; images without scores have none.
pub(super) async fn segments_of(
    scores: Option<&OpenPart>,
    segments: Option<&OpenPart>,
    ids: &[String],
) -> Result<BTreeMap<String, Vec<(Rle, f32)>>, WorkerError> {
    let (Some(scores), Some(segments)) = (scores, segments) else { return Ok(BTreeMap::new()) };
    let (rows, scored_ids) = scores.places(ids);
    let (mask_rows, mask_ids) = segments.places(ids);
    let (batch, masks) = tokio::try_join!(
        scores.reader.read_rows(&["scores"], &rows),
        segments.reader.read_rows(&["width", "height", "segments"], &mask_rows)
    )?;
    let mut chosen: BTreeMap<String, Vec<(usize, f32)>> = BTreeMap::new();
    let columns = Columns::new(Artifact::SegmentScores, &batch);
    for (row, id) in scored_ids.into_iter().enumerate() {
        let scores = columns.structs("scores", row).map_err(broken)?;
        let inner = columns.inner(&scores);
        let read =
            || Ok::<_, TableError>((inner.int32("segment")?, inner.float32("similarity")?, inner.bool("selected")?));
        let (segment, similarity, selected) = read().map_err(broken)?;
        let weights = (0..scores.num_rows())
            .filter(|&i| selected.value(i))
            .map(|i| (segment.value(i).max(0) as usize, similarity.value(i)))
            .collect();
        chosen.insert(id, weights);
    }
    let columns = Columns::new(Artifact::Segments, &masks);
    let mut masks = BTreeMap::new();
    for (row, id) in mask_ids.into_iter().enumerate() {
        let segments = RowSegments::read(&columns, row).map_err(broken)?;
        let of_row = chosen.remove(&id).unwrap_or_default();
        let of_row = of_row
            .into_iter()
            .map(|(i, weight)| Ok((segments.mask(i)?, weight)))
            .collect::<Result<Vec<_>, String>>()
            .map_err(|why| WorkerError::Broken(format!("image {id}: {why}")))?;
        masks.insert(id, of_row);
    }
    Ok(masks)
}
