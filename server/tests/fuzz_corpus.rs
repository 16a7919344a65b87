//! The fuzzer's corpus, and the first of its broken inputs, through every target.

#[path = "../examples/fuzz/corpus.rs"]
mod corpus;

use bt_server::fuzz::{Target, Victim};

const EXECUTIONS: u64 = 5_000;

#[test]
fn every_good_input_is_understood() {
    let mut victim = Victim::default();
    for target in [Target::Dhcp, Target::Tftp, Target::Announce, Target::Report] {
        for seed in corpus::seeds(target) {
            assert!(victim.take(target, &seed), "{target:?}: {}", seed.escape_ascii());
        }
    }
}

#[test]
fn broken_inputs_do_not_break_the_server() {
    for target in Target::ALL {
        let mut victim = Victim::default();
        let mut mutator = corpus::Mutator::new(1, corpus::seeds(target));
        let understood = (0..EXECUTIONS).filter(|_| victim.take(target, mutator.next())).count();
        // Not all are refused at the door, or nothing behind it would be tested.
        assert!(understood > 100, "{target:?}: {understood} were understood");
    }
}

#[test]
fn the_same_seed_gives_the_same_inputs() {
    let mut inputs = [1, 1, 2].map(|seed| corpus::Mutator::new(seed, corpus::seeds(Target::Dhcp)));
    let [first, again, other] =
        inputs.each_mut().map(|it| (0..100).map(|_| it.next().to_vec()).collect::<Vec<_>>());
    assert!(first == again && first != other);
}
