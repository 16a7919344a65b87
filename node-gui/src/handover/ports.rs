//! Shell: a range of I/O ports of this PC, for registers that cannot be mapped.

use std::arch::asm;
use std::io;

/// The right to use a range of I/O ports. It belongs to the calling thread, so this value stays in its thread.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    count: u16,
    /// A pointer, so that the value is neither `Send` nor `Sync`.
    _thread: std::marker::PhantomData<*const ()>,
}

impl Ports {
    /// Asks for `count` ports from `first` on (ioperm(2)).
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_RAWIO` or under lockdown.
    pub fn open(first: u16, count: u16) -> io::Result<Self> {
        permit(first, count, true)?;
        Ok(Self { first, count, _thread: std::marker::PhantomData })
    }

    /// Writes 16 bits to the port at this offset from the first.
    ///
    /// # Panics
    /// When the two ports it touches were not asked for.
    pub fn write(&self, offset: u16, value: u16) {
        let port = self.port(offset);
        // SAFETY: this thread may use both ports, and a port touches no memory of this process.
        unsafe {
            asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags));
        }
    }

    /// Reads 16 bits from the port at this offset from the first.
    ///
    /// # Panics
    /// When the two ports it touches were not asked for.
    #[must_use]
    pub fn read(&self, offset: u16) -> u16 {
        let (port, value);
        port = self.port(offset);
        // SAFETY: as in `write`.
        unsafe {
            asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags));
        }
        value
    }

    fn port(&self, offset: u16) -> u16 {
        assert!(offset + 2 <= self.count, "a 16-bit access touches two ports");
        self.first + offset
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        if let Err(error) = permit(self.first, self.count, false) {
            tracing::warn!(%error, "cannot give up access to the I/O ports");
        }
    }
}

fn permit(first: u16, count: u16, is_on: bool) -> io::Result<()> {
    let (first, count) = (libc::c_ulong::from(first), libc::c_ulong::from(count));
    // SAFETY: changes only which ports this thread may use.
    let result = unsafe { libc::syscall(libc::SYS_ioperm, first, count, libc::c_int::from(is_on)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
