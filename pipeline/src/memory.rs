//! What becomes of freed memory. Tensors are large and short-lived, and each would cost fresh pages if it went back to the
//! system at once: up to a fifth of a training's time. What asks no network has little of its own, and what it freed is
//! most of its peak.

use std::sync::OnceLock;

static HOOK: OnceLock<fn(bool)> = OnceLock::new();

/// Sets the function that tells the program's allocator whether to keep freed memory.
pub fn set_allocator_hook(hook: fn(bool)) {
    _ = HOOK.set(hook);
}

/// While this lives, freed memory goes back to the system at once; afterwards it is kept again.
pub(crate) struct LowMemory(());

impl LowMemory {
    pub(crate) fn begin() -> Self {
        keep(false);
        Self(())
    }
}

impl Drop for LowMemory {
    fn drop(&mut self) {
        keep(true);
    }
}

fn keep(at_hand: bool) {
    if let Some(hook) = HOOK.get() {
        hook(at_hand);
    }
}
