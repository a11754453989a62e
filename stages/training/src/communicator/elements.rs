//! Elements of tensors in host memory, and their sum in rank order: the one place where ranks' numbers are added, so
//! that every implementation gets the same bits.

use bytemuck::Pod;
use candle_core::{DType, Device, Storage, Tensor, WithDType};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::Result;

/// Elements that are added up at a time: small enough for the first-level cache with an f32 accumulator.
const BLOCK: usize = 2048;

/// An element that can be summed over ranks.
pub trait Summand: WithDType + Pod {
    /// Adds `parts`, one of each rank in rank order and all as long as `sum`, into `sum`. Half precision is added up
    /// in f32 and rounded once.
    fn sum_in_rank_order(parts: &[&[Self]], sum: &mut [Self]);
}

macro_rules! add_directly {
    ($type:ty) => {
        impl Summand for $type {
            fn sum_in_rank_order(parts: &[&[Self]], sum: &mut [Self]) {
                match parts {
                    [] => sum.fill(0.0),
                    [only] => sum.copy_from_slice(only),
                    [first, second, rest @ ..] => {
                        for (block, sum) in sum.chunks_mut(BLOCK).enumerate() {
                            let range = block * BLOCK..block * BLOCK + sum.len();
                            let pairs = first[range.clone()].iter().zip(&second[range.clone()]);
                            sum.iter_mut().zip(pairs).for_each(|(sum, (a, b))| *sum = a + b);
                            for part in rest {
                                sum.iter_mut().zip(&part[range.clone()]).for_each(|(sum, x)| *sum += x);
                            }
                        }
                    }
                }
            }
        }
    };
}
add_directly!(f64);
add_directly!(f32);

macro_rules! add_in_f32 {
    ($type:ty) => {
        impl Summand for $type {
            fn sum_in_rank_order(parts: &[&[Self]], sum: &mut [Self]) {
                let (mut total, mut wide) = ([0f32; BLOCK], [0f32; BLOCK]);
                for (block, sum) in sum.chunks_mut(BLOCK).enumerate() {
                    let range = block * BLOCK..block * BLOCK + sum.len();
                    let (total, wide) = (&mut total[..sum.len()], &mut wide[..sum.len()]);
                    total.fill(0.0);
                    for (rank, part) in parts.iter().enumerate() {
                        let into = if rank == 0 { &mut *total } else { &mut *wide };
                        part[range.clone()].convert_to_f32_slice(into);
                        if rank > 0 {
                            total.iter_mut().zip(&*wide).for_each(|(total, x)| *total += x);
                        }
                    }
                    sum.convert_from_f32_slice(total);
                }
            }
        }
    };
}
add_in_f32!(bf16);
add_in_f32!(f16);

/// The tensor in host memory, its elements one after the other, without its gradient graph.
///
/// # Errors
/// [`Error::Tensor`](crate::Error::Tensor) if the device does not hand it over.
pub fn on_host(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.detach().to_device(&Device::Cpu)?.contiguous()?)
}

/// Looks at the elements of a tensor that came from [`on_host`].
///
/// # Errors
/// The tensor lies elsewhere, is not contiguous, or has another type.
pub fn with_elements<T: WithDType, R>(tensor: &Tensor, look: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => Ok(look(&storage.as_slice::<T>()?[start..end])),
        _ => Err(candle_core::Error::Msg("elements of a tensor that is not on the host and contiguous".into()).into()),
    }
}

/// Looks at the bytes of a tensor that came from [`on_host`], in the machine's own order.
///
/// # Errors
/// As [`with_elements`], or a type narrower than a byte.
pub fn with_bytes<R>(tensor: &Tensor, look: impl FnOnce(&[u8]) -> R) -> Result<R> {
    fn of<T: WithDType + Pod, R>(tensor: &Tensor, look: impl FnOnce(&[u8]) -> R) -> Result<R> {
        with_elements::<T, R>(tensor, |elements| look(bytemuck::cast_slice(elements)))
    }
    match tensor.dtype() {
        DType::U8 => of::<u8, R>(tensor, look),
        DType::U32 => of::<u32, R>(tensor, look),
        DType::I16 => of::<i16, R>(tensor, look),
        DType::I32 => of::<i32, R>(tensor, look),
        DType::I64 => of::<i64, R>(tensor, look),
        DType::BF16 => of::<bf16, R>(tensor, look),
        DType::F16 => of::<f16, R>(tensor, look),
        DType::F32 => of::<f32, R>(tensor, look),
        DType::F64 => of::<f64, R>(tensor, look),
        other => Err(candle_core::Error::Msg(format!("{other:?} has no plain bytes")).into()),
    }
}

/// The sum of tensors from [`on_host`], one of each rank in rank order, all of the same shape and type.
///
/// # Errors
/// The type is none that can be summed.
pub fn sum_of_tensors(tensors: &[Tensor], dtype: DType) -> Result<Tensor> {
    match dtype {
        DType::F64 => sum_of::<f64>(tensors),
        DType::F32 => sum_of::<f32>(tensors),
        DType::BF16 => sum_of::<bf16>(tensors),
        DType::F16 => sum_of::<f16>(tensors),
        other => Err(candle_core::Error::Msg(format!("no sum of {other:?} over ranks")).into()),
    }
}

fn sum_of<T: Summand>(tensors: &[Tensor]) -> Result<Tensor> {
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut parts = Vec::with_capacity(guards.len());
    for (storage, layout) in &guards {
        let (Storage::Cpu(storage), Some((start, end))) = (&**storage, layout.contiguous_offsets()) else {
            return Err(candle_core::Error::Msg("sum of tensors that are not on the host and contiguous".into()).into());
        };
        parts.push(&storage.as_slice::<T>()?[start..end]);
    }
    let mut sum = vec![T::zeroed(); parts.first().map_or(0, |part| part.len())];
    T::sum_in_rank_order(&parts, &mut sum);
    let shape = tensors.first().map_or(&[0][..], Tensor::dims);
    Ok(Tensor::from_vec(sum, shape, &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_in_rank_order_and_half_precision_rounds_once() {
        // 1e8 + 1 is lost in f32, so the order is visible
        let parts: [&[f32]; 3] = [&[1e8, 1.0], &[1.0, 2.0], &[-1e8, 3.0]];
        let mut sum = [0.0; 2];
        f32::sum_in_rank_order(&parts, &mut sum);
        assert_eq!(sum, [0.0, 6.0]);
        // 256 + 1 is lost in bf16 (8 bits), and would be lost twice
        let [a, b] = [256.0, 1.0].map(bf16::from_f32);
        let mut sum = [bf16::ZERO];
        bf16::sum_in_rank_order(&[&[a], &[b], &[b]], &mut sum);
        assert_eq!(sum[0].to_f32(), 258.0);
    }

    #[test]
    fn sums_of_any_length() {
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7] {
            let part: Vec<f16> = (0..len).map(|i| f16::from_f32((i % 50) as f32)).collect();
            let mut sum = vec![f16::ZERO; len];
            f16::sum_in_rank_order(&[&part, &part, &part], &mut sum);
            assert!(sum.iter().enumerate().all(|(i, s)| s.to_f32() == 3.0 * (i % 50) as f32), "length {len}");
        }
    }
}
