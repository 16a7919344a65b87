//! Shell: the two halves of kexec: load, by `kexec_load(2)` or `kexec_file_load(2)`, and `reboot(2)`.
//!
//! `kexec_file_load` ([`by_file`]) copies and hashes everything, but it is the call that Secure Boot allows.

use std::io;

use bt_catalog::SystemId;

use self::refusal::refused;
use crate::download::verified::VerifiedSystem;
use crate::journey::problem::Problem;

pub mod by_file;
pub mod in_place;
pub mod refusal;

/// `KEXEC_FILE_UNLOAD` of `linux/kexec.h`.
const FILE_UNLOAD: libc::c_ulong = 0x1;

/// A kernel that is loaded and waits for [`Loaded::execute`].
#[derive(Debug)]
pub struct Loaded {
    id: SystemId,
    /// Initrd and medium stay where they are until the very end.
    held: Option<VerifiedSystem>,
}

/// Loads a verified system. Nothing else may hold its payload any more. Blocks for seconds.
///
/// # Errors
/// The kernel's refusal, as a plain-language problem.
pub fn load(system: VerifiedSystem) -> Result<Loaded, Problem> {
    let id = system.id().clone();
    if let Some(memory) = system.payload().memory() {
        in_place::load(&system, memory)?;
        return Ok(Loaded { id, held: Some(system) });
    }
    by_file::load(system)?;
    Ok(Loaded { id, held: None })
}

/// Frees the memory of the loaded kernel, by the call that loaded it: lockdown refuses the other one.
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
        tracing::warn!(%error, is_file, "cannot unload the refused kernel");
    }
}

impl Loaded {
    /// Starts the loaded kernel. Returns only on failure.
    ///
    /// The caller has released network, screen and disks before.
    #[must_use]
    pub fn execute(self) -> Problem {
        nix::unistd::sync();
        // SAFETY: reboot(2) with this command touches no memory of this process; it does not return on success.
        unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) };
        let error = io::Error::last_os_error();
        unload(self.held.is_none());
        drop(self.held);
        refused("reboot", &self.id, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::download::verify::tests::proof;
    use crate::journey::problem::ProblemKind;

    #[test]
    fn the_kernels_refusal_becomes_a_problem() {
        // The sample's kernel is not a kernel; without the right to load one the answer is EPERM.
        let problem = load(proof("a")).expect_err("must be refused");
        assert_eq!(problem.kind, ProblemKind::KexecRefused);
        assert!(problem.detail.contains("kexec_file_load of a: E"), "{problem}");
    }
}
