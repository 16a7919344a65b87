//! Core: what DHCP said, and where the server is.

use std::collections::BTreeMap;

/// The server's HTTP port where only its address is known.
const DEFAULT_PORT: u16 = 6969;

/// What udhcpc learned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lease {
    values: BTreeMap<String, String>,
}

impl Lease {
    /// Reads the `KEY=VALUE` lines that the script wrote.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let values = pairs.map(|(key, value)| {
            (key.trim().to_owned(), value.trim().trim_matches(['"', '\'']).to_owned())
        });
        Self { values: values.filter(|(_, value)| !value.is_empty()).collect() }
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Our address.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        self.value("ip")
    }

    /// Our name, when the DHCP server has one for us.
    #[must_use]
    pub fn hostname(&self) -> Option<&str> {
        self.value("hostname")
    }
}

/// The server's base URL: from the command line, DHCP option 224 (text, as udhcpc shows it in hexadecimal), or the
/// boot server's address with the usual port.
#[must_use]
pub fn server_url(from_line: Option<&str>, lease: &Lease) -> Option<String> {
    let option = lease.value("opt224").and_then(|text| hex::decode(text).ok());
    let option = option.and_then(|bytes| String::from_utf8(bytes).ok());
    let option = option.filter(|url| url.starts_with("http://"));
    let url = from_line
        .map(str::to_owned)
        .or(option)
        .or_else(|| lease.value("siaddr").map(|ip| format!("http://{ip}:{DEFAULT_PORT}")))?;
    Some(url.trim_end_matches(['/', '\0']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "interface=eth0\nip=10.77.0.51\nhostname=\nsiaddr=10.77.0.1\nrouter='10.77.0.254'\n";

    #[test]
    fn a_lease_is_read_without_quotes_and_empty_values() {
        let lease = Lease::parse(TEXT);
        assert_eq!(lease.address(), Some("10.77.0.51"));
        assert_eq!(lease.hostname(), None);
        assert_eq!(lease.value("router"), Some("10.77.0.254"));
    }

    #[test]
    fn the_command_line_beats_the_option_beats_the_boot_server() {
        let plain = Lease::parse(TEXT);
        let option = hex::encode("http://10.77.0.2:7000/");
        let with_option = Lease::parse(&format!("{TEXT}opt224={option}\n"));
        let line = Some("http://10.77.0.3:6969");
        assert_eq!(server_url(line, &with_option).as_deref(), line);
        assert_eq!(server_url(None, &with_option).as_deref(), Some("http://10.77.0.2:7000"));
        assert_eq!(server_url(None, &plain).as_deref(), Some("http://10.77.0.1:6969"));
        assert_eq!(server_url(None, &Lease::default()), None);
    }

    #[test]
    fn an_option_that_is_not_a_url_is_ignored() {
        for value in ["zz", "00ff", &hex::encode("ftp://x")] {
            let lease = Lease::parse(&format!("siaddr=10.0.0.1\nopt224={value}\n"));
            assert_eq!(server_url(None, &lease).as_deref(), Some("http://10.0.0.1:6969"));
        }
    }
}
