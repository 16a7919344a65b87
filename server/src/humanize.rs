//! Core: numbers and errors as people read them.

use std::error::Error;
use std::time::Duration;

use bt_catalog::ByteSize;

/// `1.5 GB`.
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// `12 s`, `5 min`, `3 h`, `2 days`: one unit is enough to decide on.
pub fn duration(time: Duration) -> String {
    match time.as_secs() {
        secs @ 0..100 => format!("{secs} s"),
        secs @ 100..6_000 => format!("{} min", secs / 60),
        secs @ 6_000..180_000 => format!("{} h", secs / 3600),
        secs => format!("{} days", secs / 86_400),
    }
}

/// `1 error`, `2 errors`.
pub fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// `eth0`, `eth0 and eth1`, `eth0, eth1 and eth2`.
pub fn list(words: &[&str]) -> String {
    match words {
        [all @ .., before, last] => [all, &[&format!("{before} and {last}")]].concat().join(", "),
        few => few.concat(),
    }
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_unit() {
        let words = [5, 99, 100, 3600, 7200, 86_400 * 30].map(|s| duration(Duration::from_secs(s)));
        assert_eq!(words, ["5 s", "99 s", "1 min", "60 min", "2 h", "30 days"]);
    }

    #[test]
    fn a_list_has_one_and() {
        let listed = [&[][..], &["a"], &["a", "b"], &["a", "b", "c"]].map(list);
        assert_eq!(listed, ["", "a", "a and b", "a, b and c"]);
    }

    #[test]
    fn an_error_tells_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(chain(&error), "outer: inner");
    }
}
