//! candle's CUDA tensors, taken apart for NCCL and put together again.

use std::ffi::c_void;

use candle_core::cuda_backend::CudaDType;
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Storage, Tensor, WithDType};
use cudarc::driver::{DevicePtr, DevicePtrMut, DeviceRepr};
use cudarc::nccl::sys::ncclDataType_t;
use half::{bf16, f16};
use training::communicator::Communicator;
use training::communicator::call::{Call, Operation};

use super::{Comm, Done, Nccl};
use crate::error::{RanksError, Result};
use crate::tcp::Tcp;

impl Nccl {
    /// A communicator for tensors on this GPU, which has to be the trainer's own device: others' tensors are copied.
    ///
    /// It has a stream of its own, which waits by an event for what the device was given before a call; the call returns
    /// when the GPU is through, so whatever comes after it needs to wait for nothing.
    ///
    /// # Errors
    /// The device is no GPU, or as [`Nccl::on_stream`].
    pub fn new(control: Tcp, device: &Device) -> Result<Self> {
        let Device::Cuda(cuda) = device else {
            return Err(RanksError::Configuration("nccl works on tensors of an NVIDIA GPU".to_owned()));
        };
        let stream = cuda.cuda_stream().context().new_stream();
        let stream = stream.map_err(|e| RanksError::Library(format!("the GPU gives no stream: {e}")))?;
        Self::on_stream(control, device, stream)
    }

    fn call(&mut self, operation: Operation, tensor: &Tensor, root: usize) -> training::Result<Tensor> {
        let half = matches!(tensor.dtype(), DType::BF16 | DType::F16);
        if half && matches!(operation, Operation::AllReduceSum | Operation::ReduceScatterSum) {
            // NCCL would round after every addition
            let wide = self.call(operation, &tensor.to_dtype(DType::F32)?, root)?;
            return Ok(wide.to_dtype(tensor.dtype())?);
        }
        match tensor.dtype() {
            DType::U8 => self.call_of::<u8>(operation, tensor, root),
            DType::U32 => self.call_of::<u32>(operation, tensor, root),
            DType::I16 => self.call_of::<i16>(operation, tensor, root),
            DType::I32 => self.call_of::<i32>(operation, tensor, root),
            DType::I64 => self.call_of::<i64>(operation, tensor, root),
            DType::BF16 => self.call_of::<bf16>(operation, tensor, root),
            DType::F16 => self.call_of::<f16>(operation, tensor, root),
            DType::F32 => self.call_of::<f32>(operation, tensor, root),
            DType::F64 => self.call_of::<f64>(operation, tensor, root),
            other => Err(candle_core::Error::Msg(format!("tensors of {other:?} do not travel between ranks")).into()),
        }
    }

    fn call_of<T: CudaDType + DeviceRepr + WithDType>(
        &mut self,
        operation: Operation,
        tensor: &Tensor,
        root: usize,
    ) -> training::Result<Tensor> {
        let tensor = tensor.detach().to_device(&self.device)?.contiguous()?;
        let Device::Cuda(device) = self.device.clone() else {
            return Err(candle_core::Error::Msg("nccl works on tensors of an NVIDIA GPU".to_owned()).into());
        };
        let call = Call::with(operation, self.control.mesh().step(), &tensor, root);
        let shape = call.result_shape(self.world_size());
        let mut result = None;
        self.together(call, |comm| {
            result = Some(launch::<T>(comm, operation, &tensor, shape.iter().product(), root, &device)?);
            Ok(())
        })?;
        let Some(result) = result else {
            return Err(candle_core::Error::Msg("nccl gave no result".to_owned()).into());
        };
        Ok(Tensor::from_storage(Storage::Cuda(result), shape, BackpropOp::none(), false))
    }
}

fn launch<T: CudaDType + DeviceRepr + WithDType>(
    comm: &Comm,
    operation: Operation,
    tensor: &Tensor,
    result_len: usize,
    root: usize,
    device: &CudaDevice,
) -> std::result::Result<CudaStorage, String> {
    let failed = |e: candle_core::Error| e.to_string();
    // SAFETY: every element is written by NCCL before anyone reads it
    let mut result = unsafe { device.alloc::<T>(result_len) }.map_err(failed)?;
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cuda(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        return Err("the tensor is not contiguous on the GPU".to_owned());
    };
    if start < end {
        let elements = storage.as_cuda_slice::<T>().map_err(failed)?.slice(start..end);
        let (from, _read) = elements.device_ptr(&comm.stream);
        let (to, _written) = result.device_ptr_mut(&comm.stream);
        let (from, to, bytes) = (from as *const c_void, to as *mut c_void, (end - start) * size_of::<T>());
        // what is sent has been computed, and the memory of the result has been free, when NCCL's kernel begins
        comm.stream.join(&device.cuda_stream()).map_err(|e| format!("the GPU failed: {e}"))?;
        let dtype = if T::DTYPE == DType::F64 { ncclDataType_t::ncclFloat64 } else { ncclDataType_t::ncclFloat32 };
        // SAFETY: both are of this GPU, as long as `Call::result_shape` says, and live until `together` has waited
        let taken: Done = unsafe {
            match operation {
                Operation::AllReduceSum => comm.all_reduce(from, to, result_len, dtype),
                Operation::ReduceScatterSum => comm.reduce_scatter(from, to, result_len, dtype),
                Operation::AllGather => comm.all_gather(from, to, bytes),
                Operation::Broadcast => comm.broadcast(from, to, bytes, root),
                Operation::Barrier => Ok(()),
            }
        };
        taken?;
    }
    Ok(CudaStorage::wrap_cuda_slice(result, device.clone()))
}

impl Communicator for Nccl {
    fn way(&self) -> String {
        "NCCL".to_owned()
    }

    fn rank(&self) -> usize {
        self.control.rank()
    }

    fn world_size(&self) -> usize {
        self.control.world_size()
    }

    fn at_step(&mut self, step: u64) {
        self.control.at_step(step);
    }

    fn all_reduce_sum(&mut self, tensor: &Tensor) -> training::Result<Tensor> {
        self.call(Operation::AllReduceSum, tensor, 0)
    }

    fn all_gather(&mut self, tensor: &Tensor) -> training::Result<Tensor> {
        self.call(Operation::AllGather, tensor, 0)
    }

    fn reduce_scatter_sum(&mut self, tensor: &Tensor) -> training::Result<Tensor> {
        self.call(Operation::ReduceScatterSum, tensor, 0)
    }

    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> training::Result<Tensor> {
        self.call(Operation::Broadcast, tensor, root)
    }

    fn barrier(&mut self) -> training::Result<()> {
        self.control.barrier()
    }
}
