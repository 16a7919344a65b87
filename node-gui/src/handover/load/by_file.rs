//! Shell: loads a kernel by `kexec_file_load(2)`, the call that Secure Boot allows.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use bt_catalog::{Medium, Role, command_line};
use nix::errno::Errno;

use super::refusal::refused;
use crate::download::verified::VerifiedSystem;
use crate::journey::problem::Problem;

/// `KEXEC_FILE_NO_INITRAMFS` of `linux/kexec.h`.
const NO_INITRAMFS: libc::c_ulong = 0x4;

/// Loads a verified system whose payload is files.
///
/// # Errors
/// The kernel's refusal, as a plain-language problem.
pub fn load(system: VerifiedSystem) -> Result<(), Problem> {
    let id = system.id().clone();
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
        .map_err(|error| refused("kexec_file_load", &id, &error))
}

fn file_load(kernel: &File, initrd: Option<&File>, cmdline: &CString) -> io::Result<()> {
    let (initrd, flags) = initrd.map_or((-1, NO_INITRAMFS), |file| (file.as_raw_fd(), 0));
    let bytes = cmdline.as_bytes_with_nul();
    // SAFETY: the descriptors are open until the call returns, and the kernel copies `bytes.len()` bytes, with the NUL at
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
