use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;

#[expect(clippy::disallowed_methods, reason = "any instant will do as the start")]
fn start() -> Instant {
    Instant::now()
}

fn id(number: u8) -> PeerId {
    PeerId::boottorrent([number; 12])
}

fn layout() -> Layout {
    Layout::new(8 * 32768, 32768).expect("within the limits")
}

/// A node in the middle of the ids: 5.
fn node(now: Instant) -> Swarm {
    Swarm::node(layout(), id(5), 100, Locality::default(), 1, now)
}

fn candidate(number: u8, was_dialled: bool) -> Candidate {
    let address = SocketAddr::from((Ipv4Addr::new(10, 0, 0, number), 6881));
    Candidate { id: id(number), address, was_dialled, is_extended: true }
}

/// Everything that is queued for a peer.
fn queued(swarm: &mut Swarm, key: PeerKey, now: Instant) -> Vec<Outgoing> {
    match swarm.next(key, now) {
        Next::Send { messages, .. } => messages,
        Next::Wait | Next::Closed => Vec::new(),
    }
}

#[test]
fn a_seed_shows_a_node_one_piece_at_first_and_a_stock_client_all() {
    let now = start();
    let mut seed = Swarm::seed(layout(), id(0), 100, now);
    let node = seed.join(candidate(1, false), now).expect("there is room");
    let messages = queued(&mut seed, node, now);
    assert_eq!(messages[0], Outgoing::Bitfield(Bitfield::empty(8)));
    assert!(matches!(messages[3..], [Outgoing::Have(_)]), "{messages:?}");
    let stock = Candidate { id: PeerId(*b"-TR3000-abcdefghijkl"), ..candidate(2, false) };
    let stock = seed.join(stock, now).expect("there is room");
    let messages = queued(&mut seed, stock, now);
    assert_eq!(
        messages,
        [
            Outgoing::Bitfield(Bitfield::full(8)),
            Outgoing::Handshake { metadata_size: 100 },
            Outgoing::Unchoke
        ]
    );
}

#[test]
fn of_two_connections_the_one_dialled_by_the_smaller_id_stays() {
    let now = start();
    for (other, was_dialled, expected) in [
        (9, true, Ok(PeerKey(1))),
        (9, false, Err(Refusal::Duplicate)),
        (1, true, Err(Refusal::Duplicate)),
        (1, false, Ok(PeerKey(1))),
    ] {
        let mut swarm = node(now);
        swarm.join(candidate(other, !was_dialled), now).expect("the first may join");
        assert_eq!(swarm.join(candidate(other, was_dialled), now), expected);
        assert_eq!(swarm.peer_count(), 1);
    }
}

#[test]
fn a_stock_client_that_both_ends_dialled_chooses_the_connection() {
    let now = start();
    let stock = |was_dialled| Candidate {
        id: PeerId(*b"A2-1-36-0-abcdefghij"),
        ..candidate(2, was_dialled)
    };
    for first in [true, false] {
        let mut swarm = node(now);
        let one = swarm.join(stock(first), now).expect("the first may join");
        let other = swarm.join(stock(!first), now).expect("the second may join too");
        assert_eq!(swarm.peer_count(), 2);
        swarm.join(stock(first), now).expect("it has given up its first connection");
        assert_eq!(swarm.peer_count(), 2);
        assert_eq!(swarm.next(one, now), Next::Closed);
        assert_ne!(swarm.next(other, now), Next::Closed);
        let thief = Candidate { address: candidate(1, false).address, ..stock(first) };
        assert_eq!(swarm.join(thief, now), Err(Refusal::Duplicate));
    }
}

#[test]
fn no_peer_is_replaced_by_its_id_from_another_address() {
    let now = start();
    let mut swarm = node(now);
    swarm.join(candidate(9, false), now).expect("the first may join");
    let thief = Candidate { id: id(9), ..candidate(1, false) };
    assert_eq!(swarm.join(thief, now), Err(Refusal::Duplicate));
}

#[test]
fn oneself_is_refused() {
    let now = start();
    assert_eq!(node(now).join(candidate(5, true), now), Err(Refusal::Myself));
}

#[test]
fn one_address_cannot_fill_the_swarm() {
    let now = start();
    let mut swarm = node(now);
    let mut join = |number: u8, host: u8| {
        let address = SocketAddr::from((Ipv4Addr::new(10, 0, host, 0), u16::from(number)));
        swarm.join(
            Candidate {
                id: PeerId::boottorrent([number, host, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                address,
                was_dialled: false,
                is_extended: false,
            },
            now,
        )
    };
    let from_one = (0..100).filter(|number| join(*number, 1).is_ok()).count();
    assert_eq!(from_one, MAX_PEERS_PER_ADDRESS);
    let in_all = (2..50).map(|host| (0..32).filter(|number| join(*number, host).is_ok()).count());
    assert_eq!(in_all.sum::<usize>() + from_one, MAX_PEERS);
}

/// A peer announces everything, unchokes, and answers all requests; returns the checks.
fn serve(swarm: &mut Swarm, key: PeerKey, now: Instant) -> Vec<Check> {
    let messages = [Incoming::Bitfield(Bitfield::full(8)), Incoming::Unchoke];
    for message in messages {
        swarm.receive(key, &message, now).expect("no violation");
    }
    let mut checks = Vec::new();
    loop {
        let ranges = queued(swarm, key, now).into_iter().filter_map(|message| match message {
            Outgoing::Request(range) => Some(range),
            _ => None,
        });
        let ranges: Vec<ByteRange> = ranges.collect();
        if ranges.is_empty() {
            return checks;
        }
        for range in ranges {
            let data = vec![0; range.length as usize];
            let block = layout().block_at(range.piece, range.begin, data.len()).expect("a block");
            let stored = swarm.receive(key, &Incoming::Data(block, &data), now);
            let stored = stored.expect("no violation").expect("it is new");
            checks.extend(swarm.stored(stored));
        }
    }
}

#[test]
fn a_node_completes_and_loses_interest() {
    let now = start();
    let mut swarm = node(now);
    let key = swarm.join(candidate(1, true), now).expect("there is room");
    let checks = serve(&mut swarm, key, now);
    assert_eq!(checks.len(), 8);
    for check in checks {
        let right = Checked { piece: check.piece, is_correct: true, blocks: vec![] };
        swarm.checked(&right, now);
    }
    assert!(swarm.is_complete());
    let messages = queued(&mut swarm, key, now);
    assert_eq!(messages.last(), Some(&Outgoing::NotInterested));
    let progress = swarm.progress(now);
    assert_eq!((progress.done, progress.sources), (8 * 32768, 1));
    assert_eq!(progress.peers_sending, [(candidate(1, true).address, 8 * 32768)]);
}

#[test]
fn a_wrong_piece_of_one_alone_bans_its_address() {
    let now = start();
    let mut swarm = node(now);
    let key = swarm.join(candidate(1, true), now).expect("there is room");
    let checks = serve(&mut swarm, key, now);
    let wrong =
        Checked { piece: checks[0].piece, is_correct: false, blocks: vec![[1; 20], [2; 20]] };
    swarm.checked(&wrong, now);
    assert_eq!(swarm.next(key, now), Next::Closed);
    let again = Candidate { id: id(7), ..candidate(1, false) };
    assert_eq!(swarm.join(again, now), Err(Refusal::Banned));
}

#[test]
fn of_a_piece_of_two_only_the_sender_of_the_wrong_block_is_banned() {
    let now = start();
    let mut swarm = node(now);
    let liar = swarm.join(candidate(1, true), now).expect("there is room");
    let honest = swarm.join(candidate(9, true), now).expect("there is room");
    let deliver = |swarm: &mut Swarm, key: PeerKey, block: Block| {
        let data = vec![0; 16384];
        let taken = swarm.receive(key, &Incoming::Data(block, &data), now).expect("no violation");
        taken.and_then(|block| swarm.stored(block))
    };
    let [first, second] = [0, 1].map(|index| Block { piece: 3, index });
    for message in [Incoming::Have(3), Incoming::Unchoke] {
        swarm.receive(liar, &message, now).expect("no violation");
    }
    assert_eq!(deliver(&mut swarm, liar, first), None);
    // The other block is left to the honest one.
    swarm.receive(liar, &Incoming::Choke, now).expect("no violation");
    for message in [Incoming::Have(3), Incoming::Unchoke] {
        swarm.receive(honest, &message, now).expect("no violation");
    }
    assert_eq!(deliver(&mut swarm, honest, second), Some(Check { piece: 3 }));
    let wrong = Checked { piece: 3, is_correct: false, blocks: vec![[6; 20], [2; 20]] };
    swarm.checked(&wrong, now);
    assert!(swarm.is_suspect(3) && swarm.peer_count() == 2, "nobody is banned on suspicion");
    // On parole, the piece comes from the honest one alone.
    assert_eq!(deliver(&mut swarm, honest, first), None);
    assert_eq!(deliver(&mut swarm, honest, second), Some(Check { piece: 3 }));
    let right = Checked { piece: 3, is_correct: true, blocks: vec![[1; 20], [2; 20]] };
    swarm.checked(&right, now);
    assert_eq!(swarm.next(liar, now), Next::Closed);
    assert_ne!(swarm.next(honest, now), Next::Closed);
    let again = Candidate { id: id(7), ..candidate(1, false) };
    assert_eq!(swarm.join(again, now), Err(Refusal::Banned));
}

#[test]
fn requests_of_a_silent_peer_are_cancelled() {
    let mut now = start();
    let mut swarm = node(now);
    let key = swarm.join(candidate(1, true), now).expect("there is room");
    for message in [Incoming::Have(3), Incoming::Unchoke] {
        swarm.receive(key, &message, now).expect("no violation");
    }
    queued(&mut swarm, key, now);
    now += Duration::from_secs(2);
    swarm.tick(now);
    let cancelled = queued(&mut swarm, key, now);
    let cancelled = cancelled.iter().filter(|message| matches!(message, Outgoing::Cancel(_)));
    assert_eq!(cancelled.count(), 2);
}

#[test]
fn a_silent_peer_is_disconnected_and_a_quiet_one_gets_a_keep_alive() {
    let now = start();
    let mut swarm = node(now);
    let key = swarm.join(candidate(1, true), now).expect("there is room");
    queued(&mut swarm, key, now);
    swarm.tick(now + Duration::from_secs(60));
    assert_eq!(queued(&mut swarm, key, now), [Outgoing::KeepAlive]);
    swarm.tick(now + Duration::from_secs(150));
    assert_eq!(swarm.next(key, now), Next::Closed);
}

#[test]
fn requests_for_what_is_not_here_are_dropped() {
    let now = start();
    let mut swarm = node(now);
    let key = swarm.join(candidate(1, true), now).expect("there is room");
    queued(&mut swarm, key, now);
    let range = ByteRange { piece: 0, begin: 0, length: 16384 };
    swarm.receive(key, &Incoming::Request(range), now).expect("no violation");
    assert_eq!(swarm.next(key, now), Next::Wait);
}

#[test]
fn chokes_that_void_requests_again_and_again_end_the_connection() {
    let now = start();
    let mut node = node(now);
    let key = node.join(candidate(1, false), now).expect("there is room");
    let mut take = |message| node.receive(key, &message, now);
    take(Incoming::Bitfield(Bitfield::full(8))).expect("the first one");
    let mut chokes = 0;
    let violation = loop {
        take(Incoming::Unchoke).expect("no offence");
        if let Err(violation) = take(Incoming::Choke) {
            break violation;
        }
        chokes += 1;
        assert!(chokes < 1000);
    };
    assert_eq!((violation, chokes), (Violation::Unrequested, 256));
    let queued = queued(&mut node, key, now);
    assert!(queued.len() < 10, "void requests are still queued: {queued:?}");
}

#[test]
fn too_many_duplicate_haves_end_the_connection() {
    let now = start();
    let mut seed = Swarm::seed(layout(), id(0), 100, now);
    let key = seed.join(candidate(1, false), now).expect("there is room");
    let bits = Incoming::Bitfield(Bitfield::empty(8));
    assert_eq!(seed.receive(key, &bits, now), Ok(None));
    assert_eq!(seed.receive(key, &bits, now), Err(Violation::Repeated));
    for _ in 0..72 {
        assert_eq!(seed.receive(key, &Incoming::Have(3), now), Ok(None));
    }
    assert_eq!(seed.receive(key, &Incoming::Have(3), now), Err(Violation::Repeated));
}
