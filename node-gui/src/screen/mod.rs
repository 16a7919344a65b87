//! Shell: what a person sees and does: the picker's window, or lines of text where there is no screen.
//!
//! ```text
//! journey -> present -> window        what each step shows, and its pixels
//! input -> selection -> window        what the person does, and where the highlight goes
//! ```

pub mod fonts;
pub mod icons;
pub mod input;
pub mod present;
pub mod selection;
pub mod text_mode;
pub mod window;
