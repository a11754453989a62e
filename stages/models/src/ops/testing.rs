//! Checks shared by the tests of the operations.

use candle_core::{DType, Device, Result, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Uniform f64 values in [-1, 1).
pub(crate) fn random(dims: &[usize], seed: u64) -> Tensor {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let count = dims.iter().product();
    let values: Vec<f64> = (0..count).map(|_| generator.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

fn variables(args: &[Tensor]) -> (Vec<Var>, Vec<Tensor>) {
    let variables: Vec<Var> = args.iter().map(|arg| Var::from_tensor(arg).unwrap()).collect();
    let tensors = variables.iter().map(|v| v.as_tensor().clone()).collect();
    (variables, tensors)
}

/// A scalar that depends on every output with another weight.
fn weighted_sum(y: &Tensor) -> Result<Tensor> {
    (y * random(y.dims(), 99).to_dtype(y.dtype())?)?.sum_all()
}

fn flat(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Compares the gradient of every element of every argument with a central difference, in f64.
pub(crate) fn assert_gradients(args: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let (variables, tracked) = variables(args);
    let grads = weighted_sum(&f(&tracked).unwrap()).unwrap().backward().unwrap();
    for (index, variable) in variables.iter().enumerate() {
        let analytic = flat(grads.get(variable).expect("every argument has a gradient"));
        let values = flat(&args[index]);
        for element in 0..values.len() {
            let at = |shift: f64| {
                let mut values = values.clone();
                values[element] += shift;
                let mut args = args.to_vec();
                args[index] = Tensor::from_vec(values, args[index].shape(), &Device::Cpu).unwrap();
                weighted_sum(&f(&args).unwrap()).unwrap().to_scalar::<f64>().unwrap()
            };
            let step = 1e-5;
            let numeric = (at(step) - at(-step)) / (2.0 * step);
            let error = (analytic[element] - numeric).abs() / numeric.abs().max(1.0);
            assert!(
                error < 1e-7,
                "argument {index}, element {element}: gradient {} beside the difference {numeric}",
                analytic[element]
            );
        }
    }
}

/// Compares a kernel with its composition of candle's operations: values and gradients, in f64 and f32.
pub(crate) fn assert_same_as_composed(
    args: &[Tensor],
    kernel: impl Fn(&[Tensor]) -> Result<Tensor>,
    composed: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, 2e-5)] {
        let args: Vec<Tensor> = args.iter().map(|arg| arg.to_dtype(dtype).unwrap()).collect();
        let (variables, tracked) = variables(&args);
        let (a, b) = (kernel(&tracked).unwrap(), composed(&tracked).unwrap());
        assert_eq!(a.dims(), b.dims());
        assert_close("value", &a, &b, tolerance);
        let grads_a = weighted_sum(&a).unwrap().backward().unwrap();
        let grads_b = weighted_sum(&b).unwrap().backward().unwrap();
        for (index, variable) in variables.iter().enumerate() {
            let (a, b) = (grads_a.get(variable).unwrap(), grads_b.get(variable).unwrap());
            assert_close(&format!("gradient {index} in {dtype:?}"), a, b, tolerance);
        }
    }
}

/// Compares an operation without gradients with its composition of candle's operations, in f64 and f32.
pub(crate) fn assert_same_values(
    args: &[Tensor],
    kernel: impl Fn(&[Tensor]) -> Result<Tensor>,
    composed: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, 2e-5)] {
        let args: Vec<Tensor> = args.iter().map(|arg| arg.to_dtype(dtype).unwrap()).collect();
        let (a, b) = (kernel(&args).unwrap(), composed(&args).unwrap());
        assert_eq!(a.dims(), b.dims());
        assert_close(&format!("value in {dtype:?}"), &a, &b, tolerance);
    }
}

fn assert_close(what: &str, a: &Tensor, b: &Tensor, tolerance: f64) {
    let (a, b) = (flat(a), flat(b));
    let scale = b.iter().fold(1.0f64, |scale, x| scale.max(x.abs()));
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        assert!((a - b).abs() <= tolerance * scale, "{what}: element {i} is {a} beside {b}");
    }
}
