//! Core: good inputs, from captures of real clients, and how they are broken.

use bt_server::fuzz::Target;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Longer inputs come in no single packet.
const LONGEST: usize = 1500;
/// Numbers that parsers stumble over.
const ODD: [u8; 8] = [0, 1, 4, 127, 128, 240, 254, 255];

const CAPTURES: [&[u8]; 4] = [
    include_bytes!("../../tests/golden/bios-ipxe-chain-undionly-dhcp-rrq.pcap"),
    include_bytes!("../../tests/golden/bios-ipxe-rom-dhcp.pcap"),
    include_bytes!("../../tests/golden/uefi-http-boot-dhcp.pcap"),
    include_bytes!("../../tests/golden/uefi-pxe-then-ipxe-dhcp-rrq.pcap"),
];

/// The good inputs of a target.
pub fn seeds(target: Target) -> Vec<Vec<u8>> {
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    match target {
        Target::Dhcp => packets(67),
        Target::Tftp => {
            let mut seeds = packets(69);
            seeds.push(
                b"\0\x01x\0octet\0blksize\x0065464\0tsize\x000\0windowsize\x0065535\0".to_vec(),
            );
            seeds.extend([b"\0\x04\0\x01".to_vec(), b"\0\x05\0\x08no\0".to_vec()]);
            seeds
        }
        Target::Announce => texts(&[
            "info_hash=%07%07%07%07%07%07%07%07%07%07%07%07%07%07%07%07%07%07%07%07&\
             peer_id=-BT0100-abcdefghijkl&port=7000&left=1&numwant=50&compact=1&event=started",
            "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-TR3000-abcdefghijkl&port=1&left=0&\
             compact=0&no_peer_id=1&event=stopped",
        ]),
        Target::Report => texts(&[
            r#"{"mac":"52:54:00:12:34:56","name":"pc","stage":"downloading","system":"debian","done":1,"total":2,"peers":3,"speed":4,"problem":null}"#,
            r#"{"mac":"52:54:00:12:34:57","stage":"problem","problem":"no\u0000thing \ud83d\ude00"}"#,
        ]),
        Target::Script => texts(&[
            "mac=52:54:00:12:34:56&uuid=4c4c4544-0042-3510-8051-b4c04f4d3132",
            "grub.cfg-01-52-54-00-12-34-56",
        ]),
    }
}

/// The UDP payloads that clients sent to a port, from the classic little-endian captures.
fn packets(port: u16) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for capture in CAPTURES {
        let mut rest = &capture[24..];
        while let Some(header) = rest.get(..16) {
            let length =
                u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
            let frame = &rest[16..16 + length];
            rest = &rest[16 + length..];
            let udp = 14 + usize::from(frame[14] & 15) * 4;
            let is_it = frame[12..14] == [8, 0] && frame[23] == 17;
            if is_it && frame[udp + 2..udp + 4] == port.to_be_bytes() {
                packets.push(frame[udp + 8..].to_vec());
            }
        }
    }
    packets
}

/// Makes broken inputs from good ones, the same ones for the same seed.
pub struct Mutator {
    random: StdRng,
    seeds: Vec<Vec<u8>>,
    input: Vec<u8>,
}

impl Mutator {
    /// `seeds` must not be empty.
    pub fn new(seed: u64, seeds: Vec<Vec<u8>>) -> Self {
        assert!(!seeds.is_empty(), "a corpus has inputs");
        Self { random: StdRng::seed_from_u64(seed), seeds, input: Vec::new() }
    }

    /// The next input.
    pub fn next(&mut self) -> &[u8] {
        let chosen = self.random.random_range(0..self.seeds.len());
        self.input.clone_from(&self.seeds[chosen]);
        for _ in 0..self.random.random_range(0..6) {
            self.mutate();
        }
        self.input.truncate(LONGEST);
        &self.input
    }

    fn mutate(&mut self) {
        let length = self.input.len();
        if length == 0 {
            self.input.push(self.random.random());
            return;
        }
        // Most of a DHCP packet is its fixed part: half of the changes go to what comes after it.
        let first = if length > 240 && self.random.random() { 236 } else { 0 };
        let at = self.random.random_range(first..length);
        let end = self.random.random_range(at..=length.min(at + 40));
        match self.random.random_range(0..8) {
            0 => self.input[at] ^= 1 << self.random.random_range(0..8),
            1 => self.input[at] = self.random.random(),
            2 => self.input[at] = ODD[self.random.random_range(0..ODD.len())],
            3 => self.input.truncate(at),
            4 => drop(self.input.drain(at..end)),
            5 => self.input.insert(at, self.random.random()),
            6 => {
                let part = self.input[at..end].to_vec();
                self.input.splice(at..at, part);
            }
            _ => {
                let other = &self.seeds[self.random.random_range(0..self.seeds.len())];
                let from = self.random.random_range(0..=other.len());
                self.input.truncate(at);
                self.input.extend_from_slice(&other[from..]);
            }
        }
    }
}
