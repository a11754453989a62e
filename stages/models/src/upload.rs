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

#[cfg(feature = "cuda")]
mod pinned {
    use candle_core::cuda::cudarc::driver::PinnedHostSlice;
    use candle_core::op::BackpropOp;
    use candle_core::{CudaDevice, CudaStorage, Result, Storage, Tensor};

    /// Two: one can be filled while the other is still on its way.
    #[derive(Default)]
    pub(super) struct Buffers([Option<PinnedHostSlice<u8>>; 2]);

    impl Buffers {
        pub(super) fn send(&mut self, bytes: &[u8], device: &CudaDevice) -> Result<Tensor> {
            let error = candle_core::Error::wrap;
            let stream = device.cuda_stream();
            self.0.swap(0, 1);
            let buffer = &mut self.0[0];
            if buffer.as_ref().is_none_or(|buffer| buffer.len() < bytes.len()) {
                // given back first: both together may be more than can be locked
                *buffer = None;
                // SAFETY: what is read of it was written before, here or by `fill`
                let mut fresh =
                    unsafe { stream.context().alloc_pinned_with_flags::<u8>(bytes.len(), 0) }.map_err(error)?;
                fresh.as_mut_slice().map_err(error)?.fill(0);
                *buffer = Some(fresh);
            }
            let Some(buffer) = buffer else { candle_core::bail!("no page-locked memory") };
            // waits until the copy before the last has left this memory
            buffer.as_mut_slice().map_err(error)?[..bytes.len()].copy_from_slice(bytes);
            let copied = stream.clone_htod(&*buffer).map_err(error)?;
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
