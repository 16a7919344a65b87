//! Core: the DHCP options that a supervisor may add by name or by number, and their bytes.
//!
//! Names and formats are those of RFC 2132, in small letters with dashes, and of a few later RFCs
//! that labs use. Options that belong to the exchange itself (addresses, times, message types, boot
//! files) are refused: a server that contradicts itself there takes PCs off the network.

use std::net::Ipv4Addr;

use toml::Value;

/// What one option can hold (RFC 2132 §2).
const MOST_BYTES: usize = 255;
const INTERFACE_MTU: u8 = 26;

/// One further option of `[dhcp.options]`, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraOption {
    /// Its number.
    pub code: u8,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// How an option's value is written on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// One address.
    Address,
    /// One or more addresses.
    Addresses,
    /// Pairs of addresses, such as a network and its mask.
    Pairs,
    /// A number of one byte.
    U8,
    /// A number of two bytes.
    U16,
    /// Numbers of two bytes.
    U16s,
    /// A number of four bytes.
    U32,
    /// A number of four bytes with a sign.
    I32,
    /// Yes or no.
    Flag,
    /// Text.
    Text,
    /// Bytes in hexadecimal.
    Bytes,
    /// Domain names (RFC 3397, RFC 1035 §3.1, without compression).
    Names,
    /// Networks with their routers (RFC 3442).
    Routes,
    /// Not in the table: the value's own form decides.
    Unknown,
}

use Format::{
    Address, Addresses, Bytes, Flag, I32, Names, Pairs, Routes, Text, U8, U16, U16s, U32,
};

/// RFC 2132 §3-§9, except what [`OWN`] has, and further options that labs use.
const TABLE: &[(u8, &str, Format)] = &[
    (2, "time-offset", I32),
    (4, "time-servers", Addresses),
    (5, "name-servers", Addresses),
    (7, "log-servers", Addresses),
    (8, "cookie-servers", Addresses),
    (9, "lpr-servers", Addresses),
    (10, "impress-servers", Addresses),
    (11, "resource-location-servers", Addresses),
    (13, "boot-file-size", U16),
    (14, "merit-dump-file", Text),
    (16, "swap-server", Address),
    (17, "root-path", Text),
    (18, "extensions-path", Text),
    (19, "ip-forwarding", Flag),
    (20, "non-local-source-routing", Flag),
    (21, "policy-filter", Pairs),
    (22, "maximum-datagram-reassembly-size", U16),
    (23, "default-ip-ttl", U8),
    (24, "path-mtu-aging-timeout", U32),
    (25, "path-mtu-plateau-table", U16s),
    (INTERFACE_MTU, "interface-mtu", U16),
    (27, "all-subnets-are-local", Flag),
    (29, "perform-mask-discovery", Flag),
    (30, "mask-supplier", Flag),
    (31, "perform-router-discovery", Flag),
    (32, "router-solicitation-address", Address),
    (33, "static-routes", Pairs),
    (34, "trailer-encapsulation", Flag),
    (35, "arp-cache-timeout", U32),
    (36, "ethernet-encapsulation", Flag),
    (37, "tcp-default-ttl", U8),
    (38, "tcp-keepalive-interval", U32),
    (39, "tcp-keepalive-garbage", Flag),
    (40, "nis-domain", Text),
    (41, "nis-servers", Addresses),
    (44, "netbios-name-servers", Addresses),
    (45, "netbios-dd-servers", Addresses),
    (46, "netbios-node-type", U8),
    (47, "netbios-scope", Text),
    (48, "font-servers", Addresses),
    (49, "x-display-managers", Addresses),
    (62, "netware-ip-domain", Text),
    (63, "netware-ip-information", Bytes),
    (64, "nisplus-domain", Text),
    (65, "nisplus-servers", Addresses),
    (68, "mobile-ip-home-agents", Addresses),
    (69, "smtp-servers", Addresses),
    (70, "pop3-servers", Addresses),
    (71, "nntp-servers", Addresses),
    (72, "www-servers", Addresses),
    (73, "finger-servers", Addresses),
    (74, "irc-servers", Addresses),
    (75, "streettalk-servers", Addresses),
    (76, "streettalk-directory-servers", Addresses),
    (100, "posix-timezone", Text),
    (101, "tzdb-timezone", Text),
    (114, "captive-portal", Text),
    (119, "domain-search", Names),
    (121, "classless-static-routes", Routes),
    (125, "vendor-identifying-information", Bytes),
    (138, "capwap-controllers", Addresses),
    (150, "tftp-server-addresses", Addresses),
    (210, "pxelinux-path-prefix", Text),
    (252, "proxy-autodiscovery", Text),
];

/// Options that this server writes itself, and where their value comes from.
const OWN: &[(u8, &str, &str)] = &[
    (0, "pad", "it only fills the packet"),
    (1, "subnet-mask", "it comes from the interface, or from `network` of [[dhcp.subnet]]"),
    (3, "routers", "write `router` below [dhcp]"),
    (6, "domain-name-servers", "write `dns` below [dhcp]"),
    (12, "host-name", "write `name` of [[host]]"),
    (15, "domain-name", "write `domain` below [dhcp]"),
    (28, "broadcast-address", "it comes from the network's mask"),
    (42, "ntp-servers", "write `ntp` below [dhcp]"),
    (43, "vendor-specific-information", "boot firmware reads it as PXE's"),
    (50, "requested-address", "only clients send it"),
    (51, "lease-time", "write `lease` below [dhcp]"),
    (52, "option-overload", "it says how this packet is laid out"),
    (53, "message-type", "it says what this packet is"),
    (54, "server-identifier", "it is this server's own address"),
    (55, "parameter-request-list", "only clients send it"),
    (56, "message", "it explains a refusal"),
    (57, "maximum-message-size", "only clients send it"),
    (58, "renewal-time", "it is half of `lease`"),
    (59, "rebinding-time", "it is seven eighths of `lease`"),
    (60, "vendor-class-identifier", "boot firmware reads it as PXE's"),
    (61, "client-identifier", "only clients send it"),
    (66, "tftp-server-name", "it is this server's own address"),
    (67, "boot-file-name", "it is chosen for each firmware; see `uefi_loader`"),
    (82, "relay-agent-information", "it is the relay's own, sent back as it came"),
    (93, "client-architecture", "only clients send it"),
    (94, "client-network-interface", "only clients send it"),
    (97, "client-machine-identifier", "it is the PC's own, sent back as it came"),
    (175, "ipxe-encapsulated", "it is iPXE's own"),
    (255, "end", "it ends the packet"),
];

/// The number of an option that is written by name or by number.
///
/// # Errors
/// Why there is none, or why it cannot be set here.
pub fn code_of(key: &str) -> Result<u8, String> {
    let code = match key.parse::<i64>() {
        Ok(number) => u8::try_from(number)
            .map_err(|_| format!("`{key}` is not a valid option; the numbers are 1 to 254"))?,
        Err(_) => {
            let table = TABLE.iter().map(|(code, name, _)| (*code, *name));
            let own = OWN.iter().map(|(code, name, _)| (*code, *name));
            let found = table.chain(own).find(|(_, name)| *name == key);
            found.map(|(code, _)| code).ok_or_else(|| unknown(key))?
        }
    };
    match OWN.iter().find(|(own, ..)| *own == code) {
        Some((_, name, why)) => Err(format!("option {code} ({name}) cannot be set here: {why}")),
        None => Ok(code),
    }
}

fn unknown(key: &str) -> String {
    let first = key.split('-').next().unwrap_or(key);
    let is_like = |name: &str| name.split('-').any(|part| part == first);
    let like: Vec<&str> =
        TABLE.iter().map(|(_, name, _)| *name).filter(|name| is_like(name)).collect();
    let hint = if like.is_empty() { String::new() } else { format!(" ({}?)", like.join(", ")) };
    format!("`{key}` is not a known DHCP option{hint}; write its number in quotes, such as \"209\"")
}

/// The bytes of an option's value.
///
/// # Errors
/// What would be right instead.
pub fn encode(code: u8, value: &Value) -> Result<ExtraOption, String> {
    let format = TABLE.iter().find(|(known, ..)| *known == code).map_or(Format::Unknown, |t| t.2);
    let data = match format {
        Format::Address => one_address(value)?.octets().to_vec(),
        Format::Addresses => addresses(value)?.concat(),
        Format::Pairs => {
            let all = addresses(value)?;
            if all.len() % 2 == 1 {
                return Err("addresses come in pairs here, a network and its mask or router".into());
            }
            all.concat()
        }
        Format::U8 => number(value, 0, 0xff)?.to_be_bytes()[7..].to_vec(),
        // RFC 2132 §5.1, and what IPv4 needs at least (RFC 791).
        Format::U16 if code == INTERFACE_MTU => {
            number(value, 68, 0xffff)?.to_be_bytes()[6..].to_vec()
        }
        Format::U16 => number(value, 0, 0xffff)?.to_be_bytes()[6..].to_vec(),
        Format::U16s => {
            let all = list(value).iter().map(|value| number(value, 0, 0xffff));
            let all: Vec<_> = all.collect::<Result<_, _>>()?;
            all.iter().flat_map(|n| n.to_be_bytes()[6..].to_vec()).collect()
        }
        Format::U32 => number(value, 0, 0xffff_ffff)?.to_be_bytes()[4..].to_vec(),
        Format::I32 => number(value, i32::MIN.into(), i32::MAX.into())?.to_be_bytes()[4..].to_vec(),
        Format::Flag => match value {
            Value::Boolean(flag) => vec![u8::from(*flag)],
            _ => return Err("write true or false".into()),
        },
        Format::Text => text(value)?.as_bytes().to_vec(),
        Format::Bytes => match value.as_str().and_then(hex_of) {
            Some(bytes) => bytes,
            None => return Err("write its bytes in hexadecimal, such as \"hex:01ff\"".into()),
        },
        Format::Names => names(value)?,
        Format::Routes => routes(value)?,
        Format::Unknown => free(value)?,
    };
    match data.len() {
        0 => Err("it is empty".into()),
        1..=MOST_BYTES => Ok(ExtraOption { code, data }),
        length => Err(format!("it has {length} bytes; the maximum is {MOST_BYTES}")),
    }
}

/// A value of an option that is in no table: `"hex:01ff"`, a list of addresses, or text.
fn free(value: &Value) -> Result<Vec<u8>, String> {
    match value {
        Value::String(text) if text.starts_with("hex:") => {
            hex_of(text).ok_or_else(|| format!("`{text}` is not hexadecimal"))
        }
        Value::String(_) => Ok(text(value)?.as_bytes().to_vec()),
        Value::Array(_) => Ok(addresses(value)?.concat()),
        _ => Err(
            "the format of this option is unknown: write text in quotes, addresses in brackets, \
                  or its bytes such as \"hex:01ff\""
                .into(),
        ),
    }
}

fn list(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) => values,
        one => std::slice::from_ref(one),
    }
}

fn one_address(value: &Value) -> Result<Ipv4Addr, String> {
    let text = value.as_str().ok_or("write one IPv4 address in quotes")?;
    text.trim().parse().map_err(|_| format!("`{text}` is not an IPv4 address"))
}

fn addresses(value: &Value) -> Result<Vec<[u8; 4]>, String> {
    list(value).iter().map(|value| one_address(value).map(|ip| ip.octets())).collect()
}

fn number(value: &Value, least: i64, most: i64) -> Result<i64, String> {
    let number = value.as_integer().ok_or("write a number, without quotes")?;
    if (least..=most).contains(&number) {
        return Ok(number);
    }
    Err(format!("`{number}` is not between {least} and {most}"))
}

fn text(value: &Value) -> Result<&str, String> {
    let text = value.as_str().ok_or("write text in quotes")?;
    if text.chars().any(char::is_control) {
        return Err("it holds a line break or another control character".into());
    }
    Ok(text)
}

fn hex_of(text: &str) -> Option<Vec<u8>> {
    let digits: String =
        text.strip_prefix("hex:")?.chars().filter(|c| !" :".contains(*c)).collect();
    hex::decode(digits).ok()
}

/// Each name as its labels, each with its length, and a zero.
fn names(value: &Value) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for value in list(value) {
        let name = text(value)?;
        for label in name.trim_end_matches('.').split('.') {
            let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length));
            let length = length.ok_or_else(|| format!("`{name}` is not a domain name"))?;
            bytes.push(length);
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
    }
    Ok(bytes)
}

/// `["10.0.0.0/8 10.77.0.254"]`: only the bytes of a network that its mask covers are sent.
fn routes(value: &Value) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for value in list(value) {
        let route = text(value)?;
        let parts = route.split_once(' ').and_then(|(network, router)| {
            let (ip, bits) = network.split_once('/')?;
            let bits: u8 = bits.parse().ok().filter(|bits| *bits <= 32)?;
            Some((ip.parse::<Ipv4Addr>().ok()?, bits, router.trim().parse::<Ipv4Addr>().ok()?))
        });
        let Some((ip, bits, router)) = parts else {
            return Err(format!("`{route}` is not a route; write \"10.0.0.0/8 10.77.0.254\""));
        };
        bytes.push(bits);
        bytes.extend(&ip.octets()[..usize::from(bits.div_ceil(8))]);
        bytes.extend(router.octets());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code and bytes of `key = value` as it stands in server.toml, or the refusal.
    fn read(line: &str) -> Result<(u8, Vec<u8>), String> {
        let table: toml::Table = line.parse().expect("TOML");
        let (key, value) = table.iter().next().expect("one line");
        let option = encode(code_of(key)?, value)?;
        Ok((option.code, option.data))
    }

    fn check(line: &str, code: u8, data: &[u8]) {
        assert_eq!(read(line), Ok((code, data.to_vec())), "{line}");
    }

    fn refused(line: &str, part: &str) {
        let cause = read(line).expect_err(line);
        assert!(cause.contains(part), "{line}: {cause}");
    }

    #[test]
    fn every_format_has_its_bytes() {
        check("interface-mtu = 1400", 26, &[5, 120]);
        check("26 = 1400", 26, &[5, 120]);
        check("time-offset = -3600", 2, &[255, 255, 241, 240]);
        check("default-ip-ttl = 64", 23, &[64]);
        check("arp-cache-timeout = 60", 35, &[0, 0, 0, 60]);
        check("ip-forwarding = true", 19, &[1]);
        check("log-servers = \"10.0.0.1\"", 7, &[10, 0, 0, 1]);
        check("log-servers = [\"10.0.0.1\", \"10.0.0.2\"]", 7, &[10, 0, 0, 1, 10, 0, 0, 2]);
        check("swap-server = \"10.0.0.1\"", 16, &[10, 0, 0, 1]);
        check("static-routes = [\"10.9.0.0\", \"10.0.0.1\"]", 33, &[10, 9, 0, 0, 10, 0, 0, 1]);
        check("path-mtu-plateau-table = [68, 576]", 25, &[0, 68, 2, 64]);
        check("nis-domain = \"lab\"", 40, b"lab");
        check("domain-search = [\"a.bc\", \"d\"]", 119, b"\x01a\x02bc\0\x01d\0");
        check(
            "classless-static-routes = [\"10.128.0.0/9 10.0.0.1\"]",
            121,
            &[9, 10, 128, 10, 0, 0, 1],
        );
        check("netware-ip-information = \"hex:01 ff\"", 63, &[1, 255]);
    }

    #[test]
    fn every_option_of_rfc_2132_has_a_name() {
        let named = |code| {
            TABLE.iter().any(|(known, ..)| *known == code)
                || OWN.iter().any(|(known, ..)| *known == code)
        };
        let nameless: Vec<u8> = (0..=76).chain([255]).filter(|code| !named(*code)).collect();
        assert_eq!(nameless, [0; 0]);
        let names = TABLE.iter().map(|(_, name, _)| name).chain(OWN.iter().map(|(_, n, _)| n));
        assert!(
            names.clone().all(|name| names.clone().filter(|other| *other == name).count() == 1)
        );
    }

    #[test]
    fn an_option_of_no_table_is_text_addresses_or_bytes() {
        check("209 = \"conf\"", 209, b"conf");
        check("209 = [\"10.0.0.1\"]", 209, &[10, 0, 0, 1]);
        check("209 = \"hex:0a:0b\"", 209, &[10, 11]);
        refused("209 = 5", "format of this option is unknown");
        refused("209 = \"hex:0\"", "not hexadecimal");
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        refused("log-server = \"10.0.0.1\"", "log-servers?");
        refused("300 = 1", "1 to 254");
        refused("routers = [\"10.0.0.1\"]", "write `router`");
        refused("67 = \"x\"", "cannot be set here");
        refused("53 = 5", "cannot be set here");
        refused("interface-mtu = \"1400\"", "without quotes");
        refused("interface-mtu = 70000", "between 68 and 65535");
        refused("interface-mtu = 10", "between 68 and 65535");
        refused("default-ip-ttl = 256", "between 0 and 255");
        refused("log-servers = [\"10.0.0\"]", "not an IPv4 address");
        refused("log-servers = []", "empty");
        refused("static-routes = [\"10.9.0.0\"]", "pairs");
        refused("ip-forwarding = 1", "true or false");
        refused("domain-search = [\"a..b\"]", "not a domain name");
        refused("classless-static-routes = [\"10.0.0.0/33 10.0.0.1\"]", "not a route");
        refused(&format!("root-path = \"{}\"", "x".repeat(256)), "the maximum is 255");
    }

    #[test]
    fn every_option_of_rfc_2132_is_known_once() {
        let mut codes: Vec<u8> = TABLE.iter().map(|(code, ..)| *code).collect();
        codes.extend(OWN.iter().map(|(code, ..)| *code));
        codes.sort_unstable();
        assert!(codes.windows(2).all(|pair| pair[0] != pair[1]), "{codes:?}");
        assert!((0..=76).all(|code| codes.contains(&code)), "{codes:?}");
    }
}
