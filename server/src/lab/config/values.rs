//! Core: the values of `server.toml`: addresses, ranges, durations, names, kernel words.
//!
//! Each function takes a value with its place and returns what it means, or the offset of the
//! mistake and what would be right there.

use std::net::Ipv4Addr;
use std::time::Duration;

use bt_catalog::SystemId;
use serde::Deserialize;
use toml::Spanned;

use bt_catalog::Mac;

pub(super) const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) const LONGEST_TIMEOUT: Duration = Duration::from_hours(1);

/// A system that `server.toml` names. Whether it exists is known only with the catalog in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSystem {
    /// Its id.
    pub id: SystemId,
    /// Where it stands in `server.toml`, for the message.
    pub place: Place,
}

/// A place in a file, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// The kernel takes 2048 (x86's COMMAND_LINE_SIZE); boot.ipxe puts in words of its own.
const LONGEST_CMDLINE: usize = 1000;

/// A mistake at a byte offset of the text.
pub(super) type At<T> = Result<T, (usize, String)>;

/// A table that holds a port and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPort {
    port: Option<Spanned<i64>>,
}

pub(super) fn range(text: &Spanned<String>) -> At<(Ipv4Addr, Ipv4Addr)> {
    let wrong = |cause: String| Err((text.span().start, cause));
    let parts: Vec<&str> = text.as_ref().split('-').map(str::trim).collect();
    let [first, last] = parts[..] else {
        let text = text.as_ref();
        return wrong(format!("`{text}` is not a range; write \"10.77.0.50-10.77.0.150\""));
    };
    match (first.parse::<Ipv4Addr>(), last.parse::<Ipv4Addr>()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        (Ok(first), Ok(last)) => {
            wrong(format!("the range begins at {first}, after its end {last}"))
        }
        (Err(_), _) => wrong(format!("`{first}` is not an IPv4 address")),
        (_, Err(_)) => wrong(format!("`{last}` is not an IPv4 address")),
    }
}

pub(super) fn address(text: &Spanned<String>) -> At<Ipv4Addr> {
    let wrong = |_| (text.span().start, format!("`{}` is not an IPv4 address", text.as_ref()));
    text.as_ref().trim().parse().map_err(wrong)
}

impl RawPort {
    /// Where the number stands.
    pub(super) fn at(&self) -> Option<usize> {
        self.port.as_ref().map(|port| port.span().start)
    }
}

pub(super) fn port(raw: &Option<RawPort>, default: u16) -> At<u16> {
    let Some(port) = raw.as_ref().and_then(|raw| raw.port.as_ref()) else { return Ok(default) };
    match u16::try_from(*port.as_ref()) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err((port.span().start, format!("`{}` is not a port: 1 to 65535", port.as_ref()))),
    }
}

/// `30s`, `10m`, `12h`, `2d`, within the limits.
pub(super) fn duration(
    text: &Spanned<String>,
    key: &str,
    least: Duration,
    most: Duration,
) -> At<Duration> {
    let wrong = |cause: String| Err((text.span().start, cause));
    let trimmed = text.as_ref().trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let secs = match unit.trim() {
        "s" => Some(1),
        "m" | "min" => Some(60),
        "h" => Some(3600),
        "d" => Some(24 * 3600),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    let Some(total) = number.zip(secs).and_then(|(number, secs)| number.checked_mul(secs)) else {
        return wrong(format!(
            "`{trimmed}` is not a duration; write for example \"30s\", \"10m\" or \"2h\""
        ));
    };
    let total = Duration::from_secs(total);
    if total < least || total > most {
        let (least, most) = (least.as_secs(), most.as_secs());
        return wrong(format!("`{key}` is {trimmed}; expected {least} to {most} seconds"));
    }
    Ok(total)
}

pub(super) fn cmdline(value: Spanned<String>) -> At<String> {
    let text = value.as_ref().split_whitespace().collect::<Vec<_>>().join(" ");
    // The words go into an iPXE script, where `$`, `#` and quotes mean something.
    let is_fit = |c: char| c.is_ascii_graphic() && !"$#\"'\\`&|<>;".contains(c) || c == ' ';
    let cause = match text.chars().find(|c| !is_fit(*c)) {
        Some(c) => format!("`cmdline` holds {c:?}, which does not pass through iPXE to the kernel"),
        None if text.len() > LONGEST_CMDLINE => {
            format!("`cmdline` has {} characters; the maximum is {LONGEST_CMDLINE}", text.len())
        }
        None => return Ok(text),
    };
    Err((value.span().start, cause))
}

/// `52:54:00:12:34:56`, or with dashes.
pub(super) fn mac(text: &Spanned<String>) -> At<Mac> {
    match <[u8; 6]>::try_from(mac_bytes(text)?) {
        Ok(bytes) if bytes != [0; 6] && bytes[0] & 1 == 0 => Ok(Mac(bytes)),
        _ => {
            let cause = format!(
                "`{}` is not the MAC address of a PC; expected for example 52:54:00:12:34:56",
                text.as_ref()
            );
            Err((text.span().start, cause))
        }
    }
}

/// The bytes of a hardware address, or of its beginning: `52:54:00`.
pub(super) fn mac_bytes(text: &Spanned<String>) -> At<Vec<u8>> {
    let parts: Vec<&str> = text.as_ref().trim().split([':', '-']).collect();
    let byte = |part: &&str| match part.len() {
        2 => u8::from_str_radix(part, 16).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = parts.iter().map(byte).collect();
    bytes.filter(|bytes| bytes.len() <= 6).ok_or_else(|| {
        let cause = format!(
            "`{}` is not a MAC address; expected for example 52:54:00:12:34:56, or a prefix such as 52:54:00",
            text.as_ref()
        );
        (text.span().start, cause)
    })
}

/// `10.77.0.50-10.77.0.80`, `10.77.0.0/24`, or one address: the first and the last.
pub(super) fn addresses(text: &Spanned<String>) -> At<(Ipv4Addr, Ipv4Addr)> {
    if text.as_ref().contains('/') {
        let (network, netmask) = network(text)?;
        return Ok((network, Ipv4Addr::from_bits(network.to_bits() | !netmask.to_bits())));
    }
    if text.as_ref().contains('-') {
        return range(text);
    }
    address(text).map(|ip| (ip, ip))
}

/// `10.78.0.0/24`: its address and its mask.
pub(super) fn network(text: &Spanned<String>) -> At<(Ipv4Addr, Ipv4Addr)> {
    let wrong = |cause: String| Err((text.span().start, cause));
    let whole = text.as_ref().trim();
    let parts = whole.split_once('/').and_then(|(ip, bits)| {
        let bits: u32 = bits.parse().ok().filter(|bits| (1..=32).contains(bits))?;
        Some((ip.parse::<Ipv4Addr>().ok()?, u32::MAX << (32 - bits)))
    });
    match parts {
        Some((ip, mask)) if ip.to_bits() & !mask == 0 => Ok((ip, Ipv4Addr::from_bits(mask))),
        Some((ip, mask)) => {
            let first = Ipv4Addr::from_bits(ip.to_bits() & mask);
            let bits = mask.count_ones();
            wrong(format!("`{whole}` has host bits set; did you mean {first}/{bits}?"))
        }
        None => wrong(format!("`{whole}` is not a network; expected for example 10.78.0.0/24")),
    }
}
