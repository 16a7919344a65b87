//! Real clients' TFTP packets through parser, shelf and transfer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bt_server::boot::names::RequestedFile;
use bt_server::roles::tftp::packet::{Packet, ReadRequest};
use bt_server::roles::tftp::transfer::{Ending, Step, Transfer};

/// A UDP packet of a capture.
struct Datagram {
    from: (Vec<u8>, u16),
    to: (Vec<u8>, u16),
    payload: Vec<u8>,
}

/// The UDP packets of a classic little-endian pcap.
fn datagrams(pcap: &[u8]) -> Vec<Datagram> {
    assert_eq!(pcap[..4], [0xd4, 0xc3, 0xb2, 0xa1], "classic little-endian pcap");
    let mut rest = &pcap[24..];
    let mut found = Vec::new();
    while rest.len() >= 16 {
        let length = u32::from_le_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
        let frame = &rest[16..16 + length];
        rest = &rest[16 + length..];
        if frame[12..14] != [8, 0] || frame[23] != 17 {
            continue;
        }
        let udp = 14 + usize::from(frame[14] & 15) * 4;
        let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let end = udp + usize::from(port(udp + 4));
        found.push(Datagram {
            from: (frame[26..30].to_vec(), port(udp)),
            to: (frame[30..34].to_vec(), port(udp + 2)),
            payload: frame[udp + 8..end.min(frame.len())].to_vec(),
        });
    }
    found
}

/// What clients asked port 69 for, in order.
fn requests(pcap: &[u8]) -> Vec<ReadRequest> {
    let to_server = datagrams(pcap).into_iter().filter(|datagram| datagram.to.1 == 69);
    let request = |datagram: Datagram| match Packet::parse(&datagram.payload) {
        Ok(Packet::Read(request)) => request,
        other => panic!("{other:?}"),
    };
    to_server.map(request).collect()
}

/// The names, with block size and window.
fn asked(pcap: &[u8]) -> Vec<(String, Option<u16>, Option<u16>)> {
    let shown = |request: ReadRequest| {
        assert!(request.is_octet);
        let name = String::from_utf8(request.name).expect("a name");
        (name, request.options.block_size, request.options.window)
    };
    requests(pcap).into_iter().map(shown).collect()
}

/// How one captured transfer went when its client's packets were played to [`Transfer`].
#[derive(Debug, PartialEq)]
struct Outcome {
    sent: usize,
    ended: Option<Step>,
}

/// Plays every transfer of a capture: after each packet of the client, what the transfer sends must
/// have the lengths and numbers of what the captured server sent then.
fn play(pcap: &[u8], size: usize) -> Vec<Outcome> {
    #[expect(clippy::disallowed_methods, reason = "any moment will do, and Instant has no zero")]
    let mut now = Instant::now();
    let file = vec![0; size];
    let mut running: HashMap<u16, (Transfer, Outcome, Vec<Vec<u8>>)> = HashMap::new();
    let mut finished = Vec::new();
    for Datagram { from, to, payload } in datagrams(pcap) {
        now += Duration::from_millis(1);
        if to.1 == 69 {
            let Ok(Packet::Read(request)) = Packet::parse(&payload) else { panic!("a request") };
            let transfer = Transfer::begin(&request.options, file.clone().into(), now);
            let out = transfer.packets().collect();
            running.insert(from.1, (transfer, Outcome { sent: 0, ended: None }, out));
        } else if let Some((_, outcome, out)) = running.get_mut(&to.1) {
            // From the captured server: ours must have sent the same.
            assert!(!out.is_empty(), "the other server sent more than ours");
            let ours = out.remove(0);
            assert_eq!(ours.len(), payload.len(), "block {}", outcome.sent);
            assert_eq!(ours[..4], payload[..4]);
            outcome.sent += 1;
        } else if let Some((transfer, outcome, out)) = running.get_mut(&from.1) {
            let packet = Packet::parse(&payload).expect("a client's packet");
            match transfer.on_packet(&packet, now) {
                Step::Send => out.extend(transfer.packets()),
                Step::Wait => {}
                ended => outcome.ended = Some(ended),
            }
            if outcome.ended.is_some() {
                let (_, outcome, _) = running.remove(&from.1).expect("it is there");
                finished.push(outcome);
            }
        }
    }
    finished.extend(running.into_values().map(|(_, outcome, _)| outcome));
    finished
}

#[test]
fn ovmf_probes_for_the_size_then_fetches_in_windows_of_four() {
    let pcap = include_bytes!("../golden/tftp-uefi-windowsize4.pcap");
    let [probe, real] = &requests(pcap)[..] else { panic!("two requests") };
    assert!(probe.options.wants_size && !real.options.wants_size);
    let options = (real.options.block_size, real.options.window);
    assert_eq!(options, (Some(1468), Some(4)));
    let outcomes = play(pcap, size_told(pcap));
    let [probe, real] = &outcomes[..] else { panic!("two transfers") };
    let Some(Step::Ended(Ending::ByClient { code: 8, .. })) = &probe.ended else {
        panic!("the probe is aborted: {probe:?}")
    };
    assert!(real.sent > 20, "{real:?}");
}

#[test]
fn ipxe_fetches_block_by_block() {
    let pcap = include_bytes!("../golden/tftp-ipxe-lockstep.pcap");
    let outcomes = play(pcap, size_told(pcap));
    let [outcome] = &outcomes[..] else { panic!("one transfer: {outcomes:?}") };
    assert_eq!(outcome.sent, 8, "an OACK and seven blocks; the capture ends there");
}

/// The size of the file in a capture, from its first OACK that names one.
fn size_told(pcap: &[u8]) -> usize {
    let told = |datagram: &Datagram| {
        let texts: Vec<&[u8]> =
            datagram.payload.strip_prefix(b"\0\x06")?.split(|b| *b == 0).collect();
        let at = texts.iter().position(|text| *text == b"tsize")?;
        std::str::from_utf8(texts.get(at + 1)?).ok()?.parse().ok()
    };
    datagrams(pcap).iter().find_map(told).expect("an OACK with tsize")
}

#[test]
fn shim_and_grub_ask_for_what_the_shelf_knows() {
    let asked = asked(include_bytes!("../golden/uefi-pxe-shim-grub-rrq.pcap"));
    let names: Vec<&str> = asked.iter().map(|(name, _, _)| name.as_str()).collect();
    assert!(names.contains(&"shimx64.efi"), "{names:?}");
    for (name, block_size, window) in &asked {
        let expected = match name.trim_start_matches('/') {
            "shimx64.efi" => (Some(1468), Some(4)),
            // What shim asks for: the optional files, and GRUB.
            text if text.ends_with(".efi") => (Some(512), Some(4)),
            _ => (Some(1024), None),
        };
        assert_eq!((*block_size, *window), expected, "{name}");
    }
    let wanted: Vec<RequestedFile> =
        names.iter().map(|name| RequestedFile::read(name.as_bytes())).collect();
    for expected in [
        RequestedFile::Loader("shimx64.efi".to_owned()),
        RequestedFile::Loader("grubx64.efi".to_owned()),
        RequestedFile::GrubMenu("grub.cfg".to_owned()),
    ] {
        assert!(wanted.contains(&expected), "{expected:?} is not among {wanted:?}");
    }
}

#[test]
fn pxelinux_asks_for_many_files_that_do_not_exist() {
    for pcap in [
        &include_bytes!("../golden/bios-pxelinux-rrq.pcap")[..],
        include_bytes!("../golden/bios-lpxelinux-rrq.pcap"),
    ] {
        let asked = asked(pcap);
        assert!(asked.iter().any(|(name, _, _)| name.contains("pxelinux.cfg/01-")), "{asked:?}");
        assert!(asked.iter().any(|(_, block_size, _)| *block_size == Some(1408)), "{asked:?}");
    }
}

#[test]
fn every_first_hop_of_the_dhcp_captures_is_a_loader() {
    for (pcap, loader) in [
        (&include_bytes!("../golden/bios-ipxe-chain-undionly-dhcp-rrq.pcap")[..], "undionly.kpxe"),
        (include_bytes!("../golden/uefi-pxe-then-ipxe-dhcp-rrq.pcap"), "snponly.efi"),
    ] {
        let requests = requests(pcap);
        assert!(!requests.is_empty());
        for request in requests {
            assert_eq!(
                RequestedFile::read(&request.name),
                RequestedFile::Loader(loader.to_owned())
            );
        }
    }
}
