//! Core: the words of the kernel command line by which the server instructs a node.
//!
//! The boot scripts write them and the node's `/init` reads them, in `/proc/cmdline`. A word that a
//! node does not know is passed over, so a newer server may say more to older boot files.
//!
//! Words are separated by white space; double quotes keep white space together, as the kernel itself
//! reads them (`lib/cmdline.c`, `next_arg`).

use std::fmt;

use crate::Mac;

/// The words themselves: the one place where they are spelt.
pub mod word {
    /// The interface that the firmware booted from, as PXELINUX's `IPAPPEND 2` writes it.
    pub const BOOTIF: &str = "BOOTIF";
    /// Our server's base URL.
    pub const SERVER: &str = "bt.server";
    /// The system to start without asking.
    pub const PRESET: &str = "bt.preset";
    /// The room that this PC stands in.
    pub const ROOM: &str = "bt.room";
    /// The system of the countdown.
    pub const DEFAULT: &str = "bt.default";
    /// Seconds of the countdown.
    pub const TIMEOUT: &str = "bt.timeout";
    /// Whether a failure may end in a shell.
    pub const SHELL: &str = "bt.shell";
}

/// The hardware type Ethernet of `BOOTIF=` (RFC 1700's number 1), before the address.
pub const BOOTIF_ETHERNET: &str = "01-";

/// What `server.toml` says of one PC, as words for its kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeWords {
    /// The room this PC stands in.
    pub room: Option<String>,
    /// The system of the countdown, where it is another than the catalog's.
    pub default: Option<String>,
    /// Seconds of the countdown, where they are others than the catalog's.
    pub timeout: Option<u32>,
    /// The system to start without asking.
    pub preset: Option<String>,
}

impl fmt::Display for NodeWords {
    /// The words, with a space between; none of the values may hold white space or quotes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |key: &str, value: &Option<String>| {
            value.as_ref().map(|value| format!("{key}={value}"))
        };
        let words = [
            text(word::ROOM, &self.room),
            text(word::DEFAULT, &self.default),
            self.timeout.map(|seconds| format!("{}={seconds}", word::TIMEOUT)),
            text(word::PRESET, &self.preset),
        ];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

/// What the kernel command line says to the node; unknown words are for others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cmdline {
    /// The interface the firmware booted from (`BOOTIF=01-aa-bb-cc-dd-ee-ff`; 01 is Ethernet).
    pub bootif: Option<Mac>,
    /// The server's base URL (`bt.server=`), without a slash at its end.
    pub server: Option<String>,
    /// What is said of this PC alone.
    pub node: NodeWords,
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
        let set = |value: &str| Some(value.to_owned());
        for found in words(text) {
            match found.split_once('=') {
                Some((word::BOOTIF, value)) => line.bootif = bootif(value),
                Some((word::SERVER, value)) => line.server = set(value.trim_end_matches('/')),
                Some((word::TIMEOUT, value)) => line.node.timeout = value.parse().ok(),
                Some((word::PRESET, value)) if !value.is_empty() => line.node.preset = set(value),
                Some((word::ROOM, value)) if !value.is_empty() => line.node.room = set(value),
                Some((word::DEFAULT, value)) if !value.is_empty() => line.node.default = set(value),
                Some(("console", value)) if value.starts_with("ttyS") => {
                    line.serial = value.split(',').next().map(str::to_owned);
                }
                None if found == word::SHELL => line.shell = true,
                _ => {}
            }
        }
        line
    }
}

/// Strips the hardware type, which some boot loaders leave out.
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
    use proptest::prelude::*;

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
        assert_eq!(line.node.preset.as_deref(), Some("debian-12"));
        assert_eq!(line.serial.as_deref(), Some("ttyS0"));
        assert!(!line.shell);
    }

    #[test]
    fn what_is_said_of_this_pc_alone_is_read() {
        let line = Cmdline::parse("bt.room=A1 bt.default=debian bt.timeout=90 bt.preset=exam");
        assert_eq!(line.node.room.as_deref(), Some("A1"));
        assert_eq!(line.node.default.as_deref(), Some("debian"));
        assert_eq!((line.node.timeout, line.node.preset.as_deref()), (Some(90), Some("exam")));
        let garbage = Cmdline::parse("bt.room= bt.default= bt.timeout=soon");
        assert_eq!(garbage, Cmdline::default());
    }

    #[test]
    fn words_of_a_newer_server_are_passed_over() {
        let line = Cmdline::parse("bt.room=A1 bt.colour=blue bt.later \"bt.more=a b\"");
        assert_eq!(line, Cmdline::parse("bt.room=A1"));
    }

    #[test]
    fn bootif_with_colons_and_capitals_is_the_same_interface() {
        assert_eq!(Cmdline::parse("BOOTIF=01-52:54:00:12:34:56").bootif, Some(MAC));
        assert_eq!(Cmdline::parse("BOOTIF=52:54:00:12:34:56").bootif, Some(MAC));
        let upper = Cmdline::parse("BOOTIF=01-AA-BB-CC-DD-EE-FF").bootif;
        assert_eq!(upper.expect("hexadecimal").to_string(), "aa:bb:cc:dd:ee:ff");
    }

    #[test]
    fn garbage_counts_as_absent() {
        let line = Cmdline::parse("BOOTIF=01-zz bt.preset= console=tty0 bt.shel \"");
        assert_eq!(line, Cmdline::default());
    }

    #[test]
    fn quotes_keep_white_space_together() {
        assert_eq!(words("a \"b c\" d=\"e f\""), ["a", "b c", "d=e f"]);
    }

    proptest! {
        #[test]
        fn what_the_server_writes_the_node_reads(
            room in proptest::option::of("[A-Za-z0-9._-]{1,20}"),
            default in proptest::option::of("[a-z0-9][a-z0-9._-]{0,62}"),
            timeout: Option<u32>,
            preset in proptest::option::of("[a-z0-9][a-z0-9._-]{0,62}"),
        ) {
            let node = NodeWords { room, default, timeout, preset };
            let line = Cmdline::parse(&format!("quiet {node} console=tty0"));
            prop_assert_eq!(line.node, node);
        }
    }
}
