//! Core: the small values that entries and catalogs are made of, each read from text and written back.

use std::fmt;
use std::str::FromStr;

/// A system's name in URLs, file names and torrents: `[a-z0-9][a-z0-9._-]*`, at most 63 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SystemId(String);

impl SystemId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SystemId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let first = text.chars().next().is_some_and(fits);
        let rest = text.chars().all(|c| fits(c) || "._-".contains(c));
        if first && rest && text.len() <= 63 {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "`{text}` is not a valid system id: use lower-case letters, digits, `.`, `_` and `-`, begin with a \
             letter or digit, 63 characters at most"
        ))
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! hex_newtype {
    ($name:ident, $bytes:literal, $what:literal) => {
        #[doc = $what]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text.trim(), &mut bytes).map_err(|e| {
                    format!("`{text}` is not {} hexadecimal digits: {e}", 2 * $bytes)
                })?;
                Ok(Self(bytes))
            }
        }
    };
}

hex_newtype!(Digest, 32, "SHA-256 of a file; shown and read as 64 hexadecimal digits.");
hex_newtype!(Infohash, 20, "BitTorrent v1 infohash (BEP 3): SHA-1 of the info dictionary.");
hex_newtype!(LabId, 16, "Random name of a lab, so that one lab's catalog is nothing to another.");

/// A number of bytes as people write it: `512 MiB`, `2 GiB`, `1500 MB`, `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a size; expected for example \"512 MiB\" or \"2 GiB\"");
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let factor: u64 = match unit.trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = number * factor as f64;
        // 2^53: every whole number below it is exact in an f64, and no PC holds as much.
        if !(0.0..9_007_199_254_740_992.0).contains(&bytes) {
            return Err(wrong());
        }
        Ok(Self(bytes.round() as u64))
    }
}

impl fmt::Display for ByteSize {
    /// For people: in decimal units, as disks and download pages state sizes; two digits at least.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
        if self.0 < 1000 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1000.0;
        let mut unit = 0;
        // What would be rounded to a thousand of one unit is one of the next.
        while value >= 999.5 && unit + 1 < UNITS.len() {
            value /= 1000.0;
            unit += 1;
        }
        let digits = usize::from(value < 9.95);
        write!(f, "{value:.digits$} {}", UNITS[unit])
    }
}

/// What one file of a system is for. Its name in torrent and catalog is the same word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The handover part: a cpio archive that makes the image a block device, put behind the initrd.
    Handover,
    /// The root file system: an ISO or squashfs, handed over in memory.
    Image,
    /// The system's own initrd.
    Initrd,
    /// The Linux kernel (bzImage).
    Kernel,
}

impl Role {
    /// All roles, in the order of their names: the order of files in a torrent.
    pub const ALL: [Self; 4] = [Self::Handover, Self::Image, Self::Initrd, Self::Kernel];

    /// The file's name in the torrent and in the catalog.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handover => "handover",
            Self::Image => "image",
            Self::Initrd => "initrd",
            Self::Kernel => "kernel",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|r| r.name() == text).ok_or_else(|| {
            format!("unknown file `{text}` of a system; expected handover, image, initrd or kernel")
        })
    }
}

/// The firmware that a system needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Firmware {
    /// Legacy BIOS, or UEFI's support for it.
    Bios,
    /// UEFI.
    Uefi,
}

impl Firmware {
    /// The name in TOML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
        }
    }
}

impl FromStr for Firmware {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bios" => Ok(Self::Bios),
            "uefi" => Ok(Self::Uefi),
            _ => Err(format!(
                "firmware `{text}` is not known; \"bios\" or \"uefi\", or leave it out"
            )),
        }
    }
}

/// A processor feature as `/proc/cpuinfo` calls it: `avx2`, `sse4_2`.
pub(crate) fn cpu_flag(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !text.is_empty() && text.len() <= 40 && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not a CPU feature; write it as in /proc/cpuinfo, such as \"avx2\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let check = |text: &str, bytes| assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        check("2 GiB", 2 << 30);
        check("1.5GiB", 3 << 29);
        check("1500 MB", 1_500_000_000);
        check("77", 77);
        assert!("-1 GiB".parse::<ByteSize>().is_err());
        assert!("99999999 GiB".parse::<ByteSize>().is_err());
        assert!("1 Gib".parse::<ByteSize>().is_err(), "bits");
    }

    #[test]
    fn sizes_are_shown_in_one_family_of_units() {
        let check = |bytes, text: &str| assert_eq!(ByteSize(bytes).to_string(), text);
        check(0, "0 B");
        check(999, "999 B");
        check(1000, "1.0 kB");
        check(9_949, "9.9 kB");
        check(9_950, "10 kB");
        check(999_499, "999 kB");
        check(999_500, "1.0 MB");
        check(700 << 20, "734 MB");
        check(3 << 29, "1.6 GB");
        check(16 << 30, "17 GB");
        check(5_000_000_000_000, "5.0 TB");
        check(u64::MAX, "18446744 TB");
    }
}
