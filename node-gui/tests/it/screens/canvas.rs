//! Shell: the picker's window without a screen: Slint's software renderer draws into memory.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bt_node::screen::present::Presentation;
use bt_node::screen::window::Window;
use image::RgbImage;
use slint::platform::software_renderer::{MinimalSoftwareWindow, RepaintBufferType};
use slint::platform::{Platform, PlatformError, WindowAdapter};
use slint::{PhysicalSize, Rgb8Pixel};

/// A platform with one window in memory and a clock that moves only when advanced.
struct InMemory {
    window: Rc<MinimalSoftwareWindow>,
    now: Rc<Cell<Duration>>,
}

impl Platform for InMemory {
    fn create_window_adapter(&self) -> Result<Rc<dyn WindowAdapter>, PlatformError> {
        Ok(Rc::clone(&self.window) as Rc<dyn WindowAdapter>)
    }

    fn duration_since_start(&self) -> Duration {
        self.now.get()
    }
}

/// The picker and the memory it draws into.
pub struct Canvas {
    surface: Rc<MinimalSoftwareWindow>,
    now: Rc<Cell<Duration>>,
    /// The picker's window itself.
    pub window: Window,
}

impl Canvas {
    /// Opens the picker at this size; once per thread.
    pub fn new(width: u32, height: u32) -> Self {
        let surface = MinimalSoftwareWindow::new(RepaintBufferType::NewBuffer);
        surface.set_size(PhysicalSize::new(width, height));
        let now = Rc::new(Cell::new(Duration::ZERO));
        let platform = InMemory { window: Rc::clone(&surface), now: Rc::clone(&now) };
        slint::platform::set_platform(Box::new(platform)).expect("one canvas per thread");
        let window = Window::new().expect("the package fonts-inter is installed");
        Self { surface, now, window }
    }

    /// Another screen size.
    pub fn resize(&self, width: u32, height: u32) {
        self.surface.set_size(PhysicalSize::new(width, height));
    }

    /// Lets time pass.
    pub fn wait(&self, time: Duration) {
        self.now.set(self.now.get() + time);
        slint::platform::update_timers_and_animations();
    }

    /// Puts this on the screen and draws it.
    pub fn show(&self, presentation: &Presentation) -> RgbImage {
        self.window.show(presentation);
        self.wait(Duration::from_millis(500));
        self.draw()
    }

    /// Draws what is on the screen now.
    pub fn draw(&self) -> RgbImage {
        self.wait(Duration::from_millis(500));
        let size = self.surface.size();
        let mut pixels = vec![Rgb8Pixel::default(); (size.width * size.height) as usize];
        self.surface.request_redraw();
        self.surface.draw_if_needed(|renderer| {
            renderer.render(&mut pixels, size.width as usize);
        });
        let bytes = pixels.iter().flat_map(|pixel| [pixel.r, pixel.g, pixel.b]).collect();
        RgbImage::from_raw(size.width, size.height, bytes).expect("three bytes for each pixel")
    }
}
