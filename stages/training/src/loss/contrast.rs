//! Contrast of paired embeddings: which pairs are compared, InfoNCE and hinge.

use std::ops::Range;

use candle_core::{D, DType, Device, Tensor};

use crate::error::{Error, Result};

/// Stands for -inf in masked logits: its exponential is 0, and 0 times it is not NaN.
const MASKED_LOGIT: f64 = -1e9;

/// Keys of all gathered pairs `[N]`.
#[derive(Clone, Copy, Debug)]
pub struct PairKeys<'a> {
    /// Equal for byte-equal images.
    pub image_n: &'a [u64],
    /// Equal for equal normalised captions.
    pub caption_n: &'a [u64],
    /// Whether the pair takes part.
    pub valid_n: &'a [bool],
}

impl PairKeys<'_> {
    /// Refuses keys of different lengths and rows outside them.
    pub(crate) fn check(&self, rows: &Range<usize>) -> Result<()> {
        let columns = self.valid_n.len();
        let (images, captions) = (self.image_n.len(), self.caption_n.len());
        if images == columns && captions == columns && rows.end <= columns && !rows.is_empty() {
            return Ok(());
        }
        let problem = format!(
            "{images} images, {captions} captions, {columns} flags, rows {rows:?}: lengths must agree and hold the rows"
        );
        Err(Error::argument("pair keys", problem))
    }

    /// Whether a column is a negative of a row: both take part, and neither image nor caption are equal.
    pub(crate) fn is_negative(&self, row: usize, column: usize) -> bool {
        self.valid_n[row]
            && self.valid_n[column]
            && self.image_n[row] != self.image_n[column]
            && self.caption_n[row] != self.caption_n[column]
    }

    /// Pairs of all ranks that take part.
    pub(crate) fn valid_count(&self) -> usize {
        self.valid_n.iter().filter(|&&valid| valid).count()
    }
}

/// Which gathered columns this rank's rows are compared with. One for both directions: the relation is symmetric.
#[derive(Clone, Debug)]
pub struct Contrast {
    /// 1 where the pair is compared, its own included; 0 for duplicates and for what is not valid `[B, N]`.
    compared_bn: Tensor,
    /// 1 at the own column of valid rows `[B, N]`.
    own_bn: Tensor,
    /// Where the loss wants the probability mass; rows sum to 1, or to 0 where not valid `[B, N]`.
    target_bn: Tensor,
    /// 1 for valid rows `[B]`.
    valid_b: Tensor,
    /// Valid rows of all ranks.
    valid_count: usize,
}

/// Embeddings of one side and the other: this rank's rows and everyone's.
#[derive(Clone, Copy, Debug)]
pub struct Features<'a> {
    /// Image (or segment) embeddings of this rank, L2-normalised `[B, D]`.
    pub image_bd: &'a Tensor,
    /// Caption embeddings of this rank, L2-normalised `[B, D]`.
    pub text_bd: &'a Tensor,
    /// Image (or segment) embeddings of all ranks, in rank order `[N, D]`.
    pub image_nd: &'a Tensor,
    /// Caption embeddings of all ranks, in rank order `[N, D]`.
    pub text_nd: &'a Tensor,
}

impl Contrast {
    /// `rows` are this rank's columns. A column whose image or caption equals the row's is no negative: it is masked.
    /// `label_smoothing` spreads that share of the target over all compared columns.
    ///
    /// # Errors
    /// Keys of different lengths, rows outside them, a share outside [0, 1).
    pub fn new(
        keys: &PairKeys,
        rows: Range<usize>,
        label_smoothing: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        keys.check(&rows)?;
        let columns = keys.valid_n.len();
        if !(0.0..1.0).contains(&label_smoothing) {
            return Err(Error::argument("label_smoothing", format!("is {label_smoothing}, needs 0 <= share < 1")));
        }
        let (first_row, local) = (rows.start, rows.len());
        let mut compared = vec![0f64; local * columns];
        let mut own = compared.clone();
        let mut target = compared.clone();
        for row in rows.filter(|&row| keys.valid_n[row]) {
            let cells = (row - first_row) * columns..(row - first_row + 1) * columns;
            for (c, cell) in compared[cells.clone()].iter_mut().enumerate() {
                *cell = f64::from(c == row || keys.is_negative(row, c));
            }
            own[cells.start + row] = 1.0;
            let count: f64 = compared[cells.clone()].iter().sum();
            for (target, &compared) in target[cells.clone()].iter_mut().zip(&compared[cells.clone()]) {
                *target = compared * label_smoothing / count;
            }
            target[cells.start + row] += 1.0 - label_smoothing;
        }
        // Cast before the transfer: not every accelerator holds f64.
        let matrix = |values: Vec<f64>| {
            Tensor::from_vec(values, (local, columns), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
        };
        let own_bn = matrix(own)?;
        Ok(Self {
            compared_bn: matrix(compared)?,
            valid_b: own_bn.sum(D::Minus1)?,
            own_bn,
            target_bn: matrix(target)?,
            valid_count: keys.valid_count(),
        })
    }

    /// Valid rows of all ranks; with none, every loss is 0.
    pub fn valid_count(&self) -> usize {
        self.valid_count
    }

    /// Sum over this rank's valid rows of the cross-entropy of their logits.
    fn cross_entropy(&self, logits_bn: &Tensor) -> Result<Tensor> {
        let masked = self.compared_bn.affine(-MASKED_LOGIT, MASKED_LOGIT)?;
        let logits_bn = ((logits_bn * &self.compared_bn)? + masked)?;
        // log-sum-exp; the maximum only shifts, so no gradient needs to pass through it.
        let highest_b1 = logits_bn.max_keepdim(D::Minus1)?.detach();
        let sum_b = logits_bn.broadcast_sub(&highest_b1)?.exp()?.sum(D::Minus1)?;
        let log_sum_b = (sum_b.log()? + highest_b1.squeeze(D::Minus1)?)?;
        let wanted_b = (logits_bn * &self.target_bn)?.sum(D::Minus1)?;
        Ok(((log_sum_b * &self.valid_b)? - wanted_b)?.sum_all()?)
    }

    /// Sum over this rank's valid rows and their negatives of max(0, margin + s − s_own).
    fn margins(&self, scores_bn: &Tensor, margin: f64) -> Result<Tensor> {
        let own_b1 = (scores_bn * &self.own_bn)?.sum_keepdim(D::Minus1)?;
        let cost_bn = scores_bn.broadcast_sub(&own_b1)?.affine(1.0, margin)?.relu()?;
        let negatives_bn = (&self.compared_bn - &self.own_bn)?;
        Ok((cost_bn * negatives_bn)?.sum_all()?)
    }
}

impl Features<'_> {
    /// Cosines of this rank's images with all captions, and of its captions with all images, in the mask's precision.
    fn scores(&self, contrast: &Contrast) -> Result<(Tensor, Tensor)> {
        let product = |rows: &Tensor, columns: &Tensor| {
            let expected = contrast.compared_bn.dims();
            let (rows_by, columns_by) = (rows.dims(), columns.dims());
            if rows_by.len() != 2
                || columns_by.len() != 2
                || rows_by[1] != columns_by[1]
                || [rows_by[0], columns_by[0]] != expected
            {
                let problem = format!("{rows_by:?} and {columns_by:?} for a contrast of {expected:?} rows and columns");
                return Err(Error::argument("features", problem));
            }
            Ok(rows.matmul(&columns.t()?)?.to_dtype(contrast.compared_bn.dtype())?)
        };
        Ok((product(self.image_bd, self.text_nd)?, product(self.text_bd, self.image_nd)?))
    }
}

/// Symmetric InfoNCE (CLIP, figure 3) of this rank's rows, divided by the valid rows of all ranks.
///
/// `logit_scale` is the learnable logarithm of the scale, a scalar; keep it at or below [`MAX_LOGIT_SCALE`](models::dual_encoder::MAX_LOGIT_SCALE).
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use training::loss::{Contrast, Features, PairKeys, info_nce};
/// let keys = PairKeys { image_n: &[1, 2], caption_n: &[3, 4], valid_n: &[true, true] };
/// let contrast = Contrast::new(&keys, 0..2, 0.0, DType::F64, &Device::Cpu)?;
/// let image_bd = Tensor::new(&[[1.0, 0.0], [0.0, 1.0]], &Device::Cpu)?;
/// let features = Features { image_bd: &image_bd, text_bd: &image_bd, image_nd: &image_bd, text_nd: &image_bd };
/// let loss = info_nce(&features, &Tensor::new(0.0, &Device::Cpu)?, &contrast)?.to_scalar::<f64>()?;
/// assert!((loss - (1.0 + f64::exp(-1.0)).ln()).abs() < 1e-12, "-ln(e / (e + 1)) of each pair");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Shapes that do not fit together.
pub fn info_nce(features: &Features, logit_scale: &Tensor, contrast: &Contrast) -> Result<Tensor> {
    let (image_scores_bn, text_scores_bn) = features.scores(contrast)?;
    let scale = logit_scale.to_dtype(image_scores_bn.dtype())?.exp()?.reshape(())?;
    let by_image = contrast.cross_entropy(&image_scores_bn.broadcast_mul(&scale)?)?;
    let by_text = contrast.cross_entropy(&text_scores_bn.broadcast_mul(&scale)?)?;
    Ok(((by_image + by_text)? / (2.0 * contrast.valid_count.max(1) as f64))?)
}

/// Hinge loss of the released UrbanCross code: the sum over all negatives in both directions, undivided.
///
/// # Errors
/// Shapes that do not fit together.
pub fn hinge(features: &Features, margin: f64, contrast: &Contrast) -> Result<Tensor> {
    let (image_scores_bn, text_scores_bn) = features.scores(contrast)?;
    Ok((contrast.margins(&image_scores_bn, margin)? + contrast.margins(&text_scores_bn, margin)?)?)
}
