//! How long the parts of a step take.

use std::time::Instant;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Seconds of the parts of steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phases {
    /// Waiting for the batch.
    pub data: f64,
    /// The towers on their way there, and the loss.
    pub forward: f64,
    /// The towers on their way back.
    pub backward: f64,
    /// Waiting for other ranks: what of the exchange nothing hides.
    pub all_reduce: f64,
    /// Moving the parameters and their average.
    pub optimiser: f64,
}

impl Phases {
    /// Each by its name.
    pub fn named(&self) -> [(&'static str, f64); 5] {
        let Self { data, forward, backward, all_reduce, optimiser } = *self;
        [
            ("data", data),
            ("forward", forward),
            ("backward", backward),
            ("all-reduce", all_reduce),
            ("optimiser", optimiser),
        ]
    }
}

/// Measures phases where that was asked for: then each ends when the device is through with it, and nothing overlaps.
pub(super) struct StopWatch {
    device: Option<Device>,
    last: Instant,
    phases: Phases,
}

impl StopWatch {
    /// `None` measures nothing.
    pub(super) fn new(device: Option<Device>) -> Self {
        Self { device, last: Instant::now(), phases: Phases::default() }
    }

    /// What comes next belongs to the next phase.
    pub(super) fn start(&mut self) {
        self.last = Instant::now();
    }

    /// What came since the last call belongs to this phase.
    pub(super) fn end(&mut self, phase: impl FnOnce(&mut Phases) -> &mut f64) -> Result<()> {
        if let Some(device) = &self.device {
            device.synchronize()?;
            let now = Instant::now();
            *phase(&mut self.phases) += (now - self.last).as_secs_f64();
            self.last = now;
        }
        Ok(())
    }

    /// All since the last call of this.
    pub(super) fn take(&mut self) -> Option<Phases> {
        let phases = std::mem::take(&mut self.phases);
        self.device.is_some().then_some(phases)
    }
}
