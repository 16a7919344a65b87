//! Shell: one-line step records on the serial console, for those who measure a boot.
//!
//! `bt-node: step=<word> uptime=<s.ss> key=value …`, only when the kernel command line names a serial console.
//! Writing never blocks: a serial line that nothing reads must not delay the node.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

use parking_lot::Mutex;

static LINE: OnceLock<Mutex<File>> = OnceLock::new();

/// Opens the serial line of this name (`ttyS0`); without it records are discarded.
pub fn open(name: &str) {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let line = OpenOptions::new().write(true).custom_flags(flags).open(format!("/dev/{name}"));
    if let Ok(line) = line {
        LINE.get_or_init(|| Mutex::new(line));
    }
}

/// Writes one step record.
pub fn step(word: &'static str, values: &[(&str, &str)]) {
    let Some(line) = LINE.get() else { return };
    let text = record(word, uptime(), values);
    // One write, so that records of two threads never mix. If the line is full, the record is lost, which is intended.
    line.lock().write_all(text.as_bytes()).ok();
}

/// Waits until what was written has left the PC, at most this long: the next kernel resets the line.
pub fn drain(limit: std::time::Duration) {
    let Some(line) = LINE.get() else { return };
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // SAFETY: the descriptor lives as long as the process.
        unsafe { libc::tcdrain(line.lock().as_raw_fd()) };
        // The waiting side may have given up.
        done.send(()).ok();
    });
    wait.recv_timeout(limit).ok();
}

/// Seconds since the kernel started.
#[must_use]
pub fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0)
}

/// The text of one record, with its line end.
fn record(word: &str, uptime: f64, values: &[(&str, &str)]) -> String {
    let mut text = format!("bt-node: step={word} uptime={uptime:.2}");
    for (key, value) in values {
        let is_plain = !value.is_empty() && !value.contains([' ', '"', '=']);
        let clean: String =
            value.chars().map(|c| if c.is_control() || c == '"' { '\'' } else { c }).collect();
        if is_plain {
            text.push_str(&format!(" {key}={clean}"));
        } else {
            text.push_str(&format!(" {key}=\"{clean}\""));
        }
    }
    text.push_str("\r\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_with_quoted_sentences() {
        let values = [("system", "debian-12"), ("text", "it \"said\"\nno"), ("empty", "")];
        assert_eq!(
            record("problem", 3.456, &values),
            "bt-node: step=problem uptime=3.46 system=debian-12 text=\"it 'said''no\" empty=\"\"\r\n"
        );
    }

    #[test]
    fn the_uptime_of_this_machine_is_positive() {
        assert!(uptime() > 0.0);
    }
}
