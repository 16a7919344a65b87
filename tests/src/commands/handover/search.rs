//! Core: the smallest guest that works, found by halving.

use std::collections::BTreeMap;

/// How one boot with so much memory went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The system runs and sees the medium that the catalog names.
    Started,
    /// The node reported that it does not fit, before anything was downloaded.
    Refused(String),
    /// Anything else: out of memory, a panic, a wrong hash, silence.
    Broken(String),
}

/// A search over multiples of `step`, all sizes in MiB.
#[derive(Clone, Debug)]
pub struct Search {
    step: u32,
    low: u32,
    high: u32,
    /// What was tried.
    pub seen: BTreeMap<u32, Attempt>,
}

impl Search {
    /// Between a size that cannot work and one that ought to.
    pub fn new(low: u32, high: u32, step: u32) -> Self {
        let step = step.max(1);
        let low = low / step * step;
        Self { step, low, high: high.next_multiple_of(step).max(low + step), seen: BTreeMap::new() }
    }

    /// The size to try next; `None` when it is found. The upper end comes first, then halves.
    pub fn next(&self) -> Option<u32> {
        if !self.seen.contains_key(&self.high) {
            return Some(self.high);
        }
        let middle = (self.low + (self.high - self.low) / 2) / self.step * self.step;
        (self.high - self.low > self.step && !self.seen.contains_key(&middle)).then_some(middle)
    }

    /// Learns how `size` went.
    pub fn learn(&mut self, size: u32, attempt: Attempt) {
        let works = attempt == Attempt::Started;
        self.seen.insert(size, attempt);
        match works {
            true => self.high = self.high.min(size),
            false if size == self.high => {
                // The guess was too low; look twice as far above.
                let reach = self.high - self.low;
                (self.low, self.high) = (size, size + 2 * reach);
            }
            false => self.low = self.low.max(size),
        }
    }

    /// The smallest size that started.
    pub fn smallest(&self) -> Option<u32> {
        let started =
            |(size, attempt): (&u32, &Attempt)| (*attempt == Attempt::Started).then_some(*size);
        self.seen.iter().find_map(started)
    }

    /// Sizes at which neither the system ran nor the node refused: each is a fault.
    pub fn broken(&self) -> impl Iterator<Item = (u32, &str)> {
        self.seen.iter().filter_map(|(size, attempt)| match attempt {
            Attempt::Broken(why) => Some((*size, why.as_str())),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(limit: u32, low: u32, high: u32) -> Search {
        let mut search = Search::new(low, high, 32);
        while let Some(size) = search.next() {
            assert!(search.seen.len() < 30, "it does not end: {search:?}");
            let refused = Attempt::Refused(String::new());
            search.learn(size, if size >= limit { Attempt::Started } else { refused });
        }
        search
    }

    #[test]
    fn the_limit_is_found_to_one_step() {
        for limit in [320, 321, 352, 640, 960] {
            let found = search(limit, 256, 1024).smallest().expect("1024 works");
            assert!(found >= limit && found < limit + 32, "{limit}: {found}");
        }
    }

    #[test]
    fn a_guess_that_was_too_low_is_raised() {
        assert_eq!(search(3000, 256, 1024).smallest(), Some(3008));
    }

    #[test]
    fn what_is_neither_started_nor_refused_is_reported() {
        let mut search = Search::new(0, 64, 32);
        search.learn(64, Attempt::Started);
        search.learn(32, Attempt::Broken("panic".into()));
        assert_eq!(search.broken().collect::<Vec<_>>(), [(32, "panic")]);
        assert_eq!((search.smallest(), search.next()), (Some(64), None));
    }
}
