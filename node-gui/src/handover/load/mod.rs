//! Shell: the two halves of kexec: load, by our own loader or by the kernel's, and `reboot(2)`.
//!
//! The kernel's own (`kexec_file_load(2)`) copies and hashes everything, but it is the one that Secure Boot allows.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use bt_catalog::{Medium, Role, SystemId, command_line};
use nix::errno::Errno;

use crate::download::verify::VerifiedSystem;
use crate::journey::problem::{Problem, ProblemKind};

pub mod in_place;

/// `KEXEC_FILE_NO_INITRAMFS` of `linux/kexec.h`.
const NO_INITRAMFS: libc::c_ulong = 0x4;

/// `KEXEC_FILE_UNLOAD` of `linux/kexec.h`.
const FILE_UNLOAD: libc::c_ulong = 0x1;

/// A kernel that is loaded and waits for [`Loaded::execute`].
#[derive(Debug)]
pub struct Loaded {
    id: SystemId,
    /// Initrd and medium stay where they are until the very end.
    held: Option<VerifiedSystem>,
}

/// Loads a verified system. Nobody else may hold its payload any more. Blocks for seconds.
///
/// # Errors
/// The kernel's refusal in words.
pub fn load(system: VerifiedSystem) -> Result<Loaded, Problem> {
    let id = system.id().clone();
    if let Some(memory) = system.payload().memory() {
        in_place::load(&system, memory)?;
        return Ok(Loaded { id, held: Some(system) });
    }
    let medium = match system.system().file(Role::Image) {
        Some(_) => Medium::Initrd,
        None => Medium::None,
    };
    let cmdline = command_line(system.cmdline(), system.system().family, medium);
    let cmdline =
        CString::new(cmdline).map_err(|_| Problem::internal("a command line with a NUL byte"))?;
    // The kernel refuses files that are open for writing (`ETXTBSY`).
    let files = system.into_payload().and_then(|p| p.into_read_only([Role::Kernel, Role::Initrd]));
    let Some([Some(kernel), initrd]) = files else {
        return Err(refused("kexec_file_load", &id, &io::Error::from(Errno::ETXTBSY)));
    };
    file_load(&kernel, initrd.as_ref(), &cmdline)
        .map_err(|error| refused("kexec_file_load", &id, &error))?;
    Ok(Loaded { id, held: None })
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

/// Frees what the loaded kernel takes, by the call that loaded it: lockdown refuses the other one.
fn unload(is_file: bool) {
    let nothing = std::ptr::null::<u8>();
    // SAFETY: without segments, or with this flag, the kernel only forgets what was loaded before, and reads nothing.
    let result = unsafe {
        if is_file {
            libc::syscall(libc::SYS_kexec_file_load, -1, -1, 0_usize, nothing, FILE_UNLOAD)
        } else {
            libc::syscall(libc::SYS_kexec_load, 0_u64, 0_u64, nothing, 0_u64)
        }
    };
    if result != 0 {
        let error = io::Error::last_os_error();
        tracing::warn!(%error, is_file, "the refused kernel stays in memory");
    }
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
        let error = io::Error::last_os_error();
        unload(self.held.is_none());
        drop(self.held);
        refused("reboot", &self.id, &error)
    }
}

/// Words for the error codes of kexec_load(2) and the kernel's sources.
pub(super) fn refused(call: &str, id: &SystemId, error: &io::Error) -> Problem {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    let (why, remedy) = reason(errno);
    Problem::new(
        ProblemKind::KexecRefused,
        "This PC refused to start the system",
        why,
        remedy,
        format!("{call} of {id}: {errno:?}: {error}"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::download::verify::tests::proof;

    #[test]
    fn the_kernels_refusal_is_told_in_words() {
        // The sample's kernel is no kernel; without the right to load one the answer is EPERM.
        let problem = load(proof("a")).expect_err("must be refused");
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
