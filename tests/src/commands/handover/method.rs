//! Core: the boot methods: how an image can get to its system.

use clap::ValueEnum;

/// How an image gets to its system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// The image stays where it was downloaded
    Pmem,
    /// The image is a file of the initramfs
    Initrd,
    /// kexec-tools: image appended to the initrd, loaded by the kernel
    KexecTools,
}

impl Method {
    /// As `--methods` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pmem => "pmem",
            Self::Initrd => "initrd",
            Self::KexecTools => "kexec-tools",
        }
    }

    /// Sizes to begin with, in MiB, for an image of so many: surely too small, and probably enough.
    pub fn guess(self, image: u32) -> (u32, u32) {
        match self {
            Self::Pmem => (image, image + 448),
            Self::Initrd => (image, 2 * image + 512),
            Self::KexecTools => (2 * image, 4 * image + 512),
        }
    }
}
