//! Shell: the only module that touches the generated Slint types. It copies a [`Presentation`] to the screen and
//! turns keys and pointer into [`UiEvent`]s.
//!
//! Slint belongs to the main thread: [`Window`] stays there, and a [`Handle`] lets other threads reach it.

#[allow(clippy::all, clippy::todo, clippy::unwrap_used, reason = "made by the Slint compiler")]
mod generated {
    slint::include_modules!();
}

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bt_catalog::SystemId;
use slint::platform::{PointerEventButton, WindowEvent};
use slint::{
    ComponentHandle, Image, LogicalPosition, ModelRc, Rgba8Pixel, SharedPixelBuffer, VecModel,
};

use self::generated::{Action, App, Glyph, Hint, Icon, Stage, Theme, Tile, View};
use crate::journey::{Menu, MenuItem, UiEvent};
use crate::screen::fonts::{self, NoFont};
use crate::screen::icons::{self, Picture};
use crate::screen::input::event::Input;
use crate::screen::present::{self, CountdownLine, Presentation, Screen, Working};
use crate::screen::selection::{Focus, Key, Press, Selection};

/// The screen for which `theme.slint` gives its lengths.
const DESIGNED_FOR: (f32, f32) = (1280.0, 800.0);
/// Smaller type could not be read on a small screen, larger would waste a big one.
const SCALES: (f32, f32) = (0.8, 3.0);
/// Screens at least so wide, in lengths of the theme, show three and four tiles side by side.
const WIDE: [f32; 2] = [1120.0, 1640.0];
/// How long a pointer that does not move stays visible.
const POINTER_REST: Duration = Duration::from_secs(5);
/// Lengths of the theme that one notch of the wheel scrolls.
const WHEEL_STEP: f32 = 84.0;
/// Side lengths of a system's picture on a tile and on the working screen, as `icon` and `icon-large` in the theme.
const ICON: f32 = 64.0;
const ICON_LARGE: f32 = 88.0;

/// Why there can be no picker on this machine.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// No font can be read.
    #[error(transparent)]
    NoFont(#[from] NoFont),
    /// No screen can be opened, or it was lost.
    #[error("cannot open a screen: {0}; connect a monitor and restart the PC")]
    NoScreen(#[from] slint::PlatformError),
}

/// The window is closed: its event loop ended, or never began.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the picker's window is closed")]
pub struct Closed;

thread_local! {
    /// The window of this thread, for the closures that a [`Handle`] sends here.
    static WINDOW: RefCell<Weak<Inner>> = const { RefCell::new(Weak::new()) };
}

/// The picker on the screen.
pub struct Window {
    inner: Rc<Inner>,
}

/// Reaches the window from any thread.
#[derive(Debug, Clone)]
pub struct Handle(());

/// Receives what the person does.
type Listener = Rc<dyn Fn(UiEvent)>;

struct Inner {
    app: App,
    state: RefCell<State>,
    listener: RefCell<Option<Listener>>,
    pointer_rest: slint::Timer,
    /// The scale that the pictures were made for.
    scale: Cell<f32>,
}

/// What is on the screen now.
struct State {
    shown: Option<Presentation>,
    selection: Selection,
    /// The menu that the tiles were made from.
    menu: Option<Arc<Menu>>,
    /// What the person chose last: after a cancelled download it is highlighted again.
    chosen: Option<SystemId>,
    /// The seconds at which the countdown began.
    countdown_from: u32,
    pointer: Option<LogicalPosition>,
}

impl Window {
    /// Opens the screen.
    ///
    /// # Errors
    /// When there is no screen or no font.
    pub fn new() -> Result<Self, WindowError> {
        fonts::register()?;
        let inner = Rc::new(Inner {
            app: App::new()?,
            state: RefCell::new(State {
                shown: None,
                selection: Selection::new(0, 1, 0, 0),
                menu: None,
                chosen: None,
                countdown_from: 0,
                pointer: None,
            }),
            listener: RefCell::new(None),
            pointer_rest: slint::Timer::default(),
            scale: Cell::new(0.0),
        });
        WINDOW.set(Rc::downgrade(&inner));
        inner.connect();
        inner.fit();
        inner.app.show()?;
        Ok(Self { inner })
    }

    /// A handle to this window for other threads.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(())
    }

    /// Puts this on the screen.
    pub fn show(&self, presentation: &Presentation) {
        self.inner.show(presentation);
    }

    /// Sets the listener for what the person does; replaces the previous one.
    pub fn on_event(&self, listener: impl Fn(UiEvent) + 'static) {
        *self.inner.listener.borrow_mut() = Some(Rc::new(listener));
    }

    /// What a person did with keyboard or pointer.
    pub fn input(&self, input: Input) {
        self.inner.input(input);
    }

    /// Shows the screen until [`Handle::quit`].
    ///
    /// # Errors
    /// When the screen is lost.
    pub fn run(&self) -> Result<(), WindowError> {
        self.inner.fit();
        Ok(slint::run_event_loop_until_quit()?)
    }
}

impl Handle {
    /// Puts this on the screen.
    ///
    /// # Errors
    /// When the window is closed.
    pub fn show(&self, presentation: Presentation) -> Result<(), Closed> {
        on_window(move |inner| inner.show(&presentation))
    }

    /// What a person did with keyboard or pointer.
    ///
    /// # Errors
    /// When the window is closed.
    pub fn input(&self, inputs: Vec<Input>) -> Result<(), Closed> {
        on_window(move |inner| inputs.into_iter().for_each(|input| inner.input(input)))
    }

    /// Ends [`Window::run`].
    ///
    /// # Errors
    /// When the window is closed already.
    pub fn quit(&self) -> Result<(), Closed> {
        slint::quit_event_loop().map_err(|_| Closed)
    }
}

/// Runs this on the window's thread.
fn on_window(work: impl FnOnce(&Rc<Inner>) + Send + 'static) -> Result<(), Closed> {
    let work = move || {
        if let Some(inner) = WINDOW.with_borrow(Weak::upgrade) {
            work(&inner);
        }
    };
    slint::invoke_from_event_loop(work).map_err(|_| Closed)
}

// Keys and pointer.
impl Inner {
    /// Connects what the screens report.
    fn connect(self: &Rc<Self>) {
        let view = self.app.global::<View>();
        let with = |act: fn(&Self, usize)| {
            let this = Rc::downgrade(self);
            move |index: i32| {
                if let (Some(this), Ok(index)) = (this.upgrade(), usize::try_from(index)) {
                    act(&this, index);
                }
            }
        };
        view.on_tile_hovered(with(|this, index| this.hover(Focus::Tile(index))));
        view.on_action_hovered(with(|this, index| this.hover(Focus::Button(index))));
        view.on_tile_chosen(with(|this, index| this.activate(Focus::Tile(index))));
        view.on_action_chosen(with(|this, index| this.activate(Focus::Button(index))));
    }

    fn emit(&self, event: UiEvent) {
        // Cloned out, so that a listener may show something or replace itself.
        let listener = self.listener.borrow().clone();
        if let Some(listener) = listener {
            listener(event);
        }
    }

    fn input(&self, input: Input) {
        if !matches!(input, Input::PointerBy(..) | Input::PointerAt(..)) || self.is_real_move(input)
        {
            self.stop_countdown();
        }
        match input {
            Input::Key { key, repeated } => self.key(key, repeated),
            Input::PowerButton => self.emit(UiEvent::PowerOff),
            Input::PointerBy(dx, dy) => self.move_pointer(|at, _| {
                at.x += dx;
                at.y += dy;
            }),
            Input::PointerAt(x, y) => self.move_pointer(|at, (width, height)| {
                at.x = x.map_or(at.x, |x| x * width);
                at.y = y.map_or(at.y, |y| y * height);
            }),
            Input::Button(is_down) => self.button(is_down),
            Input::Wheel(notches) => self.wheel(notches),
        }
    }

    /// Whether the pointer leaves its place: a tablet reports its place at start, and repeatedly.
    fn is_real_move(&self, input: Input) -> bool {
        let Some(at) = self.state.borrow().pointer else { return false };
        let (width, height) = self.size();
        let far = |now: Option<f32>, before: f32, full: f32| {
            now.is_some_and(|now| (now * full - before).abs() > 2.0)
        };
        match input {
            Input::PointerAt(x, y) => far(x, at.x, width) || far(y, at.y, height),
            _ => true,
        }
    }

    fn stop_countdown(&self) {
        let is_counting = matches!(
            self.state.borrow().shown.as_ref().map(|shown| &shown.screen),
            Some(Screen::Menu { countdown: Some(_), .. })
        );
        if is_counting {
            self.emit(UiEvent::AnyKey);
        }
    }

    fn key(&self, key: Key, repeated: bool) {
        // A key that is held would run through every screen that follows.
        if repeated && matches!(key, Key::Enter | Key::Escape | Key::Other) {
            return;
        }
        let press = self.state.borrow_mut().selection.press(key);
        match press {
            Press::Moved => self.show_selection(),
            Press::Activate(focus) => self.activate(focus),
            Press::Escape => {
                let escape = self.state.borrow().shown.as_ref().and_then(|s| s.escape.clone());
                if let Some(event) = escape {
                    self.emit(event);
                }
            }
        }
    }

    fn hover(&self, focus: Focus) {
        self.state.borrow_mut().selection.hover(focus);
        self.show_selection();
    }

    fn activate(&self, focus: Focus) {
        self.hover(focus);
        let event = match (self.state.borrow().shown.as_ref(), focus) {
            (Some(Presentation { screen: Screen::Menu { tiles, .. }, .. }), Focus::Tile(index)) => {
                tiles.get(index).map(|tile| UiEvent::Choose(tile.id.clone()))
            }
            (Some(shown), Focus::Button(index)) => {
                shown.buttons.get(index).map(|button| button.event.clone())
            }
            _ => None,
        };
        if let Some(UiEvent::Choose(id)) = &event {
            self.state.borrow_mut().chosen = Some(id.clone());
        }
        if let Some(event) = event {
            self.emit(event);
        }
    }

    /// Width and height of the screen in logical pixels.
    fn size(&self) -> (f32, f32) {
        let window = self.app.window();
        let size = window.size().to_logical(window.scale_factor());
        (size.width, size.height)
    }

    fn move_pointer(&self, change: impl FnOnce(&mut LogicalPosition, (f32, f32))) {
        let (width, height) = self.size();
        let middle = LogicalPosition::new(width / 2.0, height / 2.0);
        let mut at = self.state.borrow().pointer.unwrap_or(middle);
        change(&mut at, (width, height));
        at.x = at.x.clamp(0.0, (width - 1.0).max(0.0));
        at.y = at.y.clamp(0.0, (height - 1.0).max(0.0));
        self.state.borrow_mut().pointer = Some(at);
        self.show_pointer(at);
        self.app.window().dispatch_event(WindowEvent::PointerMoved { position: at });
    }

    fn button(&self, is_down: bool) {
        let Some(position) = self.state.borrow().pointer else { return };
        self.show_pointer(position);
        let button = PointerEventButton::Left;
        self.app.window().dispatch_event(match is_down {
            true => WindowEvent::PointerPressed { position, button },
            false => WindowEvent::PointerReleased { position, button },
        });
    }

    fn wheel(&self, notches: f32) {
        let (width, height) = self.size();
        let middle = LogicalPosition::new(width / 2.0, height / 2.0);
        let position = self.state.borrow().pointer.unwrap_or(middle);
        let delta_y = notches * WHEEL_STEP * self.scale.get();
        let event = WindowEvent::PointerScrolled { position, delta_x: 0.0, delta_y };
        self.app.window().dispatch_event(event);
    }

    fn show_pointer(&self, at: LogicalPosition) {
        let view = self.app.global::<View>();
        view.set_pointer_x(at.x);
        view.set_pointer_y(at.y);
        view.set_pointer_shown(true);
        let app = self.app.as_weak();
        self.pointer_rest.start(slint::TimerMode::SingleShot, POINTER_REST, move || {
            if let Some(app) = app.upgrade() {
                app.global::<View>().set_pointer_shown(false);
            }
        });
    }
}

// From a presentation to the screen.
impl Inner {
    /// Fits the theme to the screen's size.
    fn fit(&self) {
        let (width, height) = self.size();
        let scale = (width / DESIGNED_FOR.0).min(height / DESIGNED_FOR.1);
        let scale = scale.clamp(SCALES.0, SCALES.1);
        if scale != self.scale.replace(scale) {
            self.app.global::<Theme>().set_scale(scale);
            self.state.borrow_mut().menu = None;
        }
    }

    fn show(&self, presentation: &Presentation) {
        self.fit();
        self.select(presentation);
        let view = self.app.global::<View>();
        view.set_lab((&presentation.lab).into());
        view.set_place((&presentation.place).into());
        view.set_actions(model(presentation.buttons.iter().map(action)));
        view.set_hints(model(presentation.hints.iter().map(hint)));
        match &presentation.screen {
            Screen::Connecting { headline, detail, step } => {
                view.set_steps(model(present::CONNECTING_STEPS.map(Into::into)));
                self.say(Stage::Connecting, headline, detail, *step);
            }
            Screen::Menu { menu, headline, detail, countdown, .. } => {
                self.show_tiles(menu);
                self.show_countdown(countdown.as_ref());
                self.say(Stage::Menu, headline, detail, 0);
            }
            Screen::Working(work) => self.show_work(work),
            Screen::Stopped(problem) => {
                view.set_what((&problem.what).into());
                view.set_why((&problem.why).into());
                view.set_next_step((&problem.next_step).into());
                self.say(Stage::Stopped, "", &problem.detail, 0);
            }
            Screen::Leaving { headline, detail } => self.say(Stage::Leaving, headline, detail, 0),
        }
        self.state.borrow_mut().shown = Some(presentation.clone());
        self.show_selection();
    }

    /// Begins a new highlight when the screen is another one; progress on the same screen keeps it.
    fn select(&self, next: &Presentation) {
        let mut state = self.state.borrow_mut();
        let is_same = state.shown.as_ref().is_some_and(|shown| {
            let same_screen = match (&shown.screen, &next.screen) {
                (Screen::Menu { menu: a, .. }, Screen::Menu { menu: b, .. }) => Arc::ptr_eq(a, b),
                (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
            };
            same_screen && shown.buttons == next.buttons
        });
        if is_same {
            return;
        }
        let buttons = next.buttons.len();
        state.selection = match &next.screen {
            Screen::Menu { tiles, first, .. } => {
                let chosen = tiles.iter().position(|tile| Some(&tile.id) == state.chosen.as_ref());
                let first = chosen.unwrap_or(*first);
                Selection::new(tiles.len(), self.columns(tiles.len()), buttons, first)
            }
            // A second Enter, pressed in haste, must not cancel what the first one began.
            Screen::Working(_) => Selection::resting(buttons),
            _ => Selection::new(0, 1, buttons, 0),
        };
    }

    /// Tiles side by side.
    fn columns(&self, tiles: usize) -> usize {
        let width = self.size().0 / self.scale.get();
        let most = 2 + WIDE.iter().filter(|wide| width >= **wide).count();
        // Four tiles look better two by two than three and one.
        let most = if tiles == 4 { 2 } else { most };
        tiles.clamp(1, most)
    }

    fn show_selection(&self) {
        let selection = self.state.borrow().selection;
        let view = self.app.global::<View>();
        view.set_tiles_focused(matches!(selection.focus(), Focus::Tile(_)));
        view.set_selected(selection.tile().map_or(-1, |index| index as i32));
        view.set_focused_action(match selection.focus() {
            Focus::Button(index) => index as i32,
            Focus::Tile(_) | Focus::Nothing => -1,
        });
    }

    fn say(&self, stage: Stage, headline: &str, detail: &str, step: usize) {
        let view = self.app.global::<View>();
        view.set_headline(headline.into());
        view.set_detail(detail.into());
        view.set_step(step as i32);
        view.set_stage(stage);
    }

    /// Pictures are made once for each menu, not for each second of its countdown.
    fn show_tiles(&self, menu: &Arc<Menu>) {
        let mut state = self.state.borrow_mut();
        if state.menu.as_ref().is_some_and(|before| Arc::ptr_eq(before, menu)) {
            return;
        }
        let view = self.app.global::<View>();
        let tile = |item: &MenuItem| {
            let present::Tile { name, note, size, obstacle, .. } = present::tile(item);
            let icon = self.icon(item, ICON);
            Tile {
                name: name.into(),
                note: note.into(),
                size: size.into(),
                obstacle: obstacle.into(),
                icon,
            }
        };
        view.set_columns(self.columns(menu.systems.len()) as i32);
        view.set_tiles(model(menu.systems.iter().map(tile)));
        state.menu = Some(Arc::clone(menu));
    }

    fn show_countdown(&self, line: Option<&CountdownLine>) {
        let view = self.app.global::<View>();
        view.set_counting_down(line.is_some());
        let mut state = self.state.borrow_mut();
        let Some(line) = line else {
            state.countdown_from = 0;
            return;
        };
        state.countdown_from = state.countdown_from.max(line.seconds_left);
        view.set_countdown((&line.text).into());
        view.set_countdown_left(line.seconds_left as f32 / state.countdown_from.max(1) as f32);
    }

    fn show_work(&self, work: &Working) {
        let view = self.app.global::<View>();
        let is_same_system = matches!(
            self.state.borrow().shown.as_ref().map(|shown| &shown.screen),
            Some(Screen::Working(before)) if before.system == work.system
        );
        if let Some(item) = work.menu.item(&work.system).filter(|_| !is_same_system) {
            view.set_icon(self.icon(item, ICON_LARGE));
        }
        view.set_name((&work.name).into());
        view.set_progress(work.fraction);
        view.set_percent((&work.percent).into());
        view.set_amount((&work.amount).into());
        view.set_helpers(work.helpers.try_into().unwrap_or(i32::MAX));
        view.set_helpers_text((&work.helpers_text).into());
        view.set_warning((&work.warning).into());
        view.set_steps(model(present::WORKING_STEPS.map(Into::into)));
        self.say(Stage::Working, &work.headline, "", work.step);
    }

    /// The picture of a system, `side` lengths of the theme wide.
    fn icon(&self, item: &MenuItem, side: f32) -> Icon {
        let side = (side * self.scale.get() * self.app.window().scale_factor()).round() as u32;
        let image = match icons::picture(item) {
            Picture::Pixels(pixels) => Some(image_of(&icons::fitted(&pixels, side))),
            Picture::Svg(bytes) => drawn(&bytes, side),
            Picture::Monogram(letter, tint) => return letter_icon(&letter, tint),
        };
        if let Some(picture) = image {
            return Icon { picture, ..Icon::default() };
        }
        match icons::monogram(&item.name) {
            Picture::Monogram(letter, tint) => letter_icon(&letter, tint),
            Picture::Svg(_) | Picture::Pixels(_) => Icon::default(),
        }
    }
}

fn model<T: Clone + 'static>(items: impl IntoIterator<Item = T>) -> ModelRc<T> {
    ModelRc::new(VecModel::from_iter(items))
}

fn action(button: &present::Button) -> Action {
    let glyph = match button.event {
        UiEvent::PowerOff => Glyph::Power,
        UiEvent::Restart => Glyph::Restart,
        UiEvent::Back => Glyph::Back,
        UiEvent::Retry => Glyph::Retry,
        UiEvent::Cancel => Glyph::Cancel,
        UiEvent::Choose(_) | UiEvent::AnyKey => Glyph::None,
    };
    Action { label: button.label.into(), glyph, primary: button.is_primary }
}

fn hint(hint: &present::Hint) -> Hint {
    let keys = model(hint.keys.iter().map(|key| (*key).into()));
    Hint { keys, meaning: hint.meaning.into() }
}

fn letter_icon(letter: &str, [red, green, blue]: [u8; 3]) -> Icon {
    let tint = slint::Color::from_rgb_u8(red, green, blue);
    Icon { letter: letter.into(), tint, ..Icon::default() }
}

/// Draws an SVG once, as pixels: Slint would draw it again for every frame.
fn drawn(svg: &[u8], side: u32) -> Option<Image> {
    let drawing = Image::load_from_svg_data(svg).ok()?;
    let size = drawing.size();
    if !icons::is_fit_size(size.width, size.height) {
        return None;
    }
    if size.width.max(size.height) < side {
        return Some(drawing);
    }
    let pixels = drawing.to_rgba8()?;
    let (width, height) = (pixels.width(), pixels.height());
    let pixels = image::RgbaImage::from_raw(width, height, pixels.as_bytes().to_vec())?;
    Some(image_of(&icons::fitted(&pixels, side)))
}

fn image_of(pixels: &image::RgbaImage) -> Image {
    Image::from_rgba8(SharedPixelBuffer::<Rgba8Pixel>::clone_from_slice(
        pixels.as_raw(),
        pixels.width(),
        pixels.height(),
    ))
}
