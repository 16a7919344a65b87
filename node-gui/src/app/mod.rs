//! Shell: the node as `/init`: one stream of events in, effects out, the screen set in one place.
//!
//! Slint has the main thread, tokio the others. Work runs in tasks that send `Note`s; each carries the ticket of its
//! work, so that late notes of an abandoned task are ignored.

use std::fs;
use std::io::Write;
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::Duration;

use bt_catalog::Cmdline;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use self::note::{Event, Note, Say, What, post};
use self::work::Shared;
use crate::download::verified::VerifiedSystem;
use crate::handover::page_pool::PagePool;
use crate::init::modules::Drivers;
use crate::init::{mounts, panic, reaper, serial};
use crate::journey::{Effect, Journey};
use crate::screen::input;
use crate::screen::present::present;
use crate::screen::text_mode;
use crate::screen::window::{Handle, Window, WindowError};
use crate::server::report::report_of;

mod note;
mod work;

/// Starts the node. Never returns: PID 1 that ends is a kernel panic.
pub fn run_as_init() -> ! {
    panic::install();
    if let Err(why) = mounts::mount_all() {
        panic::give_up(&why);
    }
    let line = Cmdline::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    if let Some(name) = &line.serial {
        serial::open(name);
    }
    if line.shell {
        panic::allow_shell();
    }
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .init();
    serial::step("init", &[]);
    // First of all, before memory is fragmented; the pages are cleared in the background while drivers load.
    let page_pool = PagePool::start();
    reaper::reap_forever();
    load_drivers();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => panic::give_up(&format!("cannot start the async runtime: {error}")),
    };
    let (notes, inbox) = mpsc::unbounded_channel();
    runtime.spawn(App::new(line, page_pool, notes.clone()).run(inbox));
    if let Err(error) = show_screen(&notes) {
        tracing::warn!(%error, "cannot show the picker; continuing in text mode");
        post(&notes, None, What::Screen(None));
    }
    loop {
        std::thread::park();
    }
}

fn load_drivers() {
    let mut drivers = Drivers::default();
    drivers.load_first();
    serial::step("modules", &[]);
    drivers.watch();
}

/// Opens the picker and stays in it for as long as there is a screen.
fn show_screen(notes: &mpsc::UnboundedSender<Note>) -> Result<(), WindowError> {
    let window = Window::new()?;
    let listener = notes.clone();
    window.on_event(move |event| post(&listener, None, What::Event(Event::Ui(event))));
    let handle = window.handle();
    if let Err(error) = input::start(move |inputs| handle.input(inputs)) {
        tracing::warn!(%error, "cannot read keyboard and mouse");
    }
    post(notes, None, What::Screen(Some(window.handle())));
    window.run()
}

/// The state of the event loop.
struct App {
    shared: Arc<Shared>,
    notes: mpsc::UnboundedSender<Note>,
    screen: Option<Handle>,
    /// Whether it is known that there will be no screen, so that text is shown.
    is_text: bool,
    text: String,
    ticket: u64,
    work: Option<AbortHandle>,
}

impl App {
    fn new(line: Cmdline, page_pool: PagePool, notes: mpsc::UnboundedSender<Note>) -> Self {
        Self {
            shared: Arc::new(Shared::new(line, page_pool)),
            notes,
            screen: None,
            is_text: false,
            text: String::new(),
            ticket: 0,
            work: None,
        }
    }

    /// Performs the journey until a kernel starts or the PC is switched off.
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Note>) {
        let mut journey = Journey::begin();
        let mut is_new = false;
        self.perform(Effect::Connect);
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            let note = tokio::select! {
                note = inbox.recv() => note.expect("this loop holds a sender itself"),
                _ = ticks.tick() => Note { ticket: None, what: What::Event(Event::Tick) },
            };
            match note {
                Note { ticket: Some(ticket), .. } if ticket != self.ticket => continue,
                Note { what: What::Screen(screen), .. } => self.change_screen(screen),
                Note { what: What::Event(event), .. } => {
                    let before = recorded_state(&journey);
                    let (next, effect) = journey.step(event);
                    journey = next;
                    if let Some(effect) = effect {
                        self.perform(effect);
                    }
                    if before != recorded_state(&journey) {
                        // The first second of a countdown is a full one.
                        ticks.reset();
                        is_new = true;
                    }
                }
            }
            self.show(&journey);
            // A menu counts from when it can be seen.
            let is_seen = self.screen.is_some() || self.is_text;
            if is_new && (is_seen || !matches!(journey, Journey::Menu { .. })) {
                record(&journey);
                is_new = false;
                if matches!(journey, Journey::Stopped { .. }) {
                    panic::offer_shell(self.shared.line.serial.as_deref());
                }
            }
        }
    }

    /// The one place where screen and server learn the current state.
    fn show(&mut self, journey: &Journey) {
        if let Some(screen) = &self.screen
            && screen.show(present(journey)).is_err()
        {
            self.change_screen(None);
        }
        if self.is_text {
            let text = text_mode::line(journey);
            if text != self.text {
                print(&text, self.shared.line.serial.is_some());
                self.text = text;
            }
        }
        // A node without a MAC address is none that the server could show.
        if let Some(lab) = &*self.shared.lab.lock()
            && let Some(mac) = lab.mac
        {
            lab.reporter.report(report_of(journey, mac, lab.name.as_deref()));
        }
    }

    fn change_screen(&mut self, screen: Option<Handle>) {
        self.is_text = screen.is_none();
        self.screen = screen;
        self.shared.take_console(self.screen.is_some());
    }

    /// Performs an effect; work in progress is aborted.
    fn perform(&mut self, effect: Effect<VerifiedSystem>) {
        self.ticket += 1;
        if let Some(work) = self.work.take() {
            work.abort();
        }
        let say = Say { notes: self.notes.clone(), ticket: self.ticket };
        let shared = Arc::clone(&self.shared);
        let task = match effect {
            Effect::Connect => tokio::spawn(work::connect(shared, say)),
            Effect::Download(id) => {
                serial::step("chosen", &[("system", id.as_str())]);
                tokio::spawn(work::download(shared, say, id))
            }
            Effect::Abandon(_) => {
                // Must not be aborted by the next choice, which waits for it.
                tokio::spawn(async move { shared.drop_payload().await });
                return;
            }
            Effect::Verify(id) => tokio::spawn(work::verify(shared, say, id)),
            Effect::Start(proof) => tokio::spawn(work::hand_over(shared, say, proof)),
            Effect::Leave(how) => tokio::spawn(work::leave(shared, how)),
        };
        self.work = Some(task.abort_handle());
    }
}

/// What a step record is written for: the state, and which problem it is.
fn recorded_state(journey: &Journey) -> (Discriminant<Journey>, Option<String>) {
    let problem = match journey {
        Journey::Stopped { problem, .. } => Some(problem.what.clone()),
        _ => None,
    };
    (discriminant(journey), problem)
}

/// Writes the step record of a state that was just entered.
fn record(journey: &Journey) {
    match journey {
        Journey::Menu { menu, .. } => {
            serial::step("menu", &[("systems", &menu.systems.len().to_string())]);
        }
        Journey::Downloading { system, progress, .. } => {
            let bytes = progress.total.to_string();
            serial::step("download", &[("system", system.as_str()), ("bytes", &bytes)]);
        }
        Journey::Verifying { system, .. } => {
            serial::step("verify", &[("system", system.as_str())]);
        }
        Journey::Starting { system, .. } => {
            serial::step("handover", &[("system", system.as_str())]);
        }
        Journey::Stopped { problem, .. } => {
            let text = problem.to_string();
            serial::step("problem", &[("kind", problem.kind.word()), ("text", &text)]);
        }
        Journey::Connecting { .. } | Journey::Leaving { .. } => {}
    }
}

/// Prints a line where a person may see it.
fn print(text: &str, is_serial: bool) {
    // A console that cannot be written to leaves no place to report that.
    writeln!(std::io::stdout(), "{text}").ok();
    if is_serial && let Ok(mut tty) = fs::OpenOptions::new().write(true).open("/dev/tty0") {
        writeln!(tty, "{text}").ok();
    }
}
