//! The game of discriminator and encoders (Eq. 12).
//!
//! The discriminator D minimises plain binary cross-entropy, source 1 and target 0: it maximises the paper's
//! log D(source) + log(1 - D(target)). The encoders get the gradient of the *weighted* cross-entropy, reversed. Both are
//! means over the valid rows of each domain, added: two even domains that nobody can tell apart cost 2 ln 2.

use candle_core::{D, Tensor};

use super::discriminator::Weights;
use super::domain::beside;
use super::{AdversaryWeights, Discriminator, DomainBatch};
use crate::error::{Error, Result};

/// Both domains of a step as the adversary sees them.
#[derive(Clone, Copy, Debug)]
pub struct DomainPair<'a> {
    /// The chosen sources.
    pub source: &'a DomainBatch<'a>,
    /// The targets.
    pub target: &'a DomainBatch<'a>,
    /// W_vec of Eq. 10, one weight per gathered source.
    pub weights_n: &'a [f64],
    /// Which terms they count in.
    pub weighted: AdversaryWeights,
}

/// Domain that a term of the cross-entropy is labelled with.
#[derive(Clone, Copy)]
enum Label {
    Source,
    Target,
}

/// Plain cross-entropy of the discriminator on detached features: this rank's share of what D minimises in an
/// alternating step. Gradients reach the discriminator only.
///
/// # Errors
/// Shapes that do not fit together.
pub fn discriminator_loss(discriminator: &Discriminator, pair: &DomainPair) -> Result<Tensor> {
    let logits = |batch: &DomainBatch| {
        let joint_bi = discriminator.joint(batch.features.image_bd, batch.features.text_bd)?.detach();
        discriminator.joint_logits(&joint_bi, Weights::Learning)
    };
    pair.check()?;
    pair.plain(&logits(pair.source)?, &logits(pair.target)?)
}

/// Minus `factor` times the weighted cross-entropy with the discriminator's weights fixed: this rank's share of what the
/// encoders minimise in an alternating step. Gradients reach the features only.
///
/// # Errors
/// Shapes or weights that do not fit together.
pub fn encoder_loss(discriminator: &Discriminator, pair: &DomainPair, factor: f64) -> Result<Tensor> {
    Ok((pair.weighted(discriminator)? * -factor)?)
}

/// Both in one: its value is [`discriminator_loss`], its gradient in the discriminator too; its gradient in the features
/// is that of [`encoder_loss`].
///
/// A row's term depends on its own features alone, so reversing each row's gradient by factor x weight is the reversed
/// gradient of the weighted loss, and the discriminator still learns unweighted.
///
/// # Errors
/// Shapes or weights that do not fit together.
pub fn reversed_loss(discriminator: &Discriminator, pair: &DomainPair, factor: f64) -> Result<Tensor> {
    pair.check()?;
    let [source_weights, target_weights] = pair.row_weights()?;
    let logits = |batch: &DomainBatch, weights_n: Option<&[f64]>| {
        let joint_bi = discriminator.joint(batch.features.image_bd, batch.features.text_bd)?;
        let weight = |row: usize| weights_n.map_or(1.0, |weights| weights[row]);
        let factor_b: Vec<f64> = batch.rows.clone().map(|row| factor * weight(row)).collect();
        let reversed_bi = reverse_gradient(&joint_bi, &factor_b)?;
        discriminator.joint_logits(&reversed_bi, Weights::Learning)
    };
    pair.plain(&logits(pair.source, source_weights)?, &logits(pair.target, target_weights)?)
}

/// `x_bd` as it is, whose gradient comes back reversed: row b times -`factor_b` (DANN's gradient reversal layer).
///
/// # Errors
/// Another number of factors than rows.
pub fn reverse_gradient(x_bd: &Tensor, factor_b: &[f64]) -> Result<Tensor> {
    let rows = x_bd.dim(0)?;
    if factor_b.len() != rows {
        let problem = format!("{} factors for features {:?}: needs one per row", factor_b.len(), x_bd.dims());
        return Err(Error::argument("gradient reversal", problem));
    }
    let fixed_bd = x_bd.detach();
    let factor_b1 = beside(x_bd, factor_b)?.unsqueeze(D::Minus1)?;
    // The second term is 0 and has the slope; so the value is x to the last bit.
    Ok((&fixed_bd + (&fixed_bd - x_bd)?.broadcast_mul(&factor_b1)?)?)
}

impl<'a> DomainPair<'a> {
    /// Weighted cross-entropy, the value of Eq. 12, with the discriminator's weights fixed.
    pub(super) fn weighted(&self, discriminator: &Discriminator) -> Result<Tensor> {
        self.check()?;
        let [source_weights, target_weights] = self.row_weights()?;
        let term = |batch: &DomainBatch, label, weights_n| {
            let joint_bi = discriminator.joint(batch.features.image_bd, batch.features.text_bd)?;
            let logits_b = discriminator.joint_logits(&joint_bi, Weights::Frozen)?;
            cross_entropy(&logits_b, label, &batch.shares(weights_n)?)
        };
        let source = term(self.source, Label::Source, source_weights)?;
        Ok((source + term(self.target, Label::Target, target_weights)?)?)
    }

    /// Unweighted cross-entropy of logits.
    fn plain(&self, source_logits_b: &Tensor, target_logits_b: &Tensor) -> Result<Tensor> {
        let source = cross_entropy(source_logits_b, Label::Source, &self.source.shares(None)?)?;
        Ok((source + cross_entropy(target_logits_b, Label::Target, &self.target.shares(None)?)?)?)
    }

    fn check(&self) -> Result<()> {
        self.source.check("source features")?;
        self.target.check("target features")
    }

    /// Weights of source rows and of target rows; none = 1.
    fn row_weights(&self) -> Result<[Option<&'a [f64]>; 2]> {
        let weights = Some(self.weights_n);
        let (sources, targets) = (self.source.keys.valid_n.len(), self.target.keys.valid_n.len());
        let found = self.weights_n.len();
        let fits = match self.weighted {
            AdversaryWeights::None => return Ok([None, None]),
            AdversaryWeights::Source => found == sources,
            AdversaryWeights::Both => found == sources && found == targets,
        };
        if !fits {
            let problem = format!(
                "{found} weights for {sources} sources and {targets} targets: needs one per source, and as many targets \
                 where `adversary_weights` is \"both\""
            );
            return Err(Error::argument("adversary weights", problem));
        }
        Ok([weights, weights.filter(|_| self.weighted == AdversaryWeights::Both)])
    }
}

/// Sum over rows of share x cross-entropy of the label.
fn cross_entropy(logits_b: &Tensor, label: Label, share_b: &[f64]) -> Result<Tensor> {
    let cost_b = match label {
        Label::Source => softplus(&logits_b.neg()?)?,
        Label::Target => softplus(logits_b)?,
    };
    Ok((&cost_b * beside(&cost_b, share_b)?)?.sum_all()?)
}

/// ln(1 + exp x): the cross-entropy of a logit without overflow. The maximum of 0 and x only shifts, so no gradient needs
/// to pass through it.
fn softplus(x: &Tensor) -> Result<Tensor> {
    let highest = x.detach().relu()?;
    Ok((((x - &highest)?.exp()? + highest.neg()?.exp()?)?.log()? + highest)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    #[test]
    fn extreme_logits_have_finite_costs_and_exact_slopes() {
        let logits = [-1e4, -50.0, -1.0, 0.0, 1.0, 50.0, 1e4];
        for dtype in [DType::F32, DType::F64] {
            let tolerance = if dtype == DType::F32 { 1e-6 } else { 1e-15 };
            let x = Var::from_tensor(&Tensor::new(&logits, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()).unwrap();
            for label in [Label::Source, Label::Target] {
                let cost = cross_entropy(&x, label, &[1.0; 7]).unwrap();
                let value = cost.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
                // The row is symmetric: 1e4 + 50 + two small logits.
                let expected = 10_050.0 + (1.0 + 1f64.exp()).ln() + (1.0 + (-1f64).exp()).ln() + 2f64.ln();
                assert!((value / expected - 1.0).abs() < tolerance, "{value} {expected}");
                let gradients = cost.backward().unwrap();
                let slopes = gradients.get(&x).unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
                for (logit, slope) in logits.iter().zip(slopes) {
                    let probability = 1.0 / (1.0 + f64::exp(-logit));
                    let expected = match label {
                        Label::Source => probability - 1.0,
                        Label::Target => probability,
                    };
                    assert!((slope - expected).abs() < tolerance, "{logit}: {slope} {expected}");
                }
            }
        }
    }

    #[test]
    fn reversal_keeps_the_value_and_turns_the_gradient_row_by_row() {
        let x = Var::new(&[[0.1f32, -3e7], [2.0, 0.7]], &Device::Cpu).unwrap();
        let reversed = reverse_gradient(&x, &[0.5, 3.0]).unwrap();
        assert_eq!(reversed.to_vec2::<f32>().unwrap(), x.to_vec2::<f32>().unwrap());
        let gradients = (reversed * 2.0).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(gradients.get(&x).unwrap().to_vec2::<f32>().unwrap(), [[-1.0, -1.0], [-6.0, -6.0]]);
        let error = reverse_gradient(&x, &[1.0]).unwrap_err().to_string();
        assert!(error.contains("1 factors") && error.contains("[2, 2]"), "{error}");
    }
}
