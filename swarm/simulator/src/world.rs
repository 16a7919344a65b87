//! Core: the simulated world: hosts with their swarms, connections, packets in flight.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bt_swarm::PeerId;
use bt_swarm::protocol::bitfield::Bitfield;
use bt_swarm::protocol::layout::{Block, ByteRange};
use bt_swarm::protocol::wire::{Incoming, Outgoing};
use bt_swarm::swarm::dial::Ending;
use bt_swarm::swarm::peer::{Next, PeerKey};
use bt_swarm::swarm::{Candidate, Checked, Locality, Refusal, Swarm};

use crate::events::{Event, Events, nanos};
use crate::links::{self, Link};
use crate::machine::{Machine, NETWORK_PREFIX};
use crate::random::random;
use crate::scenario::{Harm, Host, Outcome, Role, Scenario, WhenDone};
use crate::stream::{Item, Packet, Stream, as_received, length, retransmits_after};
use crate::tracker::Tracker;

/// As in the engine: with fewer unsent bytes a socket accepts the next batch.
const NOTSENT_LOWAT: u64 = 64 * 1024;

/// The maximum of bytes in flight on one connection, unless a port's queue is long.
const WINDOW: u64 = 128 * 1024;

/// As in the engine: a peer that acknowledges nothing for this long is disconnected.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// As in the engine: how long a dial waits for an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

const HASH_NANOS_PER_BYTE: f64 = 1.0;

const NONE: u32 = u32::MAX;

struct World<'a> {
    scenario: &'a Scenario,
    start: Instant,
    now: u64,
    events: Events,
    machines: Vec<Machine>,
    streams: Vec<Stream>,
    packets: Vec<Packet>,
    free: Vec<u32>,
    /// The links towards each host, then two for each network: to the router and from it.
    links: Vec<Link>,
    tracker: Tracker,
    rng_state: u64,
    unfinished: usize,
    outcome: Outcome,
}

/// Runs a scenario until all nodes have finished. `start` is any instant: a simulation does not
/// wait.
pub fn run(scenario: &Scenario, start: Instant) -> Outcome {
    let mut world = World::new(scenario, start);
    let limit = nanos(scenario.limit);
    while world.unfinished > 0
        && let Some((at, event)) = world.events.next()
        && at <= limit
    {
        world.now = at;
        world.happen(event);
    }
    world.finish()
}

fn index(number: u32) -> usize {
    number as usize
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, start: Instant) -> Self {
        let buffer = scenario.buffer.as_secs_f64();
        let mut world = Self {
            scenario,
            start,
            now: 0,
            events: Events::default(),
            machines: Vec::new(),
            streams: Vec::new(),
            packets: Vec::new(),
            free: Vec::new(),
            links: links::of(scenario),
            tracker: Tracker::default(),
            rng_state: scenario.chance,
            unfinished: 0,
            outcome: Outcome::default(),
        };
        for (number, plan) in (0..).zip(&scenario.hosts) {
            world.add(number, plan, buffer);
        }
        world
    }

    fn add(&mut self, number: u32, plan: &Host, buffer: f64) {
        self.machines.push(Machine::new(number, plan, buffer));
        self.events.plan(nanos(plan.starts), Event::Start(number));
        if let Some(at) = plan.vanishes {
            self.events.plan(nanos(at), Event::Vanish(number));
        }
        for (outage, what) in (0..).zip(&plan.outages) {
            self.events.plan(nanos(what.from), Event::Fail { host: number, outage });
        }
        self.unfinished += usize::from(plan.role == Role::Node);
    }

    fn time(&self) -> Instant {
        self.start + Duration::from_nanos(self.now)
    }

    fn after(&mut self, wait: Duration, event: Event) {
        self.events.plan(self.now + nanos(wait), event);
    }

    fn host(&mut self, host: u32) -> &mut Machine {
        &mut self.machines[index(host)]
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(host) => self.switch_on(host),
            Event::Tick(host) => self.tick(host),
            Event::Announce(host) => self.announce(host),
            Event::Dialled { from, to } => self.dialled(from, to),
            Event::Sent { host, packet } => self.sent(host, packet),
            Event::Arrived(packet) => self.arrived(packet),
            Event::Carried(link) => self.carried(link),
            Event::Hashed { host, piece } => self.hashed(host, piece),
            Event::Closed(stream) => self.close(stream, false),
            Event::Leave(host) => self.leave(host),
            Event::Vanish(host) => self.vanish(host),
            Event::Fail { host, outage } => self.fail(host, outage),
            Event::Recover { host, outage } => self.recover(host, outage),
            Event::Resume(host) => self.resume(host),
        }
    }

    // --- a host's life -----------------------------------------------------------------------

    fn switch_on(&mut self, host: u32) {
        let now = self.time();
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&random(&mut self.rng_state).to_be_bytes());
        bytes[8..].copy_from_slice(&host.to_be_bytes());
        let (id, layout) = (PeerId::boottorrent(bytes), self.scenario.layout);
        let swarm = match self.host(host).plan.role {
            Role::Seed | Role::Evil(_) => Swarm::seed(layout, id, 1000, now),
            Role::Node => {
                let server = self.machines.iter().find(|machine| machine.plan.role == Role::Seed);
                let server = server.map(|machine| machine.address.ip());
                let own = self.machines[index(host)].address.ip();
                let is_campus = self.scenario.prefers_own_network;
                let network = is_campus.then_some((own, NETWORK_PREFIX));
                let locality = Locality { server, network };
                Swarm::node(layout, id, 1000, locality, random(&mut self.rng_state), now)
            }
        };
        let machine = self.host(host);
        machine.swarm = Some(swarm);
        machine.streams.clear();
        self.events.plan(self.now, Event::Tick(host));
        if self.host(host).plan.role == Role::Seed {
            self.tracker.announced(host);
        } else {
            self.announce(host);
        }
    }

    fn tick(&mut self, host: u32) {
        let now = self.time();
        let machine = self.host(host);
        let Some(swarm) = &mut machine.swarm else { return };
        swarm.tick(now);
        let next_tick = swarm.tick_every();
        let is_looking = machine.plan.role != Role::Seed
            && (!swarm.is_complete() || machine.plan.role != Role::Node);
        let due = if is_looking { machine.dials.due(now) } else { Vec::new() };
        for address in due {
            self.dial(host, address);
        }
        self.after(next_tick, Event::Tick(host));
        self.wake(host);
    }

    fn announce(&mut self, host: u32) {
        if self.host(host).has_left {
            return;
        }
        let every = self.scenario.announce_every;
        self.after(every, Event::Announce(host));
        let before = self.tracker.announced(host);
        let is_done = self.host(host).swarm.as_ref().is_none_or(|swarm| swarm.is_complete());
        if is_done && self.host(host).plan.role == Role::Node {
            return;
        }
        let named = self.tracker.some_of(before, self.scenario.named, &mut self.rng_state);
        let seeds: Vec<u32> = self
            .tracker
            .all()
            .filter(|other| self.machines[index(*other)].plan.role == Role::Seed)
            .collect();
        for other in named.into_iter().chain(seeds) {
            if other != host {
                let address = self.machines[index(other)].address;
                self.host(host).dials.learn(address);
            }
        }
    }

    fn leave(&mut self, host: u32) {
        let open: Vec<u32> = self.open_streams(host).collect();
        for stream in open {
            self.close(stream, true);
        }
        self.host(host).swarm = None;
        self.retire(host);
    }

    fn vanish(&mut self, host: u32) {
        let open: Vec<u32> = self.open_streams(host).collect();
        for stream in open {
            self.after(USER_TIMEOUT, Event::Closed(stream ^ 1));
        }
        self.cut(host, true);
        let machine = self.host(host);
        machine.swarm = None;
        if machine.finished.is_none() && machine.plan.role == Role::Node {
            self.unfinished -= 1;
        }
        self.retire(host);
    }

    fn retire(&mut self, host: u32) {
        self.host(host).has_left = true;
        self.tracker.forget(host);
    }

    fn cut(&mut self, host: u32, is_out: bool) {
        self.host(host).up.is_out = is_out;
        self.links[index(host)].is_out = is_out;
    }

    fn fail(&mut self, host: u32, outage: u32) {
        let what = self.host(host).plan.outages[index(outage)];
        self.after(what.lasts, Event::Recover { host, outage });
        let open: Vec<u32> = self.open_streams(host).collect();
        if what.is_restart {
            for stream in open {
                self.close(stream, true);
            }
            self.host(host).swarm = None;
            return;
        }
        self.cut(host, true);
        if what.lasts >= USER_TIMEOUT {
            for stream in open {
                self.after(USER_TIMEOUT, Event::Closed(stream));
                self.after(USER_TIMEOUT, Event::Closed(stream ^ 1));
            }
        }
    }

    fn recover(&mut self, host: u32, outage: u32) {
        let what = self.host(host).plan.outages[index(outage)];
        if what.is_restart {
            return self.switch_on(host);
        }
        let wait =
            if what.lasts < USER_TIMEOUT { retransmits_after(what.lasts) } else { Duration::ZERO };
        self.after(wait, Event::Resume(host));
    }

    fn resume(&mut self, host: u32) {
        self.cut(host, false);
        self.carry(host);
        self.send(host);
    }

    fn open_streams(&self, host: u32) -> impl Iterator<Item = u32> + use<> {
        let streams = self.machines[index(host)].streams.clone();
        let open: Vec<bool> = streams
            .iter()
            .map(|stream| *stream != NONE && self.streams[index(*stream)].is_open)
            .collect();
        streams.into_iter().zip(open).filter_map(|(stream, is_open)| is_open.then_some(stream))
    }

    // --- connections -------------------------------------------------------------------------

    fn dial(&mut self, from: u32, address: SocketAddr) {
        let std::net::IpAddr::V4(ip) = address.ip() else { return };
        let [_, _, high, low] = ip.octets();
        let to = u32::from_be_bytes([0, 0, high, low]);
        let is_cut = |host: u32| self.links[index(host)].is_out;
        let wait =
            if is_cut(from) || is_cut(to) { CONNECT_TIMEOUT } else { 3 * self.scenario.latency };
        self.after(wait, Event::Dialled { from, to });
    }

    fn dialled(&mut self, from: u32, to: u32) {
        let now = self.time();
        let is_cut = |host: u32| self.links[index(host)].is_out;
        let address = self.machines[index(to)].address;
        let is_there = |host: u32| self.machines[index(host)].swarm.is_some();
        if is_cut(from) || is_cut(to) || !is_there(from) || !is_there(to) {
            return self.host(from).dials.ended(address, Ending::Over, now);
        }
        let accepted = self.join(to, from, false);
        let dialling = accepted.and_then(|theirs| {
            self.join(from, to, true).map(|ours| (ours, theirs)).inspect_err(|_| {
                let swarm = self.machines[index(to)].swarm.as_mut();
                swarm.expect("it is there").leave(theirs, now);
            })
        });
        match dialling {
            Ok((ours, theirs)) => {
                self.host(from).dials.connected(address, now);
                self.connect(from, ours, to, theirs);
            }
            Err(refusal) => {
                let is_evil = matches!(self.host(from).plan.role, Role::Evil(_));
                let ending = match refusal {
                    Refusal::Duplicate => Ending::Duplicate,
                    Refusal::Myself | Refusal::Banned if !is_evil => Ending::Hopeless,
                    _ => Ending::Over,
                };
                self.host(from).dials.ended(address, ending, now);
            }
        }
        self.wake(from);
        self.wake(to);
    }

    fn join(&mut self, host: u32, other: u32, was_dialled: bool) -> Result<PeerKey, Refusal> {
        let now = self.time();
        let is_honest = |host: u32| self.machines[index(host)].plan.role == Role::Node;
        let both_honest = is_honest(host) && is_honest(other);
        let machine = &self.machines[index(other)];
        let id = machine.swarm.as_ref().expect("both are there").id();
        let candidate = Candidate { id, address: machine.address, was_dialled, is_extended: true };
        let swarm = self.host(host).swarm.as_mut().expect("both are there");
        let joined = swarm.join(candidate, now);
        if both_honest && joined == Err(Refusal::Banned) {
            self.outcome.wrongly_banned += 1;
        }
        joined
    }

    fn connect(&mut self, from: u32, ours: PeerKey, to: u32, theirs: PeerKey) {
        for (host, key, was_dialled) in [(from, ours, true), (to, theirs, false)] {
            let number = u32::try_from(self.streams.len()).expect("far fewer than 2^32");
            let spread = random(&mut self.rng_state) as f64 / u64::MAX as f64 * 2.0 - 1.0;
            let weight = 1.0 + self.scenario.unevenness * spread;
            self.streams.push(Stream::new(host, key, was_dialled, weight));
            let machine = self.host(host);
            let at = usize::try_from(key.0).expect("keys are counted from 0");
            machine.streams.resize(machine.streams.len().max(at + 1), NONE);
            machine.streams[at] = number;
            if matches!(machine.plan.role, Role::Evil(_)) {
                let all = Bitfield::full(self.scenario.layout.pieces());
                let claim = Item::Messages(vec![Outgoing::Bitfield(all), Outgoing::Unchoke]);
                self.streams[index(number)].queue.push_back(claim);
            }
        }
    }

    /// Closes the end of a connection that owns this stream, and notifies the other end if it can.
    fn close(&mut self, stream: u32, notifies_other: bool) {
        let now = self.time();
        let state = &mut self.streams[index(stream)];
        if !state.is_open {
            return;
        }
        state.is_open = false;
        state.queue.clear();
        state.queued = 0;
        let (host, key, was_dialled) = (state.from, state.key, state.was_dialled);
        let other = self.streams[index(stream ^ 1)].from;
        let address = self.machines[index(other)].address;
        let machine = self.host(host);
        if was_dialled {
            machine.dials.ended(address, Ending::Over, now);
        }
        if let Some(swarm) = &mut machine.swarm {
            swarm.leave(key, now);
        }
        if notifies_other {
            self.after(self.scenario.latency, Event::Closed(stream ^ 1));
        }
        self.wake(host);
    }

    // --- sending -----------------------------------------------------------------------------

    /// Does what the swarm of a host wants for each of its connections.
    fn wake(&mut self, host: u32) {
        loop {
            let Some(swarm) = &mut self.host(host).swarm else { return };
            let wakes = swarm.take_wakes();
            if wakes.is_empty() {
                break;
            }
            for key in wakes {
                let at = usize::try_from(key.0).expect("keys are counted from 0");
                let stream = self.host(host).streams.get(at).copied().unwrap_or(NONE);
                if stream != NONE {
                    self.pump(stream);
                }
            }
        }
        self.send(host);
    }

    /// Passes a connection's next batches to its socket, as long as it accepts them.
    fn pump(&mut self, stream: u32) {
        let now = self.time();
        let (host, key) = (self.streams[index(stream)].from, self.streams[index(stream)].key);
        while self.streams[index(stream)].is_open
            && self.streams[index(stream)].queued < NOTSENT_LOWAT
        {
            let Some(swarm) = &mut self.machines[index(host)].swarm else { return };
            match swarm.next(key, now) {
                Next::Wait => break,
                Next::Closed => return self.close(stream, true),
                Next::Send { messages, data } => {
                    for range in &data {
                        swarm.sent(key, *range, now);
                    }
                    self.queue(stream, messages, &data);
                }
            }
        }
        let state = &mut self.streams[index(stream)];
        if !state.is_ready && !state.queue.is_empty() && state.in_flight < WINDOW {
            state.is_ready = true;
            self.host(host).ready.push_back(stream);
        }
    }

    fn queue(&mut self, stream: u32, messages: Vec<Outgoing>, data: &[ByteRange]) {
        let from = self.streams[index(stream)].from;
        let role = self.host(from).plan.role;
        let state = &mut self.streams[index(stream)];
        if !messages.is_empty() {
            state.queue.push_back(Item::Messages(messages));
        }
        for range in data {
            let wrong = match role {
                Role::Evil(Harm::Stall) => continue,
                Role::Evil(Harm::Corrupt(every)) => {
                    random(&mut self.rng_state).is_multiple_of(u64::from(every.max(1)))
                }
                Role::Seed | Role::Node => false,
            };
            state.queued += u64::from(range.length);
            state.queue.push_back(Item::Data { range: *range, wrong });
            self.machines[index(from)].uploaded += u64::from(range.length);
        }
    }

    /// Sends the next packet of a host, if its link is free.
    fn send(&mut self, host: u32) {
        if self.host(host).up.first().is_some() || self.host(host).up.is_out {
            return;
        }
        for _ in 0..2 * self.host(host).ready.len() {
            let Some(stream) = self.host(host).ready.pop_front() else { return };
            let window = if self.is_crowded(stream) { 1 } else { WINDOW };
            let state = &mut self.streams[index(stream)];
            if state.queue.is_empty() || !state.is_open || state.in_flight >= window {
                state.is_ready = false;
                continue;
            }
            state.turn += state.weight;
            if state.turn < 1.0 {
                self.host(host).ready.push_back(stream);
                continue;
            }
            state.turn -= 1.0;
            return self.send_from(host, stream);
        }
    }

    fn send_from(&mut self, host: u32, stream: u32) {
        let packet = self.streams[index(stream)].next_packet(stream);
        let bytes = packet.bytes;
        let number = self.keep(packet);
        let machine = self.host(host);
        machine.up.push(number, bytes);
        machine.up.begin();
        let wait = machine.up.nanos(bytes);
        self.events.plan(self.now + wait, Event::Sent { host, packet: number });
    }

    fn keep(&mut self, packet: Packet) -> u32 {
        if let Some(number) = self.free.pop() {
            self.packets[index(number)] = packet;
            return number;
        }
        self.packets.push(packet);
        u32::try_from(self.packets.len() - 1).expect("far fewer than 2^32")
    }

    fn sent(&mut self, host: u32, packet: u32) {
        let (bytes, stream) =
            (self.packets[index(packet)].bytes, self.packets[index(packet)].stream);
        self.host(host).up.end(bytes);
        self.after(self.scenario.latency, Event::Arrived(packet));
        let state = &mut self.streams[index(stream)];
        state.is_ready = false;
        self.pump(stream);
        self.send(host);
    }

    // --- in flight ---------------------------------------------------------------------------

    /// The links between two hosts after the sender's own.
    fn path(&self, stream: u32) -> ([u32; 3], usize) {
        let (from, to) = (self.streams[index(stream)].from, self.streams[index(stream ^ 1)].from);
        let network = |host: u32| self.machines[index(host)].plan.network;
        links::path(self.machines.len(), network(from), to, network(to))
    }

    fn is_crowded(&self, stream: u32) -> bool {
        let (path, hops) = self.path(stream);
        path[..hops].iter().any(|link| self.links[index(*link)].is_crowded())
    }

    fn arrived(&mut self, packet: u32) {
        let (path, _) = self.path(self.packets[index(packet)].stream);
        let link = path[usize::from(self.packets[index(packet)].hop)];
        let bytes = self.packets[index(packet)].bytes;
        self.links[index(link)].push(packet, bytes);
        self.carry(link);
    }

    fn carry(&mut self, link: u32) {
        if let Some(packet) = self.links[index(link)].begin() {
            let wait = self.links[index(link)].nanos(self.packets[index(packet)].bytes);
            self.events.plan(self.now + wait, Event::Carried(link));
        }
    }

    fn carried(&mut self, link: u32) {
        let Some(first) = self.links[index(link)].first() else { return };
        let bytes = self.packets[index(first)].bytes;
        self.links[index(link)].end(bytes);
        self.carry(link);
        let (_, hops) = self.path(self.packets[index(first)].stream);
        let packet = &mut self.packets[index(first)];
        packet.hop += 1;
        if usize::from(packet.hop) < hops {
            return self.after(self.scenario.latency, Event::Arrived(first));
        }
        self.deliver(first);
    }

    fn deliver(&mut self, number: u32) {
        let packet = &mut self.packets[index(number)];
        let (stream, data, bytes) = (packet.stream, packet.data, packet.bytes);
        let messages = std::mem::take(&mut packet.messages);
        self.free.push(number);
        self.streams[index(stream)].in_flight -= u64::from(bytes);
        self.pump(stream);
        self.send(self.streams[index(stream)].from);
        let back = &self.streams[index(stream ^ 1)];
        let (host, key) = (back.from, back.key);
        if !back.is_open {
            return;
        }
        let mut is_fine = true;
        for message in messages {
            self.outcome.messages += 1;
            self.outcome.message_bytes += u64::from(length(&message));
            is_fine &= self.receive_message(host, key, message);
        }
        if let Some((range, wrong)) = data {
            is_fine &= self.take(host, key, range, wrong, stream);
        }
        if !is_fine {
            self.close(stream ^ 1, true);
        }
        self.wake(host);
    }

    fn receive_message(&mut self, host: u32, key: PeerKey, message: Outgoing) -> bool {
        let now = self.time();
        let Some(swarm) = &mut self.host(host).swarm else { return true };
        swarm.receive(key, &as_received(message), now).is_ok()
    }

    fn take(
        &mut self,
        host: u32,
        key: PeerKey,
        range: ByteRange,
        wrong: bool,
        stream: u32,
    ) -> bool {
        let now = self.time();
        let contributor = self.streams[index(stream)].from.to_be_bytes()[3];
        let layout = self.scenario.layout;
        let block = layout.block_at(range.piece, range.begin, range.length as usize);
        let block = block.expect("a request is for complete blocks");
        self.outcome.draw(Duration::from_nanos(self.now), range.length);
        let machine = self.host(host);
        machine.received += u64::from(range.length);
        let Some(swarm) = &mut machine.swarm else { return true };
        let Ok(new) = swarm.receive(key, &Incoming::Data(block, &[]), now) else { return false };
        let Some(block) = new else { return true };
        if wrong {
            machine.wrong.insert(block, contributor);
        }
        if let Some(check) = swarm.stored(block) {
            let bytes = f64::from(layout.length_of(check.piece));
            let wait = Duration::from_nanos((bytes * HASH_NANOS_PER_BYTE) as u64);
            self.after(wait, Event::Hashed { host, piece: check.piece });
        }
        true
    }

    fn hashed(&mut self, host: u32, piece: u32) {
        let now = self.time();
        let blocks = self.scenario.layout.blocks_of(piece);
        let machine = self.host(host);
        let Some(swarm) = &mut machine.swarm else { return };
        let digests: Vec<[u8; 20]> = (0..blocks)
            .map(|index| {
                [machine
                    .wrong
                    .remove(&Block { piece, index })
                    .map_or(0, |contributor| contributor | 128); 20]
            })
            .collect();
        let is_correct = digests.iter().all(|digest| digest[0] == 0);
        let wants_blocks = !is_correct || swarm.is_suspect(piece);
        let blocks = if wants_blocks { digests } else { Vec::new() };
        swarm.checked(&Checked { piece, is_correct, blocks }, now);
        let is_complete = swarm.is_complete();
        self.outcome.wrong_pieces += u64::from(!is_correct);
        if is_complete && self.host(host).finished.is_none() {
            self.host(host).finished = Some(self.now);
            self.unfinished -= 1;
            match self.host(host).plan.when_done {
                WhenDone::Stay => {}
                WhenDone::Leave(wait) => self.after(wait, Event::Leave(host)),
                WhenDone::Vanish(wait) => self.after(wait, Event::Vanish(host)),
            }
        }
        self.wake(host);
    }

    fn finish(mut self) -> Outcome {
        let hosts = self.machines.len();
        self.outcome.into_network =
            self.links[hosts..].chunks(2).map(|pair| pair[1].carried).collect();
        self.outcome.events = self.events.planned();
        for (host, machine) in self.machines.iter().enumerate() {
            match machine.plan.role {
                Role::Seed => self.outcome.sent_by_seeds.push(machine.uploaded),
                Role::Evil(_) => {}
                Role::Node => self.outcome.nodes.push(machine.finish(host)),
            }
        }
        self.outcome
    }
}
