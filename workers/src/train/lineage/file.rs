//! The rows of a run as a Parquet file.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use bytes::Bytes;
use manifests::digest;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use stages::table::option_text;

use super::{DigestBits, RowSplit, RunRow, RunRows, Sight};
use crate::error::WorkerError;

impl RunRows {
    /// As Parquet: first what the run reads, then what its ancestors learnt from, which has neither digest nor split.
    pub(crate) fn to_bytes(&self) -> Result<Bytes, WorkerError> {
        let of_ancestor = |sight: &Sight| RunRow { sight: sight.clone(), ..RunRow::default() };
        let ancestors = self.ancestors.iter().flat_map(|(id, sights)| sights.iter().map(move |sight| (&**id, sight)));
        let ancestors: Vec<(&str, RunRow)> = ancestors.map(|(id, sight)| (id, of_ancestor(sight))).collect();
        let rows: Vec<(&str, &RunRow, bool)> = (self.rows.iter().map(|(id, row)| (&**id, row, row.is_learnt())))
            .chain(ancestors.iter().map(|(id, row)| (*id, row, true)))
            .collect();
        let texts = |of: fn(&RunRow) -> Option<&str>| {
            Arc::new(rows.iter().map(|(_, row, _)| of(row)).collect::<StringArray>()) as ArrayRef
        };
        let digests = |of: fn(&RunRow) -> Option<DigestBits>| {
            let digests = rows.iter().map(|(_, row, _)| of(row).map(digest::of_bits));
            Arc::new(digests.collect::<StringArray>()) as ArrayRef
        };
        let edge = |edge: usize| {
            let edges = rows.iter().map(|(_, row, _)| row.sight.box_wsen.map(|wsen| wsen[edge]));
            Arc::new(edges.collect::<Float64Array>()) as ArrayRef
        };
        let columns: [(&str, DataType, ArrayRef); 11] = [
            ("image_id", DataType::Utf8, Arc::new(rows.iter().map(|(id, ..)| Some(id)).collect::<StringArray>())),
            ("digest", DataType::Utf8, digests(|row| row.digest)),
            ("split", DataType::Utf8, texts(|row| row.split.map(RowSplit::name))),
            ("trained", DataType::Boolean, Arc::new(rows.iter().map(|row| Some(row.2)).collect::<BooleanArray>())),
            ("source", DataType::Utf8, texts(|row| row.sight.source.as_deref())),
            ("bytes_digest", DataType::Utf8, digests(|row| row.sight.bytes)),
            ("osm_object", DataType::Utf8, texts(|row| row.sight.object.as_deref())),
            ("west", DataType::Float64, edge(0)),
            ("south", DataType::Float64, edge(1)),
            ("east", DataType::Float64, edge(2)),
            ("north", DataType::Float64, edge(3)),
        ];
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) =
            columns.into_iter().map(|(name, kind, column)| (Field::new(name, kind, true), column)).unzip();
        let write = || -> Result<Vec<u8>, parquet::errors::ParquetError> {
            let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
            let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None)?;
            writer.write(&batch)?;
            writer.into_inner()
        };
        write().map(Bytes::from).map_err(|e| WorkerError::Broken(format!("the rows of a training: {e}")))
    }

    /// Older versions recorded no digests of pictures. What the images of the same names show in `like` stands for them:
    /// a picture seldom changes and keeps its name.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn from_bytes(bytes: Bytes, like: &RunRows) -> Result<Self, String> {
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|b| b.build()).map_err(|e| e.to_string())?;
        let mut all = RunRows::default();
        for batch in reader {
            let batch = batch.map_err(|e| e.to_string())?;
            read_batch(&batch, like, &mut all).ok_or("a column is missing or of another type")?;
        }
        Ok(all)
    }
}

pub(super) fn read_batch(batch: &RecordBatch, like: &RunRows, all: &mut RunRows) -> Option<()> {
    let text = |name| batch.column_by_name(name)?.as_string_opt::<i32>().cloned();
    let (ids, digests, splits, objects) = (text("image_id")?, text("digest")?, text("split")?, text("osm_object")?);
    // runs of older versions have neither
    let (sources, pictures) = (text("source"), text("bytes_digest"));
    let learnt = batch.column_by_name("trained")?.as_boolean_opt()?.clone();
    let edge = |name| batch.column_by_name(name)?.as_primitive_opt::<Float64Type>().cloned();
    let edges = [edge("west")?, edge("south")?, edge("east")?, edge("north")?];
    let mut source: Option<Arc<str>> = None;
    for row in 0..batch.num_rows() {
        let of_digest = |column: &StringArray| option_text(column, row).map(digest::bits);
        let image_id = option_text(&ids, row)?.to_owned();
        // mostly that of the row before
        let named = sources.as_ref().and_then(|column| option_text(column, row));
        if source.as_deref() != named {
            source = named.map(Arc::from);
        }
        let mut sight = Sight {
            source: source.clone(),
            bytes: pictures.as_ref().and_then(of_digest),
            object: option_text(&objects, row).map(Box::from),
            box_wsen: edges.iter().all(|e| !e.is_null(row)).then(|| [0, 1, 2, 3].map(|i| edges[i].value(row))),
        };
        if sight.bytes.is_none()
            && let Some(now) = like.rows.get(&*image_id).filter(|now| now.sight.shares_names_with(&sight))
        {
            sight.bytes = now.sight.bytes;
        }
        let (digest, split) = (of_digest(&digests), option_text(&splits, row).and_then(RowSplit::named));
        let is_own = digest.is_some() || split.is_some();
        let own = RunRow { digest, split, sight };
        // older versions had one row for what the run reads and what an ancestor learnt from
        if learnt.is_valid(row) && learnt.value(row) && !own.is_learnt() {
            all.ancestors.entry(image_id.clone()).or_default().push(own.sight.clone());
        }
        if is_own {
            all.rows.insert(image_id.into(), own);
        }
    }
    Some(())
}
