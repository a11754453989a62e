use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, TensorId, WithDType, bail,
};
use std::cell::RefCell;
use std::collections::HashMap;

/// Gradients of all that some outputs depend on, from the gradient of each; there is at least one.
///
/// As those of the sum of `(y * gradient).sum()`, without the passes over y that product and sum take there and back.
///
/// # Errors
/// A gradient of another shape or type than its output.
pub fn backward_from(outputs: &[(&Tensor, &Tensor)]) -> Result<GradStore> {
    let mut seeds = outputs.iter().map(|(y, gradient)| seed(y, gradient));
    let first = seeds.next().unwrap_or_else(|| bail!("backward: there is no output"))?;
    let seed = seeds.try_fold(first, |sum, seed| sum + seed)?;
    let began = Collecting::begin();
    let mut store = seed.backward()?;
    for (id, gradient) in began.end() {
        if let Some(before) = store.insert_id(id, gradient.clone()) {
            store.insert_id(id, (before + gradient)?);
        }
    }
    Ok(store)
}

thread_local! {
    /// Gradients of parameters that nodes of ours have found on this thread's way back; `None`: candle is to add them up.
    static COLLECTED: RefCell<Option<HashMap<TensorId, Tensor>>> = const { RefCell::new(None) };
}

/// A way back on which nodes may hand gradients of parameters over. It ends when this is dropped.
struct Collecting;

impl Collecting {
    fn begin() -> Self {
        COLLECTED.set(Some(HashMap::new()));
        Self
    }

    fn end(self) -> HashMap<TensorId, Tensor> {
        COLLECTED.take().unwrap_or_default()
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        COLLECTED.set(None);
    }
}

/// Whether gradients of parameters are taken by [`collect`].
#[cfg(feature = "cuda")]
pub(super) fn collects() -> bool {
    COLLECTED.with_borrow(Option::is_some)
}

/// Takes the gradient of a parameter, and adds it to what was taken before.
#[cfg(feature = "cuda")]
pub(super) fn collect(id: TensorId, gradient: Option<Tensor>) -> Result<()> {
    let Some(gradient) = gradient else { return Ok(()) };
    COLLECTED.with_borrow_mut(|collected| {
        let Some(collected) = collected else { bail!("backward: nobody collects gradients") };
        let sum = match collected.remove(&id) {
            Some(before) => (before + gradient)?,
            None => gradient,
        };
        collected.insert(id, sum);
        Ok(())
    })
}

fn seed(y: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    if y.dims() != gradient.dims() || y.dtype() != gradient.dtype() {
        let (y, gradient) = ((y.dims(), y.dtype()), (gradient.dims(), gradient.dtype()));
        bail!("backward: the gradient is {gradient:?}, the tensor {y:?}")
    }
    y.apply_op1(Seed(gradient.detach()))
}

/// A scalar whose derivative by its argument is this tensor. Its value means nothing.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((f32::to_cpu_storage(&[0.0]), Shape::from(())))
    }

    fn cuda_fwd(&self, like: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        let shape = Shape::from(());
        Ok((like.device().zeros_impl(&shape, DType::F32)?, shape))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::random;
    use super::*;
    use candle_core::Var;

    #[test]
    fn gradients_are_those_of_the_inner_product() {
        let (x, gradient) = (Var::from_tensor(&random(&[3, 4], 1)).unwrap(), random(&[3, 4], 2));
        let square = x.sqr().unwrap();
        let found = backward_from(&[(&square, &gradient)]).unwrap();
        let wanted = (square * &gradient).unwrap().sum_all().unwrap().backward().unwrap();
        let values = |store: &GradStore| store.get(&x).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(values(&found), values(&wanted));
    }

    #[test]
    fn gradients_of_several_outputs_add_up() {
        let x = Var::from_tensor(&random(&[3, 4], 1)).unwrap();
        let (square, row) = (x.sqr().unwrap(), x.sum_keepdim(0).unwrap());
        let (of_square, of_row) = (random(&[3, 4], 2), random(&[1, 4], 3));
        let found = backward_from(&[(&square, &of_square), (&row, &of_row)]).unwrap();
        let total =
            ((square * &of_square).unwrap().sum_all().unwrap() + (row * &of_row).unwrap().sum_all().unwrap()).unwrap();
        let wanted = total.backward().unwrap();
        let values = |store: &GradStore| store.get(&x).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(values(&found), values(&wanted));
        assert!(backward_from(&[]).is_err());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let x = random(&[3, 4], 1);
        assert!(backward_from(&[(&x, &random(&[4, 3], 2))]).is_err());
        assert!(backward_from(&[(&x, &x.to_dtype(DType::F32).unwrap())]).is_err());
    }
}
