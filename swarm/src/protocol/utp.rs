//! Core: refusing uTP (BEP 29).
//!
//! The engine supports only TCP. Some clients try uTP first, and Transmission 3.00 waits forever
//! for an answer; a reset makes it use TCP at once.

/// Bytes of a uTP header.
pub const HEADER: usize = 20;

/// Type in the high half of the first byte, version 1 in the low half.
const SYN: u8 = 0x41;
const RESET: u8 = 0x31;

/// The reset that answers a request for a uTP connection; `None` for any other packet.
///
/// It is no longer than the packet that it answers: a forged sender cannot use it for
/// amplification.
pub fn refuse(packet: &[u8]) -> Option<[u8; HEADER]> {
    let header: &[u8; HEADER] = packet.first_chunk()?;
    if header[0] != SYN {
        return None;
    }
    let mut reset = [0; HEADER];
    reset[0] = RESET;
    // BEP 29: the `connection_id` of the SYN, and its `seq_nr` as the `ack_nr`.
    reset[2..4].copy_from_slice(&header[2..4]);
    reset[18..20].copy_from_slice(&header[16..18]);
    Some(reset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_with_a_reset() {
        let mut packet = [0; 30];
        packet[0] = SYN;
        packet[2..4].copy_from_slice(&[0xab, 0xcd]);
        packet[16..18].copy_from_slice(&[0x12, 0x34]);
        let reset = refuse(&packet).expect("it is a request");
        assert_eq!(
            (reset[0], &reset[2..4], &reset[18..]),
            (RESET, &[0xab, 0xcd][..], &[0x12, 0x34][..])
        );
    }

    #[test]
    fn no_other_packet_is_answered() {
        assert_eq!(refuse(&[]), None);
        assert_eq!(refuse(&[SYN; 19]), None);
        assert_eq!(refuse(&[RESET; 20]), None);
        assert_eq!(refuse(b"d1:ad2:id20:abcdefghij0123456789e"), None);
    }
}
