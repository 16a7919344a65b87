//! Core: which scenario begins next, with so many side by side.

use std::collections::VecDeque;

/// What waits to be run, and how much runs.
#[derive(Clone, Debug)]
pub struct Queue<T> {
    alone: VecDeque<T>,
    others: VecDeque<T>,
    jobs: usize,
    running: usize,
    /// Whether the one that runs must be by itself.
    is_reserved: bool,
}

impl<T> Queue<T> {
    /// Those that must run alone, and the others, of which `jobs` run side by side.
    pub fn new(alone: Vec<T>, others: Vec<T>, jobs: usize) -> Self {
        assert!(jobs > 0, "nothing would ever run");
        let (alone, others) = (alone.into(), others.into());
        Self { alone, others, jobs, running: 0, is_reserved: false }
    }

    /// The next to begin now; `None` when one has to end before, or when all have begun. Those that
    /// run alone come first: so nobody waits for the last of many to end.
    pub fn begin(&mut self) -> Option<T> {
        if self.running == 0
            && let Some(next) = self.alone.pop_front()
        {
            (self.running, self.is_reserved) = (1, true);
            return Some(next);
        }
        if self.is_reserved || self.running == self.jobs {
            return None;
        }
        let next = self.others.pop_front()?;
        self.running += 1;
        Some(next)
    }

    /// One has ended.
    pub fn end(&mut self) {
        assert!(self.running > 0, "something ended that never began");
        self.running -= 1;
        self.is_reserved = false;
    }

    /// Whether all have ended.
    pub fn is_over(&self) -> bool {
        self.running == 0 && self.alone.is_empty() && self.others.is_empty()
    }
}

/// Memory that a scenario is allowed, in MiB: one or two PCs of 1 GiB, and copies of a lab.
const MIB_PER_JOB: u64 = 4096;
/// More would wait for the disk.
const MOST_JOBS: usize = 8;

/// How many scenarios run side by side when nobody says so: by cores and free memory (MiB). An
/// emulated PC keeps one core busy, and one that waits for its turn becomes no test of time limits.
pub fn usual_jobs(cores: usize, available_mib: u64) -> usize {
    let by_memory = usize::try_from(available_mib / MIB_PER_JOB).unwrap_or(MOST_JOBS);
    cores.min(by_memory).clamp(1, MOST_JOBS)
}

/// The memory that new programs can have, in MiB, by `/proc/meminfo` (proc_meminfo(5)).
pub fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Begins as many as can be.
    fn fill(queue: &mut Queue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.begin()).collect()
    }

    #[test]
    fn nothing_runs_alongside_what_must_be_alone() {
        let mut queue = Queue::new(vec!["leases", "loss"], vec!["a", "b", "c"], 2);
        assert_eq!(fill(&mut queue), ["leases"]);
        queue.end();
        assert_eq!(fill(&mut queue), ["loss"]);
        queue.end();
        assert_eq!(fill(&mut queue), ["a", "b"]);
        queue.end();
        assert_eq!(fill(&mut queue), ["c"]);
        queue.end();
        assert!(!queue.is_over());
        queue.end();
        assert!(queue.is_over());
    }

    #[test]
    fn one_job_is_one_after_the_other() {
        let mut queue = Queue::new(vec![], vec!["a", "b"], 1);
        assert_eq!(fill(&mut queue), ["a"]);
        queue.end();
        assert_eq!(fill(&mut queue), ["b"]);
    }

    #[test]
    fn jobs_follow_cores_and_memory() {
        assert_eq!(usual_jobs(2, 8 << 10), 2);
        assert_eq!(usual_jobs(2, 7 << 10), 1);
        assert_eq!(usual_jobs(16, 12 << 10), 3);
        assert_eq!(usual_jobs(64, 1 << 20), MOST_JOBS);
        assert_eq!(usual_jobs(1, 500), 1);
    }

    #[test]
    fn the_available_memory_is_read() {
        let text = "MemTotal:       24000000 kB\nMemFree:  100 kB\nMemAvailable:   8388608 kB\n";
        assert_eq!(available_mib(text), Some(8192));
        assert_eq!(available_mib("MemTotal: 5 kB\n"), None);
    }
}
