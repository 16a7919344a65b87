//! Core: the name of a swarm (BEP 3).

use std::fmt;
use std::str::FromStr;

/// SHA-1 of a torrent's info dictionary: the name of a swarm.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Infohash(pub [u8; 20]);

impl fmt::Display for Infohash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Infohash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Infohash({self})")
    }
}

/// The text is not 40 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid infohash; expected 40 hexadecimal digits")]
pub struct NotAnInfohash;

impl FromStr for Infohash {
    type Err = NotAnInfohash;

    fn from_str(text: &str) -> Result<Self, NotAnInfohash> {
        let mut bytes = [0; 20];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAnInfohash)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_infohash_is_read_back_from_its_text() {
        let infohash = Infohash([7; 20]);
        assert_eq!(infohash.to_string().parse(), Ok(infohash));
        assert_eq!("07".parse::<Infohash>(), Err(NotAnInfohash));
    }
}
