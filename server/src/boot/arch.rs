//! Core: which firmware or loader asks, and the boot file that is right for it.
//!
//! A boot passes here two or three times: firmware asks first and gets iPXE; iPXE asks and gets
//! the script's URL; the small Linux asks and gets an address only. Follows RFC 4578 (options 93
//! and 94), the IANA list of processor architectures, and iPXE's own option 175. No request says
//! whether Secure Boot is on: the supervisor does, by `uefi_loader` of `server.toml`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, SystemTime};

use crate::lab::config::Loader;
use bt_catalog::Mac;
use bt_catalog::paths::SCRIPT;

/// First hop for a vendor's BIOS ROM: iPXE that keeps using the ROM's own network driver.
pub const BIOS_LOADER: &str = "undionly.kpxe";
/// First hop for a BIOS iPXE ROM that lacks HTTP or bzImage: iPXE with drivers of its own.
pub const BIOS_FULL_LOADER: &str = "ipxe.pxe";
/// First hop for UEFI x64: iPXE on the firmware's network driver.
pub const UEFI_LOADER: &str = "snponly.efi";
/// UEFI x64 iPXE with drivers of its own, for an operator to choose.
pub const UEFI_FULL_LOADER: &str = "ipxe.efi";
/// First hop for UEFI x64 with Secure Boot: it starts the signed GRUB, which goes on by TFTP.
pub const SHIM_LOADER: &str = "shimx64.efi";
/// Every iPXE that may be served, over TFTP and HTTP.
pub const LOADERS: [&str; 4] = [BIOS_LOADER, BIOS_FULL_LOADER, UEFI_LOADER, UEFI_FULL_LOADER];

/// Client architecture, option 93 (RFC 4578 §2.1 and IANA's "Processor Architecture Types").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// 0: a PC with a BIOS.
    Bios,
    /// 7, which x64 firmware really sends, or 9, which the RFC meant.
    UefiX64,
    /// 16: x64 firmware that asks for HTTP Boot.
    UefiX64Http,
    /// Anything else: gets an address, but nothing to boot.
    Unsupported(u16),
}

impl Arch {
    /// Reads the number of option 93.
    pub fn from_code(code: u16) -> Self {
        match code {
            0 => Self::Bios,
            7 | 9 => Self::UefiX64,
            16 => Self::UefiX64Http,
            other => Self::Unsupported(other),
        }
    }
}

/// A client architecture in words, for the log and the supervisor.
pub fn describe(code: u16) -> &'static str {
    match code {
        0 => "BIOS",
        1 => "NEC PC-98",
        2 => "Itanium",
        6 => "32-bit UEFI (x86)",
        7 | 9 => "UEFI (x64)",
        10 => "32-bit UEFI (ARM)",
        11 => "UEFI (ARM 64)",
        15 => "HTTP Boot of 32-bit UEFI (x86)",
        16 => "HTTP Boot of UEFI (x64)",
        18 => "HTTP Boot of 32-bit UEFI (ARM)",
        19 => "HTTP Boot of UEFI (ARM 64)",
        25 | 27 | 29 => "UEFI (RISC-V)",
        33 | 37 | 39 | 41 => "UEFI (LoongArch)",
        _ => "an unknown architecture",
    }
}

/// What an iPXE says it can do (option 175, encapsulated).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IpxeFeatures {
    /// Sub-option 19.
    pub has_http: bool,
    /// Sub-option 24: it can start a Linux kernel on BIOS.
    pub has_bzimage: bool,
    /// Sub-option 36: an EFI build, which starts the kernel as an EFI program.
    pub is_efi: bool,
}

impl IpxeFeatures {
    /// What Debian's own builds can do; assumed of an iPXE that sends only its user class.
    pub const COMPLETE: Self = Self { has_http: true, has_bzimage: true, is_efi: true };

    /// Reads the sub-options of option 175; stops at the first that does not fit.
    pub fn parse(mut data: &[u8]) -> Self {
        let mut features = Self::default();
        while let [code, len, rest @ ..] = data {
            let Some((value, rest)) = rest.split_at_checked(usize::from(*len)) else { break };
            let is_present = value.iter().any(|&byte| byte != 0);
            match code {
                19 => features.has_http = is_present,
                24 => features.has_bzimage = is_present,
                36 => features.is_efi = is_present,
                _ => {}
            }
            data = rest;
        }
        features
    }

    fn can_run_the_script(self) -> bool {
        self.has_http && (self.has_bzimage || self.is_efi)
    }
}

/// A client that wants to be booted: it sent the vendor class of PXE or of HTTP Boot, or is iPXE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootClient {
    /// Its architecture.
    pub arch: Arch,
    /// `Some` when iPXE already runs.
    pub ipxe: Option<IpxeFeatures>,
}

/// What to load, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootFile {
    /// A name on our TFTP server: the first hop, an iPXE.
    Tftp(&'static str),
    /// A loader on our HTTP server, for HTTP Boot; the reply must say `HTTPClient` (option 60).
    HttpLoader(String),
    /// The boot script's URL, for an iPXE.
    Script(String),
}

impl BootFile {
    /// The text for the `file` field and option 67.
    pub fn name(&self) -> &str {
        match self {
            Self::Tftp(name) => name,
            Self::HttpLoader(url) | Self::Script(url) => url,
        }
    }

    /// Whether it is the loader that starts a chain; see [`LoopGuard`].
    pub fn is_first_hop(&self) -> bool {
        !matches!(self, Self::Script(_))
    }
}

impl BootClient {
    /// What this client loads next; `http` is our HTTP server. `None`: nothing of ours runs on it.
    pub fn boot_file(&self, http: SocketAddrV4, loader: Loader) -> Option<BootFile> {
        match (self.ipxe, self.arch) {
            (_, Arch::Unsupported(_)) => None,
            (Some(ipxe), _) if ipxe.can_run_the_script() => {
                Some(BootFile::Script(format!("http://{http}{SCRIPT}")))
            }
            // A cut-down iPXE ROM (old VirtualBox). undionly over such a ROM is slow and may lose
            // the network, so it gets the build with its own drivers.
            (Some(_), Arch::Bios) => Some(BootFile::Tftp(BIOS_FULL_LOADER)),
            (None, Arch::Bios) => Some(BootFile::Tftp(BIOS_LOADER)),
            (None, Arch::UefiX64) if loader == Loader::ShimGrub => {
                Some(BootFile::Tftp(SHIM_LOADER))
            }
            // By HTTP the signed GRUB has no network; firmware without an offer goes on to PXE.
            (None, Arch::UefiX64Http) if loader == Loader::ShimGrub => None,
            (_, Arch::UefiX64) => Some(BootFile::Tftp(UEFI_LOADER)),
            (_, Arch::UefiX64Http) => {
                Some(BootFile::HttpLoader(format!("http://{http}/{UEFI_LOADER}")))
            }
        }
    }
}

/// Notices a PC that fetches its first-hop loader again and again and never gets further.
#[derive(Debug, Default)]
pub struct LoopGuard {
    seen: HashMap<Mac, FirstHops>,
}

#[derive(Debug)]
struct FirstHops {
    since: SystemTime,
    count: u32,
    /// The last of them: firmware repeats its packets under one number.
    xid: u32,
}

impl LoopGuard {
    /// More first hops than this within [`Self::WINDOW`] are a loop: firmware itself tries two or
    /// three times, and a supervisor may switch a PC off and on.
    const MAX_FIRST_HOPS: u32 = 4;
    /// See [`Self::MAX_FIRST_HOPS`].
    const WINDOW: Duration = Duration::from_mins(2);
    /// PCs watched at once; hardware addresses can be invented, memory cannot.
    const MAX_WATCHED: usize = 4096;

    /// Takes note that `mac` was sent to the first hop in the exchange `xid`; true once per window
    /// when that is a loop. All of one exchange counts once, however often a packet is repeated.
    pub fn is_looping(&mut self, mac: Mac, xid: u32, now: SystemTime) -> bool {
        let is_old = |hops: &FirstHops| {
            now.duration_since(hops.since).is_ok_and(|elapsed| elapsed > Self::WINDOW)
        };
        if self.seen.len() >= Self::MAX_WATCHED {
            self.seen.retain(|_, hops| !is_old(hops));
        }
        let has_room = self.seen.len() < Self::MAX_WATCHED;
        match self.seen.entry(mac) {
            Entry::Occupied(mut hops) if is_old(hops.get()) => {
                hops.insert(FirstHops { since: now, count: 1, xid });
                false
            }
            Entry::Occupied(mut hops) => {
                let hops = hops.get_mut();
                let is_new = hops.xid != xid;
                hops.xid = xid;
                hops.count += u32::from(is_new);
                is_new && hops.count == Self::MAX_FIRST_HOPS + 1
            }
            Entry::Vacant(place) if has_room => {
                place.insert(FirstHops { since: now, count: 1, xid });
                false
            }
            Entry::Vacant(_) => false,
        }
    }
}

/// The address of our HTTP server as URLs name it.
pub fn http_address(server: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(server, port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const SCRIPT: &str = "http://10.77.0.1:6969/boot.ipxe";

    fn check(arch: u16, ipxe: Option<IpxeFeatures>, expected: Option<&str>) {
        let http = http_address(Ipv4Addr::new(10, 77, 0, 1), 6969);
        let client = BootClient { arch: Arch::from_code(arch), ipxe };
        let file = client.boot_file(http, Loader::Ipxe);
        assert_eq!(file.as_ref().map(BootFile::name), expected, "arch {arch} {ipxe:?}");
    }

    #[test]
    fn firmware_gets_the_ipxe_for_its_kind() {
        check(0, None, Some("undionly.kpxe"));
        check(7, None, Some("snponly.efi"));
        check(9, None, Some("snponly.efi"));
        check(16, None, Some("http://10.77.0.1:6969/snponly.efi"));
    }

    #[test]
    fn secure_boot_gets_shim_and_never_http() {
        let http = http_address(Ipv4Addr::new(10, 77, 0, 1), 6969);
        let told = |arch, ipxe| {
            let client = BootClient { arch: Arch::from_code(arch), ipxe };
            client.boot_file(http, Loader::ShimGrub).map(|file| file.name().to_owned())
        };
        assert_eq!(told(7, None).as_deref(), Some("shimx64.efi"));
        assert_eq!(told(9, None).as_deref(), Some("shimx64.efi"));
        assert_eq!(told(16, None), None);
        assert_eq!(told(0, None).as_deref(), Some("undionly.kpxe"), "a BIOS has no Secure Boot");
        let signed_ipxe = told(7, Some(IpxeFeatures::COMPLETE));
        assert_eq!(signed_ipxe.as_deref(), Some(SCRIPT), "an iPXE that runs may go on");
    }

    #[test]
    fn what_is_not_supported_has_a_name() {
        for code in [6, 10, 11, 15, 19] {
            assert_ne!(describe(code), describe(65535));
        }
    }

    #[test]
    fn a_complete_ipxe_gets_the_script_on_every_firmware() {
        for arch in [0, 7, 9, 16] {
            check(arch, Some(IpxeFeatures::COMPLETE), Some(SCRIPT));
        }
    }

    #[test]
    fn a_cut_down_bios_ipxe_gets_the_build_with_its_own_drivers() {
        let no_bzimage = IpxeFeatures { has_http: true, ..IpxeFeatures::default() };
        check(0, Some(no_bzimage), Some("ipxe.pxe"));
        check(0, Some(IpxeFeatures::default()), Some("ipxe.pxe"));
    }

    #[test]
    fn an_unknown_architecture_gets_nothing() {
        for arch in [1, 2, 6, 10, 11, 15, 19, 27, 65535] {
            check(arch, None, None);
            check(arch, Some(IpxeFeatures::COMPLETE), None);
        }
    }

    #[test]
    fn option_175_is_read_until_it_breaks() {
        let all = IpxeFeatures::parse(&[177, 1, 9, 19, 1, 1, 24, 1, 1, 16, 1, 2]);
        assert_eq!(all, IpxeFeatures { has_http: true, has_bzimage: true, is_efi: false });
        let torn = IpxeFeatures::parse(&[19, 1, 1, 36, 4, 1]);
        assert_eq!(torn, IpxeFeatures { has_http: true, ..IpxeFeatures::default() });
        assert_eq!(IpxeFeatures::parse(&[19]), IpxeFeatures::default());
    }

    #[test]
    fn the_fifth_first_hop_within_two_minutes_is_a_loop_and_is_told_once() {
        let mut guard = LoopGuard::default();
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let at = |secs| UNIX_EPOCH + Duration::from_secs(secs);
        let told: Vec<bool> =
            (0..8).map(|n| guard.is_looping(mac, n, at(u64::from(n) * 10))).collect();
        assert_eq!(told, [false, false, false, false, true, false, false, false]);
        assert!(!guard.is_looping(mac, 9, at(9 * 60)));
    }

    #[test]
    fn packets_that_firmware_repeats_are_one_first_hop() {
        let mut guard = LoopGuard::default();
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        for n in 0..20 {
            assert!(!guard.is_looping(mac, 0x4bf4_648d, UNIX_EPOCH + Duration::from_secs(n * 5)));
        }
    }
}
