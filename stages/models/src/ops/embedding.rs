use candle_core::{Result, Tensor, bail};

/// Looks up rows of a table.
///
/// `table_vd [V, D]`, `ids_bl` (`u32 [B, L]`, all below V); returns `[B, L, D]`. The gradient adds up rows that were
/// looked up more than once, in the order of their positions.
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
    table_vd.index_select(&flat, 0)?.reshape((batch, length, width))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, random};
    use super::*;
    use candle_core::Device;

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
