//! What becomes of freed memory. Tensors are large and short-lived, and each would cost fresh pages if it went back to the
//! system at once: up to a fifth of a training's time. What asks no network has little of its own, and what it freed is
//! most of its peak.

use std::sync::OnceLock;

static KEEPS: OnceLock<fn(bool)> = OnceLock::new();

/// Says how the program's allocator is told whether to keep freed memory at hand; without it nothing is told.
pub fn told_by(tell: fn(bool)) {
    _ = KEEPS.set(tell);
}

/// Freed memory goes back to the system at once while this lives, and stays at hand again afterwards.
pub(crate) struct Lean(());

impl Lean {
    pub(crate) fn begin() -> Self {
        keep(false);
        Self(())
    }
}

impl Drop for Lean {
    fn drop(&mut self) {
        keep(true);
    }
}

fn keep(at_hand: bool) {
    if let Some(tell) = KEEPS.get() {
        tell(at_hand);
    }
}
