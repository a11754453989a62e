//! Stage `image_embeddings`: one L2-normalised vector per image by the trained model.

use candle_core::{DType, Tensor};
use manifests::Artifact;
use models::dual_encoder::DualEncoder;
use models::ops::l2_normalise;
use models::upload::Upload;
use pixels::{DecodeLimits, Rgb};
use rayon::prelude::*;

use crate::device::{arithmetic, compute_error};
use crate::images::limits;
use crate::network::{Network, load_network};
use crate::stage::{Input, InputRows, MapOutput, ModelUse, Outcome, Stage, StageError, Transform};
use crate::table::{self, Columns};

const NAME: &str = "image_embeddings";

/// The trained model's embedding of each image, of length one.
pub fn stage() -> Stage {
    Stage {
        name: NAME,
        version: 1,
        inputs: &[Input { artifact: Artifact::Images, digests: &["bytes_digest"], columns: &["bytes"] }],
        output: Artifact::ImageEmbeddings,
        source: None,
        model: ModelUse::Retrieval,
        told: None,
        recipe_digest: Some("embedding_digest"),
        parameters: |spec| {
            serde_json::json!({
                "average_over_turns": spec.evaluate.average_over_turns,
                "precision": arithmetic(spec),
            })
        },
        open: |context| {
            Ok(Box::new(EmbedImages {
                limits: limits(context.spec),
                network: load_network(NAME, context)?,
                average_over_turns: context.spec.evaluate.average_over_turns,
            }))
        },
    }
}

/// Encodes square views of the model's input size; L2-normalised vectors.
pub(crate) fn encode_views<N: DualEncoder>(
    stage: &'static str,
    network: &N,
    views: &[&Rgb],
) -> Result<Vec<Vec<f32>>, StageError> {
    if views.is_empty() {
        return Ok(Vec::new());
    }
    let encode = || -> Result<Vec<Vec<f32>>, String> {
        let pixels_bhwc = views.iter().map(|view| view.data.as_slice()).collect::<Vec<_>>().concat();
        let mut upload = Upload::unlocked(network.device());
        let images = network.preprocessing().load(&pixels_bhwc, &mut upload).map_err(|e| e.to_string())?;
        let image_bd = network.encode_image(&images).map_err(|e| e.to_string())?;
        let image_bd = image_bd.to_dtype(DType::F32).and_then(|e| l2_normalise(&e)).map_err(|e| e.to_string())?;
        finite_rows(&image_bd)
    };
    encode().map_err(|why| compute_error(stage, network.device(), why))
}

/// Rows of a matrix on the host; an error names the first row that is not finite.
pub(crate) fn finite_rows(matrix_bd: &Tensor) -> Result<Vec<Vec<f32>>, String> {
    let rows: Vec<Vec<f32>> = matrix_bd.to_dtype(DType::F32).and_then(|m| m.to_vec2()).map_err(|e| e.to_string())?;
    match rows.iter().position(|row| row.iter().any(|x| !x.is_finite())) {
        Some(row) => Err(format!("row {row} of {} is not finite: the model's weights are broken", rows.len())),
        None => Ok(rows),
    }
}

struct EmbedImages {
    limits: DecodeLimits,
    network: Network,
    average_over_turns: bool,
}

impl EmbedImages {
    fn view(&self, bytes: &[u8]) -> Result<Vec<Rgb>, String> {
        let rgb = pixels::decode(bytes, &self.limits).map_err(|e| e.to_string())?;
        let view = pixels::clip_view(&rgb, self.network.preprocessing().side_px as u32);
        Ok(if self.average_over_turns { pixels::augment::orientations(&view) } else { vec![view] })
    }
}

impl Transform for EmbedImages {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let bytes =
            Columns::new(Artifact::Images, &rows.tables[&Artifact::Images]).binary("bytes").map_err(table_error)?;
        let views: Vec<Result<Vec<Rgb>, String>> =
            (0..rows.len()).into_par_iter().map(|row| self.view(bytes.value(row))).collect();
        let flat: Vec<&Rgb> = views.iter().flatten().flatten().collect();
        let mut encoded = Vec::with_capacity(flat.len());
        for batch in flat.chunks(64) {
            encoded.extend(encode_views(NAME, &self.network, batch)?);
        }
        let mut encoded = encoded.into_iter();
        let embeddings: Vec<Option<Vec<f32>>> = views
            .iter()
            .map(|v| v.as_ref().ok().map(|v| mean_direction(encoded.by_ref().take(v.len()).collect())))
            .collect();
        let columns = vec![
            table::float_lists(&embeddings).map_err(table_error)?,
            table::texts(embeddings.iter().map(|_| None::<String>)),
        ];
        Ok(MapOutput {
            outcomes: Outcome::of(&views),
            content: table::content(Artifact::ImageEmbeddings, columns).map_err(table_error)?,
        })
    }
}

/// Mean of unit vectors, brought back to unit length.
pub fn mean_direction(vectors: Vec<Vec<f32>>) -> Vec<f32> {
    if vectors.len() == 1 {
        return vectors.into_iter().next().unwrap_or_default();
    }
    let mut sum = vec![0f32; vectors.first().map_or(0, Vec::len)];
    for vector in &vectors {
        for (total, x) in sum.iter_mut().zip(vector) {
            *total += x;
        }
    }
    let norm = sum.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    sum.iter_mut().for_each(|x| *x /= norm);
    sum
}
