use super::half::{widen, widened};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, bail};

/// Looks up rows of a table.
///
/// `table_vd [V, D]`, `ids_bl` (`u32 [B, L]`, all below V); returns `[B, L, D]`. The gradient adds up rows that were
/// looked up more than once, in the order of their positions and widened where the type is f16 or bf16.
///
/// # Errors
/// Shapes or types other than these, or an id that the table has not.
pub fn embedding(table_vd: &Tensor, ids_bl: &Tensor) -> Result<Tensor> {
    let (batch, length) = ids_bl.dims2()?;
    let (vocabulary, width) = table_vd.dims2()?;
    let flat = ids_bl.flatten_all()?;
    if let Some(id) = flat.to_vec1::<u32>()?.iter().find(|&&id| id as usize >= vocabulary) {
        bail!("embedding: id {id} is not in a vocabulary of {vocabulary}")
    }
    let rows = match table_vd.dtype() == widened(table_vd.dtype()) {
        true => table_vd.index_select(&flat, 0)?,
        false => table_vd.apply_op1(Lookup { ids: flat })?,
    };
    rows.reshape((batch, length, width))
}

/// candle's `index_select` from a table in half precision. candle itself adds gradients up in the table's type, where a
/// sum of ones in bf16 stands still at 256.
struct Lookup {
    ids: Tensor,
}

impl Lookup {
    fn shape(&self, table: &Layout) -> Shape {
        Shape::from((self.ids.elem_count(), table.dims()[1]))
    }
}

impl CustomOp1 for Lookup {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (ids, ids_layout) = self.ids.storage_and_layout();
        let Storage::Cpu(ids) = &*ids else { bail!("embedding: the table lies on the CPU, its ids do not") };
        Ok((table.index_select(ids, layout, ids_layout, 0)?, self.shape(layout)))
    }

    fn cuda_fwd(&self, table: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (ids, ids_layout) = self.ids.storage_and_layout();
        let Storage::Cuda(ids) = &*ids else { bail!("embedding: the table lies on a GPU, its ids do not") };
        Ok((table.index_select(ids, layout, ids_layout, 0)?, self.shape(layout)))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let sums = Tensor::zeros(table.shape(), widened(grad.dtype()), grad.device())?;
        Ok(Some(sums.index_add(&self.ids, &widen(grad)?, 0)?.to_dtype(table.dtype())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, random};
    use super::*;
    use candle_core::{DType, Device, Var};

    /// One by one they would stand still at 2048 in f16 and at 256 in bf16.
    #[test]
    fn gradients_in_half_precision_are_summed_in_f32() {
        let ids = Tensor::zeros((4, 1024), DType::U32, &Device::Cpu).unwrap();
        for dtype in [DType::F16, DType::BF16] {
            let table = Var::from_tensor(&random(&[2, 3], 1).to_dtype(dtype).unwrap()).unwrap();
            let rows = embedding(&table, &ids).unwrap();
            assert_eq!((rows.dims(), rows.dtype()), (&[4, 1024, 3][..], dtype));
            let grads = rows.sum_all().unwrap().backward().unwrap();
            let grad = grads.get(&table).unwrap();
            assert_eq!(grad.dtype(), dtype);
            let grad = grad.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(grad, [[4096.0; 3], [0.0; 3]], "{dtype:?}");
        }
    }

    /// What is looked up is the table's own.
    #[test]
    fn rows_in_half_precision_are_those_of_the_table() {
        let ids = Tensor::new(&[[0u32, 2, 2], [1, 2, 0]], &Device::Cpu).unwrap();
        let table = random(&[4, 3], 1).to_dtype(DType::BF16).unwrap();
        let values = |rows: Tensor| rows.to_dtype(DType::F32).unwrap().to_vec3::<f32>().unwrap();
        let wide = table.to_dtype(DType::F32).unwrap();
        assert_eq!(values(embedding(&table, &ids).unwrap()), values(embedding(&wide, &ids).unwrap()));
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let ids = Tensor::new(&[[0u32, 2, 2], [1, 2, 0]], &Device::Cpu).unwrap();
        assert_gradients(&[random(&[4, 3], 1)], |a| embedding(&a[0], &ids));
    }

    #[test]
    fn an_id_beyond_the_vocabulary_is_an_error() {
        let ids = Tensor::new(&[[0u32, 4]], &Device::Cpu).unwrap();
        let message = embedding(&random(&[4, 3], 1), &ids).unwrap_err().to_string();
        assert!(message.contains("id 4") && message.contains("vocabulary of 4"), "{message}");
    }
}
