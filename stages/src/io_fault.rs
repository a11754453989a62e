//! Errors of the local file system, by what the caller can do about them.

use std::io::{Error, ErrorKind as K};

/// What an error of the local file system comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoFault {
    /// No room, on the disk or in a quota: free some.
    DiskFull,
    /// A name, a right or a kind of file: another try meets it again.
    ForGood,
    /// A disk that fails, a network that is away, a limit that others use up: it may pass.
    Passing,
}

impl IoFault {
    /// Sorts an error by its kind and the system's number for it.
    pub fn of(error: &Error) -> IoFault {
        // has no name in the standard library yet
        const FILESYSTEM_LOOP: i32 = if cfg!(target_os = "linux") { 40 } else { 62 };
        const NO_SUCH_DEVICE: [i32; 2] = [6, 19];
        match error.raw_os_error() {
            Some(FILESYSTEM_LOOP) => return IoFault::ForGood,
            Some(code) if NO_SUCH_DEVICE.contains(&code) => return IoFault::ForGood,
            _ => {}
        }
        match error.kind() {
            K::StorageFull | K::QuotaExceeded => IoFault::DiskFull,
            K::NotFound
            | K::PermissionDenied
            | K::ReadOnlyFilesystem
            | K::AlreadyExists
            | K::NotADirectory
            | K::IsADirectory
            | K::InvalidFilename
            | K::InvalidInput
            | K::InvalidData
            | K::UnexpectedEof
            | K::FileTooLarge
            | K::TooManyLinks
            | K::CrossesDevices
            | K::Unsupported => IoFault::ForGood,
            _ => IoFault::Passing,
        }
    }

    /// Whether the system itself says so: what a library wraps into an error of this type has no kind.
    pub(crate) fn is_of_the_system(error: &Error) -> bool {
        error.kind() != K::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn only_what_another_try_can_help_passes() {
        let of =
            |codes: &[i32]| codes.iter().map(|code| IoFault::of(&Error::from_raw_os_error(*code))).collect::<Vec<_>>();
        // EPERM ENOENT ENXIO EACCES EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL EFBIG EROFS EMLINK ENAMETOOLONG ELOOP
        // EOPNOTSUPP
        let for_good = [1, 2, 6, 13, 17, 18, 19, 20, 21, 22, 27, 30, 31, 36, 40, 95];
        assert_eq!(of(&for_good), [IoFault::ForGood; 16]);
        // EINTR EIO EAGAIN ENOMEM EBUSY ENFILE EMFILE ETIMEDOUT ESTALE
        assert_eq!(of(&[4, 5, 11, 12, 16, 23, 24, 110, 116]), [IoFault::Passing; 9]);
        // ENOSPC EDQUOT
        assert_eq!(of(&[28, 122]), [IoFault::DiskFull; 2]);
    }
}
