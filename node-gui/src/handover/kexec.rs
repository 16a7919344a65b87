//! Shell: `kexec_file_load(2)` and `reboot(2)`: the two halves of kexec.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use bt_catalog::{Role, SystemId};
use nix::errno::Errno;

use crate::problem::{Problem, ProblemKind};
use crate::verify::VerifiedSystem;

/// `KEXEC_FILE_NO_INITRAMFS` of `linux/kexec.h`.
const NO_INITRAMFS: libc::c_ulong = 0x4;

/// A kernel that is loaded and waits for [`Loaded::execute`].
#[derive(Debug)]
pub struct Loaded {
    id: SystemId,
}

/// Loads kernel and initrd of a verified system, by the descriptors through which they were hashed.
///
/// Nobody may hold the files open for writing any more: the kernel refuses them then (`ETXTBSY`). Blocks for seconds.
///
/// # Errors
/// The kernel's refusal in words.
pub fn load(system: &VerifiedSystem) -> Result<Loaded, Problem> {
    if system.file(Role::Image).is_some() {
        return Err(needs_image(system.id()));
    }
    let kernel = system.file(Role::Kernel);
    let kernel = kernel.ok_or_else(|| Problem::internal("a verified system without a kernel"))?;
    let cmdline = CString::new(system.cmdline())
        .map_err(|_| Problem::internal("a command line with a NUL byte"))?;
    file_load(kernel, system.file(Role::Initrd), &cmdline)
        .map_err(|error| refused(system.id(), &error))?;
    Ok(Loaded { id: system.id().clone() })
}

fn file_load(kernel: &File, initrd: Option<&File>, cmdline: &CString) -> io::Result<()> {
    let (initrd, flags) = initrd.map_or((-1, NO_INITRAMFS), |file| (file.as_raw_fd(), 0));
    let bytes = cmdline.as_bytes_with_nul();
    // SAFETY: the descriptors are open for the whole call, and the kernel copies `bytes.len()` bytes, with the NUL at
    // their end, before it returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd,
            bytes.len(),
            bytes.as_ptr(),
            flags,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Loaded {
    /// Starts the loaded kernel. Returns only when that was refused.
    ///
    /// The caller has let go of everything before: network, screen, disks.
    #[must_use]
    pub fn execute(self) -> Problem {
        nix::unistd::sync();
        // SAFETY: reboot(2) with this command touches no memory of ours; it does not return when it works.
        unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) };
        refused(&self.id, &io::Error::last_os_error())
    }
}

/// Words for the error codes of `kexec_file_load(2)` and the kernel's sources.
fn refused(id: &SystemId, error: &io::Error) -> Problem {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    let (why, remedy) = reason(errno);
    Problem::new(
        ProblemKind::KexecRefused,
        "This PC refused to start the system",
        why,
        remedy,
        format!("kexec_file_load of {id}: {errno:?}: {error}"),
    )
}

fn reason(errno: Errno) -> (&'static str, &'static str) {
    const TELL: &str = "Choose another system, and tell your supervisor.";
    match errno {
        Errno::EKEYREJECTED | Errno::ENOKEY | Errno::ENODATA | Errno::EBADMSG | Errno::EACCES => (
            "Secure Boot is on, and this system's kernel has no signature that the PC accepts.",
            "Choose another system, or ask your supervisor about Secure Boot.",
        ),
        Errno::ENOEXEC | Errno::ELIBBAD => ("Its kernel file is not a Linux kernel for PCs.", TELL),
        Errno::EINVAL | Errno::ENOMEM | Errno::EADDRNOTAVAIL => (
            "It does not fit into this PC's memory, or its kernel file cannot be started this way.",
            "Choose a smaller system, or a PC with more memory.",
        ),
        Errno::EFBIG => ("One of its files is larger than 4 GiB.", TELL),
        Errno::ETXTBSY | Errno::EBUSY => {
            ("Its files are still in use by this program.", "Try again.")
        }
        Errno::EPERM | Errno::ENOSYS => {
            ("The small Linux on this PC may not start another kernel.", TELL)
        }
        _ => ("The kernel gave a reason that this program does not know.", TELL),
    }
}

fn needs_image(id: &SystemId) -> Problem {
    Problem::new(
        ProblemKind::KexecRefused,
        "This system cannot be started yet",
        "It has a root image, and this version starts only systems of kernel and initrd.",
        "Choose another system, and tell your supervisor.",
        format!("{id} has an image file; the hand-over of images is not part of this version"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::tests::proof;

    #[test]
    fn the_kernels_refusal_is_told_in_words() {
        // The sample's kernel is no kernel; without the right to load one the answer is EPERM.
        let problem = load(&proof("a")).expect_err("must be refused");
        assert_eq!(problem.kind, ProblemKind::KexecRefused);
        assert!(problem.detail.contains("kexec_file_load of a: E"), "{problem}");
    }

    #[test]
    fn secure_boot_and_memory_are_told_apart() {
        assert!(reason(Errno::ENODATA).0.contains("Secure Boot"));
        assert!(reason(Errno::EINVAL).0.contains("memory"));
        assert!(reason(Errno::ENOEXEC).0.contains("not a Linux kernel"));
        assert!(!reason(Errno::UnknownErrno).0.is_empty());
    }
}
