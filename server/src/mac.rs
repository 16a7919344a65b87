//! Core: the MAC addresses of the PCs that the doctor plays.

use bt_catalog::Mac;

/// The same at every look, so that neither leases nor rows pile up. Locally administered; the last
/// byte says which firmware.
pub const DOCTOR: [u8; 5] = [0x02, 0x42, 0x54, 0, 0];

/// Whether a MAC address is that of a PC of the doctor: none that anybody waits for.
pub fn is_doctor(mac: Mac) -> bool {
    mac.0.starts_with(&DOCTOR) && (1..=4).contains(&mac.0[5])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_four_firmwares_of_the_doctor_are_its_pcs() {
        let mac = |last| Mac([0x02, 0x42, 0x54, 0, 0, last]);
        assert!((1..=4).all(|last| is_doctor(mac(last))));
        assert!(!is_doctor(mac(0)) && !is_doctor(mac(5)));
        assert!(!is_doctor(Mac([0x02, 0x42, 0x54, 0, 1, 1])));
    }
}
