//! Shell: the file systems of `/init`.

use std::fs;
use std::os::fd::AsRawFd;

use nix::mount::{MsFlags, mount};

/// Where the payload of the chosen system is kept: a separate tmpfs, so that a full one affects nothing else.
pub const PAYLOAD: &str = "/payload";

/// Mounts everything a node needs; a mount that is there already is left alone.
///
/// # Errors
/// Names the file system that could not be mounted.
pub fn mount_all() -> Result<(), String> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_one("proc", "/proc", plain, "")?;
    mount_one("sysfs", "/sys", plain, "")?;
    // Lockdown is read from here; a kernel without securityfs has no lockdown either.
    mount_one("securityfs", "/sys/kernel/security", plain, "").ok();
    mount_devices()?;
    open_console();
    mount_one("devpts", "/dev/pts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "mode=0620")?;
    mount_one("tmpfs", "/run", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0755,size=16m")?;
    // Whether a payload fits is computed before the download; this limit must only be large enough.
    mount_one("tmpfs", PAYLOAD, plain, "mode=0700,size=95%")
}

/// Mounts only `/dev`, where screen and keyboard are.
///
/// # Errors
/// As [`mount_all`].
pub fn mount_devices() -> Result<(), String> {
    mount_one("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755")
}

fn mount_one(kind: &str, target: &str, flags: MsFlags, options: &str) -> Result<(), String> {
    fs::create_dir_all(target)
        .map_err(|error| format!("cannot create folder {target}: {error}"))?;
    match mount(Some(kind), target, Some(kind), flags, Some(options)) {
        Ok(()) | Err(nix::errno::Errno::EBUSY) => Ok(()),
        Err(error) => Err(format!("cannot mount {kind} on {target}: {error}")),
    }
}

/// Gives the process its console where the kernel could not: an initramfs without a `/dev/console` node.
fn open_console() {
    // SAFETY: fcntl(F_GETFD) only asks whether the descriptor is open.
    if unsafe { libc::fcntl(2, libc::F_GETFD) } >= 0 {
        return;
    }
    let Ok(console) = fs::OpenOptions::new().read(true).write(true).open("/dev/console") else {
        return;
    };
    for fd in 0..3 {
        // SAFETY: dup2 onto the three standard descriptors, none of which is open.
        unsafe { libc::dup2(console.as_raw_fd(), fd) };
    }
    if console.as_raw_fd() < 3 {
        std::mem::forget(console);
    }
}
