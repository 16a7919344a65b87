//! Core: combines the events of one device into inputs.
//!
//! See linux/input-event-codes.h and the kernel's `Documentation/input/event-codes.rst`. Only the keys that move in the
//! picker have a meaning, so no keyboard layout is needed. Key repeat is the kernel's.

use evdev::{AbsoluteAxisCode, EventSummary, KeyCode, RelativeAxisCode, SynchronizationCode};

use super::event::Input;
use crate::screen::selection::Key;

/// A touchpad's width in steps of the pointer.
const TOUCHPAD_STEPS: f32 = 900.0;

/// How a device reports its pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointing {
    /// Steps, as a mouse.
    Relative,
    /// A place on the screen, as a tablet or a touchscreen.
    Absolute,
    /// A place on a pad, of which only the movement counts.
    Touchpad,
}

/// Combines the events of one device into [`Input`]s.
#[derive(Debug)]
pub struct Reader {
    pointing: Pointing,
    /// Smallest and largest value of the absolute axes.
    ranges: [Option<(i32, i32)>; 2],
    is_shifted: bool,
    moved: (i32, i32),
    at: [Option<f32>; 2],
    /// Where the finger was on a touchpad, while it touches.
    finger: [Option<f32>; 2],
}

impl Reader {
    /// The reader of a device that points like this, with these ranges of its absolute axes.
    #[must_use]
    pub fn new(pointing: Pointing, ranges: [Option<(i32, i32)>; 2]) -> Self {
        let (at, finger) = ([None; 2], [None; 2]);
        Self { pointing, ranges, is_shifted: false, moved: (0, 0), at, finger }
    }

    /// One event of the device; what it means is appended to `out`.
    pub fn read(&mut self, event: EventSummary, out: &mut Vec<Input>) {
        match event {
            EventSummary::Key(_, code, value) => self.key(code, value, out),
            EventSummary::RelativeAxis(_, RelativeAxisCode::REL_X, steps) => self.moved.0 += steps,
            EventSummary::RelativeAxis(_, RelativeAxisCode::REL_Y, steps) => self.moved.1 += steps,
            EventSummary::RelativeAxis(_, RelativeAxisCode::REL_WHEEL, notches) => {
                out.push(Input::Wheel(notches as f32));
            }
            EventSummary::AbsoluteAxis(_, AbsoluteAxisCode::ABS_X, value) => self.place(0, value),
            EventSummary::AbsoluteAxis(_, AbsoluteAxisCode::ABS_Y, value) => self.place(1, value),
            EventSummary::Synchronization(_, SynchronizationCode::SYN_REPORT, _) => {
                self.flush(out);
            }
            _ => {}
        }
    }

    fn key(&mut self, code: KeyCode, value: i32, out: &mut Vec<Input>) {
        let is_down = value != 0;
        match code {
            KeyCode::KEY_LEFTSHIFT | KeyCode::KEY_RIGHTSHIFT => self.is_shifted = is_down,
            KeyCode::BTN_TOUCH if self.pointing == Pointing::Touchpad => self.finger = [None; 2],
            KeyCode::BTN_LEFT | KeyCode::BTN_TOUCH => {
                // A tablet reports its new place in the same report: the press belongs there.
                self.flush(out);
                out.push(Input::Button(is_down));
            }
            KeyCode::KEY_POWER if value == 1 => out.push(Input::PowerButton),
            // Buttons of mice, joysticks and the like are not keys.
            KeyCode(code) if (KeyCode::BTN_0.0..KeyCode::KEY_OK.0).contains(&code) => {}
            code if is_down => {
                let key = meaning(code, self.is_shifted);
                out.push(Input::Key { key, repeated: value == 2 });
            }
            _ => {}
        }
    }

    fn place(&mut self, axis: usize, value: i32) {
        let Some((min, max)) = self.ranges[axis] else { return };
        let span = max as f32 - min as f32;
        let part = ((value as f32 - min as f32) / span).clamp(0.0, 1.0);
        self.at[axis] = Some(part);
    }

    /// The end of a report: what moved in it moved at once.
    fn flush(&mut self, out: &mut Vec<Input>) {
        let (dx, dy) = std::mem::take(&mut self.moved);
        if (dx, dy) != (0, 0) {
            let faster = acceleration(dx as f32, dy as f32);
            out.push(Input::PointerBy(dx as f32 * faster, dy as f32 * faster));
        }
        let at = std::mem::take(&mut self.at);
        if at == [None; 2] {
            return;
        }
        if self.pointing != Pointing::Touchpad {
            out.push(Input::PointerAt(at[0], at[1]));
            return;
        }
        let delta = |axis: usize| match (self.finger[axis], at[axis]) {
            (Some(before), Some(now)) => (now - before) * TOUCHPAD_STEPS,
            _ => 0.0,
        };
        let (dx, dy) = (delta(0), delta(1) * 0.6);
        for (finger, now) in self.finger.iter_mut().zip(at) {
            *finger = now.or(*finger);
        }
        if (dx, dy) != (0.0, 0.0) {
            out.push(Input::PointerBy(dx, dy));
        }
    }
}

/// Slow moves are exact, fast ones reach the other side of the screen: at most three times as far.
fn acceleration(dx: f32, dy: f32) -> f32 {
    1.0 + (dx.hypot(dy) / 14.0).min(2.0)
}

/// What a key means to the picker; the number pad counts as arrows.
fn meaning(code: KeyCode, is_shifted: bool) -> Key {
    match code {
        KeyCode::KEY_UP | KeyCode::KEY_KP8 => Key::Up,
        KeyCode::KEY_DOWN | KeyCode::KEY_KP2 => Key::Down,
        KeyCode::KEY_LEFT | KeyCode::KEY_KP4 => Key::Left,
        KeyCode::KEY_RIGHT | KeyCode::KEY_KP6 => Key::Right,
        KeyCode::KEY_HOME | KeyCode::KEY_KP7 => Key::Home,
        KeyCode::KEY_END | KeyCode::KEY_KP1 => Key::End,
        KeyCode::KEY_PAGEUP | KeyCode::KEY_KP9 => Key::PageUp,
        KeyCode::KEY_PAGEDOWN | KeyCode::KEY_KP3 => Key::PageDown,
        KeyCode::KEY_TAB if is_shifted => Key::BackTab,
        KeyCode::KEY_TAB => Key::Tab,
        KeyCode::KEY_ENTER | KeyCode::KEY_KPENTER | KeyCode::KEY_SPACE => Key::Enter,
        KeyCode::KEY_ESC => Key::Escape,
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use evdev::{EventType, InputEvent};

    use super::*;

    const SYN: (EventType, u16, i32) = (EventType::SYNCHRONIZATION, 0, 0);

    fn key(code: KeyCode, value: i32) -> (EventType, u16, i32) {
        (EventType::KEY, code.0, value)
    }

    fn rel(code: RelativeAxisCode, value: i32) -> (EventType, u16, i32) {
        (EventType::RELATIVE, code.0, value)
    }

    fn abs(code: AbsoluteAxisCode, value: i32) -> (EventType, u16, i32) {
        (EventType::ABSOLUTE, code.0, value)
    }

    /// Gives the events to a reader and compares what they mean.
    fn check(pointing: Pointing, events: &[(EventType, u16, i32)], expected: &[Input]) {
        let mut reader = Reader::new(pointing, [Some((0, 1000)), Some((0, 500))]);
        let mut inputs = Vec::new();
        for (kind, code, value) in events {
            let event = InputEvent::new(kind.0, *code, *value);
            reader.read(event.destructure(), &mut inputs);
        }
        assert_eq!(inputs, expected);
    }

    #[test]
    fn keys_are_reported_when_they_go_down_and_when_they_repeat() {
        let down = |repeated| Input::Key { key: Key::Down, repeated };
        let code = KeyCode::KEY_DOWN;
        let events = [key(code, 1), SYN, key(code, 2), SYN, key(code, 0), SYN];
        check(Pointing::Relative, &events, &[down(false), down(true)]);
    }

    #[test]
    fn shift_turns_tab_around_until_it_is_released() {
        let pressed = |key| Input::Key { key, repeated: false };
        let (shift, tab) = (KeyCode::KEY_LEFTSHIFT, KeyCode::KEY_TAB);
        let events = [key(shift, 1), key(tab, 1), key(tab, 0), key(shift, 0), key(tab, 1)];
        check(Pointing::Relative, &events, &[pressed(Key::BackTab), pressed(Key::Tab)]);
    }

    #[test]
    fn ctrl_alt_del_is_only_three_keys() {
        let other = Input::Key { key: Key::Other, repeated: false };
        let events =
            [KeyCode::KEY_LEFTCTRL, KeyCode::KEY_LEFTALT, KeyCode::KEY_DELETE].map(|c| key(c, 1));
        check(Pointing::Relative, &events, &[other; 3]);
    }

    #[test]
    fn a_slow_mouse_moves_nearly_step_by_step_and_a_fast_one_further() {
        let x = RelativeAxisCode::REL_X;
        check(Pointing::Relative, &[rel(x, 14), SYN], &[Input::PointerBy(28.0, 0.0)]);
        check(Pointing::Relative, &[rel(x, -100), SYN], &[Input::PointerBy(-300.0, 0.0)]);
        check(Pointing::Relative, &[SYN], &[]);
    }

    #[test]
    fn a_tablet_reports_its_place_before_its_button() {
        let (x, y) = (AbsoluteAxisCode::ABS_X, AbsoluteAxisCode::ABS_Y);
        let events = [abs(x, 500), abs(y, 500), key(KeyCode::BTN_LEFT, 1), SYN];
        let expected = [Input::PointerAt(Some(0.5), Some(1.0)), Input::Button(true)];
        check(Pointing::Absolute, &events, &expected);
    }

    #[test]
    fn a_touchpad_moves_with_the_finger_and_not_when_it_lands() {
        let x = AbsoluteAxisCode::ABS_X;
        let touch = KeyCode::BTN_TOUCH;
        let events = [
            (key(touch, 1)),
            abs(x, 900),
            SYN,
            abs(x, 1000),
            SYN,
            key(touch, 0),
            SYN,
            key(touch, 1),
            abs(x, 0),
            SYN,
        ];
        let mut reader = Reader::new(Pointing::Touchpad, [Some((0, 1000)), None]);
        let mut inputs = Vec::new();
        for (kind, code, value) in events {
            reader.read(InputEvent::new(kind.0, code, value).destructure(), &mut inputs);
        }
        assert!(
            matches!(inputs[..], [Input::PointerBy(dx, dy)] if (dx - 90.0).abs() < 0.1 && dy == 0.0),
            "{inputs:?}"
        );
    }

    #[test]
    fn wheel_and_power_button_are_reported() {
        let events = [
            rel(RelativeAxisCode::REL_WHEEL, -1),
            key(KeyCode::KEY_POWER, 1),
            key(KeyCode::BTN_SIDE, 1),
        ];
        check(Pointing::Relative, &events, &[Input::Wheel(-1.0), Input::PowerButton]);
    }
}
