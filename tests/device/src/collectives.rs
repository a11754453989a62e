//! NCCL, as far as one GPU can show it: one rank, which is all that NCCL allows there.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use candle_core::{DType, Device};
use ranks::{Backend, RankInfo};
use training::communicator::conformance::operations;
use training::communicator::{Communicator, Solo};

use crate::check::Checks;
use crate::trainings::{Learnt, solo};
use crate::{Place, Result};

pub(crate) fn run(place: &Place, times: usize) -> Result {
    let device = place.device()?;
    let mut checks = Checks::default();
    let mut done = 0;
    let begun = std::time::Instant::now();
    for _ in 0..times {
        let suite = || {
            operations(&|_, time_out| vec![nccl(&device, time_out).expect("nccl opens")], 1, &|_| device.clone());
        };
        if std::panic::catch_unwind(AssertUnwindSafe(suite)).is_err() {
            checks.fails("operations over nccl", format!("time {done}; the message is above"));
            break;
        }
        done += 1;
    }
    println!("the suite of operations ran {done} times over nccl, in {:.1} s", begun.elapsed().as_secs_f64());
    for learnt in [Learnt::Contrast, Learnt::Adaptation] {
        let trained = |device: &Device, dtype, ranks: &mut dyn Communicator| solo(learnt, device, dtype, ranks);
        let reference = trained(&Device::Cpu, DType::F64, &mut Solo)?;
        let alone = trained(&device, DType::F32, &mut Solo)?;
        let over_nccl = trained(&device, DType::F32, nccl(&device, Duration::from_secs(60))?.as_mut())?;
        checks.at_most(&format!("{learnt:?} over nccl"), over_nccl.difference(&reference), 1e-3);
        checks.at_most(&format!("{learnt:?} over nccl beside alone"), f64::from(over_nccl != alone), 0.0);
    }
    checks.finish()
}

fn nccl(device: &Device, time_out: Duration) -> Result<Box<dyn Communicator>> {
    let variables = |name: &str| match name {
        "RANK" | "LOCAL_RANK" => Some("0".to_owned()),
        "WORLD_SIZE" => Some("1".to_owned()),
        _ => None,
    };
    let place = RankInfo::from_environment(&variables)?.ok_or("no place")?;
    Ok(ranks::open(&place, Backend::Nccl, device, time_out)?)
}
