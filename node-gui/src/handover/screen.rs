//! Shell: the mode that is really on the screen, for the next kernel's first lines.
//!
//! Without a KMS driver the firmware's framebuffer is still in use, and the `screen_info` that this kernel got from its
//! boot loader holds. A KMS driver has changed the mode since: the adapters of virtual machines (Bochs DISPI: QEMU's
//! standard VGA) report it. Those of servers (ast, mgag200) have no common register for it: there the next kernel gets
//! the old mode, and its messages become visible once it has loaded the same driver.

use std::fs;
use std::io;

use super::ports::Ports;
use super::screen_info::{ScreenInfo, dispi, settled, with_mode};

/// Vendor and device of the Bochs DISPI adapter.
const BOCHS: (&str, &str) = ("0x1234", "0x1111");
/// `VBE_DISPI_IOPORT_INDEX`: which register. `VBE_DISPI_IOPORT_DATA`, its value, is the next port; 16 bits each, so
/// that three ports are touched.
const PORTS: (u16, u16) = (0x1ce, 3);
/// How often the registers are read again because the driver changed them in between.
const TRIES: usize = 8;

/// The `screen_info` for the next kernel; `old` is the one that this kernel was started with.
#[must_use]
pub fn now(old: &ScreenInfo) -> ScreenInfo {
    if !has_kms() {
        return *old;
    }
    let Some(base) = bochs() else { return *old };
    let registers = read_registers();
    let mode = registers.map(|registers| (dispi(&registers, base), registers));
    match mode {
        Ok((Some(mode), _)) => with_mode(old, mode),
        Ok((None, registers)) => {
            tracing::warn!(
                ?registers,
                "the next kernel cannot use the graphics adapter's mode; its first messages may be invisible"
            );
            *old
        }
        Err(error) => {
            tracing::warn!(%error, "cannot read the graphics adapter's mode; the next kernel's first messages may be invisible");
            *old
        }
    }
}

fn has_kms() -> bool {
    fs::read_dir("/sys/class/drm").is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("card"))
        })
    })
}

/// The address of the adapter's memory.
fn bochs() -> Option<u64> {
    fs::read_dir("/sys/bus/pci/devices").ok()?.flatten().find_map(|entry| {
        let device = entry.path();
        let is = |name, value| {
            fs::read_to_string(device.join(name)).is_ok_and(|text| text.trim() == value)
        };
        if !(is("vendor", BOCHS.0) && is("device", BOCHS.1)) {
            return None;
        }
        let resources = fs::read_to_string(device.join("resource")).ok()?;
        let base = resources.split_whitespace().next()?.trim_start_matches("0x");
        u64::from_str_radix(base, 16).ok().filter(|base| *base != 0)
    })
}

/// Through I/O ports: memory that a driver has claimed cannot be mapped (`CONFIG_IO_STRICT_DEVMEM`).
fn read_registers() -> io::Result<[u16; 10]> {
    let ports = Ports::open(PORTS.0, PORTS.1)?;
    let read = || {
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(|number| {
            ports.write(0, number);
            ports.read(1)
        })
    };
    settled(read, TRIES).ok_or_else(|| io::Error::other("the registers keep changing"))
}
