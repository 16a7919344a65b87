//! Tests of the core: whole transfers against a client of a few lines, over networks that lose packets.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// One trip through the simulated network.
const TRIP: Duration = Duration::from_micros(100);

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "any moment will do, and Instant has no zero")]
    Instant::now()
}

fn file(length: usize) -> Bytes {
    (0..length).map(|n| (n % 251) as u8).collect::<Vec<_>>().into()
}

fn options(block_size: Option<u16>, window: Option<u16>) -> Options {
    Options { block_size, window, ..Options::default() }
}

/// A client as RFC 1350 and RFC 7440 describe it: takes blocks in order, answers each window and
/// each gap with the last block that it has.
struct Client {
    block_size: usize,
    window: u64,
    received: Vec<u8>,
    next: u64,
    since_answer: u64,
    is_done: bool,
}

impl Client {
    fn new(options: &Options) -> Self {
        let block_size = usize::from(options.block_size.unwrap_or(DEFAULT_BLOCK));
        let window = u64::from(options.window.unwrap_or(1));
        Self { block_size, window, received: Vec::new(), next: 1, since_answer: 0, is_done: false }
    }

    fn take(&mut self, packet: &[u8]) -> Option<u16> {
        if packet[1] == 6 {
            return (self.next == 1).then_some(0);
        }
        let number = u16::from_be_bytes([packet[2], packet[3]]);
        if number != wire(self.next) {
            self.since_answer = 0;
            return Some(wire(self.next - 1));
        }
        let payload = &packet[4..];
        self.received.extend_from_slice(payload);
        self.next += 1;
        self.since_answer += 1;
        self.is_done = payload.len() < self.block_size;
        (self.is_done || self.since_answer == self.window).then(|| {
            self.since_answer = 0;
            number
        })
    }
}

/// Runs a transfer to its end; `loses` says of each packet whether the network loses it. Returns
/// how long it took in the simulated time.
fn transfer(
    length: usize,
    options: &Options,
    mut loses: impl FnMut() -> bool,
) -> Result<Duration, Ending> {
    let begun = start();
    let (mut now, file) = (begun, file(length));
    let mut transfer = Transfer::begin(options, file.clone(), now);
    let mut client = Client::new(options);
    let mut step = Step::Send;
    loop {
        let mut answers = Vec::new();
        if step == Step::Send {
            let packets: Vec<_> = transfer.packets().filter(|_| !loses()).collect();
            answers = packets.iter().filter_map(|packet| client.take(packet)).collect();
            answers.retain(|_| !loses());
        }
        step = Step::Wait;
        for answer in answers {
            now += TRIP;
            match transfer.on_packet(&Packet::Ack(answer), now) {
                // The burst that an earlier answer asked for is on its way already.
                Step::Wait => {}
                other => step = other,
            }
        }
        if step == Step::Wait {
            now = transfer.deadline();
            step = transfer.on_deadline(now);
        }
        match step {
            // The last ACK was lost, and the client is gone: both know that all arrived.
            Step::Finished | Step::Ended(Ending::Silence) if client.is_done => {
                assert_eq!(client.received, file);
                return Ok(now - begun);
            }
            Step::Ended(why) => return Err(why),
            Step::Finished => panic!("finished before the client was"),
            Step::Send | Step::Wait => {}
        }
    }
}

#[test]
fn files_of_every_odd_length_arrive_whole() {
    for length in [0, 1, 511, 512, 513, 1024, 70_000] {
        for wanted in
            [options(None, None), options(Some(1468), Some(4)), options(Some(8), Some(16))]
        {
            transfer(length, &wanted, || false).expect("arrives");
        }
    }
}

#[test]
fn block_numbers_roll_over_at_16_bits_within_a_window_too() {
    transfer(65_536 * 8 + 3, &options(Some(8), None), || false).expect("lockstep");
    transfer(131_072 * 8 + 16, &options(Some(8), Some(16)), || false).expect("windows");
    transfer(65_536 * 8, &options(Some(8), Some(5)), || false).expect("windows of five");
}

#[test]
fn five_percent_loss_each_way_costs_seconds_not_the_transfer() {
    for (seed, window) in [(1, None), (2, Some(4)), (3, Some(16)), (4, None), (5, Some(8))] {
        let mut dice = StdRng::seed_from_u64(seed);
        let took = transfer(1 << 20, &options(Some(1400), window), || dice.random_bool(0.05));
        let took = took.expect("arrives");
        assert!(took < Duration::from_secs(12), "window {window:?}: {took:?}");
    }
}

#[test]
fn a_client_that_aborts_its_size_probe_costs_nothing() {
    let now = start();
    let probe = Options { wants_size: true, ..options(Some(1468), Some(4)) };
    let mut transfer = Transfer::begin(&probe, file(100), now);
    let aborted = Packet::Error { code: 8, text: "User aborted".to_owned() };
    let Step::Ended(Ending::ByClient { code: 8, .. }) = transfer.on_packet(&aborted, now) else {
        panic!("an ERROR ends it at once");
    };
}

#[test]
fn a_silent_address_gets_five_resends_of_one_window_and_no_more() {
    let mut transfer = Transfer::begin(&options(Some(1468), Some(16)), file(1 << 20), start());
    let (mut sent, begun) = (1, transfer.deadline());
    while transfer.on_deadline(transfer.deadline()) == Step::Send {
        sent += 1;
        assert_eq!(transfer.packets().count(), 1, "an OACK");
    }
    assert_eq!(sent, 6);
    assert!(transfer.deadline() - begun < Duration::from_secs(12));
}

#[test]
fn the_first_resend_comes_after_a_quarter_of_a_second_then_sooner() {
    let mut now = start();
    let mut transfer = Transfer::begin(&options(Some(512), None), file(10_000), now);
    assert_eq!(transfer.deadline() - now, FIRST_PATIENCE);
    for block in 0..5 {
        now += Duration::from_millis(1);
        assert_eq!(transfer.on_packet(&Packet::Ack(block), now), Step::Send);
    }
    assert_eq!(transfer.deadline() - now, LEAST_PATIENCE);
    let slow = now + Duration::from_secs(2);
    assert_eq!(transfer.on_packet(&Packet::Ack(5), slow), Step::Send);
    assert!(transfer.deadline() - slow > Duration::from_secs(1), "a slow client gets more time");
}

#[test]
fn a_lost_head_of_a_window_is_sent_again_at_once_but_only_once() {
    let now = start();
    let mut transfer = Transfer::begin(&options(Some(512), Some(4)), file(10_000), now);
    assert_eq!(transfer.on_packet(&Packet::Ack(0), now), Step::Send);
    assert_eq!(transfer.packets().count(), 4);
    assert_eq!(transfer.on_packet(&Packet::Ack(0), now), Step::Send, "block 1 was lost");
    assert_eq!(transfer.on_packet(&Packet::Ack(0), now), Step::Wait, "an echo");
    assert_eq!(transfer.on_packet(&Packet::Ack(2), now), Step::Send, "blocks 3 and 4 were lost");
    assert_eq!(transfer.packets().next().expect("block 3")[..4], [0, 3, 0, 3]);
}

#[test]
fn echoes_of_an_answer_do_not_multiply_packets() {
    let now = start();
    let mut transfer = Transfer::begin(&options(None, None), file(10_000), now);
    assert_eq!(transfer.on_packet(&Packet::Ack(1), now), Step::Send);
    assert_eq!(transfer.on_packet(&Packet::Ack(1), now), Step::Wait);
    assert_eq!(transfer.on_packet(&Packet::Ack(0), now), Step::Wait);
    assert_eq!(transfer.on_packet(&Packet::Ack(40_000), now), Step::Wait);
}

#[test]
fn only_a_lost_last_ack_of_a_client_that_answered_before_counts_as_probably_done() {
    let now = start();
    let mut transfer = Transfer::begin(&options(Some(512), Some(2)), file(1600), now);
    assert!(!transfer.is_probably_done(), "the OACK is out");
    assert_eq!(transfer.on_packet(&Packet::Ack(0), now), Step::Send);
    assert!(!transfer.is_probably_done(), "blocks 1 and 2 of 4 are out");
    assert_eq!(transfer.on_packet(&Packet::Ack(2), now), Step::Send);
    assert!(transfer.is_probably_done(), "blocks 3 and 4 are out");
    let unheard = Transfer::begin(&options(None, None), file(100), now);
    assert!(!unheard.is_probably_done(), "all is out, to an address that may be forged");
}

#[test]
fn a_repeated_request_begins_anew_only_when_the_transfer_had_stalled() {
    let now = start();
    let mut transfer = Transfer::begin(&options(Some(512), None), file(10_000), now);
    assert_eq!(transfer.on_request(now), Step::Wait, "the OACK is sent again anyway");
    transfer.on_packet(&Packet::Ack(0), now);
    transfer.on_packet(&Packet::Ack(1), now);
    assert_eq!(transfer.on_request(now), Step::Wait, "delayed on its way");
    assert_eq!(transfer.on_request(now + ECHO), Step::Send, "the PC was switched off and on");
    assert_eq!(transfer.packets().next().expect("an OACK")[1], 6);
}

proptest! {
    #[test]
    fn whatever_is_lost_the_file_arrives_whole_or_the_transfer_ends(
        seed in any::<u64>(), length in 0..20_000_usize, loss in 0.0..0.6_f64,
        block_size in prop::option::of(8..=1468_u16), window in prop::option::of(1..=16_u16),
    ) {
        let mut dice = StdRng::seed_from_u64(seed);
        let ended = transfer(length, &options(block_size, window), || dice.random_bool(loss));
        let is_possible = matches!(ended, Ok(_) | Err(Ending::Silence));
        prop_assert!(is_possible, "only silence ends it");
    }

    #[test]
    fn no_order_of_packets_sends_more_than_a_window(
        answers in prop::collection::vec(any::<u16>(), 0..200), window in 1..=16_u16,
    ) {
        let now = start();
        let mut transfer = Transfer::begin(&options(Some(8), Some(window)), file(2000), now);
        for answer in answers {
            if transfer.on_packet(&Packet::Ack(answer % 300), now) == Step::Finished {
                break;
            }
            prop_assert!(transfer.packets().count() <= usize::from(window));
        }
    }
}
