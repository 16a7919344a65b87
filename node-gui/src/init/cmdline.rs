//! Core: what the kernel command line says to the node.
//!
//! Words are separated by white space; double quotes keep white space together, as the kernel itself reads them.

use std::fmt;
use std::str::FromStr;

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Why a text is not a hardware address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hardware address is six pairs of hexadecimal digits")]
pub struct NotAMac;

impl FromStr for Mac {
    type Err = NotAMac;

    /// Reads `aa:bb:cc:dd:ee:ff` and `aa-bb-cc-dd-ee-ff`.
    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut bytes = [0; 6];
        let mut pairs = text.trim().split([':', '-']);
        for byte in &mut bytes {
            let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or(NotAMac)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotAMac)?;
        }
        if pairs.next().is_some() { Err(NotAMac) } else { Ok(Self(bytes)) }
    }
}

/// What the kernel command line says to the node; unknown words are for others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cmdline {
    /// The interface the firmware booted from (`BOOTIF=01-aa-bb-cc-dd-ee-ff`; 01 is Ethernet).
    pub bootif: Option<Mac>,
    /// The server's base URL (`bt.server=`).
    pub server: Option<String>,
    /// The system to start without asking (`bt.preset=`).
    pub preset: Option<String>,
    /// The room this PC stands in (`bt.room=`).
    pub room: Option<String>,
    /// The system of the countdown, where it is another than the catalog's (`bt.default=`).
    pub default: Option<String>,
    /// Seconds of the countdown, where they are others than the catalog's (`bt.timeout=`).
    pub timeout: Option<u32>,
    /// Whether a failure may end in a shell (`bt.shell`).
    pub shell: bool,
    /// The serial line that step records go to (`console=ttyS0,…`).
    pub serial: Option<String>,
}

impl Cmdline {
    /// Reads the contents of `/proc/cmdline`; a word that is not understood counts as absent.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut line = Self::default();
        for word in words(text) {
            match word.split_once('=') {
                Some(("BOOTIF", value)) => line.bootif = bootif(value),
                Some(("bt.server", value)) => {
                    line.server = Some(value.trim_end_matches('/').to_owned());
                }
                Some(("bt.preset", value)) if !value.is_empty() => {
                    line.preset = Some(value.to_owned());
                }
                Some(("bt.room", value)) if !value.is_empty() => line.room = Some(value.to_owned()),
                Some(("bt.default", value)) if !value.is_empty() => {
                    line.default = Some(value.to_owned());
                }
                Some(("bt.timeout", value)) => line.timeout = value.parse().ok(),
                Some(("console", value)) if value.starts_with("ttyS") => {
                    line.serial = value.split(',').next().map(str::to_owned);
                }
                None if word == "bt.shell" => line.shell = true,
                _ => {}
            }
        }
        line
    }
}

fn bootif(value: &str) -> Option<Mac> {
    value.strip_prefix("01-").or_else(|| value.strip_prefix("01:")).unwrap_or(value).parse().ok()
}

/// Splits at white space outside double quotes, and takes the quotes away.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut is_quoted = false;
    for c in text.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            c if c.is_whitespace() && !is_quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    #[test]
    fn the_line_of_boot_ipxe_is_understood() {
        let line = Cmdline::parse(
            "initrd=initrd.img BOOTIF=01-52-54-00-12-34-56 bt.server=http://10.77.0.1:6969 nokaslr quiet \
             loglevel=3 console=tty0 console=ttyS0,115200 bt.preset=debian-12\n",
        );
        assert_eq!(line.bootif, Some(MAC));
        assert_eq!(line.server.as_deref(), Some("http://10.77.0.1:6969"));
        assert_eq!(line.preset.as_deref(), Some("debian-12"));
        assert_eq!(line.serial.as_deref(), Some("ttyS0"));
        assert!(!line.shell);
    }

    #[test]
    fn what_is_said_of_this_pc_alone_is_read() {
        let line = Cmdline::parse("bt.room=A1 bt.default=debian bt.timeout=90 bt.preset=exam");
        assert_eq!(line.room.as_deref(), Some("A1"));
        assert_eq!(line.default.as_deref(), Some("debian"));
        assert_eq!((line.timeout, line.preset.as_deref()), (Some(90), Some("exam")));
        let garbage = Cmdline::parse("bt.room= bt.default= bt.timeout=soon");
        assert_eq!(garbage, Cmdline::default());
    }

    #[test]
    fn bootif_with_colons_and_capitals_is_the_same_card() {
        assert_eq!(Cmdline::parse("BOOTIF=01-52:54:00:12:34:56").bootif, Some(MAC));
        assert_eq!(Cmdline::parse("BOOTIF=52:54:00:12:34:56").bootif, Some(MAC));
        let upper = Cmdline::parse("BOOTIF=01-AA-BB-CC-DD-EE-FF").bootif;
        assert_eq!(upper.expect("hexadecimal").to_string(), "aa:bb:cc:dd:ee:ff");
    }

    #[test]
    fn garbage_counts_as_absent() {
        let line = Cmdline::parse("BOOTIF=01-zz bt.preset= console=tty0 bt.shel \"");
        assert_eq!(line, Cmdline::default());
        assert!("52:54:00:12:34".parse::<Mac>().is_err());
        assert!("52:54:00:12:34:56:78".parse::<Mac>().is_err());
    }

    #[test]
    fn quotes_keep_white_space_together() {
        assert_eq!(words("a \"b c\" d=\"e f\""), ["a", "b c", "d=e f"]);
    }
}
