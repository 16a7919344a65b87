//! Core: for which devices a driver is requested, by their `modalias`.

use std::collections::BTreeSet;

/// The aliases asked for so far.
#[derive(Debug, Default)]
pub struct Aliases {
    asked: BTreeSet<String>,
    /// Whether screens count too.
    pub with_display: bool,
}

impl Aliases {
    /// The aliases among `found` to ask for now; each is asked for once.
    pub fn take_new(&mut self, found: BTreeSet<String>) -> Vec<String> {
        let mut new = Vec::new();
        for alias in found {
            if (self.with_display || !is_display(&alias)) && !self.asked.contains(&alias) {
                self.asked.insert(alias.clone());
                new.push(alias);
            }
        }
        new
    }
}

/// Whether this device is a screen: PCI class 03, virtio device 16, Hyper-V's synthetic video.
fn is_display(alias: &str) -> bool {
    let is_pci_display = alias.starts_with("pci:") && alias.contains("bc03");
    is_pci_display
        || alias.starts_with("virtio:d00000010v")
        || alias.starts_with("vmbus:da0a7802e3774aac8e770558eb1073f8")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET: &str = "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00";
    const BOCHS: &str = "pci:v00001234d00001111sv00001AF4sd00001100bc03sc00i00";
    const VIRTIO_GPU: &str = "virtio:d00000010v00001AF4";
    const VIRTIO_NET: &str = "virtio:d00000001v00001AF4";

    fn set(aliases: &[&str]) -> BTreeSet<String> {
        aliases.iter().map(|alias| (*alias).to_owned()).collect()
    }

    #[test]
    fn each_device_is_asked_for_once() {
        let mut aliases = Aliases::default();
        assert_eq!(aliases.take_new(set(&[NET])), [NET]);
        assert_eq!(aliases.take_new(set(&[NET, VIRTIO_NET])), [VIRTIO_NET]);
        assert!(aliases.take_new(set(&[NET, VIRTIO_NET])).is_empty());
    }

    #[test]
    fn display_drivers_wait_until_they_are_needed() {
        let mut aliases = Aliases::default();
        let found = set(&[BOCHS, NET, VIRTIO_GPU]);
        assert_eq!(aliases.take_new(found.clone()), [NET]);
        aliases.with_display = true;
        assert_eq!(aliases.take_new(found), [BOCHS, VIRTIO_GPU]);
    }
}
