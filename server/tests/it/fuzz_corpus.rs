//! The fuzzer's corpus through every target: good inputs, what broke other servers, and what the
//! fuzzer found worth keeping (`server/fuzz/README.md`).

use std::fs;
use std::io;
use std::path::Path;

use tracing_subscriber::filter::LevelFilter;

use crate::harness::{Target, Victim};

/// Every byte would take a debug build a minute; this meets every part of every option.
const STEP: usize = 3;

/// The inputs of a target, with their names: first those in files of their own, in the order of
/// their names, then those that the fuzzer found.
fn corpus(target: Target) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name());
    let entries = fs::read_dir(&folder).expect("each target has a folder");
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let entry = entry.expect("readable");
            let name = entry.file_name().into_string().expect("plain names");
            (name, fs::read(entry.path()).expect("readable"))
        })
        .collect();
    inputs.sort();
    let grown = fs::read(folder.with_extension("grown")).expect("each target has a grown corpus");
    let grown = unpack(&grown).into_iter().enumerate();
    inputs.extend(grown.map(|(number, input)| (format!("grown-{number}"), input)));
    inputs
}

/// The inputs in a `.grown` file: each behind its length in two bytes, the larger first.
fn unpack(mut packed: &[u8]) -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    while !packed.is_empty() {
        let (length, rest) = packed.split_first_chunk().expect("complete lengths");
        let (input, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)));
        inputs.push(input.to_vec());
        packed = rest;
    }
    inputs
}

fn good(target: Target) -> Vec<(String, Vec<u8>)> {
    corpus(target).into_iter().filter(|(name, _)| name.starts_with("good-")).collect()
}

#[test]
fn no_input_of_the_corpus_is_lost() {
    let counts = Target::ALL.map(|target| (target.name(), corpus(target).len()));
    let least = [("dhcp", 337), ("tftp", 143), ("announce", 95), ("report", 517), ("script", 112)];
    for ((target, count), (name, least)) in counts.into_iter().zip(least) {
        assert_eq!(target, name);
        assert!(count >= least, "{target}: {count}");
    }
}

#[test]
fn nothing_in_the_corpus_breaks_the_server_with_all_of_its_logging_on() {
    // A server of others broke where it formatted a log line that nobody had switched on.
    let log = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(io::sink);
    tracing::subscriber::with_default(log.finish(), || {
        for target in Target::ALL {
            let mut victim = Victim::default();
            let corpus = corpus(target);
            let understood = corpus.iter().filter(|(_, input)| victim.take(target, input)).count();
            // Not all are refused at the door, or nothing behind it would be tested.
            assert!(understood > 2 && corpus.len() > 10, "{target:?}: {understood}");
        }
    });
}

#[test]
fn every_good_input_is_understood() {
    for target in [Target::Dhcp, Target::Tftp, Target::Announce, Target::Report] {
        let (mut victim, inputs) = (Victim::default(), good(target));
        assert!(inputs.len() >= 2, "{target:?}");
        for (name, input) in inputs {
            assert!(victim.take(target, &input), "{target:?}: {name}");
        }
    }
}

#[test]
fn good_inputs_cut_short_or_with_a_byte_changed_do_not_break_the_server() {
    for target in Target::ALL {
        let mut victim = Victim::default();
        for (_, input) in good(target) {
            for at in (0..input.len()).step_by(STEP) {
                victim.take(target, &input[..at]);
                for value in [0, 1, 127, 255, input[at] ^ 32] {
                    let mut changed = input.clone();
                    changed[at] = value;
                    victim.take(target, &changed);
                }
            }
        }
    }
}

#[test]
fn each_target_understands_a_good_input() {
    let mut victim = Victim::default();
    let announce = format!("info_hash={0}&peer_id={0}&port=1&left=1", "a".repeat(20));
    let report = br#"{"mac":"52:54:00:00:00:01","stage":"menu"}"#;
    assert!(victim.take(Target::Announce, announce.as_bytes()));
    assert!(victim.take(Target::Report, report));
    assert!(victim.take(Target::Tftp, b"\0\x01a\0octet\0blksize\x001468\0"));
    assert!(victim.take(Target::Script, b"grub.cfg"));
    assert!(!victim.take(Target::Dhcp, b"garbage"));
}
