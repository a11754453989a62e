//! Vectors as NumPy reads them, with their ids in a Parquet file of as many rows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, SchemaRef};
use futures::TryStreamExt;
use manifests::Artifact;
use stages::table::Columns;

use super::draft::Draft;
use super::rows::{Rows, broken, good_rows};
use super::sheet::Sheet;
use super::{ExportRequest, Written, WrittenFile, columns, stopped, synced};
use crate::error::WorkerError;

/// Bytes before the vectors: a multiple of 64, with room for any number of rows.
const HEADER_BYTES: usize = 128;
/// Wider vectors are of no model.
const MOST_WIDTH: usize = 1 << 16;

pub(super) async fn write(request: &ExportRequest<'_>, draft: &Draft) -> Result<Written, WorkerError> {
    let rows = Rows::of(request)?;
    let mut written = Written::default();
    let mut images = Vectors::create(draft, "images", &["image_id", "split"])?;
    let mut captions = Vectors::create(draft, "captions", &["image_id", "split", "caption"])?;
    let mut shards = rows.ahead(read);
    while let Some((splits, of_images, of_texts)) = shards.try_next().await? {
        stopped(request.stop)?;
        if let Some(batch) = of_images {
            let columns = Columns::new(Artifact::ImageEmbeddings, &batch);
            let of_model = columns.text("model").map_err(broken)?;
            let vectors = columns.vectors("embedding").map_err(broken)?;
            let mut ids = Vec::new();
            for (row, id) in good_rows(&columns, batch.num_rows())? {
                if let Some(split) = splits.get(id) {
                    of_one_model(&mut written.model, of_model.value(row), "images", id)?;
                    images.add(&vectors[row])?;
                    ids.push([id, split]);
                    *written.images.entry(split.clone()).or_default() += 1;
                }
            }
            images.describe(&ids)?;
        }
        if let Some(batch) = of_texts {
            let columns = Columns::new(Artifact::TextEmbeddings, &batch);
            let of_model = columns.text("model").map_err(broken)?;
            for (row, id) in good_rows(&columns, batch.num_rows())? {
                let Some(split) = splits.get(id) else { continue };
                of_one_model(&mut written.model, of_model.value(row), "captions", id)?;
                let items = columns.structs("texts", row).map_err(broken)?;
                let inner = columns.inner(&items);
                let texts = inner.text("text").map_err(broken)?;
                let mut lines = Vec::new();
                for (text, vector) in texts.iter().flatten().zip(inner.vectors("embedding").map_err(broken)?) {
                    captions.add(&vector)?;
                    lines.push([id, split.as_str(), text]);
                }
                captions.describe(&lines)?;
            }
        }
    }
    written.captions = captions.rows;
    written.files = [images.finish()?, captions.finish()?].concat();
    Ok(written)
}

/// The wanted images of a shard with their splits, and the vectors of images and of texts.
type ShardVectors = (BTreeMap<String, String>, Option<RecordBatch>, Option<RecordBatch>);

async fn read(rows: Arc<Rows>, shard: u32) -> Result<ShardVectors, WorkerError> {
    tokio::try_join!(
        rows.splits(shard),
        rows.read(Artifact::ImageEmbeddings, shard, &["image_id", "status", "model", "embedding"]),
        rows.read(Artifact::TextEmbeddings, shard, &["image_id", "status", "model", "texts"]),
    )
}

/// Vectors of two models lie in one room by no more than their width: their products mean nothing.
fn of_one_model(known: &mut Option<String>, found: &str, name: &str, id: &str) -> Result<(), WorkerError> {
    match known.as_deref() {
        None => *known = Some(found.to_owned()),
        Some(model) if model == found => {}
        Some(model) => {
            return Err(WorkerError::Configuration(format!(
                "the vector of {id} among {name} is by the model {found:.12}, those before it are by {model:.12}: run the \
                 build to its end first, which makes outdated vectors again"
            )));
        }
    }
    Ok(())
}

/// A file of vectors, and what each row is.
struct Vectors {
    name: &'static str,
    path: PathBuf,
    file: BufWriter<File>,
    width: Option<usize>,
    rows: u64,
    sheet: Sheet,
    schema: SchemaRef,
}

impl Vectors {
    fn create(draft: &Draft, name: &'static str, columns: &[&str]) -> Result<Self, WorkerError> {
        let path = draft.folder().join(format!("{name}.npy"));
        let mut file = File::create(&path).map(BufWriter::new).map_err(|e| WorkerError::of_io(&path, &e))?;
        file.write_all(&[0; HEADER_BYTES]).map_err(|e| WorkerError::of_io(&path, &e))?;
        let schema = columns::schema(columns.iter().map(|name| Field::new(*name, DataType::Utf8, false)).collect());
        let sheet = Sheet::create(&draft.folder().join(format!("{name}.parquet")), schema.clone(), None)?;
        Ok(Self { name, path, file, width: None, rows: 0, sheet, schema })
    }

    fn add(&mut self, vector: &[f32]) -> Result<(), WorkerError> {
        let width = *self.width.get_or_insert(vector.len());
        if vector.len() != width || !(1..=MOST_WIDTH).contains(&width) {
            return Err(WorkerError::Broken(format!(
                "vectors of {} have {width} and {} numbers: they are of different models; run the build, which makes them \
                 again",
                self.name,
                vector.len()
            )));
        }
        self.rows += 1;
        let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.file.write_all(&bytes).map_err(|e| WorkerError::of_io(&self.path, &e))
    }

    /// Writes down what rows are, in their order.
    fn describe<const N: usize>(&mut self, rows: &[[&str; N]]) -> Result<(), WorkerError> {
        if rows.is_empty() {
            return Ok(());
        }
        let column =
            |at: usize| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row[at]))) };
        let batch = RecordBatch::try_new(self.schema.clone(), (0..N).map(column).collect());
        self.sheet.write(&batch.map_err(|e| WorkerError::Broken(format!("rows for an export: {e}")))?)
    }

    fn finish(mut self) -> Result<[WrittenFile; 2], WorkerError> {
        let at = |e: io::Error| WorkerError::of_io(&self.path, &e);
        let header = header(self.rows, self.width.unwrap_or(0));
        self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(&header)).map_err(at)?;
        let file = self.file.into_inner().map_err(|e| at(e.into_error()))?;
        let bytes = synced(file, &self.path)?;
        let (name, rows) = (self.name, self.rows);
        let vectors = WrittenFile { path: format!("{name}.npy"), split: None, rows, bytes, sha256: None };
        Ok([vectors, WrittenFile { path: format!("{name}.parquet"), ..self.sheet.finish(&[])? }])
    }
}

/// A header of version 1.0: rows in C order, little-endian f32.
fn header(rows: u64, width: usize) -> Vec<u8> {
    let described = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    let room = HEADER_BYTES - 10;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((room as u16).to_le_bytes());
    header.extend(format!("{described:<width$}\n", width = room - 1).into_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_two_models_are_refused() {
        let mut model = None;
        assert!(of_one_model(&mut model, "a1", "images", "i").is_ok());
        assert!(of_one_model(&mut model, "a1", "captions", "j").is_ok());
        let refused = of_one_model(&mut model, "b2", "captions", "k").unwrap_err();
        assert!(refused.exit_code() == 65 && refused.to_string().contains("of k among captions"), "{refused}");
    }

    #[test]
    fn a_header_has_one_length() {
        for (rows, width) in [(0, 0), (1, 512), (u64::MAX, MOST_WIDTH)] {
            let header = header(rows, width);
            assert_eq!((header.len(), header.last()), (HEADER_BYTES, Some(&b'\n')));
        }
    }
}
