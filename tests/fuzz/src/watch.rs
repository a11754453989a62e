//! Watching a reader: panics that get out of it, memory of the whole process, time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

/// Inputs are of some kilobytes. Libraries keep buffers of megabytes, and candle, which sees up to 32 MiB of a GGUF file's
/// header and no more, asks for room for all values that it speaks of.
const MOST_BYTES: usize = 128 << 20;
/// Machines are busy: only what hangs takes as long.
const LONGEST: Duration = Duration::from_secs(20);

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static WATCHES: AtomicBool = AtomicBool::new(false);
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// An allocator that counts for [`watched`].
pub struct Watching;

// SAFETY: every call is passed on to the system's allocator unchanged; the counts are atomic.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs a reader on an input, one at a time.
///
/// # Errors
/// What it did that a reader must not do.
pub fn watched(read: fn(&[u8]), bytes: &[u8]) -> Result<(), String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| match PANIC.lock() {
            Ok(mut panic) if WATCHES.load(Relaxed) => _ = panic.get_or_insert_with(|| info.to_string()),
            _ => usual(info),
        }));
    });
    let (before, began) = (LIVE.load(Relaxed), Instant::now());
    PEAK.store(before, Relaxed);
    WATCHES.store(true, Relaxed);
    let ended = catch_unwind(AssertUnwindSafe(|| read(bytes)));
    WATCHES.store(false, Relaxed);
    let (peak, took) = (PEAK.load(Relaxed).saturating_sub(before), began.elapsed());
    let panic = PANIC.lock().map_err(|e| e.to_string())?.take();
    match ended {
        // some libraries panic, and our readers make an error of it
        Err(_) => Err(panic.unwrap_or_else(|| "it panicked".into())),
        Ok(()) if peak > MOST_BYTES => Err(format!("{} bytes of input took {peak} bytes of memory", bytes.len())),
        Ok(()) if took > LONGEST => Err(format!("{} bytes of input took {took:.0?}", bytes.len())),
        Ok(()) => Ok(()),
    }
}
