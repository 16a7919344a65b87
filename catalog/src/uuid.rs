//! Core: the UUID that a PC's firmware states (SMBIOS), by which the lab may know it.

use std::fmt;
use std::str::FromStr;

/// A system's UUID (SMBIOS §7.2.1), in the order of its bytes as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uuid([u8; 16]);

/// Why a text is not the UUID of a PC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a UUID such as 4c4c4544-0051-3510-8052-b4c04f4a4431")]
pub struct NotAUuid;

impl Uuid {
    /// `None` for all zeros and all ones, which say that the maker set none (SMBIOS §7.2.1).
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16] && bytes != [0xff; 16]).then_some(Self(bytes))
    }

    /// The UUID of DHCP option 97 (RFC 4578 §2.3), whose first byte, 0, says that it is one.
    pub fn of_option(option: &[u8]) -> Option<Self> {
        match option {
            [0, bytes @ ..] => Self::new(bytes.try_into().ok()?),
            _ => None,
        }
    }

    /// Whether both name the same PC. Firmware and tools disagree on the byte order of the first
    /// three groups (SMBIOS 2.6 §7.2.1), so either order counts.
    pub fn is_same(self, other: Self) -> bool {
        let mut swapped = other.0;
        swapped[..4].reverse();
        swapped[4..6].reverse();
        swapped[6..8].reverse();
        self == other || self.0 == swapped
    }
}

impl FromStr for Uuid {
    type Err = NotAUuid;

    fn from_str(text: &str) -> Result<Self, NotAUuid> {
        let hex: String = text.trim().chars().filter(|&c| c != '-').collect();
        let mut bytes = [0; 16];
        hex::decode_to_slice(hex, &mut bytes).map_err(|_| NotAUuid)?;
        Self::new(bytes).ok_or(NotAUuid)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = hex::encode(self.0);
        let groups = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        f.write_str(&groups.join("-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "4c4c4544-0051-3510-8052-b4c04f4a4431";

    #[test]
    fn what_is_read_is_written_the_same() {
        assert_eq!(TEXT.parse::<Uuid>().expect("valid").to_string(), TEXT);
        assert_eq!(TEXT.to_uppercase().parse::<Uuid>(), TEXT.parse());
    }

    #[test]
    fn either_byte_order_names_the_same_pc() {
        let one: Uuid = TEXT.parse().expect("valid");
        let other: Uuid = "44454c4c-5100-1035-8052-b4c04f4a4431".parse().expect("valid");
        assert!(one.is_same(other) && other.is_same(one) && one.is_same(one));
        assert!(!one.is_same("4c4c4544-0051-3510-8052-b4c04f4a4432".parse().expect("valid")));
    }

    #[test]
    fn what_no_maker_set_and_what_is_no_uuid_is_refused() {
        for text in
            ["", "1", "00000000-0000-0000-0000-000000000000", &"f".repeat(32), &"g".repeat(32)]
        {
            assert_eq!(text.parse::<Uuid>(), Err(NotAUuid), "{text}");
        }
        assert_eq!(Uuid::of_option(&[1; 17]), None, "another type of identifier");
        assert_eq!(Uuid::of_option(&[0; 17]), None);
        assert!(Uuid::of_option(&[[0].as_slice(), &[7; 16]].concat()).is_some());
    }
}
