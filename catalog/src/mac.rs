//! Core: the MAC address of a PC's network interface.

use std::fmt;
use std::str::FromStr;

/// A MAC address (EUI-48), in the order of its bytes on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    /// `52:54:00:12:34:56`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Why a text is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a MAC address such as 52:54:00:12:34:56")]
pub struct NotAMac;

impl FromStr for Mac {
    type Err = NotAMac;

    /// Reads `52:54:00:12:34:56` and, as iPXE's `hexhyp` and PXELINUX write it, `52-54-00-12-34-56`;
    /// digits in either case.
    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut bytes = [0; 6];
        let mut pairs = text.trim().split([':', '-']);
        for byte in &mut bytes {
            let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or(NotAMac)?;
            // `from_str_radix` alone would take `+5` for a byte.
            let is_hex = pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(pair, 16).ok().filter(|_| is_hex).ok_or(NotAMac)?;
        }
        if pairs.next().is_some() { Err(NotAMac) } else { Ok(Self(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0xab, 0xcd, 0xef]);

    #[test]
    fn both_separators_and_either_case_are_read() {
        for text in ["52:54:00:ab:cd:ef", "52-54-00-AB-CD-EF", " 52:54:00:AB:cd:ef\n"] {
            assert_eq!(text.parse(), Ok(MAC), "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_mac_address() {
        for text in ["", "52", "52:54:00:ab:cd", "52:54:00:ab:cd:ef:00", "52:54:00:ab:cd:eg"] {
            assert_eq!(text.parse::<Mac>(), Err(NotAMac), "{text}");
        }
        for text in
            ["525400abcdef", "52:54:00:ab:cd:+f", "52:54:00:ab:cd:f", "::::::", "5ü:54:00:ab:cd:ef"]
        {
            assert_eq!(text.parse::<Mac>(), Err(NotAMac), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_the_same(bytes: [u8; 6]) {
            prop_assert_eq!(Mac(bytes).to_string().parse(), Ok(Mac(bytes)));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<Mac>();
        }
    }
}
