//! Shell: this PC's memory, firmware and processor, read from `/proc` and `/sys`.

use std::fs;
use std::path::Path;

use super::memory_map::{Entry, kind_of, ram_of};
use super::pages::field;
use super::placement::Range;
use super::plan::Machine;

/// Where the firmware's memory map is, one folder for each entry.
const FIRMWARE_MAP: &str = "/sys/firmware/memmap";

/// Looks at this PC. `runs` are the huge pages that are mapped now.
#[must_use]
pub fn look(runs: Vec<Range>) -> Machine {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let size = |name| field(&meminfo, name).unwrap_or(0);
    let held: u64 = runs.iter().map(|run| run.size).sum();
    let total = size("MemTotal:");
    let map = memory_map();
    Machine {
        // Without a map (the kernel may not expose it), the memory that the kernel manages is the next best.
        ram: ram_of(&map).max(total),
        map,
        total,
        available: size("MemAvailable:").saturating_add(held),
        runs,
        is_locked_down: is_locked_down(),
        is_uefi: Path::new("/sys/firmware/efi").exists(),
        cpu: cpu_flags(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
    }
}

/// Whether the kernel refuses `kexec_load`: under lockdown (Secure Boot), or because `kexec_load_disabled` is set.
#[must_use]
pub fn is_locked_down() -> bool {
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let forbidden = fs::read_to_string("/proc/sys/kernel/kexec_load_disabled").unwrap_or_default();
    is_lockdown(&lockdown) || forbidden.trim() == "1"
}

/// The file lists the modes, the present one in brackets.
fn is_lockdown(text: &str) -> bool {
    text.contains("[integrity]") || text.contains("[confidentiality]")
}

fn cpu_flags(cpuinfo: &str) -> std::collections::BTreeSet<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let flags = line.and_then(|line| line.split_once(':')).map_or("", |(_, flags)| flags);
    flags.split_whitespace().map(str::to_owned).collect()
}

/// The memory map as the firmware provided it; empty where the kernel does not expose it.
#[must_use]
pub fn memory_map() -> Vec<Entry> {
    read_map(Path::new(FIRMWARE_MAP))
}

fn read_map(folder: &Path) -> Vec<Entry> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let read = |path: &Path| {
        let number = |name| {
            let text = fs::read_to_string(path.join(name)).ok()?;
            u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
        };
        let (start, last) = (number("start")?, number("end")?);
        let kind = kind_of(&fs::read_to_string(path.join("type")).ok()?);
        let size = last.checked_sub(start)?.checked_add(1)?;
        Some(Entry { range: Range { start, size }, kind })
    };
    let mut map: Vec<Entry> = entries.flatten().filter_map(|entry| read(&entry.path())).collect();
    map.sort_by_key(|entry| entry.range);
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::memory_map::RAM;

    #[test]
    fn the_firmwares_map_is_read_as_sysfs_shows_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let entry = |number: u32, start: &str, end: &str, kind: &str| {
            let path = folder.path().join(number.to_string());
            fs::create_dir(&path).expect("a folder");
            for (name, text) in [("start", start), ("end", end), ("type", kind)] {
                fs::write(path.join(name), format!("{text}\n")).expect("a file");
            }
        };
        entry(1, "0x100000", "0x3ffdffff", "System RAM");
        entry(0, "0x0", "0x9fbff", "System RAM");
        entry(2, "0x9fc00", "garbage", "Reserved");
        let map = read_map(folder.path());
        assert_eq!(map.len(), 2);
        assert_eq!(map[0], Entry { range: Range { start: 0, size: 0x9fc00 }, kind: RAM });
        assert_eq!(ram_of(&map), 0x3ffe_0000 - 0x10_0000 + 0x9fc00);
    }

    #[test]
    fn lockdown_is_read_from_the_brackets() {
        assert!(is_lockdown("none [integrity] confidentiality\n"));
        assert!(!is_lockdown("[none] integrity confidentiality\n"));
        assert!(!is_lockdown(""));
    }

    #[test]
    fn the_processors_flags_are_single_words() {
        let flags = cpu_flags("processor\t: 0\nflags\t\t: fpu sse2 avx\nbogomips: 5\n");
        assert!(flags.contains("avx") && flags.len() == 3);
        assert!(cpu_flags("").is_empty());
    }

    #[test]
    fn this_machine_has_memory() {
        let machine = look(Vec::new());
        assert!(machine.ram >= machine.total && machine.total > machine.available / 2);
    }
}
