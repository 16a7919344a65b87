//! Core: what the screen shows at each step of the [`Journey`], as plain-language text.
//!
//! Sizes, times and counts become text here, and nowhere else. `window.rs` only copies the result to the screen.

use std::sync::Arc;
use std::time::Duration;

use bt_catalog::SystemId;

use crate::journey::{
    Connecting, Countdown, DownloadProgress, Journey, Leaving, Menu, MenuItem, Problem,
    ProblemKind, UiEvent,
};

/// Everything one screen shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Presentation {
    /// The lab's name, in the header; may be empty.
    pub lab: String,
    /// Room, name and address of this PC, in the header; may be empty.
    pub place: String,
    /// Which screen, and its content.
    pub screen: Screen,
    /// Its buttons, in order; the first is the one that Enter activates where there are no tiles.
    pub buttons: Vec<Button>,
    /// What the Escape key does here.
    pub escape: Option<UiEvent>,
    /// Which keys work here.
    pub hints: Vec<Hint>,
}

/// The content of one screen.
#[derive(Debug, Clone, PartialEq)]
pub enum Screen {
    /// Before the menu.
    Connecting {
        /// What is happening now.
        headline: String,
        /// One line more; may be empty.
        detail: String,
        /// The current one of [`CONNECTING_STEPS`].
        step: usize,
    },
    /// The systems to choose from.
    Menu {
        /// What to do here.
        headline: String,
        /// What is good to know about it.
        detail: String,
        /// The systems themselves, for their pictures.
        menu: Arc<Menu>,
        /// One tile for each system, in the menu's order.
        tiles: Vec<Tile>,
        /// The tile that is highlighted first.
        first: usize,
        /// The system that starts automatically.
        countdown: Option<CountdownLine>,
    },
    /// A system is being downloaded, verified or started.
    Working(Box<Working>),
    /// Something failed.
    Stopped(Problem),
    /// The PC is being powered off or restarted.
    Leaving {
        /// Which of the two.
        headline: String,
        /// What comes next.
        detail: String,
    },
}

/// The steps of the connecting screen.
pub const CONNECTING_STEPS: [&str; 3] = ["This PC", "Network", "Server"];
/// The steps from the choice of a system to its start.
pub const WORKING_STEPS: [&str; 3] = ["Download", "Verify", "Start"];

/// One system in the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    /// Which one.
    pub id: SystemId,
    /// Its name.
    pub name: String,
    /// One line about it; may be empty.
    pub note: String,
    /// How much there is to download.
    pub size: String,
    /// Why it cannot start on this PC; empty where it can.
    pub obstacle: String,
}

/// The line above the shrinking bar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountdownLine {
    /// What will happen and how to stop it.
    pub text: String,
    /// Seconds until then.
    pub seconds_left: u32,
}

/// A chosen system, on the path to its kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Working {
    /// The menu it was chosen from, for its picture.
    pub menu: Arc<Menu>,
    /// Which system.
    pub system: SystemId,
    /// Its name.
    pub name: String,
    /// The current one of [`WORKING_STEPS`].
    pub step: usize,
    /// What is happening now.
    pub headline: String,
    /// How far it is, 0 to 1.
    pub fraction: f32,
    /// The same as text; empty where it means nothing.
    pub percent: String,
    /// Amount, speed and time left.
    pub amount: String,
    /// How many other PCs send data.
    pub helpers: usize,
    /// The same as text; may be empty.
    pub helpers_text: String,
    /// What is wrong at the moment; may be empty.
    pub warning: String,
}

/// A button and what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Button {
    /// Its label.
    pub label: &'static str,
    /// What it does.
    pub event: UiEvent,
    /// Whether it is the recommended one.
    pub is_primary: bool,
}

impl Button {
    fn new(label: &'static str, event: UiEvent) -> Self {
        Self { label, event, is_primary: false }
    }

    fn primary(label: &'static str, event: UiEvent) -> Self {
        Self { label, event, is_primary: true }
    }
}

/// Keys and what they do here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// Names of keys; `up`, `down`, `left`, `right` and `enter` are drawn as pictures.
    pub keys: &'static [&'static str],
    /// What they do.
    pub meaning: &'static str,
}

const HINT_CHOOSE: Hint = Hint { keys: &["left", "up", "down", "right"], meaning: "choose" };
const HINT_START: Hint = Hint { keys: &["enter"], meaning: "start" };
const HINT_TAB: Hint = Hint { keys: &["Tab"], meaning: "buttons" };
const HINT_BUTTONS: Hint = Hint { keys: &["left", "right"], meaning: "choose" };
const HINT_CONFIRM: Hint = Hint { keys: &["enter"], meaning: "confirm" };
const HINT_CANCEL: Hint = Hint { keys: &["Esc"], meaning: "cancel" };
const HINT_BACK: Hint = Hint { keys: &["Esc"], meaning: "back to the menu" };

/// What the screen shows for this state.
#[must_use]
pub fn present(journey: &Journey) -> Presentation {
    match journey {
        Journey::Connecting { what, detail } => connecting(*what, detail),
        Journey::Menu { menu, countdown } => choosing(menu, countdown.as_ref()),
        Journey::Downloading { menu, system, progress } => downloading(menu, system, progress),
        Journey::Verifying { menu, system, done, total } => verifying(menu, system, *done, *total),
        Journey::Starting { menu, system } => starting(menu, system),
        Journey::Stopped { menu, problem, .. } => stopped(menu.as_ref(), problem),
        Journey::Leaving { how } => leaving(*how),
    }
}

fn connecting(what: Connecting, detail: &str) -> Presentation {
    let (step, headline, usual) = match what {
        Connecting::Drivers => (0, "Getting this PC ready", "Loading drivers."),
        Connecting::Network => (1, "Connecting to the network", "Waiting for an address."),
        Connecting::Catalog => (2, "Contacting the server", "Fetching the list of systems."),
    };
    let detail = if detail.is_empty() { usual } else { detail };
    let screen =
        Screen::Connecting { headline: headline.to_owned(), detail: detail.to_owned(), step };
    framed(None, screen, Vec::new())
}

fn choosing(menu: &Arc<Menu>, countdown: Option<&Countdown>) -> Presentation {
    let wanted = countdown.map(|c| &c.system).or(menu.default.as_ref());
    let first = menu.systems.iter().position(|item| Some(&item.id) == wanted).unwrap_or(0);
    let countdown = countdown.map(|Countdown { system, seconds_left }| CountdownLine {
        text: format!(
            "{} starts in {seconds_left} s. Press any key to choose another system.",
            name_of(menu, system)
        ),
        seconds_left: *seconds_left,
    });
    let (headline, detail) = match menu.systems.len() {
        0 => ("No systems available", "The catalog is empty. Ask your supervisor."),
        _ => ("Choose a system", "Use the arrow keys and Enter, or the mouse."),
    };
    let screen = Screen::Menu {
        headline: headline.to_owned(),
        detail: detail.to_owned(),
        menu: Arc::clone(menu),
        tiles: menu.systems.iter().map(tile).collect(),
        first,
        countdown,
    };
    let hints = match menu.systems.len() {
        0 => vec![HINT_BUTTONS, HINT_CONFIRM],
        _ => vec![HINT_CHOOSE, HINT_START, HINT_TAB],
    };
    Presentation { hints, ..framed(Some(menu), screen, leave_buttons()) }
}

/// The tile of this system.
#[must_use]
pub fn tile(item: &MenuItem) -> Tile {
    let MenuItem { id, name, note, size, obstacle, .. } = item;
    let obstacle = obstacle.as_ref().map_or(String::new(), |problem| problem.why.clone());
    Tile { id: id.clone(), name: name.clone(), note: note.clone(), size: bytes(*size), obstacle }
}

fn downloading(menu: &Arc<Menu>, system: &SystemId, progress: &DownloadProgress) -> Presentation {
    let DownloadProgress { done, total, speed, peers, from_server, stalled_for } = *progress;
    let mut amount = vec![amount_of(done, total)];
    if stalled_for.is_none() && speed > 0 {
        amount.push(format!("{}/s", bytes(speed)));
        amount.push(format!("{} left", time_left(total.saturating_sub(done), speed)));
    }
    let warning = stalled_for.map_or(String::new(), |time| {
        format!("No data for {}. Still trying; the network may be busy.", duration(time))
    });
    working(
        menu,
        system,
        Working {
            step: 0,
            headline: "Downloading".to_owned(),
            amount: amount.join("  ·  "),
            helpers: peers,
            helpers_text: helpers(peers, from_server),
            warning,
            ..progress_of(menu, system, done, total)
        },
    )
}

fn verifying(menu: &Arc<Menu>, system: &SystemId, done: u64, total: u64) -> Presentation {
    working(
        menu,
        system,
        Working {
            step: 1,
            headline: "Verifying every byte against the signed catalog".to_owned(),
            amount: amount_of(done, total),
            ..progress_of(menu, system, done, total)
        },
    )
}

fn starting(menu: &Arc<Menu>, system: &SystemId) -> Presentation {
    let work = Working {
        step: 2,
        headline: "Starting now".to_owned(),
        percent: String::new(),
        amount: "The download is complete and verified. The screen may go dark for a moment."
            .to_owned(),
        ..progress_of(menu, system, 1, 1)
    };
    framed(Some(menu), Screen::Working(Box::new(work)), Vec::new())
}

fn working(menu: &Arc<Menu>, system: &SystemId, work: Working) -> Presentation {
    debug_assert_eq!(work.system, *system, "the screen is about one system");
    let cancel = Button::new("Cancel", UiEvent::Cancel);
    let framed = framed(Some(menu), Screen::Working(Box::new(work)), vec![cancel]);
    Presentation { escape: Some(UiEvent::Cancel), hints: vec![HINT_CANCEL], ..framed }
}

/// The parts of [`Working`] that follow from how far it is.
fn progress_of(menu: &Arc<Menu>, system: &SystemId, done: u64, total: u64) -> Working {
    let fraction = if total == 0 { 0.0 } else { (done.min(total) as f64 / total as f64) as f32 };
    Working {
        menu: Arc::clone(menu),
        system: system.clone(),
        name: name_of(menu, system),
        step: 0,
        headline: String::new(),
        fraction,
        // Rounded down: “100 %” is shown only when everything is here.
        percent: format!("{} %", (f64::from(fraction) * 100.0) as u32),
        amount: String::new(),
        helpers: 0,
        helpers_text: String::new(),
        warning: String::new(),
    }
}

fn stopped(menu: Option<&Arc<Menu>>, problem: &Problem) -> Presentation {
    let mut buttons = vec![Button::primary("Try again", UiEvent::Retry)];
    if menu.is_some() {
        let back = Button::new("Back to the menu", UiEvent::Back);
        // A retry meets the same PC; another system may fit.
        match problem.kind {
            ProblemKind::NoMemory | ProblemKind::DoesNotFit => {
                buttons = vec![Button { is_primary: true, ..back }];
            }
            _ => buttons.push(back),
        }
    }
    buttons.extend(leave_buttons());
    let escape = menu.map(|_| UiEvent::Back);
    let mut hints = vec![HINT_BUTTONS, HINT_CONFIRM];
    hints.extend(menu.map(|_| HINT_BACK));
    let problem = Problem { detail: shortened(&problem.detail), ..problem.clone() };
    Presentation { escape, hints, ..framed(menu, Screen::Stopped(problem), buttons) }
}

fn leaving(how: Leaving) -> Presentation {
    let (headline, detail) = match how {
        Leaving::PowerOff => ("Powering off", "See you soon."),
        Leaving::Restart => ("Restarting", "The menu will be back in a moment."),
    };
    let (headline, detail) = (headline.to_owned(), detail.to_owned());
    framed(None, Screen::Leaving { headline, detail }, Vec::new())
}

fn leave_buttons() -> Vec<Button> {
    vec![Button::new("Restart", UiEvent::Restart), Button::new("Power off", UiEvent::PowerOff)]
}

/// Adds the header to a screen.
fn framed(menu: Option<&Arc<Menu>>, screen: Screen, buttons: Vec<Button>) -> Presentation {
    let (lab, place) = menu.map_or_else(Default::default, |menu| {
        let place = [&menu.room, &menu.node_name, &menu.address];
        let place: Vec<&str> = place.into_iter().flatten().map(String::as_str).collect();
        (menu.lab_name.clone(), place.join("  ·  "))
    });
    Presentation { lab, place, screen, buttons, escape: None, hints: Vec::new() }
}

/// Letters of a problem's detail that fit under its three lines on the smallest screen.
const MAX_DETAIL: usize = 280;

/// The beginning of a long text, in one line.
fn shortened(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_DETAIL) {
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
        None => line,
    }
}

fn name_of(menu: &Menu, system: &SystemId) -> String {
    menu.item(system).map_or_else(|| system.to_string(), |item| item.name.clone())
}

/// Who sends the data, as text.
fn helpers(peers: usize, from_server: bool) -> String {
    match (peers, from_server) {
        (0, false) => String::new(),
        (0, true) => "from the server".to_owned(),
        (1, _) => "from 1 PC".to_owned(),
        (n, _) => format!("from {n} PCs"),
    }
}

/// Decimal units, as on disks and network adapters: 1 MB is a million bytes.
const UNITS: [(u64, &str); 4] =
    [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];

/// The largest unit that gives a number of at least 1.
fn unit_of(size: u64) -> (u64, &'static str) {
    UNITS.into_iter().find(|(unit, _)| size >= *unit).unwrap_or((1, "bytes"))
}

/// `size` in this unit: one decimal for gigabytes and more, and for small numbers of megabytes.
fn in_unit(size: u64, (unit, word): (u64, &str)) -> String {
    let value = size as f64 / unit as f64;
    let with_decimal = unit >= 1_000_000_000 || (word == "MB" && (0.05..9.95).contains(&value));
    if with_decimal { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// A size as text: “980 MB”, “1.2 GB”.
fn bytes(size: u64) -> String {
    // 999.6 MB would be rounded to “1000 MB”.
    let unit = unit_of(size.saturating_add(size / 2000));
    format!("{} {}", in_unit(size, unit), unit.1)
}

/// How much is here, both in the unit of the total: “412 of 980 MB”.
fn amount_of(done: u64, total: u64) -> String {
    let unit = unit_of(total.saturating_add(total / 2000));
    format!("{} of {} {}", in_unit(done.min(total), unit), in_unit(total, unit), unit.1)
}

/// How long the rest takes at this speed.
fn time_left(rest: u64, speed: u64) -> String {
    duration(Duration::from_secs(rest.div_ceil(speed.max(1)).max(1)))
}

/// A time as text: “12 s”, “about 2 min”, “about 1 h 10 min”.
fn duration(time: Duration) -> String {
    let secs = time.as_secs();
    match secs {
        0..90 => format!("{secs} s"),
        90..3570 => format!("about {} min", (secs + 30) / 60),
        3570..86_400 => {
            let minutes = (secs / 60).next_multiple_of(5);
            match minutes % 60 {
                0 => format!("about {} h", minutes / 60),
                rest => format!("about {} h {rest} min", minutes / 60),
            }
        }
        _ => "more than a day".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journey::IconRef;

    fn id(text: &str) -> SystemId {
        text.parse().expect("a test id")
    }

    fn menu() -> Arc<Menu> {
        let item = |name: &str, size| MenuItem {
            id: id(&name.to_lowercase()),
            name: name.to_owned(),
            note: String::new(),
            icon: IconRef::Builtin("linux".to_owned()),
            size,
            obstacle: None,
        };
        Arc::new(Menu {
            lab_name: "Lab".to_owned(),
            room: Some("A1".to_owned()),
            node_name: None,
            address: Some("10.77.0.61".to_owned()),
            systems: vec![item("Alpine", 60_000_000), item("Debian", 980_000_000)],
            default: Some(id("debian")),
        })
    }

    fn problem(kind: ProblemKind) -> Problem {
        Problem::new(kind, "what", "why", "next step", "detail")
    }

    fn download(progress: DownloadProgress) -> Working {
        let journey = Journey::Downloading { menu: menu(), system: id("debian"), progress };
        match present(&journey).screen {
            Screen::Working(work) => *work,
            other => panic!("a download shows {other:?}"),
        }
    }

    /// Many small cases of a function from numbers to text.
    fn check<T: std::fmt::Debug + Copy>(say: impl Fn(T) -> String, cases: &[(T, &str)]) {
        for (input, expected) in cases {
            assert_eq!(say(*input), *expected, "for {input:?}");
        }
    }

    #[test]
    fn sizes_are_short_and_decimal() {
        check(
            bytes,
            &[
                (0, "0 bytes"),
                (999, "999 bytes"),
                (14_200, "14 kB"),
                (4_560_000, "4.6 MB"),
                (38_400_000, "38 MB"),
                (980_000_000, "980 MB"),
                (999_700_000, "1.0 GB"),
                (1_234_000_000, "1.2 GB"),
                (u64::MAX, "18446744.1 TB"),
            ],
        );
    }

    #[test]
    fn both_amounts_share_the_unit_of_the_total() {
        check(
            |(done, total)| amount_of(done, total),
            &[
                ((412_000_000, 980_000_000), "412 of 980 MB"),
                ((0, 980_000_000), "0 of 980 MB"),
                ((400_000_000, 1_200_000_000), "0.4 of 1.2 GB"),
                ((2_000, 1_000), "1 of 1 kB"),
                ((0, 0), "0 of 0 bytes"),
            ],
        );
    }

    #[test]
    fn times_are_as_exact_as_they_can_be() {
        check(
            |secs| duration(Duration::from_secs(secs)),
            &[
                (0, "0 s"),
                (12, "12 s"),
                (89, "89 s"),
                (95, "about 2 min"),
                (600, "about 10 min"),
                (3_590, "about 1 h"),
                (4_000, "about 1 h 10 min"),
                (7_200, "about 2 h"),
                (90_000, "more than a day"),
            ],
        );
    }

    #[test]
    fn senders_are_counted() {
        check(
            |(peers, server)| helpers(peers, server),
            &[
                ((0, false), ""),
                ((0, true), "from the server"),
                ((1, true), "from 1 PC"),
                ((3, false), "from 3 PCs"),
            ],
        );
    }

    #[test]
    fn a_download_shows_amount_speed_and_time_left() {
        let progress = DownloadProgress {
            done: 412_000_000,
            total: 980_000_000,
            speed: 38_000_000,
            peers: 3,
            from_server: true,
            stalled_for: None,
        };
        let work = download(progress);
        assert_eq!(work.amount, "412 of 980 MB  ·  38 MB/s  ·  15 s left");
        assert_eq!((work.percent.as_str(), work.helpers), ("42 %", 3));
        assert_eq!(work.warning, "");
    }

    #[test]
    fn a_stalled_download_promises_no_time() {
        let stalled_for = Some(Duration::from_secs(20));
        let progress =
            DownloadProgress { total: 100, speed: 5, stalled_for, ..DownloadProgress::default() };
        let work = download(progress);
        assert_eq!(work.amount, "0 of 100 bytes");
        assert!(work.warning.contains("20 s"), "{}", work.warning);
    }

    #[test]
    fn the_last_missing_byte_is_not_100_percent() {
        let progress =
            DownloadProgress { done: 9_999, total: 10_000, ..DownloadProgress::default() };
        assert_eq!(download(progress).percent, "99 %");
    }

    #[test]
    fn the_default_is_highlighted_and_its_countdown_shown() {
        let countdown = Some(Countdown { system: id("debian"), seconds_left: 12 });
        let shown = present(&Journey::Menu { menu: menu(), countdown });
        let Screen::Menu { first, countdown: Some(line), tiles, .. } = shown.screen else {
            panic!("a menu with a countdown shows both");
        };
        assert_eq!((first, tiles.len(), line.seconds_left), (1, 2, 12));
        assert_eq!(line.text, "Debian starts in 12 s. Press any key to choose another system.");
        assert_eq!((shown.lab.as_str(), shown.place.as_str()), ("Lab", "A1  ·  10.77.0.61"));
    }

    #[test]
    fn each_problem_offers_the_buttons_that_make_sense() {
        let labels = |menu: Option<Arc<Menu>>, kind| {
            let journey = Journey::Stopped { menu, system: None, problem: problem(kind) };
            let labels: Vec<_> = present(&journey).buttons.iter().map(|b| b.label).collect();
            labels.join(", ")
        };
        let all = "Try again, Back to the menu, Restart, Power off";
        assert_eq!(labels(Some(menu()), ProblemKind::HashWrong), all);
        assert_eq!(labels(None, ProblemKind::NoServer), "Try again, Restart, Power off");
        let memory = labels(Some(menu()), ProblemKind::NoMemory);
        assert_eq!(memory, "Back to the menu, Restart, Power off");
    }

    #[test]
    fn a_long_detail_is_cut_between_letters() {
        assert_eq!(shortened("one\n  two "), "one two");
        let long = shortened(&"ü".repeat(MAX_DETAIL + 1));
        assert_eq!(long.chars().count(), MAX_DETAIL + 1);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn a_started_kernel_cannot_be_cancelled() {
        let shown = present(&Journey::Starting { menu: menu(), system: id("debian") });
        assert_eq!((shown.buttons.len(), shown.escape), (0, None));
    }
}
