//! Comparing what a device gives with what it should give.

use candle_core::{DType, Device, Tensor};

use crate::Result;

/// Comparisons and their outcome, printed as they come.
#[derive(Default)]
pub(crate) struct Checks {
    made: usize,
    failed: Vec<String>,
}

impl Checks {
    /// ‖found − wanted‖ / ‖wanted‖ must not exceed `tolerance`; what is not finite never passes.
    pub(crate) fn close(&mut self, what: &str, found: &Tensor, wanted: &Tensor, tolerance: f64) {
        let error = distance(found, wanted).unwrap_or_else(|e| {
            println!("  {what}: {e}");
            f64::NAN
        });
        self.at_most(what, error, tolerance);
    }

    /// `error` must not exceed `tolerance`; NaN does.
    pub(crate) fn at_most(&mut self, what: &str, error: f64, tolerance: f64) {
        self.made += 1;
        let good = error <= tolerance;
        println!("{} {what}: {error:.2e} of {tolerance:.0e}", if good { "ok  " } else { "BAD " });
        if !good {
            self.failed.push(format!("{what} {error:.1e}"));
        }
    }

    /// An operation that cannot be done at all.
    pub(crate) fn fails(&mut self, what: &str, problem: impl std::fmt::Display) {
        self.made += 1;
        println!("BAD  {what}: {problem}");
        self.failed.push(format!("{what}: {problem}"));
    }

    pub(crate) fn finish(self) -> Result {
        if self.failed.is_empty() && self.made > 0 {
            println!("all {} checks hold", self.made);
            return Ok(());
        }
        Err(format!("{} of {} checks: {}", self.failed.len(), self.made, self.failed.join("; ")).into())
    }
}

/// ‖found − wanted‖ / ‖wanted‖, or ‖found‖ where nothing is wanted.
fn distance(found: &Tensor, wanted: &Tensor) -> Result<f64> {
    if found.dims() != wanted.dims() {
        return Err(format!("shape {:?} where {:?} is wanted", found.dims(), wanted.dims()).into());
    }
    let (found, wanted) = (values(found)?, values(wanted)?);
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(&wanted).map(|(a, b)| a - b));
    let size = norm(&mut wanted.iter().copied());
    Ok(if size > 0.0 { difference / size } else { difference })
}

/// All elements, on the host.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// Fills memory that the next tensors will be given with what is no number: an element that nobody writes shows.
pub(crate) fn poison(device: &Device) -> Result {
    for bytes in [1 << 12, 1 << 16, 1 << 20, 1 << 23] {
        drop(Tensor::full(f32::NAN, bytes / size_of::<f32>(), device)?);
    }
    Ok(())
}

/// How far a result in this type may lie from the one in f64 on the same inputs.
pub(crate) fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-10,
        DType::F32 => 2e-5,
        DType::F16 => 5e-3,
        _ => 3e-2,
    }
}
