//! Core: a system's picture from its name or from bytes of the catalog, as pixels of the wanted size.
//!
//! Every picture that cannot be shown becomes a letter on a coloured square: a lab's systems can be distinguished even
//! without any picture. The built-in ones are our own drawings in `assets/icons`.

use std::io::Cursor;

use image::imageops::FilterType;
use image::{ImageFormat, ImageReader, Limits, RgbaImage};

use crate::journey::{IconRef, MenuItem};

/// Limit for the bytes of a picture file: far above a good icon, far below what would hurt a node.
const MAX_FILE_BYTES: usize = 512 * 1024;
/// Limit for the pixels of a picture file in each direction.
const MAX_SIDE: u32 = 1024;

/// What to draw for one system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picture {
    /// An SVG drawing, not yet parsed.
    Svg(Vec<u8>),
    /// Pixels with straight alpha.
    Pixels(RgbaImage),
    /// A letter on a square of this colour (red, green, blue).
    Monogram(String, [u8; 3]),
}

/// The built-in drawings by name.
const BUILT_IN: &[(&str, &[u8])] = &[
    ("alpine", include_bytes!("../../assets/icons/alpine.svg")),
    ("arch", include_bytes!("../../assets/icons/arch.svg")),
    ("cluster", include_bytes!("../../assets/icons/cluster.svg")),
    ("code", include_bytes!("../../assets/icons/code.svg")),
    ("debian", include_bytes!("../../assets/icons/debian.svg")),
    ("desktop", include_bytes!("../../assets/icons/desktop.svg")),
    ("fedora", include_bytes!("../../assets/icons/fedora.svg")),
    ("installer", include_bytes!("../../assets/icons/installer.svg")),
    ("linux", include_bytes!("../../assets/icons/linux.svg")),
    ("live", include_bytes!("../../assets/icons/live.svg")),
    ("memory", include_bytes!("../../assets/icons/memory.svg")),
    ("mint", include_bytes!("../../assets/icons/mint.svg")),
    ("office", include_bytes!("../../assets/icons/office.svg")),
    ("opensuse", include_bytes!("../../assets/icons/opensuse.svg")),
    ("science", include_bytes!("../../assets/icons/science.svg")),
    ("terminal", include_bytes!("../../assets/icons/terminal.svg")),
    ("tools", include_bytes!("../../assets/icons/tools.svg")),
    ("ubuntu", include_bytes!("../../assets/icons/ubuntu.svg")),
];

/// The squares behind letters, each dark enough for a white letter.
const TINTS: [[u8; 3]; 8] = [
    [0x3a, 0x6e, 0xa5],
    [0x7a, 0x53, 0x9e],
    [0x2f, 0x80, 0x6c],
    [0xa0, 0x56, 0x3b],
    [0x52, 0x66, 0x8a],
    [0x9a, 0x47, 0x6a],
    [0x5c, 0x7d, 0x34],
    [0x8a, 0x6d, 0x24],
];

/// The names of the built-in drawings.
pub fn built_in_names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

/// The picture of this system.
#[must_use]
pub fn picture(item: &MenuItem) -> Picture {
    let found = match &item.icon {
        IconRef::Builtin(name) => built_in(name),
        IconRef::File(bytes) => file(bytes),
    };
    found.unwrap_or_else(|| monogram(&item.name))
}

/// A letter instead of a picture; the same name always gets the same colour.
#[must_use]
pub fn monogram(name: &str) -> Picture {
    let letter = name.chars().find(|c| c.is_alphanumeric()).unwrap_or('?');
    let sum = name.bytes().fold(7_usize, |sum, byte| sum.wrapping_mul(31) + usize::from(byte));
    Picture::Monogram(letter.to_uppercase().collect(), TINTS[sum % TINTS.len()])
}

fn built_in(name: &str) -> Option<Picture> {
    let (_, bytes) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
    Some(Picture::Svg(bytes.to_vec()))
}

/// A PNG is decoded here; an SVG only recognised.
fn file(bytes: &[u8]) -> Option<Picture> {
    if bytes.len() > MAX_FILE_BYTES {
        return None;
    }
    if bytes.starts_with(b"\x89PNG") {
        return png(bytes).map(Picture::Pixels);
    }
    let start = std::str::from_utf8(bytes).ok()?.trim_start_matches('\u{feff}').trim_start();
    let is_svg =
        start.starts_with("<svg") || (start.starts_with("<?xml") && start.contains("<svg"));
    is_svg.then(|| Picture::Svg(bytes.to_vec()))
}

fn png(bytes: &[u8]) -> Option<RgbaImage> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(u64::from(MAX_SIDE) * u64::from(MAX_SIDE) * 16);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Png);
    reader.limits(limits);
    Some(reader.decode().ok()?.to_rgba8())
}

/// Whether a drawing of this declared size may be drawn.
#[must_use]
pub fn is_fit_size(width: u32, height: u32) -> bool {
    (1..=MAX_SIDE).contains(&width) && (1..=MAX_SIDE).contains(&height)
}

/// Fits these pixels into a square of `side` pixels: the software renderer itself does not smooth.
///
/// Colours are weighted by their alpha, so that transparent pixels leave no fringe.
#[must_use]
pub fn fitted(pixels: &RgbaImage, side: u32) -> RgbaImage {
    let scale = f64::from(side) / f64::from(pixels.width().max(pixels.height()).max(1));
    let fit = |length: u32| ((f64::from(length) * scale).round() as u32).clamp(1, side.max(1));
    let mut weighted = pixels.clone();
    for pixel in weighted.pixels_mut() {
        let alpha = u16::from(pixel[3]);
        for channel in &mut pixel.0[..3] {
            *channel = (u16::from(*channel) * alpha / 255) as u8;
        }
    }
    let (width, height) = (fit(pixels.width()), fit(pixels.height()));
    let mut small = image::imageops::resize(&weighted, width, height, FilterType::Triangle);
    for pixel in small.pixels_mut() {
        let alpha = u16::from(pixel[3]).max(1);
        for channel in &mut pixel.0[..3] {
            *channel = (u16::from(*channel) * 255 / alpha).min(255) as u8;
        }
    }
    small
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, icon: IconRef) -> MenuItem {
        let id = "x".parse().expect("a test id");
        MenuItem { id, name: name.to_owned(), note: String::new(), icon, size: 0, obstacle: None }
    }

    fn png_of(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        RgbaImage::new(width, height).write_to(&mut bytes, ImageFormat::Png).expect("in memory");
        bytes.into_inner()
    }

    /// The kind of picture these bytes become.
    fn check(bytes: &[u8], expected: &str) {
        let kind = match picture(&item("Über-Linux", IconRef::File(bytes.to_vec()))) {
            Picture::Svg(_) => "svg".to_owned(),
            Picture::Pixels(pixels) => format!("{}x{}", pixels.width(), pixels.height()),
            Picture::Monogram(letter, _) => letter,
        };
        assert_eq!(kind, expected);
    }

    #[test]
    fn good_files_are_shown_and_bad_ones_become_a_letter() {
        check(&png_of(40, 20), "40x20");
        check(b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>", "svg");
        check(b"\xef\xbb\xbf<?xml version=\"1.0\"?>\n<svg/>", "svg");
        check(&png_of(40, 20)[..60], "Ü");
        check(&png_of(MAX_SIDE + 1, 1), "Ü");
        check(b"", "Ü");
        check(b"GIF89a", "Ü");
        check(&vec![b'<'; MAX_FILE_BYTES + 1], "Ü");
    }

    #[test]
    fn every_flipped_byte_of_a_png_is_survived() {
        let good = png_of(8, 8);
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 0xff;
            let _shown_or_letter = picture(&item("x", IconRef::File(bad)));
        }
    }

    #[test]
    fn an_unknown_name_becomes_the_first_letter_of_the_system() {
        let shown = picture(&item("(old) system", IconRef::Builtin("no-such".to_owned())));
        assert!(matches!(shown, Picture::Monogram(letter, _) if letter == "O"));
        assert!(matches!(monogram("—"), Picture::Monogram(letter, _) if letter == "?"));
    }

    #[test]
    fn fitting_keeps_the_shape_and_the_colour_at_soft_edges() {
        let mut wide = RgbaImage::from_pixel(100, 50, image::Rgba([200, 100, 50, 255]));
        for y in 0..50 {
            wide.put_pixel(0, y, image::Rgba([0, 0, 0, 0]));
        }
        let small = fitted(&wide, 40);
        assert_eq!((small.width(), small.height()), (40, 20));
        let edge = small.get_pixel(0, 10);
        assert!(edge[3] < 255 && edge[0].abs_diff(200) <= 3, "{edge:?}");
    }

    #[test]
    fn built_in_names_are_sorted_and_unique() {
        let names: Vec<_> = built_in_names().collect();
        assert!(names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
