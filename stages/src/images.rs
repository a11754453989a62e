//! Stage `images`: checks the encoded image and keeps its bytes. Pixels are decoded again near the
//! device that needs them; here they are decoded once so that a broken image is known before
//! anything trains on it.

use std::sync::Arc;

use arrow::array::{Array, BinaryArray};
use manifests::{Artifact, digest};
use pixels::DecodeLimits;
use rayon::prelude::*;
use sources::source::gsd_meters;

use crate::stage::{Input, InputRows, MapOutput, ModelUse, Outcome, SourceBytes, Stage, StageError, Transform};
use crate::table::{self, Columns, TableError};

const NAME: &str = "images";

/// Size and digest of each image that can be decoded.
pub fn stage() -> Stage {
    Stage {
        name: NAME,
        version: 1,
        inputs: &[
            Input { artifact: Artifact::Listing, digests: &["image_digest"], columns: &[] },
            // only images whose geo-tags passed the country's filters are pulled
            Input {
                artifact: Artifact::Geotags,
                digests: &["box_digest"],
                columns: &["gsd_meters", "west", "south", "east", "north"],
            },
        ],
        output: Artifact::Images,
        source: Some(SourceBytes::Image),
        model: ModelUse::None,
        told: None,
        recipe_digest: None,
        parameters: |spec| {
            serde_json::json!({
                "max_image_pixels": spec.source.max_image_pixels,
                "max_gsd_meters": spec.source.max_gsd_meters,
            })
        },
        open: |context| {
            Ok(Box::new(CheckImages {
                limits: limits(context.spec),
                max_gsd_meters: context.spec.source.max_gsd_meters,
            }))
        },
    }
}

/// Decode limits of a build.
pub fn limits(spec: &manifests::BuildSpec) -> DecodeLimits {
    DecodeLimits { max_pixels: spec.source.max_image_pixels, ..DecodeLimits::default() }
}

struct CheckImages {
    limits: DecodeLimits,
    max_gsd_meters: f64,
}

struct Checked<'a> {
    bytes: &'a [u8],
    width: i32,
    height: i32,
    digest: String,
}

impl CheckImages {
    /// `box_wsen`: the box of an image whose source is not known to be fine enough.
    fn check<'a>(
        &self,
        source: &'a Option<Result<Vec<u8>, String>>,
        box_wsen: Option<[f64; 4]>,
    ) -> Result<Checked<'a>, Outcome> {
        let bytes = match source {
            Some(Ok(bytes)) => bytes,
            Some(Err(why)) => return Err(Outcome::Failed(why.clone())),
            None => return Err(Outcome::Failed("the listing names no image".into())),
        };
        let rgb = pixels::decode(bytes, &self.limits).map_err(|e| Outcome::Failed(e.to_string()))?;
        let measured = box_wsen.and_then(|b| gsd_meters(b, rgb.width, rgb.height));
        if let Some(gsd_meters) = measured.filter(|gsd| *gsd > self.max_gsd_meters) {
            let limit = self.max_gsd_meters;
            return Err(Outcome::Excluded(format!(
                "a pixel is {gsd_meters:.2} m of its box, more than max_gsd_meters = {limit}"
            )));
        }
        Ok(Checked { bytes, width: rgb.width as i32, height: rgb.height as i32, digest: digest::of_bytes(bytes) })
    }
}

impl Transform for CheckImages {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let unmeasured = boxes_without_gsd(rows).map_err(|source| StageError::Table { stage: NAME, source })?;
        let checked: Vec<_> =
            rows.source.par_iter().zip(unmeasured).map(|(source, box_wsen)| self.check(source, box_wsen)).collect();
        let outcomes = checked.iter().map(|c| c.as_ref().err().cloned().unwrap_or(Outcome::Good)).collect();
        let good = || checked.iter().map(|c| c.as_ref().ok());
        let columns = vec![
            Arc::new(BinaryArray::from_iter(good().map(|c| c.map(|c| c.bytes)))) as _,
            table::int32s(good().map(|c| c.map(|c| c.width))),
            table::int32s(good().map(|c| c.map(|c| c.height))),
            table::texts(good().map(|c| c.map(|c| c.digest.as_str()))),
        ];
        let content = table::content(Artifact::Images, columns)
            .map_err(|source: TableError| StageError::Table { stage: NAME, source })?;
        Ok(MapOutput { outcomes, content })
    }
}

/// Boxes of the rows whose source does not tell the ground sampling distance.
fn boxes_without_gsd(rows: &InputRows) -> Result<Vec<Option<[f64; 4]>>, TableError> {
    let geotags = Columns::new(Artifact::Geotags, &rows.tables[&Artifact::Geotags]);
    let known = geotags.float64("gsd_meters")?;
    let edges =
        [geotags.float64("west")?, geotags.float64("south")?, geotags.float64("east")?, geotags.float64("north")?];
    let box_of = |row: usize| edges.iter().all(|e| !e.is_null(row)).then(|| edges.map(|e| e.value(row)));
    Ok((0..rows.len()).map(|row| if known.is_null(row) { box_of(row) } else { None }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::RecordBatch;

    /// A row of `geotags` with this known resolution and a box of 0.002 x 0.001 degrees at 60 degrees north.
    fn rows(gsd_meters: Option<f64>, side_px: u32) -> InputRows {
        let png = {
            let pixels_u8 = vec![9; 3 * (side_px * side_px) as usize];
            pixels::encode_png(&pixels::Rgb::new(side_px, side_px, pixels_u8).unwrap())
        };
        let fields = Artifact::Geotags.fields();
        let columns = fields.iter().map(|field| match field.name {
            "gsd_meters" => (field.name, table::float64s([gsd_meters])),
            "west" => (field.name, table::float64s([Some(25.0)])),
            "south" => (field.name, table::float64s([Some(59.9995)])),
            "east" => (field.name, table::float64s([Some(25.002)])),
            "north" => (field.name, table::float64s([Some(60.0005)])),
            name => (name, table::texts([None::<String>])),
        });
        let geotags = RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).unwrap();
        InputRows {
            image_ids: vec!["a".into()],
            tables: [(Artifact::Geotags, geotags)].into(),
            source: vec![Some(Ok(png))],
        }
    }

    #[test]
    fn images_of_unknown_sources_are_measured_by_their_box() {
        let mut stage = CheckImages { limits: DecodeLimits::default(), max_gsd_meters: 0.5 };
        let mut outcome = |gsd, side| stage.transform(&rows(gsd, side)).unwrap().outcomes.remove(0);
        // 111 m over 300 and over 100 pixels
        assert_eq!(outcome(None, 300), Outcome::Good);
        assert!(matches!(outcome(None, 100), Outcome::Excluded(why) if why.contains("1.11 m")));
        assert_eq!(outcome(Some(0.2), 100), Outcome::Good, "the source's own word counts");
    }
}
