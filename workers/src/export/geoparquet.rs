//! The ground of each image as GeoParquet 1.1: polygons in WKB, with a box of their own for readers that skip rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, Float64Array, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use futures::TryStreamExt;
use serde_json::json;

use super::columns;
use super::draft::Draft;
use super::rows::{About, Rows};
use super::sheet::Sheet;
use super::{ExportRequest, Written, WrittenFile, stopped};
use crate::error::WorkerError;

const FILE: &str = "images.parquet";
const EDGES: [&str; 4] = ["xmin", "ymin", "xmax", "ymax"];
/// Little-endian, polygon, one ring, five points.
const WKB_BYTES: usize = 1 + 4 + 4 + 4 + 5 * 16;

pub(super) async fn write(request: &ExportRequest<'_>, draft: &Draft) -> Result<Written, WorkerError> {
    let rows = Rows::of(request)?;
    let schema = schema();
    let mut written = Written::default();
    let mut sheet = Sheet::create(&draft.folder().join(FILE), schema.clone(), None)?;
    let mut extent: Option<[f64; 4]> = None;
    let mut shards = rows.ahead(|rows, shard| async move { rows.identities(shard).await });
    while let Some(mut images) = shards.try_next().await? {
        if images.is_empty() {
            continue;
        }
        images.sort_by(|a, b| a.image_id.cmp(&b.image_id));
        stopped(request.stop)?;
        let all: Vec<&About> = images.iter().collect();
        for about in &all {
            written.count(about);
            extent = about.ground.map_or(extent, |ground| Some(extent.map_or(ground, |e| joined(e, ground))));
        }
        let batch = batch(&schema, &all, request.country)?;
        tokio::task::block_in_place(|| sheet.write(&batch))?;
    }
    let file = sheet.finish(&[("geo", metadata(extent))])?;
    written.files = vec![WrittenFile { path: FILE.to_owned(), ..file }];
    Ok(written)
}

fn joined(a: [f64; 4], b: [f64; 4]) -> [f64; 4] {
    [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])]
}

fn box_fields() -> Fields {
    EDGES.iter().map(|name| Field::new(*name, DataType::Float64, false)).collect()
}

fn schema() -> SchemaRef {
    let ground =
        [Field::new("geometry", DataType::Binary, true), Field::new("bbox", DataType::Struct(box_fields()), true)];
    columns::schema([columns::fields(), ground.to_vec()].concat())
}

fn batch(schema: &SchemaRef, rows: &[&About], country: &str) -> Result<RecordBatch, WorkerError> {
    let polygons: BinaryArray = rows.iter().map(|row| row.ground.map(wkb)).collect();
    let nulls = polygons.nulls().cloned();
    let edges = (0..4).map(|edge| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.ground.map_or(0.0, |ground| ground[edge]))))
    });
    let made = StructArray::try_new(box_fields(), edges.collect(), nulls).and_then(|boxes| {
        let ground: Vec<ArrayRef> = vec![Arc::new(polygons), Arc::new(boxes)];
        RecordBatch::try_new(schema.clone(), [columns::of(rows, country), ground].concat())
    });
    made.map_err(|e| WorkerError::Broken(format!("rows for an export: {e}")))
}

/// A box as a polygon, counterclockwise from its south-western corner.
fn wkb([west, south, east, north]: [f64; 4]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(WKB_BYTES);
    bytes.push(1);
    for number in [3u32, 1, 5] {
        bytes.extend(number.to_le_bytes());
    }
    for (x, y) in [(west, south), (east, south), (east, north), (west, north), (west, south)] {
        bytes.extend(x.to_le_bytes());
        bytes.extend(y.to_le_bytes());
    }
    bytes
}

/// The entry that makes a Parquet file a GeoParquet file. Longitude and latitude in degrees (OGC:CRS84) is what a file
/// without `crs` has.
fn metadata(extent: Option<[f64; 4]>) -> String {
    let covering: serde_json::Map<_, _> =
        EDGES.iter().map(|edge| ((*edge).to_owned(), json!(["bbox", edge]))).collect();
    let mut geometry = json!({
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": { "bbox": covering },
    });
    if let Some(extent) = extent {
        geometry["bbox"] = json!(extent);
    }
    json!({ "version": "1.1.0", "primary_column": "geometry", "columns": { "geometry": geometry } }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_a_closed_ring() {
        let bytes = wkb([24.0, 60.0, 25.0, 61.0]);
        assert_eq!(bytes.len(), WKB_BYTES);
        assert_eq!(bytes[..13], [1, 3, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(bytes[13..29], bytes[13 + 4 * 16..]);
        assert_eq!(bytes[29..37], 25f64.to_le_bytes());
    }

    #[test]
    fn a_row_without_ground_has_no_geometry() {
        let with = About { ground: Some([1.0, 2.0, 3.0, 4.0]), ..About::default() };
        let batch = batch(&schema(), &[&with, &About::default()], "finland").unwrap();
        let nulls = |name: &str| batch.column_by_name(name).unwrap().null_count();
        assert_eq!((nulls("geometry"), nulls("bbox"), nulls("west")), (1, 1, 1));
        assert_eq!(joined([0.0, 0.0, 1.0, 1.0], [-1.0, 0.5, 0.5, 2.0]), [-1.0, 0.0, 1.0, 2.0]);
    }
}
