//! D of Eq. 12: which domain a pair comes from.

use std::path::Path;

use candle_core::{D, DType, Device, Tensor};
use models::ops::{Activation, activation, linear};
use models::parameters::{Declaration, Init, Parameters};

use crate::error::{Error, Result};

/// Largest width of the hidden layers: their square matrix takes 256 MiB.
pub const MAX_HIDDEN: usize = 8192;

/// Widest embedding: wider ones come from a mistaken call.
const MAX_DIM: usize = 65_536;

const LAYERS: usize = 3;

/// A multi-layer perceptron of three layers on the joint feature (text, image) of a pair:
/// `[B, 2D] -> [B, H] -> [B, H] -> [B]`, logits of "source".
///
/// Between the layers GELU: it is smooth, so the gradient that reaches the encoders has no jumps and no unit is dead,
/// and our kernel of it has the exact slope (candle's `relu` has 1 at 0). The released code has ReLU.
#[derive(Clone, Debug)]
pub struct Discriminator {
    parameters: Parameters,
    dim: usize,
    hidden: usize,
}

/// Whether a pass leaves gradients in the discriminator's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weights {
    Learning,
    Frozen,
}

impl Discriminator {
    /// Draws every parameter from a generator that depends on `seed` and its name alone.
    ///
    /// `dim` is the width D of an embedding, `hidden` that of both hidden layers. A joint feature is two unit vectors,
    /// of squared length 2, so the first layer starts with unit variance at its output; the last one starts small, so
    /// that an untrained discriminator is undecided.
    ///
    /// # Errors
    /// A width of 0 or beyond the limit.
    pub fn init(dim: usize, hidden: usize, seed: u64, device: &Device, dtype: DType) -> Result<Self> {
        if !(1..=MAX_DIM).contains(&dim) || !(1..=MAX_HIDDEN).contains(&hidden) {
            let problem = format!("of widths {dim} and {hidden}: needs 1 to {MAX_DIM} and 1 to {MAX_HIDDEN}");
            return Err(Error::argument("discriminator", problem));
        }
        let deviations = [0.5f64.sqrt(), (2.0 / hidden as f64).sqrt(), 0.02];
        let mut declarations = Vec::with_capacity(2 * LAYERS);
        for (layer, (shape, standard_deviation)) in shapes(dim, hidden).into_iter().zip(deviations).enumerate() {
            let declare = |name, shape: &[usize], init| Declaration { name, shape: shape.to_vec(), init };
            declarations.push(declare(weight_name(layer), &shape, Init::Normal { standard_deviation }));
            declarations.push(declare(bias_name(layer), &shape[..1], Init::Constant(0.0)));
        }
        Self::from_parameters(Parameters::init(&declarations, seed, device, dtype)?)
    }

    /// A discriminator around parameters that are there already; its widths are read from their shapes.
    ///
    /// # Errors
    /// A missing, foreign or misshapen parameter, named.
    pub fn from_parameters(parameters: Parameters) -> Result<Self> {
        let problem = |problem: String| Error::argument("discriminator parameters", problem);
        let (hidden, joint) = match parameters.get(&weight_name(0)).map(|weight| weight.dims()) {
            Some(&[hidden, joint]) if hidden > 0 && joint > 0 && joint % 2 == 0 => (hidden, joint),
            found => {
                let name = weight_name(0);
                return Err(problem(format!("{name} has shape {found:?}, needs [hidden, 2 x embedding]")));
            }
        };
        for (layer, shape) in shapes(joint / 2, hidden).into_iter().enumerate() {
            for (name, expected) in [(weight_name(layer), &shape[..]), (bias_name(layer), &shape[..1])] {
                let found = parameters.get(&name).map(|parameter| parameter.dims());
                if found != Some(expected) {
                    return Err(problem(format!("{name} has shape {found:?}, needs {expected:?}")));
                }
            }
        }
        if parameters.len() != 2 * LAYERS {
            let names: Vec<&str> = parameters.iter().map(|(name, _)| name).collect();
            return Err(problem(format!("are {names:?}: needs a weight and a bias for each of {LAYERS} layers")));
        }
        Ok(Self { parameters, dim: joint / 2, hidden })
    }

    /// Reads what [`save`](Self::save) has written.
    ///
    /// # Errors
    /// An unreadable file; a missing, foreign or misshapen parameter, named.
    pub fn load(path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let parameters = Parameters::load_safetensors(path, device, dtype)?;
        Self::from_parameters(parameters)
            .map_err(|error| Error::DamagedCheckpoint { path: path.to_path_buf(), problem: error.to_string() })
    }

    /// Writes the parameters as safetensors; the same parameters always give the same bytes.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, path: &Path) -> Result<()> {
        Ok(self.parameters.save_safetensors(path)?)
    }

    /// A hexadecimal digest of names, types, shapes and values.
    ///
    /// # Errors
    /// A transfer from the device that fails.
    pub fn digest(&self) -> Result<String> {
        Ok(self.parameters.digest()?)
    }

    /// The variables that logits are computed with; changing them changes the network.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Width D of an embedding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Width H of the hidden layers.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Logit of "source" for each pair `[B]`, from embeddings `[B, D]`, in the parameters' precision.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn logits(&self, image_bd: &Tensor, text_bd: &Tensor) -> Result<Tensor> {
        self.joint_logits(&self.joint(image_bd, text_bd)?, Weights::Learning)
    }

    /// The joint feature (text, image) of pairs, in the parameters' precision `[B, 2D]`.
    pub(super) fn joint(&self, image_bd: &Tensor, text_bd: &Tensor) -> Result<Tensor> {
        let (images, texts) = (image_bd.dims(), text_bd.dims());
        if images != texts || images.len() != 2 || images[1] != self.dim {
            let dim = self.dim;
            let problem = format!("of images {images:?} and captions {texts:?}: needs [rows, {dim}] for both");
            return Err(Error::argument("joint features", problem));
        }
        let dtype = self.weight(0, Weights::Frozen).0.dtype();
        Ok(Tensor::cat(&[text_bd, image_bd], 1)?.to_dtype(dtype)?)
    }

    /// Logits of joint features `[B, 2D] -> [B]`.
    pub(super) fn joint_logits(&self, joint_bi: &Tensor, weights: Weights) -> Result<Tensor> {
        let mut x = joint_bi.clone();
        for layer in 0..LAYERS {
            let (weight, bias) = self.weight(layer, weights);
            x = linear(&x, &weight, Some(&bias))?;
            if layer + 1 < LAYERS {
                x = activation(&x, Activation::Gelu)?;
            }
        }
        Ok(x.squeeze(D::Minus1)?)
    }

    fn weight(&self, layer: usize, weights: Weights) -> (Tensor, Tensor) {
        let parameter = |name: String| {
            let variable = self.parameters.get(&name).expect("from_parameters() has found every parameter");
            match weights {
                Weights::Learning => variable.as_tensor().clone(),
                Weights::Frozen => variable.as_detached_tensor(),
            }
        };
        (parameter(weight_name(layer)), parameter(bias_name(layer)))
    }
}

/// Shapes of the weights `[O, I]`.
fn shapes(dim: usize, hidden: usize) -> [[usize; 2]; LAYERS] {
    [[hidden, 2 * dim], [hidden, hidden], [1, hidden]]
}

fn weight_name(layer: usize) -> String {
    format!("discriminator.{layer}.weight")
}

fn bias_name(layer: usize) -> String {
    format!("discriminator.{layer}.bias")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discriminator(seed: u64) -> Discriminator {
        Discriminator::init(6, 16, seed, &Device::Cpu, DType::F32).unwrap()
    }

    #[test]
    fn the_seed_decides_and_what_is_saved_is_loaded() {
        let (one, again, other) = (discriminator(1), discriminator(1), discriminator(2));
        assert_eq!(one.digest().unwrap(), again.digest().unwrap());
        assert_ne!(one.digest().unwrap(), other.digest().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("discriminator.safetensors");
        one.save(&path).unwrap();
        let loaded = Discriminator::load(&path, &Device::Cpu, DType::F32).unwrap();
        assert_eq!(loaded.digest().unwrap(), one.digest().unwrap());
        assert_eq!((loaded.dim(), loaded.hidden()), (6, 16));
    }

    #[test]
    fn an_untrained_one_is_undecided_and_every_parameter_learns() {
        let discriminator = Discriminator::init(64, 32, 3, &Device::Cpu, DType::F64).unwrap();
        let unit = Tensor::full(0.125f64, (3, 64), &Device::Cpu).unwrap();
        let logits = discriminator.logits(&unit, &unit).unwrap();
        assert_eq!(logits.dims(), [3]);
        assert!(logits.to_vec1::<f64>().unwrap().iter().all(|logit| logit.abs() < 0.5), "{logits}");
        let gradients = logits.sum_all().unwrap().backward().unwrap();
        for (name, parameter) in discriminator.parameters().iter() {
            let gradient = gradients.get(parameter).unwrap_or_else(|| panic!("{name} has no gradient"));
            let largest = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(largest.is_finite() && largest > 0.0, "{name}: {largest}");
        }
    }

    #[test]
    fn foreign_parameters_and_features_are_refused_by_name() {
        let tensor = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        let with = |changed: &str, dims: &[usize]| {
            let discriminator = discriminator(1);
            let kept = discriminator.parameters().iter().filter(|(name, _)| *name != changed);
            let mut tensors: Vec<_> = kept.map(|(name, var)| (name.to_owned(), var.as_tensor().clone())).collect();
            tensors.push((changed.to_owned(), tensor(dims)));
            Discriminator::from_parameters(Parameters::from_tensors(tensors).unwrap()).unwrap_err().to_string()
        };
        let message = with("discriminator.1.weight", &[16, 15]);
        assert!(message.contains("discriminator.1.weight") && message.contains("[16, 15]"), "{message}");
        assert!(with("discriminator.0.weight", &[16, 13]).contains("[16, 13]"));
        assert!(with("extra", &[1]).contains("extra"));
        assert!(Discriminator::from_parameters(Parameters::default()).is_err());
        let message = discriminator(1).logits(&tensor(&[2, 6]), &tensor(&[3, 6])).unwrap_err().to_string();
        assert!(message.contains("[2, 6]") && message.contains("[3, 6]"), "{message}");
        assert!(Discriminator::init(0, 4, 0, &Device::Cpu, DType::F32).is_err());
        assert!(Discriminator::init(4, MAX_HIDDEN + 1, 0, &Device::Cpu, DType::F32).is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.safetensors");
        Parameters::from_tensors([("x".to_owned(), tensor(&[1]))]).unwrap().save_safetensors(&path).unwrap();
        let message = Discriminator::load(&path, &Device::Cpu, DType::F32).unwrap_err().to_string();
        assert!(message.contains("other.safetensors"), "{message}");
    }
}
