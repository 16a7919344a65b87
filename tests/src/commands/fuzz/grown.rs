//! Core: the part of a corpus that libFuzzer found, packed into one file: each input behind its
//! length in two bytes, the larger first; the inputs in ascending order, so that the same ones
//! make the same file.

use anyhow::{Context, Result};

/// Reads all inputs of a packed file.
pub fn unpack(mut packed: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut inputs = Vec::new();
    while !packed.is_empty() {
        let (length, rest) = packed.split_first_chunk().context("a length is cut short")?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (input, rest) = rest.split_at_checked(length).context("an input is cut short")?;
        inputs.push(input.to_vec());
        packed = rest;
    }
    Ok(inputs)
}

/// Packs inputs into one file; of equal ones, one.
pub fn pack(mut inputs: Vec<Vec<u8>>) -> Result<Vec<u8>> {
    inputs.sort();
    inputs.dedup();
    let mut packed = Vec::new();
    for input in inputs {
        let length = u16::try_from(input.len()).context("an input is larger than a packet")?;
        packed.extend(length.to_be_bytes());
        packed.extend(input);
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_unpacked_in_order_and_once() {
        let inputs = vec![b"tftp".to_vec(), Vec::new(), b"dhcp".to_vec(), b"tftp".to_vec()];
        let packed = pack(inputs).expect("short inputs");
        assert_eq!(packed, b"\0\0\0\x04dhcp\0\x04tftp");
        assert_eq!(unpack(&packed).expect("complete"), [&b""[..], b"dhcp", b"tftp"]);
    }

    #[test]
    fn a_file_cut_short_and_an_input_that_is_too_long_are_refused() {
        let reason = |packed: &[u8]| unpack(packed).expect_err("cut short").to_string();
        assert_eq!(reason(b"\0\x01a\0"), "a length is cut short");
        assert_eq!(reason(b"\0\x01a\0\x02b"), "an input is cut short");
        assert!(pack(vec![vec![0; 65536]]).is_err());
    }
}
