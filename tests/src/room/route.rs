//! Shell: how a PC boots the netboot image: by which firmware, and with whose addresses.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::room::dnsmasq::Dnsmasq;
use crate::room::qemu::Firmware;
use crate::room::sample::{Addresses, GUEST_WORDS, SampleLab, usual_words};
use crate::room::student::Student;
use crate::room::testbed::Testbed;

/// From power-on to the picker, on a slow and busy machine; GRUB alone takes a minute to load.
pub const MENU_LIMIT: Duration = Duration::from_secs(300);
/// From the choice to the started system.
pub const START_LIMIT: Duration = Duration::from_secs(180);

/// The firmware of a PC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FirmwareKind {
    /// BIOS (SeaBIOS).
    Bios,
    /// UEFI (OVMF), by PXE.
    Uefi,
    /// UEFI, by HTTP Boot.
    UefiHttp,
    /// UEFI with Secure Boot: shim, signed GRUB, signed kernel.
    UefiSecure,
}

impl FirmwareKind {
    /// The machine's firmware.
    pub fn firmware(self) -> Firmware {
        match self {
            Self::Bios => Firmware::Bios,
            Self::Uefi => Firmware::Uefi,
            Self::UefiHttp => Firmware::UefiHttp,
            Self::UefiSecure => Firmware::UefiSecure,
        }
    }

    /// Its name in file names and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::UefiHttp => "uefi-http",
            Self::UefiSecure => "uefi-secure",
        }
    }

    /// What its lab says below `[node]`.
    pub fn node_settings(self) -> String {
        match self {
            Self::Bios | Self::Uefi | Self::UefiHttp => usual_words(),
            // The kernel's notices show whether Secure Boot really was on.
            Self::UefiSecure => {
                format!("uefi_loader = \"shim-grub\"\ncmdline = \"{GUEST_WORDS} loglevel=6\"\n")
            }
        }
    }
}

/// The words of a kernel (Debian's) that was started under Secure Boot.
const LOCKED_DOWN: &str = "Kernel is locked down from EFI Secure Boot";

/// How a PC boots the netboot image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its firmware.
    pub firmware: FirmwareKind,
    /// Who gives it an address.
    pub addresses: Addresses,
}

impl Route {
    /// Its name in file names and tables.
    pub fn name(self) -> String {
        let firmware = self.firmware.name();
        match self.addresses {
            Addresses::Ours => firmware.to_owned(),
            Addresses::Others => format!("{firmware}-proxy"),
        }
    }

    /// A lab for it.
    pub fn lab(self, testbed: &Testbed) -> Result<SampleLab> {
        let lab = testbed.sample_lab(&format!("lab-{}", self.name()))?;
        lab.write_settings(self.addresses, &self.firmware.node_settings())?;
        Ok(lab)
    }

    /// The other DHCP server, where there is one; it ends with what is returned.
    pub fn other_server(self, testbed: &mut Testbed) -> Result<Option<Dnsmasq>> {
        match self.addresses {
            Addresses::Ours => Ok(None),
            Addresses::Others => {
                // Its lease file and its log have one name each, and other routes run at the same time.
                let folder = testbed.out.join(format!("{}-dnsmasq", self.name()));
                std::fs::create_dir_all(&folder)
                    .with_context(|| format!("cannot make {}", folder.display()))?;
                Dnsmasq::give_addresses(testbed.lan.namespace()?, &folder).map(Some)
            }
        }
    }
}

/// Fails unless the kernel that `student`'s PC booted was started under Secure Boot.
pub fn check_secure_boot(student: &Student) -> Result<()> {
    ensure!(student.console().contains(LOCKED_DOWN), "the PC booted without Secure Boot");
    Ok(())
}
