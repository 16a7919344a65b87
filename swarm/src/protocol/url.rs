//! Core: percent-encoding (RFC 3986) and magnet links (BEP 9).

use super::infohash::Infohash;

/// The magnet link with which any BitTorrent client can download a payload.
pub fn magnet(infohash: Infohash, name: &str, announce: &str, total: u64) -> String {
    format!(
        "magnet:?xt=urn:btih:{infohash}&dn={}&xl={total}&tr={}",
        percent_encode(name.as_bytes()),
        percent_encode(announce.as_bytes())
    )
}

/// RFC 3986 §2.1; every byte but the unreserved ones is written as `%XX`.
pub(crate) fn percent_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(*byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_magnet_link_is_percent_encoded() {
        let link = magnet(Infohash([0xab; 20]), "a b", "http://10.0.0.1:6969/announce", 5);
        assert_eq!(
            link,
            format!(
                "magnet:?xt=urn:btih:{}&dn=a%20b&xl=5&tr=http%3A%2F%2F10.0.0.1%3A6969%2Fannounce",
                "ab".repeat(20)
            )
        );
    }
}
