//! Shell: a QEMU PC that boots from the network.
//!
//! Software emulation only (`tcg`): the same everywhere, also where `/dev/kvm` is missing or
//! forbidden. Recent UEFI wants a random-number device before it boots from the network.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::host::process::command;

/// The UEFI firmware of Debian's package `ovmf`.
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// Its empty variable store, of which each PC gets a private copy.
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// The same firmware with Secure Boot, which keeps its variables to itself by SMM.
const OVMF_SECURE_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.ms.fd";
/// A variable store with Microsoft's keys, as PCs are sold: Secure Boot is on.
const OVMF_SECURE_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd";

/// How a PC starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, network boot by the network interface's iPXE ROM.
    Bios,
    /// OVMF, network boot by the firmware's own PXE client.
    Uefi,
    /// OVMF, which loads by HTTP: its PXE client is switched off.
    UefiHttp,
    /// OVMF with Secure Boot on.
    UefiSecure,
    /// No firmware: QEMU loads these files. For tests of the node itself, half a minute faster.
    Direct {
        /// Kernel file.
        kernel: PathBuf,
        /// Initramfs file.
        initramfs: PathBuf,
        /// Kernel command line.
        cmdline: String,
    },
}

/// Where a PC's picture goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Display {
    /// Nowhere; screenshots still work.
    None,
    /// A window on the desktop.
    Window,
}

/// One PC, before it is switched on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// How it starts.
    pub firmware: Firmware,
    /// Its MAC address.
    pub mac: String,
    /// Its memory.
    pub memory_mib: u32,
    /// Where its picture goes.
    pub display: Display,
}

impl Machine {
    /// A PC like those of a lab: 1 GiB of memory, no window.
    pub fn new(firmware: Firmware, number: u8) -> Self {
        let mac = format!("52:54:00:77:00:{number:02x}");
        Self { firmware, mac, memory_mib: 1024, display: Display::None }
    }

    /// The QEMU command that switches it on, with its sockets and logs in `folder`.
    pub fn command(&self, tap: &str, folder: &Path) -> Result<Command> {
        let mut qemu = command("qemu-system-x86_64");
        qemu.args(["-name", "BootTorrent PC", "-nodefaults", "-no-user-config"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-m", &self.memory_mib.to_string()])
            .args(["-vga", "std", "-device", "virtio-rng-pci"])
            .arg("-serial")
            .arg(format!("file:{}", serial_file(folder).display()))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", qmp_socket(folder).display()))
            .args(["-display", self.display_argument()])
            .arg("-netdev")
            .arg(format!("tap,id=lan,ifname={tap},script=no,downscript=no"))
            .arg("-device")
            .arg(self.network_card());
        if self.display == Display::Window {
            // A tablet's pointer follows the desktop's; a mouse would have to be caught first.
            qemu.args(["-device", "qemu-xhci", "-device", "usb-tablet"]);
        }
        match &self.firmware {
            Firmware::Bios => {
                qemu.args(["-machine", "pc", "-boot", "n"]);
            }
            Firmware::Uefi => {
                qemu.args(["-machine", "q35"]);
                flash(&mut qemu, OVMF_CODE, OVMF_VARS, folder)?;
            }
            Firmware::UefiHttp => {
                qemu.args(["-machine", "q35"]);
                flash(&mut qemu, OVMF_CODE, OVMF_VARS, folder)?;
                for support in ["IPv4PXESupport", "IPv6PXESupport"] {
                    qemu.arg("-fw_cfg");
                    qemu.arg(format!("name=opt/org.tianocore/{support},string=n"));
                }
            }
            Firmware::UefiSecure => {
                qemu.args(["-machine", "q35,smm=on", "-global"]);
                qemu.arg("driver=cfi.pflash01,property=secure,value=on");
                flash(&mut qemu, OVMF_SECURE_CODE, OVMF_SECURE_VARS, folder)?;
            }
            Firmware::Direct { kernel, initramfs, cmdline } => {
                qemu.args(["-machine", "pc", "-kernel"]).arg(kernel);
                qemu.arg("-initrd").arg(initramfs).arg("-append").arg(cmdline);
            }
        }
        Ok(qemu)
    }

    fn network_card(&self) -> String {
        // Under UEFI the firmware brings its own driver and PXE client: no option ROM.
        let rom = match self.firmware {
            Firmware::Bios | Firmware::Direct { .. } => "",
            Firmware::Uefi | Firmware::UefiHttp | Firmware::UefiSecure => ",romfile=",
        };
        format!("virtio-net-pci,netdev=lan,mac={},bootindex=1{rom}", self.mac)
    }

    fn display_argument(&self) -> &'static str {
        match self.display {
            Display::None => "none",
            Display::Window => "gtk",
        }
    }
}

/// Gives a PC a firmware, and a copy of its variable store.
fn flash(qemu: &mut Command, code: &str, vars: &str, folder: &Path) -> Result<()> {
    let copy = folder.join("vars.fd");
    std::fs::copy(vars, &copy).with_context(|| format!("cannot copy {vars}"))?;
    qemu.arg("-drive");
    qemu.arg(format!("if=pflash,format=raw,unit=0,readonly=on,file={code}"));
    qemu.arg("-drive");
    qemu.arg(format!("if=pflash,format=raw,unit=1,file={}", copy.display()));
    Ok(())
}

/// Where the PC's serial console is recorded.
pub fn serial_file(folder: &Path) -> PathBuf {
    folder.join("serial.log")
}

/// Where QEMU listens for commands. Unix socket names end at 107 bytes, so `folder` must be short.
pub fn qmp_socket(folder: &Path) -> PathBuf {
    folder.join("qmp.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(firmware: Firmware) -> String {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let machine = Machine::new(firmware, 7);
        crate::host::process::shown(&machine.command("tap1", folder.path()).expect("a command"))
    }

    #[test]
    fn a_bios_pc_boots_from_the_network_by_its_cards_rom() {
        let shown = arguments(Firmware::Bios);
        assert!(shown.contains("-boot n"), "{shown}");
        assert!(shown.contains("mac=52:54:00:77:00:07,bootindex=1"), "{shown}");
        assert!(!shown.contains("romfile"), "{shown}");
    }

    #[test]
    fn no_pc_uses_hardware_virtualisation() {
        let shown = arguments(Firmware::Bios);
        assert!(shown.contains("-accel tcg,thread=multi"), "{shown}");
        assert!(!shown.contains("kvm"), "{shown}");
    }

    #[test]
    fn a_direct_boot_names_kernel_and_command_line() {
        let shown = arguments(Firmware::Direct {
            kernel: "k".into(),
            initramfs: "i".into(),
            cmdline: "console=ttyS0".into(),
        });
        assert!(shown.contains("-kernel k -initrd i -append console=ttyS0"), "{shown}");
    }
}
