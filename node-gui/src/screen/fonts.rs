//! Shell: gives the screen its typeface.
//!
//! Without any font Slint's text layout would panic, so a missing one is detected here first and reported. The
//! initramfs has no fontconfig; the files are registered one by one from known folders.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slint::fontique_011::fontique::{Blob, GenericFamily};

/// Where Inter is: in the initramfs, and on Debian with the package fonts-inter.
const FOLDERS: [&str; 2] = ["/usr/share/fonts/inter", "/usr/share/fonts/opentype/inter"];
/// The weights that the theme uses; other files of the typeface are left out.
const FILES: [&str; 4] =
    ["Inter-Regular.otf", "Inter-Medium.otf", "Inter-SemiBold.otf", "Inter-Bold.otf"];

/// No font can be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "no font found: none of {looked_for:?} can be read; build the initramfs with the package fonts-inter installed"
)]
pub struct NoFont {
    looked_for: Vec<PathBuf>,
}

/// Registers the typeface with Slint; call it after the platform is chosen and before the first window.
///
/// # Errors
/// When no file of the typeface can be read.
pub fn register() -> Result<(), NoFont> {
    let folder = FOLDERS.iter().map(Path::new).find(|folder| folder.join(FILES[0]).is_file());
    let folder = folder.unwrap_or(Path::new(FOLDERS[0]));
    let looked_for: Vec<PathBuf> = FILES.iter().map(|file| folder.join(file)).collect();
    let mut collection = slint::fontique_011::shared_collection();
    let mut families = Vec::new();
    for bytes in looked_for.iter().filter_map(|path| fs::read(path).ok()) {
        let registered = collection.register_fonts(Blob::new(Arc::new(bytes)), None);
        families.extend(registered.into_iter().map(|(family, _)| family));
    }
    families.dedup();
    if families.is_empty() {
        return Err(NoFont { looked_for });
    }
    for generic in [GenericFamily::SansSerif, GenericFamily::SystemUi] {
        collection.set_generic_families(generic, families.iter().copied());
    }
    Ok(())
}
