//! Core: turns the kernel's refusal into a plain-language problem.

use std::io;

use bt_catalog::SystemId;
use nix::errno::Errno;

use crate::journey::problem::{Problem, ProblemKind};

/// The problem for an error code of `kexec_load(2)`, `kexec_file_load(2)` or `reboot(2)`.
#[must_use]
pub fn refused(call: &str, id: &SystemId, error: &io::Error) -> Problem {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    let (why, next_step) = reason(errno);
    Problem::new(
        ProblemKind::KexecRefused,
        "This PC refused to start the system",
        why,
        next_step,
        format!("{call} of {id}: {errno:?}: {error}"),
    )
}

fn reason(errno: Errno) -> (&'static str, &'static str) {
    const SKIP: &str = "Choose another system, and tell your supervisor.";
    match errno {
        Errno::EKEYREJECTED | Errno::ENOKEY | Errno::ENODATA | Errno::EBADMSG | Errno::EACCES => (
            "Secure Boot is on, and this system's kernel has no signature that this PC accepts.",
            "Choose another system, or ask your supervisor about Secure Boot.",
        ),
        Errno::ENOEXEC | Errno::ELIBBAD => ("Its kernel file is not a Linux kernel for PCs.", SKIP),
        Errno::EINVAL | Errno::ENOMEM | Errno::EADDRNOTAVAIL => (
            "It does not fit into this PC's memory, or its kernel does not support this boot method.",
            "Choose a smaller system, or use a PC with more memory.",
        ),
        Errno::EFBIG => {
            ("One of its files is larger than 4.3 GB, the limit for this boot method.", SKIP)
        }
        Errno::ETXTBSY | Errno::EBUSY => {
            ("Its files are still in use by this program.", "Try again.")
        }
        Errno::EPERM | Errno::ENOSYS => {
            ("The netboot image on this PC is not allowed to start another kernel.", SKIP)
        }
        _ => ("The kernel reported an error that this program does not recognize.", SKIP),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secure_boot_and_memory_are_told_apart() {
        assert!(reason(Errno::ENODATA).0.contains("Secure Boot"));
        assert!(reason(Errno::EINVAL).0.contains("memory"));
        assert!(reason(Errno::ENOEXEC).0.contains("not a Linux kernel"));
        assert!(!reason(Errno::UnknownErrno).0.is_empty());
    }
}
