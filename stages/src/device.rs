//! Device and precision that a spec names.

use candle_core::{DType, Device};
use manifests::BuildSpec;
use manifests::build::Precision;

use crate::stage::StageError;

/// The device that a spec names.
pub fn device(stage: &'static str, spec: &BuildSpec) -> Result<Device, StageError> {
    let configuration = |why: String| StageError::Configuration { stage, why };
    match spec.model.device.split_once(':') {
        None if spec.model.device == "cpu" => Ok(Device::Cpu),
        Some(("cuda", index)) => {
            let index = index
                .parse()
                .map_err(|_| configuration(format!("model.device = {:?}: write cuda:0", spec.model.device)))?;
            Device::new_cuda(index).map_err(|e| {
                let hint = if HAS_CUDA { "see `nvidia-smi`" } else { "build with --features cuda" };
                configuration(format!("model.device = cuda:{index}: {e}; {hint}"))
            })
        }
        _ => Err(configuration(format!("model.device = {:?}: write \"cpu\" or \"cuda:0\"", spec.model.device))),
    }
}

/// Whether this program can use NVIDIA GPUs at all.
pub const HAS_CUDA: bool = cfg!(feature = "cuda");

/// The type of weights and activations.
pub fn dtype(spec: &BuildSpec) -> DType {
    match spec.model.precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
        Precision::F16 => DType::F16,
    }
}
