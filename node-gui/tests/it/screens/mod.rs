//! The picker's screens, drawn in memory and worked by keyboard and pointer.

mod canvas;
mod samples;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bt_node::journey::{Countdown, DownloadProgress, IconRef, Journey, Menu, Problem, UiEvent};
use bt_node::screen::input::event::Input;
use bt_node::screen::present::present;
use bt_node::screen::selection::Key::{self, Down, Enter, Escape, Home, Left, Right, Tab, Up};
use image::RgbImage;

use self::canvas::Canvas;
use self::samples::{id, menu};

/// A picker that remembers what the person did.
struct Picker {
    canvas: Canvas,
    events: Rc<RefCell<Vec<UiEvent>>>,
}

impl Picker {
    fn showing(journey: &Journey) -> Self {
        let canvas = Canvas::new(1024, 768);
        let events = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&events);
        canvas.window.on_event(move |event| sink.borrow_mut().push(event));
        canvas.show(&present(journey));
        Self { canvas, events }
    }

    fn press(&self, keys: &[Key]) -> Vec<UiEvent> {
        for key in keys {
            self.canvas.window.input(Input::Key { key: *key, repeated: false });
        }
        self.events.take()
    }

    fn point(&self, x: f32, y: f32) {
        self.canvas.window.input(Input::PointerAt(Some(x), Some(y)));
    }

    fn click(&self, x: f32, y: f32) -> Vec<UiEvent> {
        self.point(x, y);
        self.canvas.window.input(Input::Button(true));
        self.canvas.window.input(Input::Button(false));
        self.events.take()
    }
}

fn choosing(menu: Arc<Menu>) -> Journey {
    Journey::Menu { menu, countdown: None }
}

/// Presses the keys on this screen and compares the picker's events.
fn check(journey: &Journey, keys: &[Key], expected: &[UiEvent]) {
    let picker = Picker::showing(journey);
    assert_eq!(picker.press(keys), expected, "after {keys:?}");
}

fn downloading() -> Journey {
    let progress = DownloadProgress { done: 1, total: 2, ..DownloadProgress::default() };
    Journey::Downloading { menu: menu(6), system: id("alpine"), progress }
}

fn stopped() -> Journey {
    Journey::Stopped { menu: Some(menu(6)), system: None, problem: Problem::internal("x") }
}

/// Pixels in which two pictures differ.
fn difference(a: &RgbImage, b: &RgbImage) -> usize {
    a.pixels().zip(b.pixels()).filter(|(a, b)| a != b).count()
}

#[test]
fn enter_chooses_the_default_at_once() {
    check(&choosing(menu(6)), &[Enter], &[UiEvent::Choose(id("debian-12"))]);
}

#[test]
fn arrows_choose_any_tile_of_the_grid() {
    // 1024x768 shows three tiles side by side.
    let expected = [UiEvent::Choose(id("compute"))];
    check(&choosing(menu(6)), &[Right, Right, Down, Enter], &expected);
}

#[test]
fn the_buttons_below_the_tiles_work_by_tab_and_by_arrows() {
    let expected = [UiEvent::Restart, UiEvent::PowerOff];
    check(&choosing(menu(3)), &[Tab, Enter, Up, Down, Right, Enter], &expected);
}

#[test]
fn a_key_that_stops_the_countdown_still_does_its_work() {
    let countdown = Some(Countdown { system: id("debian-12"), seconds_left: 9 });
    let journey = Journey::Menu { menu: menu(6), countdown };
    check(&journey, &[Right], &[UiEvent::AnyKey]);
}

#[test]
fn escape_cancels_a_download_and_a_hasty_enter_does_not() {
    check(&downloading(), &[Enter, Escape], &[UiEvent::Cancel]);
}

#[test]
fn cancel_is_reached_by_tab() {
    check(&downloading(), &[Tab, Enter], &[UiEvent::Cancel]);
}

#[test]
fn a_problem_offers_another_try_first_and_the_list_next() {
    check(&stopped(), &[Enter], &[UiEvent::Retry]);
}

#[test]
fn every_button_of_a_problem_is_reached_by_keys() {
    let expected = [UiEvent::Back, UiEvent::PowerOff, UiEvent::Back];
    check(&stopped(), &[Right, Enter, Right, Right, Enter, Home, Escape], &expected);
}

#[test]
fn a_held_enter_key_does_not_run_through_the_screens() {
    let picker = Picker::showing(&choosing(menu(6)));
    picker.canvas.window.input(Input::Key { key: Enter, repeated: true });
    assert_eq!(picker.events.take(), []);
}

#[test]
fn the_highlight_stays_while_the_countdown_and_progress_go_on() {
    let menu = menu(6);
    let picker = Picker::showing(&choosing(Arc::clone(&menu)));
    picker.press(&[Right]);
    picker.canvas.show(&present(&choosing(menu)));
    assert_eq!(picker.press(&[Enter]), [UiEvent::Choose(id("ubuntu"))]);
}

#[test]
fn after_a_cancelled_download_its_tile_is_highlighted_again() {
    let picker = Picker::showing(&choosing(menu(6)));
    picker.press(&[Right, Enter]);
    picker.canvas.show(&present(&downloading()));
    picker.press(&[Escape]);
    picker.canvas.show(&present(&choosing(menu(6))));
    assert_eq!(picker.press(&[Enter]), [UiEvent::Choose(id("ubuntu"))]);
}

#[test]
fn a_click_on_a_tile_chooses_it() {
    let picker = Picker::showing(&choosing(menu(6)));
    assert_eq!(picker.click(0.5, 0.45), [UiEvent::Choose(id("ubuntu"))]);
}

#[test]
fn the_pointer_is_drawn_when_it_moves_and_hidden_when_it_rests() {
    let picker = Picker::showing(&downloading());
    let before = picker.canvas.draw();
    picker.point(0.1, 0.8);
    let pointed = picker.canvas.draw();
    assert!(difference(&before, &pointed) > 50, "a pointer is drawn");
    picker.canvas.wait(std::time::Duration::from_secs(6));
    assert_eq!(difference(&before, &picker.canvas.draw()), 0, "the pointer is hidden again");
}

#[test]
fn keys_scroll_the_selected_tile_into_sight_and_the_wheel_scrolls_too() {
    let picker = Picker::showing(&choosing(menu(14)));
    let top = picker.canvas.draw();
    picker.press(&[Down, Down, Down, Down]);
    let bottom = picker.canvas.draw();
    assert!(difference(&top, &bottom) > 20_000, "the list scrolled");
    picker.press(&[Up, Up, Up, Up, Left]);
    assert_eq!(difference(&top, &picker.canvas.draw()), 0, "and came back");
    picker.point(0.5, 0.5);
    let before = picker.canvas.draw();
    picker.canvas.window.input(Input::Wheel(-3.0));
    assert!(difference(&before, &picker.canvas.draw()) > 20_000, "the wheel scrolled");
}

#[test]
fn every_screen_is_drawn_at_every_size() {
    let canvas = Canvas::new(1024, 768);
    for (width, height) in [(800, 600), (1280, 800), (1920, 1200)] {
        canvas.resize(width, height);
        for (name, journey) in samples::all() {
            let drawn = canvas.show(&present(&journey));
            let ground = *drawn.get_pixel(0, height - 1);
            let inked = drawn.pixels().filter(|pixel| **pixel != ground).count();
            assert!(inked > 1_000, "{name} at {width}x{height} is empty");
        }
    }
}

#[test]
fn pictures_that_cannot_be_drawn_become_letters() {
    let bombs: [&[u8]; 4] = [
        b"<svg xmlns='http://www.w3.org/2000/svg' width='900000' height='900000'/>",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='0' height='0'/>",
        b"<svg",
        b"\x89PNG\r\n\x1a\nbroken",
    ];
    let mut broken = Menu::clone(&menu(4));
    for (item, bytes) in broken.systems.iter_mut().zip(bombs) {
        item.icon = IconRef::File(bytes.to_vec());
    }
    let picker = Picker::showing(&choosing(Arc::new(broken)));
    assert_eq!(picker.press(&[Enter]), [UiEvent::Choose(id("debian-12"))]);
}
