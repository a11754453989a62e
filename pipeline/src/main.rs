//! `urbancross`: prepares satellite image–text data, trains and evaluates retrieval models.

use std::ffi::{c_int, c_long};
use std::process::ExitCode;

use clap::Parser;

/// Freed memory stays at hand: tensors are large and short-lived, and with the system's allocator each of them would
/// cost fresh pages, a tenth of the time of a network's pass.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

unsafe extern "C" {
    safe fn mi_option_set(option: c_int, value: c_long);
}

/// Of `mi_option_t`, which the crate has no name for: freed memory goes back to the system after so many milliseconds.
const PURGE_DELAY: c_int = 15;

fn keep_freed_memory(at_hand: bool) {
    mi_option_set(PURGE_DELAY, if at_hand { 1000 } else { 0 });
}

/// Threads that read and write local files. Tokio would start one for each request at hand, and each would keep megabytes
/// of freed memory to itself: most of the peak of an ingest. Some of them wait for others, so there must be many more than
/// tasks of that kind.
const FILE_THREADS: usize = 32;

fn main() -> ExitCode {
    #[cfg(feature = "device-check")]
    if std::env::args().nth(1).as_deref() == Some("device-check") {
        return device_check::Cli::parse_from(std::env::args().skip(1)).run();
    }
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        pipeline::memory::set_allocator_hook(keep_freed_memory);
    }
    let cli = pipeline::cli::Cli::parse();
    pipeline::logs::begin(cli.manner());
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.enable_all().max_blocking_threads(FILE_THREADS).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            pipeline::aside!("error: no runtime: {error}");
            return ExitCode::from(75);
        }
    };
    match runtime.block_on(pipeline::cli::main(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let worker = error.chain().find_map(|e| e.downcast_ref::<workers::WorkerError>());
            // whoever has started this process knows what to do next
            let advice = worker.filter(|_| !pipeline::launched()).and_then(workers::WorkerError::advice);
            let advice = advice.map_or(String::new(), |advice| format!("; {advice}"));
            let what = if matches!(worker, Some(workers::WorkerError::Stopped)) { "" } else { "error: " };
            // beside lines of other builds
            let task = Some(pipeline::logs::task()).filter(|name| !name.is_empty());
            let task = task.map_or(String::new(), |name| format!("{name}: "));
            pipeline::aside!("{what}{task}{}{advice}", workers::cause::whole_chain(error.as_ref()));
            ExitCode::from(pipeline::exit::code(&error))
        }
    }
}
