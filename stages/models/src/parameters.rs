//! The named variables of a network.

use crate::checkpoint::Checkpoint;
use crate::ops::half::widened;
use crate::{ModelError, Result};
use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// How a variable starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// The same value everywhere.
    Constant(f64),
    /// Normally distributed around zero.
    Normal {
        /// Spread of the values around zero.
        standard_deviation: f64,
    },
}

/// Name, shape and start of one variable.
#[derive(Clone, Debug, PartialEq)]
pub struct Declaration {
    /// Dotted path, as in the checkpoint: `visual.class_embedding`.
    pub name: String,
    /// Lengths of its dimensions; none for a scalar.
    pub shape: Vec<usize>,
    /// What it is filled with.
    pub init: Init,
}

impl Declaration {
    /// The type it has in a network of type `dtype`. A scalar is f32 in half precision too: it costs nothing, and a
    /// temperature has steps finer than those of f16.
    pub fn dtype(&self, dtype: DType) -> DType {
        if self.shape.is_empty() { widened(dtype) } else { dtype }
    }
}

/// Variables by name; always iterated in the order of their names, so that all ranks agree on it.
#[derive(Clone, Debug, Default)]
pub struct Parameters(BTreeMap<String, Var>);

impl Parameters {
    /// Draws every variable from a generator that depends on `seed` and its name alone: adding a variable changes no
    /// other.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the device has no room.
    pub fn init(declarations: &[Declaration], seed: u64, device: &Device, dtype: DType) -> Result<Self> {
        let variables = declarations
            .par_iter()
            .map(|declaration| {
                let values = draw(declaration, seed);
                let tensor = Tensor::from_vec(values, declaration.shape.as_slice(), &Device::Cpu)?;
                let tensor = tensor.to_dtype(declaration.dtype(dtype))?.to_device(device)?;
                Ok((declaration.name.clone(), Var::from_tensor(&tensor)?))
            })
            .collect::<Result<BTreeMap<_, _>>>()?;
        Ok(Self(variables))
    }

    /// Variables with the values of `tensors`.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the device has no room.
    pub fn from_tensors(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Result<Self> {
        let variables = tensors.into_iter().map(|(name, tensor)| Ok((name, Var::from_tensor(&tensor)?)));
        Ok(Self(variables.collect::<Result<_>>()?))
    }

    /// The variable of a name, if there is one.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.0.get(name)
    }

    /// Names and variables in the order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Var)> {
        self.0.iter().map(|(name, variable)| (name.as_str(), variable))
    }

    /// Number of variables.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no variables.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of scalars in all variables.
    pub fn num_elements(&self) -> usize {
        self.0.values().map(|variable| variable.elem_count()).sum()
    }

    /// Reads every tensor of a safetensors file as a variable.
    ///
    /// # Errors
    /// [`ModelError::Io`] or [`ModelError::Malformed`] with the path, [`ModelError::Tensor`] if the device has no
    /// room.
    pub fn load_safetensors(path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let tensors = checkpoint.shapes().map(|(name, _)| {
            let tensor = checkpoint.load(name)?.to_device(device)?.to_dtype(dtype)?;
            Ok((name.to_owned(), Var::from_tensor(&tensor)?))
        });
        Ok(Self(tensors.collect::<Result<_>>()?))
    }

    /// Writes all variables; the same parameters always give the same bytes.
    ///
    /// # Errors
    /// [`ModelError::Io`] with the path.
    pub fn save_safetensors(&self, path: &Path) -> Result<()> {
        save_tensors(path, self.iter().map(|(name, variable)| (name.to_owned(), variable.as_detached_tensor())))
    }

    /// A hexadecimal digest (blake3) of names, types, shapes and values.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the device does not hand the values over.
    pub fn digest(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for (name, variable) in self.iter() {
            // Lengths come first, so that no two different contents give the same stream of bytes.
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(variable.dtype().as_str().as_bytes());
            hasher.update(&(variable.rank() as u64).to_le_bytes());
            for dim in variable.dims() {
                hasher.update(&(*dim as u64).to_le_bytes());
            }
            hasher.update(&little_endian_bytes(variable.as_tensor())?);
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Variables of their own with the same values.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the device has no room.
    pub fn deep_copy(&self) -> Result<Self> {
        let copies = self.iter().map(|(name, variable)| Ok((name.to_owned(), Var::from_tensor(&variable.copy()?)?)));
        Ok(Self(copies.collect::<Result<_>>()?))
    }

    /// Variables of their own with the same values in another type; scalars stay wide, as [`Declaration::dtype`] has them.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the device has no room.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let copies = self.iter().map(|(name, variable)| {
            let dtype = if variable.rank() == 0 { widened(dtype) } else { dtype };
            let tensor = variable.as_detached_tensor().to_dtype(dtype)?.copy()?;
            Ok((name.to_owned(), Var::from_tensor(&tensor)?))
        });
        Ok(Self(copies.collect::<Result<_>>()?))
    }

    /// Overwrites the values of every variable with those of `other`, which has the same names and shapes.
    ///
    /// # Errors
    /// [`ModelError::Input`] with the first name or shape that differs, before anything is overwritten.
    pub fn copy_from(&self, other: &Parameters) -> Result<()> {
        if !self.0.keys().eq(other.0.keys()) {
            let only = |a: &Self, b: &Self| a.0.keys().find(|name| !b.0.contains_key(*name)).cloned();
            return Err(ModelError::Input(format!(
                "parameters of two networks: {} against {} variables; only here: {:?}, only there: {:?}",
                self.len(),
                other.len(),
                only(self, other),
                only(other, self)
            )));
        }
        for ((name, variable), source) in self.iter().zip(other.0.values()) {
            if variable.shape() != source.shape() {
                return Err(ModelError::Input(format!(
                    "parameter {name} has shape {:?} here and {:?} there",
                    variable.dims(),
                    source.dims()
                )));
            }
        }
        for (variable, source) in self.0.values().zip(other.0.values()) {
            let source = source.as_detached_tensor().to_dtype(variable.dtype())?;
            // `Var::set` wants a tensor that shares no storage with the variable.
            variable.set(&source.to_device(variable.device())?.copy()?)?;
        }
        Ok(())
    }
}

/// Writes tensors as safetensors, sorted by name, marked as PyTorch's layout (transformers insists on the mark), for
/// whoever may read the writer's other files.
///
/// # Errors
/// [`ModelError::Io`] with the path.
pub fn save_tensors(path: &Path, tensors: impl IntoIterator<Item = (String, Tensor)>) -> Result<()> {
    let tensors: BTreeMap<String, Tensor> = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?.contiguous()?)))
        .collect::<Result<_>>()?;
    let mark = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let permissions = usual_permissions(path).map_err(ModelError::io(path))?;
    safetensors::serialize_to_file(&tensors, Some(mark), path).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => ModelError::Io { path: path.to_owned(), source },
        other => ModelError::malformed(path, other),
    })?;
    std::fs::set_permissions(path, permissions).map_err(ModelError::io(path))
}

/// Who may read a file that is written as any other: the library's is its writer's alone, whatever the umask says.
fn usual_permissions(path: &Path) -> std::io::Result<std::fs::Permissions> {
    match std::fs::File::create_new(path) {
        Ok(file) => Ok(file.metadata()?.permissions()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(std::fs::metadata(path)?.permissions()),
        Err(error) => Err(error),
    }
}

fn draw(declaration: &Declaration, seed: u64) -> Vec<f32> {
    let count = declaration.shape.iter().product();
    let standard_deviation = match declaration.init {
        Init::Constant(value) => return vec![value as f32; count],
        Init::Normal { standard_deviation } => standard_deviation,
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(declaration.name.as_bytes());
    let mut generator = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        // Box-Muller: two uniform numbers give two normal ones.
        let radius = (-2.0 * (1.0 - generator.random::<f64>()).ln()).sqrt() * standard_deviation;
        let (sine, cosine) = (std::f64::consts::TAU * generator.random::<f64>()).sin_cos();
        values.push((radius * cosine) as f32);
        values.push((radius * sine) as f32);
    }
    values.truncate(count);
    values
}

fn little_endian_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let flat = tensor.detach().to_device(&Device::Cpu)?.flatten_all()?;
    Ok(match flat.dtype() {
        DType::F64 => flat.to_vec1::<f64>()?.into_iter().flat_map(f64::to_le_bytes).collect(),
        // Widening to f32 loses nothing, and the type is part of the digest.
        _ => flat.to_dtype(DType::F32)?.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declarations() -> Vec<Declaration> {
        let normal = Init::Normal { standard_deviation: 0.02 };
        let declare =
            |name: &str, shape: &[usize], init| Declaration { name: name.to_owned(), shape: shape.to_vec(), init };
        vec![
            declare("b.weight", &[100, 100], normal),
            declare("a.weight", &[3, 5], normal),
            declare("c.scale", &[], Init::Constant(2.5)),
        ]
    }

    fn parameters(seed: u64) -> Parameters {
        Parameters::init(&declarations(), seed, &Device::Cpu, DType::F32).unwrap()
    }

    fn values(parameters: &Parameters, name: &str) -> Vec<f32> {
        parameters.get(name).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn values_depend_on_seed_and_name_alone() {
        let (all, again, other) = (parameters(1), parameters(1), parameters(2));
        assert_eq!(all.digest().unwrap(), again.digest().unwrap());
        assert_ne!(all.digest().unwrap(), other.digest().unwrap());
        let alone = Parameters::init(&declarations()[1..2], 1, &Device::Cpu, DType::F32).unwrap();
        assert_eq!(values(&alone, "a.weight"), values(&all, "a.weight"));
        assert_eq!(all.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a.weight", "b.weight", "c.scale"]);
        assert_eq!(all.num_elements(), 10_016);
    }

    #[cfg(unix)]
    #[test]
    fn whoever_reads_other_files_reads_weights() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| folder.path().join(name).metadata().unwrap().permissions().mode();
        std::fs::write(folder.path().join("other"), "").unwrap();
        for _ in 0..2 {
            parameters(1).save_safetensors(&folder.path().join("weights")).unwrap();
            assert_eq!(mode("weights"), mode("other"));
        }
        std::fs::set_permissions(folder.path().join("weights"), std::fs::Permissions::from_mode(0o640)).unwrap();
        parameters(2).save_safetensors(&folder.path().join("weights")).unwrap();
        assert_eq!(mode("weights") & 0o777, 0o640, "replaced, it stays as it was");
    }

    #[test]
    fn normal_values_have_the_deviation_asked_for() {
        let values = values(&parameters(1), "b.weight");
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let deviation = (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt();
        assert!(mean.abs() < 1e-3 && (deviation - 0.02).abs() < 5e-4, "{mean} {deviation}");
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("1.safetensors"), folder.path().join("2.safetensors"));
        let saved = parameters(1);
        saved.save_safetensors(&first).unwrap();
        let loaded = Parameters::load_safetensors(&first, &Device::Cpu, DType::F32).unwrap();
        assert_eq!(saved.digest().unwrap(), loaded.digest().unwrap());
        loaded.save_safetensors(&second).unwrap();
        assert_eq!(std::fs::read(first).unwrap(), std::fs::read(second).unwrap());
    }

    #[test]
    fn a_copy_is_independent_and_can_be_copied_back() {
        let original = parameters(1);
        let copy = original.deep_copy().unwrap();
        let before = original.digest().unwrap();
        copy.copy_from(&parameters(2)).unwrap();
        assert_eq!(original.digest().unwrap(), before);
        original.copy_from(&copy).unwrap();
        assert_eq!(original.digest().unwrap(), parameters(2).digest().unwrap());
        original.copy_from(&original).unwrap();
    }

    #[test]
    fn scalars_stay_wide_in_half_precision() {
        let half = parameters(1).to_dtype(DType::F16).unwrap();
        assert_eq!(half.get("a.weight").unwrap().dtype(), DType::F16);
        assert_eq!(half.get("c.scale").unwrap().dtype(), DType::F32);
    }

    #[test]
    fn parameters_of_another_network_are_refused() {
        let other = Parameters::init(&declarations()[..2], 1, &Device::Cpu, DType::F32).unwrap();
        let message = parameters(1).copy_from(&other).unwrap_err().to_string();
        assert!(message.contains("c.scale"), "{message}");
    }
}
