//! Many tensors in few messages: one of some megabytes costs hardly more than a small one.

use candle_core::Tensor;

use crate::error::Result;

/// Puts tensors through `exchange`, which keeps shape and type, as few flat ones of at most `bytes` (a larger tensor
/// travels alone), in the order given; tensors of a message are of one type.
///
/// # Errors
/// Those of `exchange`.
pub(crate) fn in_buckets(
    tensors: impl IntoIterator<Item = (String, Tensor)>,
    bytes: usize,
    mut exchange: impl FnMut(&Tensor) -> Result<Tensor>,
) -> Result<Vec<(String, Tensor)>> {
    let (mut exchanged, mut bucket, mut filled) = (Vec::new(), Vec::<(String, Tensor)>::new(), 0);
    for (name, tensor) in tensors {
        let size = tensor.elem_count() * tensor.dtype().size_in_bytes();
        let fits = bucket.first().is_none_or(|(_, first)| first.dtype() == tensor.dtype() && filled + size <= bytes);
        if !fits {
            send(std::mem::take(&mut bucket), &mut exchange, &mut exchanged)?;
            filled = 0;
        }
        filled += size;
        bucket.push((name, tensor));
    }
    if !bucket.is_empty() {
        send(bucket, &mut exchange, &mut exchanged)?;
    }
    Ok(exchanged)
}

fn send(
    bucket: Vec<(String, Tensor)>,
    exchange: &mut impl FnMut(&Tensor) -> Result<Tensor>,
    exchanged: &mut Vec<(String, Tensor)>,
) -> Result<()> {
    let flat = bucket.iter().map(|(_, tensor)| tensor.flatten_all()).collect::<Result<Vec<_>, _>>()?;
    let flat = exchange(&Tensor::cat(&flat, 0)?)?;
    let mut start = 0;
    for (name, tensor) in bucket {
        let count = tensor.elem_count();
        exchanged.push((name, flat.narrow(0, start, count)?.reshape(tensor.shape())?));
        start += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn tensors_come_back_as_they_were_in_messages_of_one_type_and_limited_size() {
        let tensor = |count: usize, dtype| {
            Tensor::arange(0, count as u32, &Device::Cpu).unwrap().to_dtype(dtype).unwrap().reshape((1, count)).unwrap()
        };
        let tensors = [
            ("a", tensor(3, DType::F32)),
            ("b", tensor(2, DType::F32)),
            ("c", tensor(1, DType::F32)),
            ("d", tensor(9, DType::F32)),
            ("e", tensor(1, DType::F64)),
            ("f", tensor(1, DType::F64)),
        ];
        let mut sizes = Vec::new();
        let sent = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone()));
        let doubled = in_buckets(sent, 20, |flat| {
            sizes.push(flat.dims().to_vec());
            Ok((flat * 2.0)?)
        });
        assert_eq!(sizes, [[5], [1], [9], [2]]);
        for ((name, before), (other, after)) in tensors.iter().zip(doubled.unwrap()) {
            assert_eq!((*name, before.dims(), before.dtype()), (other.as_str(), after.dims(), after.dtype()));
            let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
            assert_eq!(wide(&(before * 2.0).unwrap()), wide(&after));
        }
    }
}
