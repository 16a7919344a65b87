//! Core: whether two pictures of a screen show the same, give or take.
//!
//! Fonts, sizes in the menu and firmware modes differ a little from machine to machine, so equality
//! is too strict. Two measures together catch what a person would call different: the mean
//! difference of all pixels (a wrong colour, a shifted layout) and the share of pixels that differ
//! clearly (a missing tile, other text).

use image::RgbImage;

/// A difference of a colour channel that an eye notices on a flat area.
const CLEARLY: u8 = 40;

/// A rectangle in which the pictures may differ: an address, a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Left edge in pixels.
    pub x: u32,
    /// Upper edge in pixels.
    pub y: u32,
    /// Pixels to the right.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

impl Region {
    fn holds(self, x: u32, y: u32) -> bool {
        (self.x..self.x + self.width).contains(&x) && (self.y..self.y + self.height).contains(&y)
    }
}

/// How far two pictures are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Mean absolute difference of the channels, 0 to 255.
    pub mean: f64,
    /// Share of pixels that differ clearly, 0 to 1.
    pub share: f64,
}

impl Difference {
    /// Close enough to be the same screen: at most 4 of 255 on average, 3 % of the pixels clearly.
    pub fn is_small(self) -> bool {
        self.mean <= 4.0 && self.share <= 0.03
    }
}

/// Compares two pictures outside the `ignored` regions; `None` when their sizes differ.
pub fn compare(one: &RgbImage, other: &RgbImage, ignored: &[Region]) -> Option<Difference> {
    if one.dimensions() != other.dimensions() {
        return None;
    }
    let (mut sum, mut clearly, mut pixels) = (0_u64, 0_u64, 0_u64);
    for ((x, y, a), b) in one.enumerate_pixels().zip(other.pixels()) {
        if ignored.iter().any(|region| region.holds(x, y)) {
            continue;
        }
        let channels = a.0.iter().zip(b.0).map(|(a, b)| a.abs_diff(b));
        sum += channels.clone().map(u64::from).sum::<u64>();
        clearly += u64::from(channels.max().unwrap_or(0) > CLEARLY);
        pixels += 1;
    }
    let pixels = pixels.max(1) as f64;
    Some(Difference { mean: sum as f64 / (3.0 * pixels), share: clearly as f64 / pixels })
}

/// Whether a picture shows anything: a black or one-coloured screen does not.
pub fn shows_something(picture: &RgbImage) -> bool {
    let Some(first) = picture.pixels().next() else { return false };
    let other = picture.pixels().filter(|pixel| *pixel != first).count();
    // A lone text cursor is about 20 pixels.
    other > 200
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(value: u8) -> RgbImage {
        RgbImage::from_pixel(100, 50, image::Rgb([value; 3]))
    }

    #[test]
    fn a_picture_is_like_itself() {
        let difference = compare(&flat(10), &flat(10), &[]).expect("same size");
        assert_eq!(difference, Difference { mean: 0.0, share: 0.0 });
    }

    #[test]
    fn another_colour_everywhere_is_not_the_same_screen() {
        let difference = compare(&flat(10), &flat(60), &[]).expect("same size");
        assert_eq!(difference, Difference { mean: 50.0, share: 1.0 });
        assert!(!difference.is_small());
    }

    #[test]
    fn what_differs_inside_an_ignored_region_does_not_count() {
        let mut other = flat(10);
        for x in 0..20 {
            other.put_pixel(x, 3, image::Rgb([200; 3]));
        }
        let region = Region { x: 0, y: 0, width: 20, height: 10 };
        let ignoring = compare(&flat(10), &other, &[region]).expect("same size");
        assert_eq!(ignoring.share, 0.0);
        let noticing = compare(&flat(10), &other, &[]).expect("same size");
        assert!(noticing.share > 0.0);
    }

    #[test]
    fn pictures_of_two_sizes_cannot_be_compared() {
        assert_eq!(compare(&flat(1), &RgbImage::new(3, 3), &[]), None);
    }

    #[test]
    fn a_black_screen_shows_nothing() {
        assert!(!shows_something(&flat(0)));
        let mut text = flat(0);
        for x in 0..100 {
            for y in 0..3 {
                text.put_pixel(x, y, image::Rgb([255; 3]));
            }
        }
        assert!(shows_something(&text));
    }
}
