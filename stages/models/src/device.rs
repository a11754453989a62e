//! The devices of this process.
//!
//! A GPU is opened once, on one stream of our own. candle's default is the stream of whichever thread launches, and
//! nothing orders two of them: a tensor made on one thread and read on another could be read before it is written. On a
//! stream that all threads share, work runs in the order in which it was handed over, which the program's own
//! synchronisation decides. So no tensor needs events of its own. Whoever brings a second stream has to order it by
//! events, as the communicator of the `ranks` crate does.

use candle_core::{DType, Device, Result, Tensor};

/// The GPU of this number, as the driver counts those that are visible; the same device at every call.
///
/// # Errors
/// There is no such GPU, or this program knows none.
pub fn cuda(ordinal: usize) -> Result<Device> {
    gpu::open(ordinal)
}

/// Bytes of a GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// That can still be taken: what nobody holds, and what this process holds at hand and does not use.
    pub free: u64,
    /// That this process uses.
    pub used: u64,
    /// The most that this process has used at a time.
    pub peak: u64,
}

/// Memory of the GPU that a device is; `None` on a CPU, or where the driver does not tell.
pub fn memory(device: &Device) -> Option<GpuMemory> {
    gpu::memory(device)
}

/// Whether a device still computes: after some faults a GPU does nothing more.
///
/// # Errors
/// What it says instead.
pub fn check_alive(device: &Device) -> std::result::Result<(), String> {
    if device.is_cpu() {
        return Ok(());
    }
    match Tensor::ones(8, DType::F32, device).and_then(|ones| ones.sum_all()?.to_scalar::<f32>()) {
        Ok(8.0) => Ok(()),
        Ok(other) => Err(format!("the device adds eight ones up to {other}")),
        Err(error) => Err(format!("the device computes nothing more: {error}")),
    }
}

/// Whether products of f32 matrices on the GPUs of this process may round their factors to TF32's 10 bits, on tensor
/// cores; they do not until they are told to.
pub fn allow_tf32(allow: bool) {
    candle_core::cuda::set_gemm_reduced_precision_f32(allow);
}

#[cfg(feature = "cuda")]
mod gpu {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, PoisonError};

    use candle_core::cuda::cudarc::driver::{CudaContext, sys};
    use candle_core::{Device, Result};

    use super::GpuMemory;

    static OPENED: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());

    pub(super) fn open(ordinal: usize) -> Result<Device> {
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = opened.get(&ordinal) {
            return Ok(device.clone());
        }
        let device = Device::new_cuda_with_stream(ordinal)?;
        let cuda = device.as_cuda_device()?;
        // SAFETY: every tensor of this device is made and freed on its one stream; who uses it on another orders the two
        unsafe { cuda.disable_event_tracking() };
        keep_memory(cuda.cuda_stream().context())?;
        opened.insert(ordinal, device.clone());
        Ok(device)
    }

    /// What is freed stays in the driver's pool: by default every synchronisation gives it back to the system, and the
    /// next step asks for all of it again.
    fn keep_memory(context: &CudaContext) -> Result<()> {
        if !context.has_async_alloc() {
            return Ok(());
        }
        let mut threshold = u64::MAX;
        let name = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the attribute is a u64
        unsafe { sys::cuMemPoolSetAttribute(pool(context)?, name, (&raw mut threshold).cast()) }
            .result()
            .map_err(candle_core::Error::wrap)
    }

    fn pool(context: &CudaContext) -> Result<sys::CUmemoryPool> {
        let mut pool = std::ptr::null_mut();
        // SAFETY: the device is that of a live context
        unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, context.cu_device()) }
            .result()
            .map_err(candle_core::Error::wrap)?;
        Ok(pool)
    }

    pub(super) fn memory(device: &Device) -> Option<GpuMemory> {
        use sys::CUmemPool_attribute::{
            CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_HIGH,
        };
        let stream = device.as_cuda_device().ok()?.cuda_stream();
        let context = stream.context();
        let (free, total) = context.mem_get_info().ok()?;
        if !context.has_async_alloc() {
            let used = (total - free) as u64;
            return Some(GpuMemory { free: free as u64, used, peak: used });
        }
        let pool = pool(context).ok()?;
        let attribute = |name| {
            let mut bytes = 0u64;
            // SAFETY: these attributes are u64
            let asked = unsafe { sys::cuMemPoolGetAttribute(pool, name, (&raw mut bytes).cast()) };
            asked.result().ok().map(|()| bytes)
        };
        let used = attribute(CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
        let at_hand = attribute(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?.saturating_sub(used);
        Some(GpuMemory { free: free as u64 + at_hand, used, peak: attribute(CU_MEMPOOL_ATTR_USED_MEM_HIGH)? })
    }
}

#[cfg(not(feature = "cuda"))]
mod gpu {
    use candle_core::{Device, Result};

    use super::GpuMemory;

    pub(super) fn open(ordinal: usize) -> Result<Device> {
        Device::new_cuda(ordinal)
    }

    pub(super) fn memory(_: &Device) -> Option<GpuMemory> {
        None
    }
}
