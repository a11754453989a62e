//! Bytes on their way to a device.
//!
//! A copy out of ordinary memory keeps the thread until the GPU has come to it. Out of page-locked memory it is one more
//! piece of the GPU's work: who asks for it goes on at once.

use candle_core::{Device, Result, Shape, Tensor};

/// Sends bytes to one device.
pub struct Upload {
    device: Device,
    #[cfg(feature = "cuda")]
    buffers: Option<pinned::Buffers>,
}

impl Upload {
    /// To a GPU through page-locked memory, which is taken when the first bytes are sent and kept.
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            #[cfg(feature = "cuda")]
            buffers: Some(pinned::Buffers::default()),
        }
    }

    /// Out of ordinary memory: for bytes that are sent once, since page-locked memory is slow to get.
    pub fn unlocked(device: &Device) -> Self {
        Self {
            device: device.clone(),
            #[cfg(feature = "cuda")]
            buffers: None,
        }
    }

    /// Where the bytes go.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A tensor of these bytes, which are read before this returns.
    ///
    /// # Errors
    /// Another number of bytes than the shape has; the device's.
    pub fn send(&mut self, bytes: &[u8], shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        #[cfg(feature = "cuda")]
        if let (Device::Cuda(device), Some(buffers)) = (&self.device, &mut self.buffers)
            && !bytes.is_empty()
        {
            return buffers.send(bytes, device)?.reshape(shape);
        }
        Tensor::from_slice(bytes, shape, &self.device)
    }
}

/// Bytes on their way back, through page-locked memory that is kept: out of a GPU's memory into that of a program's heap they
/// go at a fraction of the speed.
#[cfg(feature = "cuda")]
#[derive(Default)]
pub(crate) struct Download {
    /// Those that nobody uses now.
    buffers: std::sync::Mutex<Vec<candle_core::cuda::cudarc::driver::PinnedHostSlice<u8>>>,
}

#[cfg(feature = "cuda")]
impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Download")
    }
}

#[cfg(feature = "cuda")]
impl Download {
    /// Waits for the bytes of a contiguous tensor in half precision or f32, and hands them to `read`.
    ///
    /// # Errors
    /// A tensor of another kind or place, the device's.
    pub(crate) fn read<R>(&self, tensor: &Tensor, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        use std::sync::PoisonError;
        let taken = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (buffer, result) = pinned::fetch(tensor, taken, read)?;
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        Ok(result)
    }
}

#[cfg(feature = "cuda")]
mod pinned {
    use candle_core::backend::BackendStorage;
    use candle_core::cuda::cudarc::driver::{CudaEvent, CudaView, PinnedHostSlice};
    use candle_core::op::BackpropOp;
    use candle_core::{CudaDevice, CudaStorage, DType, Result, Storage, Tensor, bail};

    /// Memory of at least so many bytes, the given one if it is as large.
    fn at_least(bytes: usize, given: Option<PinnedHostSlice<u8>>, device: &CudaDevice) -> Result<PinnedHostSlice<u8>> {
        if let Some(given) = given.filter(|given| given.len() >= bytes) {
            return Ok(given);
        }
        let error = candle_core::Error::wrap;
        // SAFETY: it is filled at once
        let fresh = unsafe { device.cuda_stream().context().alloc_pinned_with_flags::<u8>(bytes, 0) };
        let mut fresh = fresh.map_err(error)?;
        fresh.as_mut_slice().map_err(error)?.fill(0);
        Ok(fresh)
    }

    pub(super) fn fetch<R>(
        tensor: &Tensor,
        buffer: Option<PinnedHostSlice<u8>>,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<(PinnedHostSlice<u8>, R)> {
        let error = candle_core::Error::wrap;
        let (storage, layout) = tensor.storage_and_layout();
        let (Storage::Cuda(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
            bail!("a tensor with gaps, or of the CPU, is not fetched from a GPU")
        };
        let device = storage.device();
        let bytes = (end - start) * tensor.dtype().size_in_bytes();
        let mut buffer = at_least(bytes, buffer, device)?;
        let to = &mut buffer.as_mut_slice().map_err(error)?[..bytes];
        let copy = |view: Option<CudaView<'_, u8>>, to: &mut [u8]| match view {
            // the copy is one more piece of the GPU's work: nothing of it is there before the GPU has come to it
            Some(view) => {
                let stream = device.cuda_stream();
                stream.memcpy_dtoh(&view, to).and_then(|()| stream.synchronize()).map_err(error)
            }
            None => bail!("an array that is shorter than its tensor"),
        };
        // SAFETY: any bytes are bytes
        unsafe {
            match tensor.dtype() {
                DType::F32 => copy(storage.as_cuda_slice::<f32>()?.slice(start..end).transmute(bytes), to),
                DType::BF16 => copy(storage.as_cuda_slice::<half::bf16>()?.slice(start..end).transmute(bytes), to),
                DType::F16 => copy(storage.as_cuda_slice::<half::f16>()?.slice(start..end).transmute(bytes), to),
                other => bail!("{other:?} is not fetched through page-locked memory"),
            }?;
        }
        let result = read(to);
        Ok((buffer, result))
    }

    /// Two: one can be filled while the other is still on its way.
    #[derive(Default)]
    pub(super) struct Buffers([Option<Buffer>; 2]);

    /// Memory, and the end of the copy out of it. cudarc's own events are not recorded where tensors have none.
    struct Buffer {
        memory: PinnedHostSlice<u8>,
        left: CudaEvent,
    }

    impl Drop for Buffers {
        fn drop(&mut self) {
            for buffer in self.0.iter().flatten() {
                // memory is not given back under a copy; where the GPU has failed nothing is copied any more
                _ = buffer.left.synchronize();
            }
        }
    }

    impl Buffers {
        pub(super) fn send(&mut self, bytes: &[u8], device: &CudaDevice) -> Result<Tensor> {
            let error = candle_core::Error::wrap;
            let stream = device.cuda_stream();
            self.0.swap(0, 1);
            // the copy before the last has to have left its memory; a smaller one is given back before another is asked for: both
            // together may be more than can be locked
            let given = self.0[0].take();
            if let Some(given) = &given {
                given.left.synchronize().map_err(error)?;
            }
            let given = given.map(|given| given.memory).filter(|memory| memory.len() >= bytes.len());
            let mut buffer = at_least(bytes.len(), given, device)?;
            buffer.as_mut_slice().map_err(error)?[..bytes.len()].copy_from_slice(bytes);
            let copied = stream.clone_htod(&buffer).map_err(error)?;
            let left = stream.record_event(None).map_err(error)?;
            self.0[0] = Some(Buffer { memory: buffer, left });
            let length = copied.len();
            let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(copied, device.clone()));
            Tensor::from_storage(storage, length, BackpropOp::none(), false).narrow(0, 0, bytes.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_in_their_shape() {
        let mut upload = Upload::new(&Device::Cpu);
        let sent = upload.send(&[1, 2, 3, 4, 5, 6], (2, 3)).unwrap();
        assert_eq!(sent.to_vec2::<u8>().unwrap(), [[1, 2, 3], [4, 5, 6]]);
        assert!(upload.send(&[1, 2], (2, 3)).is_err());
        assert_eq!(upload.send(&[], (0, 3)).unwrap().dims(), [0, 3]);
    }
}
