use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::request_window::WINDOW_BLOCKS;
use super::*;

const A: PeerKey = PeerKey(1);
const B: PeerKey = PeerKey(2);
const C: PeerKey = PeerKey(3);

/// A download of `pieces` pieces of two blocks, with these peers connected and unchoked.
fn picker(pieces: u32, peers: &[(PeerKey, &[u32])]) -> (Picker, Instant) {
    let layout = Layout::new(u64::from(pieces) * 32768, 32768).expect("within the limits");
    let now = start();
    let mut picker = Picker::new(layout, 7, Locality::default(), 1, now);
    for (key, pieces) in peers {
        let ip = Ipv4Addr::from(u32::try_from(key.0).expect("small keys"));
        picker.join(*key, ip.into(), key.0, now);
        picker.choked(*key, false);
        pieces.iter().for_each(|piece| assert!(picker.holds(*key, *piece)));
    }
    (picker, now)
}

#[expect(clippy::disallowed_methods, reason = "any instant will do as the start")]
fn start() -> Instant {
    Instant::now()
}

fn pieces(blocks: &[Block]) -> Vec<u32> {
    let mut pieces: Vec<u32> = blocks.iter().map(|block| block.piece).collect();
    pieces.dedup();
    pieces
}

/// A peer sends these blocks, and they are stored; returns the pieces that are complete.
fn deliver(picker: &mut Picker, key: PeerKey, blocks: &[Block], now: Instant) -> Vec<u32> {
    let mut complete = Vec::new();
    for block in blocks {
        if matches!(picker.received(key, *block, now), Received::New { .. })
            && picker.stored(*block).is_some()
        {
            complete.push(block.piece);
        }
    }
    complete
}

#[test]
fn the_rarest_piece_comes_first() {
    let (mut picker, now) = picker(4, &[(A, &[0, 1, 2]), (B, &[0, 2]), (C, &[2])]);
    assert_eq!(pieces(&picker.fill(A, now)), [1, 0, 2]);
}

#[test]
fn a_started_piece_is_finished_before_a_new_one_is_begun() {
    let (mut picker, now) = picker(20, &[(A, &[3]), (B, &[1, 3])]);
    let first = picker.fill(A, now);
    assert_eq!(first.len(), 2);
    picker.leave(A);
    picker.join(C, Ipv4Addr::LOCALHOST.into(), 3, now);
    picker.choked(C, false);
    picker.holds(C, 3);
    picker.request(C, Block { piece: 3, index: 0 }, now);
    assert_eq!(picker.fill(B, now)[0], Block { piece: 3, index: 1 });
}

#[test]
fn from_a_complete_peer_only_what_nobody_else_has() {
    let (mut picker, now) = picker(4, &[(A, &[0, 1, 2, 3]), (B, &[0, 1, 2])]);
    assert_eq!(picker.fill(A, now)[0].piece, 3);
}

#[test]
fn a_piece_on_parole_goes_to_another_peer_when_one_is_silent_with_it() {
    let (mut picker, now) = picker(1, &[(A, &[0]), (B, &[0])]);
    let blocks = picker.fill(A, now);
    assert_eq!(deliver(&mut picker, A, &blocks, now), [0]);
    picker.failed(0);
    assert_eq!(picker.fill(A, now).len(), 2);
    assert!(picker.fill(B, now).is_empty(), "one peer alone");
    let later = now + REQUEST_TIMEOUT;
    assert_eq!(picker.expire(later).len(), 1);
    assert!(picker.fill(A, later).is_empty(), "it failed to send the piece");
    assert_eq!(picker.fill(B, later).len(), 2);
    // Nobody is left to try: all may try again.
    let still_later = later + REQUEST_TIMEOUT;
    assert_eq!(picker.expire(still_later).len(), 1);
    assert_eq!(picker.fill(A, still_later).len(), 1);
}

#[test]
fn a_piece_on_parole_is_taken_from_a_slow_peer() {
    let (mut picker, now) = picker(1, &[(A, &[0]), (B, &[0])]);
    let blocks = picker.fill(A, now);
    deliver(&mut picker, A, &blocks, now);
    picker.failed(0);
    let blocks = picker.fill(A, now);
    let almost = now + REQUEST_TIMEOUT - Duration::from_millis(1);
    deliver(&mut picker, A, &blocks[..1], almost);
    assert!(picker.expire(almost).is_empty());
    assert_eq!(picker.expire(now + REQUEST_TIMEOUT), [(A, blocks[1..].to_vec())]);
    assert_eq!(picker.fill(B, now + REQUEST_TIMEOUT), blocks);
}

#[test]
fn a_choked_node_requests_nothing() {
    let (mut picker, now) = picker(4, &[(A, &[0])]);
    picker.choked(A, true);
    assert!(picker.fill(A, now).is_empty());
}

#[test]
fn the_last_blocks_are_requested_from_two_and_cancelled_at_the_slower() {
    let (mut picker, now) = picker(1, &[(A, &[0]), (B, &[0])]);
    let of_a = picker.fill(A, now);
    assert_eq!(of_a.len(), 2);
    // No duplicate is requested from a peer that has not sent anything yet.
    assert!(picker.fill(B, now).is_empty());
    picker.peers.get_mut(&B).expect("it is connected").has_sent = true;
    assert_eq!(picker.fill(B, now).len(), 2);
    let outcome = picker.received(A, of_a[0], now);
    assert_eq!(outcome, Received::New { cancel: vec![B] });
    assert_eq!(picker.received(B, of_a[0], now), Received::Unrequested);
}

#[test]
fn a_snubbed_peer_loses_its_requests_to_another() {
    let (mut picker, now) = picker(1, &[(A, &[0])]);
    let requested = picker.fill(A, now);
    assert!(picker.expire(now + FIRST_TIMEOUT / 2).is_empty());
    let later = now + FIRST_TIMEOUT;
    assert_eq!(picker.expire(later), [(A, requested.clone())]);
    picker.join(B, Ipv4Addr::LOCALHOST.into(), 2, later);
    picker.choked(B, false);
    picker.holds(B, 0);
    assert_eq!(picker.fill(B, later).len(), 2);
    // The late answer is still used, and the other request cancelled.
    assert_eq!(picker.received(A, requested[0], later), Received::New { cancel: vec![B] });
}

#[test]
fn blocks_that_were_not_requested_are_refused() {
    let (mut picker, now) = picker(2, &[(A, &[0]), (B, &[])]);
    let requested = picker.fill(A, now);
    assert_eq!(picker.received(B, requested[0], now), Received::Unrequested);
    assert_eq!(picker.received(A, Block { piece: 1, index: 0 }, now), Received::Unrequested);
}

#[test]
fn a_failed_piece_is_requested_again_from_one_peer_alone() {
    let (mut picker, now) = picker(1, &[(A, &[0]), (B, &[0])]);
    let requested = picker.fill(A, now);
    assert_eq!(deliver(&mut picker, A, &requested, now), [0]);
    picker.failed(0);
    let again = picker.fill(B, now);
    assert_eq!(again.len(), 2);
    assert!(picker.fill(A, now).is_empty());
    picker.received(B, again[0], now);
    picker.leave(B);
    // The block of the first peer does not count, because it can no longer send the rest.
    assert_eq!(picker.fill(A, now).len(), 2);
}

#[test]
fn the_window_follows_the_rate() {
    let all: Vec<u32> = (0..1024).collect();
    let (mut picker, mut now) = picker(1024, &[(A, &all)]);
    let mut open = picker.fill(A, now);
    assert_eq!(open.len(), 8);
    for _ in 0..25 {
        now += Duration::from_millis(10);
        deliver(&mut picker, A, &open, now);
        open = picker.fill(A, now);
    }
    // 8 blocks in 10 ms are 80 in 100 ms, and more as soon as more is requested.
    assert!((60..=256).contains(&open.len()), "{}", open.len());
}

#[test]
fn a_peer_that_answers_in_pulses_gets_more_requests_with_each() {
    let all: Vec<u32> = (0..1024).collect();
    let (mut picker, mut now) = picker(1024, &[(A, &all)]);
    let mut open = picker.fill(A, now);
    let mut delivered = Vec::new();
    for _ in 0..12 {
        now += Duration::from_millis(500);
        delivered.push(open.len());
        let mut next = Vec::new();
        for block in open {
            deliver(&mut picker, A, &[block], now);
            next.extend(picker.fill(A, now));
        }
        open = next;
    }
    assert!(delivered[0] == 8 && delivered[11] == 256, "{delivered:?}");
}

#[test]
fn a_slow_peer_keeps_one_request_if_others_are_faster() {
    let all: Vec<u32> = (0..1024).collect();
    let run = |others_send: bool| {
        let (mut picker, mut now) = picker(1024, &[(A, &all), (B, &all)]);
        let (mut of_a, mut of_b) = (picker.fill(A, now), picker.fill(B, now));
        let mut lost = Vec::new();
        for tenth in 1..=80 {
            now += Duration::from_millis(100);
            let count = if others_send { 8 } else { usize::from(tenth % 10 == 0) };
            let blocks: Vec<Block> = of_b.drain(..count).collect();
            deliver(&mut picker, B, &blocks, now);
            of_b.extend(picker.fill(B, now));
            if tenth % 10 == 0 && lost.is_empty() {
                deliver(&mut picker, A, &[of_a.remove(0)], now);
                of_a.extend(picker.fill(A, now));
            }
            lost.extend(picker.expire(now).into_iter().map(|(key, blocks)| (key, blocks.len())));
        }
        (lost, picker.fill(A, now).len())
    };
    assert_eq!(run(true), (vec![(A, 5)], 1));
    assert!(run(false).0.is_empty());
}

/// Something that happens to a download.
#[derive(Debug, Clone)]
enum Step {
    Join(u64),
    Leave(u64),
    Holds(u64, u32),
    Choke(u64, bool),
    Fill(u64),
    /// The peer answers the nth of its open requests.
    Answer(u64, usize),
    /// The peer answers its nth request, open or not.
    Stray(u64, u32),
    Pass,
    Fail,
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u64).prop_map(Step::Join),
        (0..4_u64).prop_map(Step::Leave),
        (0..4_u64, 0..6_u32).prop_map(|(peer, piece)| Step::Holds(peer, piece)),
        (0..4_u64, any::<bool>()).prop_map(|(peer, choke)| Step::Choke(peer, choke)),
        (0..4_u64).prop_map(Step::Fill),
        (0..4_u64, 0..8_usize).prop_map(|(peer, nth)| Step::Answer(peer, nth)),
        (0..4_u64, 0..12_u32).prop_map(|(peer, block)| Step::Stray(peer, block)),
        Just(Step::Pass),
        Just(Step::Fail),
        Just(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn no_order_of_events_breaks_the_indices(
        steps in proptest::collection::vec(step(), 0..200),
        knows_network: bool,
    ) {
        let (mut picker, mut now) = picker(6, &[]);
        // Peers with even numbers are near then, the others are not.
        let own = IpAddr::from([10, 0, 0, 1]);
        picker.locality.network = knows_network.then_some((own, 24));
        let mut complete = Vec::new();
        for step in steps {
            match step {
                Step::Join(peer) if !picker.peers.contains_key(&PeerKey(peer)) => {
                    let ip = [10, 0, u8::from(peer % 2 == 1), 2];
                    picker.join(PeerKey(peer), ip.into(), peer, now);
                }
                Step::Join(_) => {}
                Step::Leave(peer) => picker.leave(PeerKey(peer)),
                Step::Holds(peer, piece) => {
                    picker.holds(PeerKey(peer), piece);
                }
                Step::Choke(peer, choke) => {
                    picker.choked(PeerKey(peer), choke);
                }
                Step::Fill(peer) => {
                    for block in picker.fill(PeerKey(peer), now) {
                        prop_assert!(!picker.have.contains(block.piece));
                    }
                }
                Step::Answer(peer, nth) => {
                    let remote = picker.peers.get(&PeerKey(peer));
                    let open = remote.and_then(|remote| remote.requested.get(nth)).copied();
                    let blocks: Vec<Block> = open.into_iter().collect();
                    complete.extend(deliver(&mut picker, PeerKey(peer), &blocks, now));
                }
                Step::Stray(peer, block) => {
                    let block = Block { piece: block / 2, index: block % 2 };
                    complete.extend(deliver(&mut picker, PeerKey(peer), &[block], now));
                }
                Step::Pass => complete.drain(..).for_each(|piece| picker.passed(piece)),
                Step::Fail => complete.drain(..).for_each(|piece| picker.failed(piece)),
                Step::Wait => {
                    now += REQUEST_TIMEOUT;
                    picker.expire(now);
                }
            }
            picker.check_invariants();
            let windows = picker.peers.values().map(|peer| peer.requested.len());
            prop_assert!(windows.max().unwrap_or(0) <= WINDOW_BLOCKS.1);
        }
    }

    #[test]
    fn every_download_completes(
        holdings in proptest::collection::vec(proptest::collection::vec(0..6_u32, 0..6), 1..4),
        seed: u64,
    ) {
        let (mut picker, now) = picker(6, &[(A, &[0, 1, 2, 3, 4, 5])]);
        picker.rng_state = seed;
        for (key, pieces) in (2..).zip(&holdings) {
            picker.join(PeerKey(key), Ipv4Addr::LOCALHOST.into(), key, now);
            picker.choked(PeerKey(key), false);
            pieces.iter().for_each(|piece| {
                picker.holds(PeerKey(key), *piece);
            });
        }
        let keys: Vec<PeerKey> = picker.peers.keys().copied().collect();
        for _ in 0..30 {
            for key in &keys {
                let open = picker.fill(*key, now);
                for piece in deliver(&mut picker, *key, &open, now) {
                    picker.passed(piece);
                }
                picker.check_invariants();
            }
        }
        prop_assert!(picker.have().is_full());
    }
}
