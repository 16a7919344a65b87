//! Core: what a person does with keyboard and pointer.

use crate::screen::selection::Key;

/// What a person did with one device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Input {
    /// A key went down; `repeated` when it was down before.
    Key {
        /// Which one.
        key: Key,
        /// Whether the kernel repeats it.
        repeated: bool,
    },
    /// The PC's power button.
    PowerButton,
    /// The pointer moved by so many steps.
    PointerBy(f32, f32),
    /// The pointer is at this part of the screen's width and height, 0 to 1; an axis that is `None` stays.
    PointerAt(Option<f32>, Option<f32>),
    /// The main button went down or up.
    Button(bool),
    /// The wheel turned by so many notches, up is positive.
    Wheel(f32),
}
