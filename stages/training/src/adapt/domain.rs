//! One country's share of a step.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::loss::{Features, PairKeys};

/// The pairs of one domain, source (the chosen ones) or target: everyone's, and which of them are this rank's.
#[derive(Clone, Debug)]
pub struct DomainBatch<'a> {
    /// Embeddings of this rank's rows and of all.
    pub features: Features<'a>,
    /// Keys of all gathered pairs.
    pub keys: PairKeys<'a>,
    /// This rank's rows among them.
    pub rows: Range<usize>,
}

impl DomainBatch<'_> {
    /// Refuses features that do not fit the keys and the rows.
    pub(super) fn check(&self, domain: &'static str) -> Result<()> {
        self.keys.check(&self.rows)?;
        let Features { image_bd, text_bd, image_nd, text_nd } = self.features;
        let (local, gathered) = (self.rows.len(), self.keys.valid_n.len());
        let dim = image_bd.dims().last().copied().unwrap_or(0);
        let tensors = [(image_bd, local), (text_bd, local), (image_nd, gathered), (text_nd, gathered)];
        if dim == 0 || tensors.iter().any(|(tensor, rows)| tensor.dims() != [*rows, dim]) {
            let problem = format!(
                "images {:?} of {:?}, captions {:?} of {:?}: {local} of {gathered} rows need [{local}, {dim}] of \
                 [{gathered}, {dim}]",
                image_bd.dims(),
                image_nd.dims(),
                text_bd.dims(),
                text_nd.dims()
            );
            return Err(Error::argument(domain, problem));
        }
        Ok(())
    }

    /// What each row of this rank counts, given the weights of all: weight / valid rows of all ranks, 0 where not valid.
    pub(super) fn shares(&self, weights_n: Option<&[f64]>) -> Result<Vec<f64>> {
        let gathered = self.keys.valid_n.len();
        if let Some(weights) = weights_n
            && (weights.len() != gathered || !weights.iter().all(|weight| weight.is_finite()))
        {
            let problem = format!("{} weights for {gathered} rows: needs a finite one for each", weights.len());
            return Err(Error::argument("row weights", problem));
        }
        let valid_count = self.keys.valid_count().max(1) as f64;
        let share = |row: usize| match (self.keys.valid_n[row], weights_n) {
            (false, _) => 0.0,
            (true, None) => 1.0 / valid_count,
            (true, Some(weights)) => weights[row] / valid_count,
        };
        Ok(self.rows.clone().map(share).collect())
    }
}

/// Precision of losses: half-precision features are compared in f32.
pub(super) fn loss_dtype(features: &Tensor) -> DType {
    if features.dtype() == DType::F64 { DType::F64 } else { DType::F32 }
}

/// Host numbers as a tensor beside `like`.
pub(super) fn beside(like: &Tensor, values: &[f64]) -> Result<Tensor> {
    // Cast before the transfer: not every accelerator holds f64.
    let values = Tensor::from_slice(values, values.len(), &Device::Cpu)?.to_dtype(like.dtype())?;
    Ok(values.to_device(like.device())?)
}
