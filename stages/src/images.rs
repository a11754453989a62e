//! Stage `images`: checks the encoded image and keeps its bytes. Pixels are decoded again near the
//! device that needs them; here they are decoded once so that a broken image is known before
//! anything trains on it.

use std::sync::Arc;

use arrow::array::BinaryArray;
use manifests::{Artifact, digest};
use pixels::DecodeLimits;
use rayon::prelude::*;

use crate::stage::{Input, InputRows, Map, MapOutput, ModelUse, Outcome, SourceBytes, Stage, StageError};
use crate::table::{self, TableError};

const NAME: &str = "images";

pub fn stage() -> Stage {
    Stage {
        name: NAME,
        version: 1,
        inputs: &[
            Input { artifact: Artifact::Listing, digests: &["image_digest"], columns: &[] },
            // only images whose geo-tags passed the country's filters are pulled
            Input { artifact: Artifact::Geotags, digests: &[], columns: &[] },
        ],
        output: Artifact::Images,
        source: Some(SourceBytes::Image),
        model: ModelUse::None,
        recipe_digest: None,
        parameters: |spec| serde_json::json!({ "max_image_pixels": spec.source.max_image_pixels }),
        open: |opening| Ok(Box::new(CheckImages { limits: limits(opening.spec) })),
    }
}

/// Decode limits of a build.
pub fn limits(spec: &manifests::BuildSpec) -> DecodeLimits {
    DecodeLimits { max_pixels: spec.source.max_image_pixels, ..DecodeLimits::default() }
}

struct CheckImages {
    limits: DecodeLimits,
}

struct Checked<'a> {
    bytes: &'a [u8],
    width: i32,
    height: i32,
    digest: String,
}

impl CheckImages {
    fn check<'a>(&self, source: &'a Option<Result<Vec<u8>, String>>) -> Result<Checked<'a>, String> {
        let bytes = match source {
            Some(Ok(bytes)) => bytes,
            Some(Err(why)) => return Err(why.clone()),
            None => return Err("the listing names no image".into()),
        };
        let rgb = pixels::decode(bytes, &self.limits).map_err(|e| e.to_string())?;
        Ok(Checked { bytes, width: rgb.width as i32, height: rgb.height as i32, digest: digest::of_bytes(bytes) })
    }
}

impl Map for CheckImages {
    fn map(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let checked: Vec<_> = rows.source.par_iter().map(|source| self.check(source)).collect();
        let good = || checked.iter().map(|c| c.as_ref().ok());
        let columns = vec![
            Arc::new(BinaryArray::from_iter(good().map(|c| c.map(|c| c.bytes)))) as _,
            table::int32s(good().map(|c| c.map(|c| c.width))),
            table::int32s(good().map(|c| c.map(|c| c.height))),
            table::texts(good().map(|c| c.map(|c| c.digest.as_str()))),
        ];
        let content = table::content(Artifact::Images, columns)
            .map_err(|source: TableError| StageError::Table { stage: NAME, source })?;
        Ok(MapOutput { outcomes: Outcome::of(&checked), content })
    }
}
