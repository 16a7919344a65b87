//! Shell: switches the text console to graphics mode while the picker is on the screen, and back again.
//!
//! In graphics mode the kernel draws no text and no cursor over the picker; with the keyboard off, keys reach only the
//! picker, and Ctrl-Alt-Del does nothing. Both must be undone on every exit path, or the screen stays frozen: on drop,
//! in the panic hook (which runs with `panic = "abort"` too), and by [`restore`] before a kernel is executed.
//! See ioctl_console(2).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Once;

use parking_lot::Mutex;

use self::request::{read_keyboard, read_mode, write_keyboard, write_mode};

/// The console that is on the screen, whatever `console=` says.
const CONSOLE: &str = "/dev/tty0";

// Numbers and values from linux/kd.h.
const KDGETMODE: libc::Ioctl = 0x4B3B;
const KDSETMODE: libc::Ioctl = 0x4B3A;
const KDGKBMODE: libc::Ioctl = 0x4B44;
const KDSKBMODE: libc::Ioctl = 0x4B45;
const KD_GRAPHICS: libc::c_int = 0x01;
const K_OFF: libc::c_int = 0x04;

/// The four requests; private, since each needs an open console.
mod request {
    #![allow(missing_docs, reason = "each is the request of its name")]
    nix::ioctl_read_bad!(read_mode, super::KDGETMODE, libc::c_int);
    nix::ioctl_write_int_bad!(write_mode, super::KDSETMODE);
    nix::ioctl_read_bad!(read_keyboard, super::KDGKBMODE, libc::c_int);
    nix::ioctl_write_int_bad!(write_keyboard, super::KDSKBMODE);
}

/// The console's previous modes, while the picker has it.
static TAKEN: Mutex<Option<Taken>> = Mutex::new(None);

struct Taken {
    tty: File,
    mode: libc::c_int,
    keyboard: libc::c_int,
}

/// The console is in graphics mode as long as this lives.
#[derive(Debug)]
#[must_use = "the console is restored when this is dropped"]
pub struct Graphics(());

impl Graphics {
    /// Switches the console to graphics mode.
    ///
    /// # Errors
    /// When this machine has no such console, or it may not be changed.
    pub fn enter() -> io::Result<Self> {
        let tty = OpenOptions::new().read(true).write(true).open(CONSOLE)?;
        let fd = tty.as_raw_fd();
        let (mut mode, mut keyboard) = (0, 0);
        // SAFETY: `fd` is open, and both calls write one int into a live one.
        unsafe {
            read_mode(fd, &mut mode)?;
            read_keyboard(fd, &mut keyboard)?;
        }
        restore_on_panic();
        let mut taken = TAKEN.lock();
        // SAFETY: `fd` is open, and both calls take a plain int.
        unsafe {
            write_mode(fd, KD_GRAPHICS)?;
            if let Err(error) = write_keyboard(fd, K_OFF) {
                write_mode(fd, mode)?;
                return Err(error.into());
            }
        }
        *taken = Some(Taken { tty, mode, keyboard });
        Ok(Self(()))
    }
}

impl Drop for Graphics {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the console, if the picker has it; may be called at any time and more than once.
pub fn restore() {
    // A panic while the lock is held must not hang the panic hook.
    let Some(taken) = TAKEN.try_lock().and_then(|mut taken| taken.take()) else { return };
    let fd = taken.tty.as_raw_fd();
    // SAFETY: `fd` is open, and both calls take a plain int.
    let restored = unsafe { (write_keyboard(fd, taken.keyboard), write_mode(fd, taken.mode)) };
    if let (Err(error), _) | (_, Err(error)) = restored {
        tracing::warn!(%error, "cannot restore the text console");
    }
}

/// Restores the console before the usual panic message is written to it.
fn restore_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            usual(panic);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restoring_a_console_that_was_not_taken_does_nothing() {
        restore();
        restore();
    }
}
