//! Exit codes of commands.

use stages::io_fault::IoFault;
use workers::WorkerError;

use crate::say::OutputError;

/// 65 where another try meets the same, 75 where it can help; what is known better says so itself.
pub fn code(error: &anyhow::Error) -> u8 {
    let of_cause = error.chain().find_map(|cause| {
        let worker = cause.downcast_ref::<WorkerError>().map(WorkerError::exit_code);
        let output = || cause.downcast_ref::<OutputError>().map(OutputError::exit_code);
        let io = || {
            cause.downcast_ref::<std::io::Error>().map(|io| match IoFault::of(io) {
                IoFault::ForGood => 65,
                IoFault::DiskFull | IoFault::Passing => 75,
            })
        };
        worker.or_else(output).or_else(io)
    });
    of_cause.unwrap_or(65)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_passes_whoever_meets_it() {
        let of = |kind: std::io::ErrorKind| {
            code(&anyhow::Error::from(std::io::Error::from(kind)).context("the report cannot be written"))
        };
        assert_eq!((of(std::io::ErrorKind::StorageFull), of(std::io::ErrorKind::PermissionDenied)), (75, 65));
        let absent = manifests::BuildSpec::read("no-such.toml".as_ref(), &[]).unwrap_err();
        assert_eq!(code(&absent.into()), 65);
        assert_eq!(code(&WorkerError::Stopped.into()), 143);
    }
}
