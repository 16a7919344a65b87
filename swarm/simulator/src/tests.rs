use super::*;
use bt_swarm::protocol::layout::Layout;
use std::time::{Duration, Instant};

/// 100 Mbit/s: a piece of 64 KiB takes as long as one of 640 KiB at 1 Gbit/s.
const RATE: f64 = 12.5e6;
const PIECE: u32 = 64 * 1024;

#[expect(clippy::disallowed_methods, reason = "any instant will do as the start")]
fn simulate(scenario: &Scenario) -> Outcome {
    run(scenario, Instant::now())
}

fn room(nodes: usize, pieces: u64, chance: u64) -> Scenario {
    let layout = Layout::new(pieces * u64::from(PIECE), PIECE).expect("within the limits");
    Scenario::room(layout, nodes, RATE, chance)
}

fn wire(scenario: &Scenario) -> Duration {
    Duration::from_secs_f64(scenario.layout.total() as f64 / RATE)
}

/// The time that each node needed from its own start, over the wire time.
fn over_wire(scenario: &Scenario, outcome: &Outcome) -> Vec<f64> {
    let wire = wire(scenario).as_secs_f64();
    let own = |node: &Finish| {
        let finished = node.finished.unwrap_or(Duration::MAX / 2);
        (finished - node.started).as_secs_f64() / wire
    };
    outcome.nodes.iter().map(own).collect()
}

fn worst(scenario: &Scenario, outcome: &Outcome) -> f64 {
    over_wire(scenario, outcome).into_iter().fold(0.0, f64::max)
}

fn copies(scenario: &Scenario, outcome: &Outcome) -> f64 {
    outcome.sent_by_seeds.iter().sum::<u64>() as f64 / scenario.layout.total() as f64
}

#[test]
fn the_same_scenario_always_ends_the_same_way() {
    let (one, other) = (room(4, 64, 7), room(4, 64, 8));
    assert_eq!(simulate(&one), simulate(&one));
    assert_ne!(simulate(&one), simulate(&other));
}

#[test]
fn one_node_needs_the_wire_time() {
    let scenario = room(1, 128, 1);
    let last = worst(&scenario, &simulate(&scenario));
    assert!((1.0..1.03).contains(&last), "{last}");
}

#[test]
fn a_room_needs_little_more_time_than_one_node_and_one_copy() {
    for (nodes, pieces) in [(16, 1024), (32, 2048)] {
        for chance in 1..=3 {
            let scenario = room(nodes, pieces, chance);
            let outcome = simulate(&scenario);
            let (last, copies) = (worst(&scenario, &outcome), copies(&scenario, &outcome));
            let is_good = last < 1.08 && copies < 1.06;
            assert!(is_good, "{nodes} nodes, chance {chance}: {last}, {copies} copies");
        }
    }
}

#[test]
fn late_nodes_and_nodes_that_leave_when_done_delay_nobody() {
    for chance in 1..=3 {
        let mut scenario = room(12, 384, chance);
        let wire = wire(&scenario);
        for (number, host) in scenario.hosts.iter_mut().enumerate().skip(1) {
            host.when_done = WhenDone::Leave(Duration::from_secs(1));
            if number > 8 {
                host.starts = wire.mul_f64(0.6);
            }
        }
        let outcome = simulate(&scenario);
        let last = worst(&scenario, &outcome);
        assert!(last < 1.2, "chance {chance}: {last}");
    }
}

#[test]
fn nodes_that_disappear_delay_nobody_for_long() {
    for chance in 1..=3 {
        let mut scenario = room(8, 256, chance);
        scenario.hosts[3].vanishes = Some(wire(&scenario).mul_f64(0.5));
        scenario.hosts[6].vanishes = Some(wire(&scenario).mul_f64(0.7));
        let outcome = simulate(&scenario);
        let finished = outcome.nodes.iter().filter(|node| node.finished.is_some()).count();
        assert_eq!(finished, 6, "chance {chance}");
        let last = outcome.nodes.iter().filter_map(|node| node.finished).max();
        assert!(last.is_some_and(|last| last < wire(&scenario) + Duration::from_secs(8)));
    }
}

#[test]
fn without_the_server_the_nodes_finish_among_themselves_once_a_copy_is_out() {
    let mut scenario = room(8, 256, 1);
    let server_stops = wire(&scenario).mul_f64(1.02);
    scenario.hosts[0].vanishes = Some(server_stops);
    let outcome = simulate(&scenario);
    let finished: Vec<Option<Duration>> = outcome.nodes.iter().map(|node| node.finished).collect();
    assert!(
        finished.iter().all(|at| at.is_some_and(|at| at > server_stops)),
        "{server_stops:?} {finished:?}"
    );
}

#[test]
fn a_server_that_is_killed_too_early_is_waited_for_and_found_again() {
    let mut scenario = room(8, 256, 1);
    let from = wire(&scenario).mul_f64(0.5);
    let lasts = Duration::from_secs(20);
    scenario.hosts[0].outages = vec![Outage { from, lasts, is_restart: true }];
    let outcome = simulate(&scenario);
    let limit = wire(&scenario) + lasts + Duration::from_secs(7);
    assert!(outcome.nodes.iter().all(|node| node.finished.is_some_and(|at| at < limit)));
    assert!(copies(&scenario, &outcome) < 1.3, "{}", copies(&scenario, &outcome));
}

#[test]
fn a_cable_that_is_out_costs_its_own_node_the_time_and_a_little() {
    for secs in [5, 30, 120] {
        let mut scenario = room(8, 256, 1);
        let from = wire(&scenario).mul_f64(0.5);
        let lasts = Duration::from_secs(secs);
        scenario.hosts[4].outages = vec![Outage { from, lasts, is_restart: false }];
        let outcome = simulate(&scenario);
        let limit = from + lasts + wire(&scenario) + Duration::from_secs(10);
        assert!(outcome.nodes[3].finished.is_some_and(|at| at < limit), "{secs} s");
        let others = outcome.nodes.iter().filter(|node| node.host != 4);
        let limit = wire(&scenario) + Duration::from_secs(8);
        others.for_each(|node| assert!(node.finished.is_some_and(|at| at < limit), "{secs} s"));
        let image = scenario.layout.total();
        assert!(outcome.nodes[3].received < image + image / 4, "pieces were downloaded again");
    }
}

#[test]
fn one_slow_link_slows_nobody_else() {
    for chance in 1..=3 {
        let mut scenario = room(8, 256, chance);
        (scenario.hosts[5].up, scenario.hosts[5].down) = (RATE / 20.0, RATE / 20.0);
        let outcome = simulate(&scenario);
        let mut own = over_wire(&scenario, &outcome);
        let slow = own.remove(4);
        let last = own.into_iter().fold(0.0, f64::max);
        assert!(last < 1.3 && slow < 22.0, "chance {chance}: {last}, the slow one {slow}");
    }
}

#[test]
fn behind_a_slow_server_the_room_is_as_fast_as_the_server() {
    let mut scenario = room(16, 256, 1);
    scenario.hosts[0].up = RATE / 4.0;
    let last = worst(&scenario, &simulate(&scenario));
    assert!(last < 4.0 * 1.1, "{last}");
}

#[test]
fn two_seeds_share_the_work() {
    let mut scenario = room(16, 512, 1);
    scenario.hosts[0].up = RATE / 2.0;
    scenario.hosts.insert(1, Host::new(Role::Seed, 0, RATE / 2.0));
    let outcome = simulate(&scenario);
    let last = worst(&scenario, &outcome);
    assert!(last < 1.2 && copies(&scenario, &outcome) < 1.2, "{last} {:?}", outcome.sent_by_seeds);
}

/// A server, and labs behind a router with lines of a quarter of a node's rate.
fn campus(prefers_own_network: bool) -> (Scenario, Outcome) {
    let mut scenario = room(24, 256, 1);
    scenario.prefers_own_network = prefers_own_network;
    let line = Network { uplink: Some(RATE / 4.0) };
    scenario.networks = vec![Network { uplink: Some(RATE) }, line, line, line];
    for (number, host) in scenario.hosts.iter_mut().enumerate().skip(1) {
        host.network = 1 + number % 3;
    }
    let outcome = simulate(&scenario);
    (scenario, outcome)
}

#[test]
fn each_piece_crosses_a_slow_link_about_once() {
    let (scenario, outcome) = campus(true);
    let image = scenario.layout.total() as f64;
    let most = outcome.into_network.iter().max().map_or(0.0, |most| *most as f64 / image);
    let last = worst(&scenario, &outcome) / 4.0;
    let (_, without) = campus(false);
    let before = worst(&scenario, &without) / 4.0;
    assert!(most < 1.3 && last < 1.4 && last < before, "{most} copies, {last} against {before}");
}

/// Nodes and evil peers, in a small room.
fn evil(nodes: usize, evil: usize, harm: Harm, chance: u64) -> Scenario {
    let mut scenario = room(nodes, 96, chance);
    let liars = std::iter::repeat_n(Host::new(Role::Evil(harm), 0, RATE), evil);
    scenario.hosts.extend(liars);
    scenario.limit = Duration::from_secs(600);
    scenario
}

#[test]
fn evil_peers_are_banned_and_nobody_else_in_a_hundred_of_a_hundred_runs() {
    for chance in 1..=100 {
        let harm = Harm::Corrupt([1, 2, 20][chance as usize % 3]);
        let outcome = simulate(&evil(4, 8, harm, chance));
        let finished = outcome.nodes.iter().filter(|node| node.finished.is_some()).count();
        assert_eq!((finished, outcome.wrongly_banned), (4, 0), "chance {chance}");
    }
}

#[test]
fn one_evil_peer_costs_less_than_a_quarter_of_the_time() {
    for harm in [Harm::Corrupt(1), Harm::Corrupt(20), Harm::Stall] {
        for chance in 1..=5 {
            let scenario = evil(8, 1, harm, chance);
            let control = worst(&scenario, &simulate(&evil(8, 0, harm, chance)));
            let last = worst(&scenario, &simulate(&scenario));
            assert!(last < 1.25 * control, "{harm:?}, chance {chance}: {last} against {control}");
        }
    }
}

#[test]
fn eight_evil_peers_of_twelve_cost_less_than_twice_the_time() {
    // A download of four seconds, because waiting for a silent peer takes two.
    let slowed = |evil_peers: usize, harm, chance| {
        let mut scenario = evil(4, evil_peers, harm, chance);
        for host in &mut scenario.hosts {
            (host.up, host.down) = (RATE / 8.0, RATE / 8.0);
        }
        scenario
    };
    for harm in [Harm::Corrupt(1), Harm::Corrupt(20), Harm::Stall] {
        for chance in 1..=5 {
            let scenario = slowed(8, harm, chance);
            let control = worst(&scenario, &simulate(&slowed(0, harm, chance)));
            let last = worst(&scenario, &simulate(&scenario));
            assert!(last < 2.0 * control, "{harm:?}, chance {chance}: {last} against {control}");
        }
    }
}
