//! Core: hardware addresses: as text, and those that no PC has.

use std::fmt;

/// The doctor's PCs, the same at every look, so that neither leases nor rows pile up. Locally
/// administered; the last byte says which firmware.
pub const DOCTOR: [u8; 5] = [0x02, 0x42, 0x54, 0, 0];

/// Hardware address of a node's network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Whether a hardware address is that of a PC of the doctor: none that anybody waits for.
pub fn is_doctor(mac: [u8; 6]) -> bool {
    mac.starts_with(&DOCTOR) && (1..=4).contains(&mac[5])
}

/// `52:54:00:12:34:56`.
pub fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads what [`format_mac`] writes, in either case.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    #[test]
    fn hardware_addresses_round_trip() {
        assert_eq!(parse_mac(&format_mac(MAC)), Some(MAC));
        for bad in ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "+2:54:00:12:34:56"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
