//! Every capture is played to the server by some test, and its README says what it is.

use std::fs;
use std::path::{Path, PathBuf};

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The files of a folder with this ending, without it.
fn names(folder: &Path, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("plain names");
    let all = entries.map(|entry| name(entry.expect("readable")));
    all.filter_map(|name| name.strip_suffix(ending).map(str::to_owned)).collect()
}

#[test]
fn every_capture_is_replayed_and_described() {
    let golden = tests().join("golden");
    let captures = names(&golden, ".pcap");
    assert!(!captures.is_empty());
    let readme = fs::read_to_string(golden.join("README.md")).expect("there is one");
    let sources: String = ["dhcp_replay.rs", "tftp_replay.rs"]
        .map(|name| fs::read_to_string(tests().join("it").join(name)).expect("there"))
        .concat();
    for name in &captures {
        // By its whole name, or by that in a macro which puts the folder and the ending around it.
        let is_replayed = [format!("\"../golden/{name}.pcap\""), format!("\"{name}\"")]
            .iter()
            .any(|words| sources.contains(words));
        assert!(is_replayed, "no test replays {name}.pcap");
        assert!(readme.contains(&format!("`{name}.pcap`")), "the README does not name {name}.pcap");
    }
    for named in readme.split('`').filter_map(|word| word.strip_suffix(".pcap")) {
        assert!(captures.iter().any(|name| name == named), "{named}.pcap is gone");
    }
}
