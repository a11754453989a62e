//! Devices and precision that a spec names.

use std::sync::Once;

use candle_core::{DType, Device};
use manifests::BuildSpec;
use manifests::spec::{DeviceName, DeviceNames, Precision};

use crate::stage_error::StageError;

/// The devices that a spec names, in its order; at least one.
///
/// # Errors
/// [`StageError::Configuration`] where `cuda:all` finds no GPU.
pub fn devices(stage: &'static str, spec: &BuildSpec) -> Result<Vec<DeviceName>, StageError> {
    let configuration = |why: String| StageError::Configuration { stage, why };
    match spec.model.devices().map_err(configuration)? {
        DeviceNames::Listed(names) => Ok(names),
        DeviceNames::EveryCuda => match visible_gpus().map_err(configuration)? {
            0 => Err(configuration("model.device = \"cuda:all\": this machine shows no GPU; see `nvidia-smi`".into())),
            count => Ok((0..count).map(DeviceName::Cuda).collect()),
        },
    }
}

/// Whether this program can use what a spec names; the machine is not asked, which may not be the one that runs it.
///
/// # Errors
/// A GPU, where the program knows none.
pub fn check_program(spec: &BuildSpec) -> Result<(), String> {
    let names_gpus = match spec.model.devices()? {
        DeviceNames::EveryCuda => true,
        DeviceNames::Listed(names) => names.iter().any(|name| *name != DeviceName::Cpu),
    };
    if names_gpus && !HAS_CUDA {
        let device = &spec.model.device;
        return Err(format!("model.device = {device:?}: this binary is for the CPU; build one with --features cuda"));
    }
    Ok(())
}

/// The first device that a spec names: where there is but one network, it is there.
///
/// # Errors
/// [`StageError::Configuration`] if the spec names none, or this machine or program has it not.
pub fn device(stage: &'static str, spec: &BuildSpec) -> Result<Device, StageError> {
    open(stage, spec, devices(stage, spec)?[0])
}

/// Whether a device that has failed at something still computes: after some faults a GPU does nothing more, and what it is asked
/// for then is not to blame.
///
/// # Errors
/// [`StageError::Unreachable`]: it does not; another process, or another machine, may.
pub fn check_alive(stage: &'static str, device: &Device) -> Result<(), StageError> {
    models::device::check_alive(device).map_err(|why| StageError::Unreachable { stage, why })
}

/// What a computation that failed on a device comes to: where the device does nothing more, as [`check_alive`] says.
pub(crate) fn compute_error(stage: &'static str, device: &Device, why: String) -> StageError {
    check_alive(stage, device).err().unwrap_or(StageError::Compute { stage, why })
}

/// What it comes to that a network or a file of its could not be opened: a file system that does not answer, or a
/// device that does nothing more, may be there at another try.
pub(crate) fn opening_error(
    stage: &'static str,
    device: &Device,
    why: String,
    error: &(dyn std::error::Error + 'static),
) -> StageError {
    match StageError::of(stage, error) {
        StageError::Unreachable { .. } => StageError::Unreachable { stage, why },
        StageError::DiskFull { .. } => StageError::DiskFull { stage, why },
        _ => check_alive(stage, device).err().unwrap_or(StageError::Configuration { stage, why }),
    }
}

/// Opens one of the devices that a spec names.
///
/// # Errors
/// [`StageError::Configuration`] if this machine or program has it not, [`StageError::Unreachable`] if others hold it.
pub fn open(stage: &'static str, spec: &BuildSpec, name: DeviceName) -> Result<Device, StageError> {
    let DeviceName::Cuda(number) = name else { return Ok(Device::Cpu) };
    set_tf32(spec.model.precision == Precision::Tf32);
    models::device::cuda(number).map_err(|e| {
        let hint = if HAS_CUDA { "see `nvidia-smi`" } else { "build with --features cuda" };
        let said = e.to_string();
        let why = format!("model.device = {name}: {said}; {hint}");
        if is_held(&said) { StageError::Unreachable { stage, why } } else { StageError::Configuration { stage, why } }
    })
}

/// Does the driver say that a GPU is there, and that this process gets nothing of it now?
fn is_held(said: &str) -> bool {
    ["CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA_ERROR_OUT_OF_MEMORY", "CUDA_ERROR_SYSTEM_NOT_READY"]
        .iter()
        .any(|name| said.contains(name))
}

/// For all GPUs of the process: its networks come from one spec.
fn set_tf32(allow: bool) {
    static SAID: Once = Once::new();
    models::device::allow_tf32(allow);
    if allow {
        SAID.call_once(|| {
            tracing::warn!("model.precision = \"tf32\": products of f32 matrices take factors of 10 bits")
        });
    }
}

/// Whether this program can use NVIDIA GPUs at all.
pub const HAS_CUDA: bool = cfg!(feature = "cuda");

/// How many GPUs the driver shows to this process.
///
/// # Errors
/// The driver's, or this program knows no GPU.
#[cfg(feature = "cuda")]
pub fn visible_gpus() -> Result<usize, String> {
    let count = candle_core::cuda::cudarc::driver::CudaContext::device_count();
    count.map(|count| count.max(0) as usize).map_err(|e| format!("model.device = \"cuda:all\": {e}; see `nvidia-smi`"))
}

/// How many GPUs the driver shows to this process.
///
/// # Errors
/// This program knows no GPU.
#[cfg(not(feature = "cuda"))]
pub fn visible_gpus() -> Result<usize, String> {
    Err("model.device = \"cuda:all\": this binary is for the CPU; build with --features cuda".into())
}

/// How networks compute, as it enters the identity of rows and runs: the type, and in half precision also that norms and
/// sums are taken in f32, which they once were not.
pub fn arithmetic(spec: &BuildSpec) -> &'static str {
    match spec.model.precision {
        Precision::F32 => "f32",
        Precision::Tf32 => "f32, products of tf32",
        Precision::Bf16 => "bf16, sums in f32",
        Precision::F16 => "f16, sums in f32",
    }
}

/// Puts [`arithmetic`] into parameters that do without it in f32.
pub(crate) fn note_precision(parameters: &mut serde_json::Value, spec: &BuildSpec) {
    if spec.model.precision != Precision::F32 {
        parameters["precision"] = arithmetic(spec).into();
    }
}

/// The type of weights and activations.
pub fn dtype(spec: &BuildSpec) -> DType {
    match spec.model.precision {
        Precision::F32 | Precision::Tf32 => DType::F32,
        Precision::Bf16 => DType::BF16,
        Precision::F16 => DType::F16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_cannot_be_read_for_a_moment_is_no_wrong_configuration() {
        let of = |source: std::io::Error| {
            let error = models::ModelError::Io { path: "w/model.safetensors".into(), source };
            opening_error("captions", &Device::Cpu, format!("model w: {error}"), &error)
        };
        // EIO ENOMEM ETIMEDOUT ESTALE
        for code in [5, 12, 110, 116] {
            let error = of(std::io::Error::from_raw_os_error(code));
            assert!(matches!(&error, StageError::Unreachable { why, .. } if why.starts_with("model w: ")), "{error}");
        }
        for kind in [std::io::ErrorKind::NotFound, std::io::ErrorKind::PermissionDenied] {
            assert!(matches!(of(kind.into()), StageError::Configuration { .. }));
        }
        let other = models::ModelError::Config("no network".into());
        let error = opening_error("captions", &Device::Cpu, other.to_string(), &other);
        assert!(matches!(error, StageError::Configuration { .. }));
    }

    #[test]
    fn a_gpu_that_others_hold_is_one_that_is_there() {
        assert!(is_held("DriverError(CUDA_ERROR_DEVICE_UNAVAILABLE, \"CUDA-capable device(s) is/are busy\")"));
        assert!(!is_held("DriverError(CUDA_ERROR_INVALID_DEVICE, \"invalid device ordinal\")"));
    }
}
