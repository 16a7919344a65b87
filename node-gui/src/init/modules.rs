//! Shell: drivers: every device names the module it wants in its `modalias` file, and modprobe finds it.
//!
//! sysfs is read repeatedly, since a loaded bus driver shows new devices (USB hubs, virtio) and people plug in
//! keyboards late.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::modalias::Aliases;
use super::reaper::{busybox, run};

/// Modules that no device names: the reader of input devices, and the packet socket that udhcpc needs.
const BY_NAME: &[&str] = &["evdev", "af_packet"];
/// How often sysfs is scanned while the node starts, so that a USB network adapter is found at once.
const LOOK_AT_START: Duration = Duration::from_millis(200);
/// How often afterwards, for devices that are plugged in.
const LOOK_LATER: Duration = Duration::from_secs(1);
/// How many scans are quick ones: 20 seconds.
const QUICK_LOOKS: u32 = 100;
/// sysfs is about 8 folders deep where devices are; this only stops a loop.
const DEPTH: usize = 24;

/// The drivers loaded so far.
#[derive(Debug, Default)]
pub struct Drivers {
    aliases: Aliases,
}

impl Drivers {
    /// Loads the modules that no device names, and the drivers of every device there is now, until no new one appears.
    ///
    /// Display drivers come last, and only where the firmware left no framebuffer: kexec out of a native
    /// driver leaves the screen black or garbled.
    pub fn load_first(&mut self) {
        modprobe(BY_NAME.iter().map(|name| (*name).to_owned()).collect());
        while self.load_new() {}
        if !Path::new("/dev/fb0").exists() {
            self.aliases.with_display = true;
            while self.load_new() {}
        }
    }

    /// Keeps loading drivers for devices that appear, for as long as the process lives.
    pub fn watch(mut self) {
        std::thread::spawn(move || {
            for look in 0_u32.. {
                std::thread::sleep(if look < QUICK_LOOKS { LOOK_AT_START } else { LOOK_LATER });
                while self.load_new() {}
            }
        });
    }

    /// Loads the drivers of devices not seen before; false when there were none.
    fn load_new(&mut self) -> bool {
        let mut found = BTreeSet::new();
        collect(Path::new("/sys/devices"), DEPTH, &mut found);
        let new = self.aliases.take_new(found);
        let is_any = !new.is_empty();
        modprobe(new);
        is_any
    }
}

/// Every `modalias` below this folder. Links are not followed: sysfs is full of them.
fn collect(folder: &Path, depth: usize, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth > 0 {
            collect(&entry.path(), depth - 1, found);
        } else if kind.is_file() && entry.file_name() == "modalias" {
            let alias = fs::read_to_string(entry.path()).unwrap_or_default();
            let alias = alias.trim();
            if !alias.is_empty() {
                found.insert(alias.to_owned());
            }
        }
    }
}

/// Loads the modules for these names. A name without a module is normal: most devices need none.
fn modprobe(names: Vec<String>) {
    if names.is_empty() {
        return;
    }
    if let Err(error) = run(busybox("modprobe").args(["-a", "-b", "-q"]).args(&names)) {
        tracing::warn!(%error, "cannot run modprobe");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIRTIO_NET: &str = "virtio:d00000001v00001AF4";

    fn set(aliases: &[&str]) -> BTreeSet<String> {
        aliases.iter().map(|alias| (*alias).to_owned()).collect()
    }

    #[test]
    fn modalias_files_are_found_at_any_depth() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let deep = folder.path().join("pci0000:00/0000:00:03.0/virtio0");
        fs::create_dir_all(&deep).expect("folders");
        fs::write(deep.join("modalias"), format!("{VIRTIO_NET}\n")).expect("a file");
        fs::write(folder.path().join("pci0000:00/modalias"), "\n").expect("a file");
        let mut found = BTreeSet::new();
        collect(folder.path(), DEPTH, &mut found);
        assert_eq!(found, set(&[VIRTIO_NET]));
    }
}
