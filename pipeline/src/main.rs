//! `urbancross`: prepares satellite image–text data, trains and evaluates retrieval models.

use std::process::ExitCode;

use clap::Parser;

/// Freed memory stays at hand: tensors are large and short-lived, and with the system's allocator each of them would
/// cost fresh pages, a tenth of the time of a network's pass.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(feature = "device-check")]
    if std::env::args().nth(1).as_deref() == Some("device-check") {
        return device_check::Cli::parse_from(std::env::args().skip(1)).run();
    }
    let cli = pipeline::cli::Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("URBANCROSS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,delta_kernel=off"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time();
    // it would say so on standard error, and panic where nobody listens there
    log.log_internal_errors(false).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
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
            let advice = worker.and_then(workers::WorkerError::advice).map_or(String::new(), |a| format!("; {a}"));
            pipeline::aside!("error: {}{advice}", workers::error::whole_chain(error.as_ref()));
            ExitCode::from(worker.map_or(65, workers::WorkerError::exit_code))
        }
    }
}
