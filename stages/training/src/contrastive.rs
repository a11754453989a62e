//! Pre-training: contrast of images with captions, and of their segments with captions (UrbanCross, stage 2).

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::communicator::Communicator;
use crate::error::{Error, Result};
use crate::loss::{Contrast, Features, PairKeys, hinge, info_nce};
use crate::objective::Gathered;
use crate::objective::{Differentiated, Objective, StepInfo};

/// The contrastive loss. Pairs with an equal image or caption are never negatives of one another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Loss {
    /// Symmetric InfoNCE with a learnable temperature.
    InfoNce {
        /// Share of the target spread over all compared columns.
        label_smoothing: f64,
    },
    /// The released code's: margin over all negatives, summed.
    Hinge {
        /// The margin (0.2).
        margin: f64,
    },
}

/// Contrast of images and captions, plus that of segments (Eq. 4) and captions where there are any.
#[derive(Clone, Copy, Debug)]
pub struct Contrastive {
    loss: Loss,
}

impl Contrastive {
    /// # Errors
    /// Values that no run can mean.
    pub fn new(loss: Loss) -> Result<Self> {
        match loss {
            Loss::InfoNce { label_smoothing } if !(0.0..1.0).contains(&label_smoothing) => {
                Err(Error::argument("label_smoothing", format!("is {label_smoothing}, needs 0 <= share < 1")))
            }
            Loss::Hinge { margin } if !(margin.is_finite() && margin >= 0.0) => {
                Err(Error::argument("margin", format!("is {margin}, needs a number not below 0")))
            }
            _ => Ok(Self { loss }),
        }
    }

    /// This rank's part of the loss between `visual_nd` (images or segments `[N, D]`) and the captions.
    fn part(&self, gathered: &Gathered, visual_nd: &Tensor, valid_n: &[bool]) -> Result<Tensor> {
        let keys = PairKeys { image_n: &gathered.image_keys_n, caption_n: &gathered.caption_keys_n, valid_n };
        let (rows, text_nd) = (gathered.rows.clone(), gathered.text_nd.as_tensor());
        let own = |all: &Tensor| all.narrow(0, rows.start, rows.len());
        let (image_bd, text_bd) = (own(visual_nd)?, own(text_nd)?);
        let features = Features { image_bd: &image_bd, text_bd: &text_bd, image_nd: visual_nd, text_nd };
        let contrast = |label_smoothing| {
            Contrast::new(&keys, rows.clone(), label_smoothing, visual_nd.dtype(), visual_nd.device())
        };
        match self.loss {
            Loss::InfoNce { label_smoothing } => {
                info_nce(&features, &gathered.logit_scale, &contrast(label_smoothing)?)
            }
            Loss::Hinge { margin } => hinge(&features, margin, &contrast(0.0)?),
        }
    }

    /// The parts of this rank's loss, by name.
    pub(crate) fn parts(&self, gathered: &Gathered) -> Result<Vec<(&'static str, Tensor)>> {
        let image_text = self.part(gathered, gathered.image_nd.as_tensor(), &gathered.valid_n)?;
        let mut parts = vec![("image_text", image_text)];
        if let Some(segments) = &gathered.segments {
            let both = segments.present_n.iter().zip(&gathered.valid_n);
            let valid_n: Vec<bool> = both.map(|(&present, &valid)| present && valid).collect();
            if valid_n.contains(&true) {
                parts.push(("segment_text", self.part(gathered, segments.segment_nd.as_tensor(), &valid_n)?));
            }
        }
        Ok(parts)
    }
}

impl Objective for Contrastive {
    fn identity(&self) -> Value {
        json!({ "loss": self.loss })
    }

    fn differentiate(&mut self, gathered: &Gathered, _: StepInfo, _: &mut dyn Communicator) -> Result<Differentiated> {
        Differentiated::sum_of(&self.parts(gathered)?)
    }
}
