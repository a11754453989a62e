//! Whether a GPU that does nothing more is known as one: what it was asked for is not to blame then.

use candle_core::{DType, Tensor};

use crate::{Place, Result};

/// More products than any GPU that is to fail does before.
const MOST: usize = 100_000;

/// Computes until the device fails.
pub(crate) fn run(place: &Place) -> Result {
    let device = place.device()?;
    models::device::check_alive(&device).map_err(|why| format!("before anything has failed: {why}"))?;
    let ones = Tensor::ones((16, 16), DType::F32, &device)?;
    let sum = || ones.matmul(&ones)?.sum_all()?.to_scalar::<f32>();
    let Some(failed) = (0..MOST).find_map(|_| sum().err()) else {
        return Err(
            "the device does not fail: GPU_ON_CPU_LAUNCHES=N lets the GPU that is the CPU fail after N launches".into(),
        );
    };
    match models::device::check_alive(&device) {
        Ok(()) => Err(format!("the device is taken for sound after this: {failed}").into()),
        Err(why) => {
            println!("ok       a GPU that has failed is known: {why}");
            Ok(())
        }
    }
}
