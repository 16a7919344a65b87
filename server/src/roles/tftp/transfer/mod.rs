//! Core: one file on its way to one client (RFC 1350, 2347-2349, 7440).
//!
//! ```text
//! RRQ --> OACK (or the first window) --> ACK --> window --> ACK --> ... --> ACK of the last block
//! ```
//! The shell sends [`Transfer::packets`] whenever it is told to, hands in each packet of the
//! client, and calls [`Transfer::on_deadline`] when nothing came. A lost packet is sent again after
//! a time that follows the measured round trip (as RFC 6298 does for TCP), not after fixed seconds:
//! at 5 % loss that is the difference between seconds and giving up.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::packet::{self, DEFAULT_BLOCK, Options, Packet};

/// Before the first round trip is known: RFC 6298's second is an age on one Ethernet.
const FIRST_PATIENCE: Duration = Duration::from_millis(250);
/// A round trip takes 0.2 ms, but firmware pauses now and then to write what it got.
const LEAST_PATIENCE: Duration = Duration::from_millis(50);
/// Each resend doubles the wait up to this; iPXE makes room for a big file for 5 s without a word.
const MOST_PATIENCE: Duration = Duration::from_secs(4);
/// A request that comes again within this was only delayed on its way; later, the client begins anew.
const ECHO: Duration = Duration::from_secs(1);
/// To an address that never answered: it may be forged, and gets no more than this from us.
const MAX_RESENDS_UNHEARD: u32 = 5;
/// To a client that answered before: at 5 % loss each way, one transfer in a million gives up.
const MAX_RESENDS: u32 = 8;

/// One transfer.
#[derive(Debug)]
pub struct Transfer {
    options: Options,
    file: Bytes,
    block_size: usize,
    window: u64,
    phase: Phase,
    pace: Pace,
    /// When the client last answered; before that, its address may be forged.
    heard_at: Option<Instant>,
    sent_at: Instant,
    deadline: Instant,
    resends: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The OACK is out.
    Options(Vec<u8>),
    /// Blocks `first..=last` are out. Blocks count from 1 and never wrap here.
    Window { first: u64, last: u64, is_repeated: bool },
}

impl Phase {
    fn first(options: &Options, size: usize) -> Self {
        if options.is_empty() {
            return Self::Window { first: 1, last: 1, is_repeated: false };
        }
        Self::Options(packet::options_ack(options, size as u64))
    }
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send all of [`Transfer::packets`].
    Send,
    /// Nothing, until the deadline or the next packet.
    Wait,
    /// The client has the whole file.
    Finished,
    /// It is over: forget the transfer without a word.
    Ended(Ending),
}

/// How a transfer ended before its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ending {
    /// The client said so; UEFI does it after each probe for the size.
    #[error("the client ended it (error {code} {text})")]
    ByClient {
        /// Its ERROR code.
        code: u16,
        /// Its words.
        text: String,
    },
    /// Nothing came for all resends.
    #[error("the client is silent")]
    Silence,
}

impl Transfer {
    /// Answers a request for `file`: the first step is always [`Step::Send`].
    pub fn begin(options: &Options, file: Bytes, now: Instant) -> Self {
        let block_size = usize::from(options.block_size.unwrap_or(DEFAULT_BLOCK));
        let window = u64::from(options.window.unwrap_or(1));
        let pace = Pace::new(options.timeout_secs);
        let (sent_at, deadline) = (now, now + pace.patience(0));
        let phase = Phase::first(options, file.len());
        let (options, heard_at, resends) = (*options, None, 0);
        Self {
            options,
            file,
            block_size,
            window,
            phase,
            pace,
            heard_at,
            sent_at,
            deadline,
            resends,
        }
    }

    /// Everything that is out and not acknowledged, ready to send.
    pub fn packets(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let (options, blocks) = match &self.phase {
            Phase::Options(packet) => (Some(packet.clone()), None),
            Phase::Window { first, last, .. } => (None, Some(*first..=*last)),
        };
        let data = |block| packet::data(wire(block), self.block(block));
        options.into_iter().chain(blocks.into_iter().flatten().map(data))
    }

    /// When [`Self::on_deadline`] is due.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Bytes that the client is known to have.
    pub fn acknowledged(&self) -> u64 {
        match self.phase {
            Phase::Options(_) => 0,
            Phase::Window { first, .. } => {
                ((first - 1) * self.block_size as u64).min(self.file.len() as u64)
            }
        }
    }

    /// Whether nothing but the answer to the last window is missing, from a client that answered
    /// before: if it falls silent or closes its port now, its last ACK was probably lost.
    pub fn is_probably_done(&self) -> bool {
        let is_last = matches!(self.phase, Phase::Window { last, .. } if last == self.blocks());
        is_last && self.heard_at.is_some()
    }

    /// Takes a packet of the client.
    pub fn on_packet(&mut self, packet: &Packet, now: Instant) -> Step {
        match packet {
            Packet::Ack(number) => self.on_ack(*number, now),
            Packet::Error { code, text } => {
                Step::Ended(Ending::ByClient { code: *code, text: text.clone() })
            }
            Packet::Read(_) | Packet::Write => Step::Wait,
        }
    }

    /// The same request came once more, from the same port.
    pub fn on_request(&mut self, now: Instant) -> Step {
        match self.heard_at {
            Some(heard_at) if now.saturating_duration_since(heard_at) >= ECHO => {
                *self = Self::begin(&self.options, self.file.clone(), now);
                Step::Send
            }
            // The deadline takes care of a lost answer.
            _ => Step::Wait,
        }
    }

    /// Nothing came in time.
    pub fn on_deadline(&mut self, now: Instant) -> Step {
        let most = if self.heard_at.is_some() { MAX_RESENDS } else { MAX_RESENDS_UNHEARD };
        if self.resends >= most {
            return Step::Ended(Ending::Silence);
        }
        self.resends += 1;
        self.send(now)
    }

    fn on_ack(&mut self, number: u16, now: Instant) -> Step {
        let (first, last) = match &mut self.phase {
            Phase::Options(_) if number == 0 => (1, 0),
            Phase::Options(_) => return Step::Wait,
            Phase::Window { first, last, is_repeated } => {
                // The first block of a window was lost, and others came: RFC 7440 §3 has the client
                // repeat its last ACK. Once; a second one could be an echo of the resend.
                let is_lost_head = number == wire(*first - 1) && last > first && !*is_repeated;
                if is_lost_head {
                    *is_repeated = true;
                    self.resends += 1;
                    return self.send(now);
                }
                (*first, *last)
            }
        };
        let acknowledged = if last < first {
            0
        } else {
            let Some(block) = (first..=last).find(|&block| wire(block) == number) else {
                return Step::Wait;
            };
            block
        };
        if self.resends == 0 && acknowledged == last {
            self.pace.measured(now.saturating_duration_since(self.sent_at));
        }
        self.heard_at = Some(now);
        self.resends = 0;
        if acknowledged == self.blocks() {
            return Step::Finished;
        }
        let first = acknowledged + 1;
        let last = (acknowledged + self.window).min(self.blocks());
        self.phase = Phase::Window { first, last, is_repeated: false };
        self.send(now)
    }

    fn send(&mut self, now: Instant) -> Step {
        self.sent_at = now;
        self.deadline = now + self.pace.patience(self.resends);
        Step::Send
    }

    /// How many blocks there are; the last one is shorter than the others, and may be empty.
    fn blocks(&self) -> u64 {
        (self.file.len() / self.block_size) as u64 + 1
    }

    fn block(&self, number: u64) -> &[u8] {
        let start = usize::try_from(number - 1).expect("blocks of a file in memory");
        let start = start * self.block_size;
        &self.file[start..(start + self.block_size).min(self.file.len())]
    }
}

/// A block's number in packets: 16 bits, rolling over to 0.
fn wire(block: u64) -> u16 {
    (block & 0xffff) as u16
}

/// How long to wait for an answer, by the round trips so far (RFC 6298 §2).
#[derive(Debug)]
struct Pace {
    round_trip: Option<RoundTrip>,
    most: Duration,
}

#[derive(Debug, Clone, Copy)]
struct RoundTrip {
    mean: Duration,
    deviation: Duration,
}

impl Pace {
    /// A client that names a timeout waits at least that long itself: ours never is longer.
    fn new(timeout_secs: Option<u8>) -> Self {
        let asked = timeout_secs.map(|secs| Duration::from_secs(secs.into()));
        Self {
            round_trip: None,
            most: asked.map_or(MOST_PATIENCE, |asked| asked.min(MOST_PATIENCE)),
        }
    }

    fn measured(&mut self, sample: Duration) {
        self.round_trip = Some(match self.round_trip {
            None => RoundTrip { mean: sample, deviation: sample / 2 },
            Some(RoundTrip { mean, deviation }) => RoundTrip {
                mean: (mean * 7 + sample) / 8,
                deviation: (deviation * 3 + mean.abs_diff(sample)) / 4,
            },
        });
    }

    fn patience(&self, resends: u32) -> Duration {
        let once = match self.round_trip {
            None => FIRST_PATIENCE,
            Some(RoundTrip { mean, deviation }) => (mean + deviation * 4).max(LEAST_PATIENCE),
        };
        (once * 2_u32.pow(resends.min(MAX_RESENDS))).min(self.most)
    }
}

#[cfg(test)]
mod tests;
