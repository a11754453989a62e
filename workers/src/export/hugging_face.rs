//! Parquet files as Hugging Face's `datasets` reads them: encoded images in a column of their own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int32Array, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use serde_json::{Map, Value, json};

use super::columns::{self, Kind};
use super::draft::Draft;
use super::rows::{About, ImageRow};
use super::sheet::Sheet;
use super::{ExportRequest, PixelWriter, WrittenFile};
use crate::error::WorkerError;

/// Folder of the Parquet files.
const DATA: &str = "data";
const SIZES: [&str; 2] = ["width", "height"];

/// The open file of each split, and those that are closed.
pub(super) struct Shards<'a> {
    folder: PathBuf,
    country: &'a str,
    file_bytes: u64,
    schema: SchemaRef,
    open: BTreeMap<String, Sheet>,
    closed: BTreeMap<String, Vec<WrittenFile>>,
}

fn image_fields() -> Fields {
    vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)].into()
}

fn schema() -> SchemaRef {
    let image = Field::new("image", DataType::Struct(image_fields()), true);
    let sizes = SIZES.map(|name| Field::new(name, DataType::Int32, true));
    columns::schema([vec![image], columns::fields(), sizes.to_vec()].concat())
}

/// What the columns are, in the library's own words: without it an image is a struct of bytes.
fn features() -> String {
    let value = |dtype: &str| json!({ "dtype": dtype, "_type": "Value" });
    let mut features = Map::new();
    features.insert("image".to_owned(), json!({ "_type": "Image" }));
    for (name, kind) in columns::all().chain(SIZES.map(|name| (name, Kind::Int32))) {
        let feature = match kind {
            Kind::Text => value("string"),
            Kind::Texts => json!({ "feature": value("string"), "_type": "Sequence" }),
            Kind::Int32 => value("int32"),
            Kind::Int64 => value("int64"),
            Kind::Float64 => value("float64"),
        };
        features.insert(name.to_owned(), feature);
    }
    json!({ "info": { "features": Value::Object(features) } }).to_string()
}

impl<'a> Shards<'a> {
    pub(super) fn new(draft: &Draft, request: &ExportRequest<'a>) -> Self {
        Self {
            folder: draft.folder().join(DATA),
            country: request.country,
            file_bytes: request.file_bytes,
            schema: schema(),
            open: BTreeMap::new(),
            closed: BTreeMap::new(),
        }
    }

    /// While it is not known how many there will be.
    fn working_path(&self, split: &str, number: usize) -> PathBuf {
        self.folder.join(format!("{split}-{number:05}.parquet"))
    }

    fn batch(&self, rows: Vec<ImageRow>) -> Result<RecordBatch, WorkerError> {
        let paths = rows.iter().map(|row| Some(format!("{}.{}", row.about.image_id, row.extension())));
        let paths: StringArray = paths.collect();
        let bytes = BinaryArray::from_iter_values(rows.iter().map(|row| &row.bytes));
        let image: Vec<ArrayRef> = vec![Arc::new(bytes), Arc::new(paths)];
        let about: Vec<&About> = rows.iter().map(|row| &row.about).collect();
        let sizes: [ArrayRef; 2] = [
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.width))),
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.height))),
        ];
        let made = StructArray::try_new(image_fields(), image, None).and_then(|image| {
            let columns = [vec![Arc::new(image) as ArrayRef], columns::of(&about, self.country), sizes.to_vec()];
            RecordBatch::try_new(self.schema.clone(), columns.concat())
        });
        made.map_err(|e| WorkerError::Broken(format!("rows for an export: {e}")))
    }

    fn close(&mut self, split: &str) -> Result<(), WorkerError> {
        let Some(sheet) = self.open.remove(split) else { return Ok(()) };
        let file = sheet.finish(&[("huggingface", features())])?;
        self.closed.entry(split.to_owned()).or_default().push(file);
        Ok(())
    }
}

impl PixelWriter for Shards<'_> {
    fn write(&mut self, rows: Vec<ImageRow>) -> Result<(), WorkerError> {
        let mut by_split: BTreeMap<String, Vec<ImageRow>> = BTreeMap::new();
        for row in rows {
            by_split.entry(super::split_elsewhere(&row.about.split).to_owned()).or_default().push(row);
        }
        for (split, rows) in by_split {
            let batch = self.batch(rows)?;
            let number = self.closed.get(&split).map_or(0, Vec::len);
            if !self.open.contains_key(&split) {
                let path = self.working_path(&split, number);
                self.open.insert(split.clone(), Sheet::create(&path, self.schema.clone(), Some("image.bytes"))?);
            }
            let Some(sheet) = self.open.get_mut(&split) else { continue };
            sheet.write(&batch)?;
            if sheet.bytes() >= self.file_bytes {
                self.close(&split)?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<WrittenFile>, WorkerError> {
        for split in self.open.keys().cloned().collect::<Vec<_>>() {
            self.close(&split)?;
        }
        let mut files = Vec::new();
        for (split, closed) in std::mem::take(&mut self.closed) {
            let of = closed.len();
            for (number, file) in closed.into_iter().enumerate() {
                let name = format!("{split}-{number:05}-of-{of:05}.parquet");
                let (from, to) = (self.working_path(&split, number), self.folder.join(&name));
                std::fs::rename(&from, &to).map_err(|e| WorkerError::of_io(&to, &e))?;
                files.push(WrittenFile { path: format!("{DATA}/{name}"), split: Some(split.clone()), ..file });
            }
        }
        Ok(files)
    }
}
