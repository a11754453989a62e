use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, WithDType, bail};

/// Gradients of all that some outputs depend on, from the gradient of each; there is at least one.
///
/// As those of the sum of `(y * gradient).sum()`, without the passes over y that product and sum take there and back.
///
/// # Errors
/// A gradient of another shape or type than its output.
pub fn backward_from(outputs: &[(&Tensor, &Tensor)]) -> Result<GradStore> {
    let mut seeds = outputs.iter().map(|(y, gradient)| seed(y, gradient));
    let first = seeds.next().unwrap_or_else(|| bail!("backward: there is no output"))?;
    seeds.try_fold(first, |sum, seed| sum + seed)?.backward()
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
