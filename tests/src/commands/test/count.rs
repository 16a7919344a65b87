//! Core: counts of passed and failed tests.

/// Counts of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
}

impl Count {
    /// One test.
    pub fn one(is_good: bool) -> Self {
        Self { passed: u32::from(is_good), failed: u32::from(!is_good) }
    }

    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Reads cargo's `test result: ok. 12 passed; 0 failed; …`.
    pub fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let mut numbers = counts.split(';').map(|part| part.trim().split(' ').next());
        let mut next = || numbers.next()??.parse().ok();
        Some(Self { passed: next()?, failed: next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_counts_are_read() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(Count::parse(line), Some(Count { passed: 12, failed: 3 }));
        assert_eq!(Count::parse("running 3 tests"), None);
    }
}
