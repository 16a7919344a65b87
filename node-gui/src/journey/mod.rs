//! Core: the state machine of one node, from power-on to the chosen system's kernel.
//!
//! [`Journey::step`] takes one event and returns the node's new state and what the shell must do. It knows no
//! clock, network, screen or file: what was verified is a [`Proof`] that it hands on. The node's is
//! `download::verified::VerifiedSystem`, which only the verification itself makes, so no order of events starts
//! unverified files. Every transition is drawn in `docs/journey.md`.

use std::sync::Arc;

use bt_catalog::{NodeStage, SystemId};

pub use self::menu::{IconRef, Menu, MenuItem};
pub use self::problem::{Problem, ProblemKind};
pub use self::progress::DownloadProgress;

pub mod menu;
pub mod problem;
pub mod progress;

/// The state of one node between power-on and its new kernel.
#[derive(Debug)]
pub enum Journey {
    /// Before the menu: drivers, network, catalog.
    Connecting {
        /// Which part is running.
        what: Connecting,
        /// One line for the person who waits, for example which cable is missing; may be empty.
        detail: String,
    },
    /// The student chooses.
    Menu {
        /// What there is to choose.
        menu: Arc<Menu>,
        /// The default that starts automatically unless a key is pressed.
        countdown: Option<Countdown>,
    },
    /// The payload of `system` is being downloaded.
    Downloading {
        /// The menu it was chosen from.
        menu: Arc<Menu>,
        /// Which system.
        system: SystemId,
        /// How far it is.
        progress: DownloadProgress,
    },
    /// The payload is being hashed against the signed catalog.
    Verifying {
        /// The menu it was chosen from.
        menu: Arc<Menu>,
        /// Which system.
        system: SystemId,
        /// Bytes hashed.
        done: u64,
        /// Bytes in total.
        total: u64,
    },
    /// The kernel of `system` is being loaded and started; there is no return unless that fails.
    Starting {
        /// The menu it was chosen from.
        menu: Arc<Menu>,
        /// Which system.
        system: SystemId,
    },
    /// Something failed; the screen says what, why and which button helps.
    Stopped {
        /// The menu to go back to, when there is one.
        menu: Option<Arc<Menu>>,
        /// Which system it was about, when it was about one.
        system: Option<SystemId>,
        /// What happened.
        problem: Problem,
    },
    /// The PC is being powered off or restarted.
    Leaving {
        /// Which of the two.
        how: Leaving,
    },
}

/// Which part of connecting is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connecting {
    /// Loading drivers.
    Drivers,
    /// Waiting for the link and for an address.
    Network,
    /// Asking the server for the catalog.
    Catalog,
}

/// How a person leaves the picker without choosing a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// Power the PC off.
    PowerOff,
    /// Restart the PC.
    Restart,
}

/// A default that starts automatically.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Countdown {
    /// Which system will start.
    pub system: SystemId,
    /// Seconds until then, at least 1.
    pub seconds_left: u32,
}

/// What a person does at the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UiEvent {
    /// Enter or a click on a system.
    Choose(SystemId),
    /// Stop the download or the verification.
    Cancel,
    /// From a problem back to the menu.
    Back,
    /// Try again what failed.
    Retry,
    /// Power the PC off.
    PowerOff,
    /// Restart the PC.
    Restart,
    /// Any key or pointer movement: stops the countdown.
    AnyKey,
}

/// That every file of one system is the one the catalog names.
pub trait Proof {
    /// Which system.
    fn id(&self) -> &SystemId;
}

/// Everything that can happen to a node; the order is total.
#[derive(Debug)]
pub enum Event<P> {
    /// A person did something.
    Ui(UiEvent),
    /// One second passed.
    Tick,
    /// Connecting reached this part.
    Connecting(Connecting, String),
    /// The catalog is here and its signature is valid.
    Ready(Connected),
    /// Connecting failed.
    ConnectFailed(Problem),
    /// Progress of this system's download.
    Progress(SystemId, DownloadProgress),
    /// All pieces of this system are here.
    Downloaded(SystemId),
    /// Progress of this system's verification: bytes hashed, bytes in total.
    Hashed(SystemId, u64, u64),
    /// Every file of the system is the one the catalog names.
    Verified(Box<P>),
    /// Download, verification or handover of this system failed.
    Failed(SystemId, Problem),
}

/// What connecting ends with.
#[derive(Debug, Clone)]
pub struct Connected {
    /// The systems to choose from.
    pub menu: Arc<Menu>,
    /// A system to start without asking, as it was configured.
    pub preset: Option<String>,
    /// Seconds until the menu's default starts automatically.
    pub timeout: Option<u32>,
}

/// What the shell must do after a step.
#[derive(Debug)]
pub enum Effect<P> {
    /// Bring up the network and fetch the catalog (again).
    Connect,
    /// Fetch the payload of this system from the beginning.
    Download(SystemId),
    /// Stop what runs for this system.
    Abandon(SystemId),
    /// Hash the payload of this system.
    Verify(SystemId),
    /// Load the kernel and start it.
    Start(Box<P>),
    /// Power off or restart.
    Leave(Leaving),
}

/// The node's state after an event, and what the shell must do.
pub type Step<P> = (Journey, Option<Effect<P>>);

impl Journey {
    /// Where every node begins.
    #[must_use]
    pub fn begin() -> Self {
        Self::Connecting { what: Connecting::Drivers, detail: String::new() }
    }

    /// Takes one event; returns the node's new state and what the shell must do.
    ///
    /// Events about another system, or out of turn, change nothing: a late report cannot revive a cancelled
    /// download.
    #[must_use]
    pub fn step<P: Proof>(self, event: Event<P>) -> Step<P> {
        match event {
            Event::Ui(UiEvent::PowerOff) => self.leave(Leaving::PowerOff),
            Event::Ui(UiEvent::Restart) => self.leave(Leaving::Restart),
            Event::Ui(event) => self.step_person(event),
            event => self.step_work(event),
        }
    }

    /// What a person does, other than leaving.
    fn step_person<P>(self, event: UiEvent) -> Step<P> {
        match (self, event) {
            (Self::Menu { menu, .. }, UiEvent::Choose(id)) if menu.item(&id).is_some() => {
                download(menu, id)
            }
            (Self::Menu { menu, .. }, UiEvent::AnyKey) => (Self::menu(menu), None),
            (
                Self::Downloading { menu, system, .. } | Self::Verifying { menu, system, .. },
                UiEvent::Cancel | UiEvent::Back,
            ) => (Self::menu(menu), Some(Effect::Abandon(system))),
            (Self::Stopped { menu: Some(menu), .. }, UiEvent::Back | UiEvent::Cancel) => {
                (Self::menu(menu), None)
            }
            (Self::Stopped { menu: Some(menu), system: Some(system), .. }, UiEvent::Retry) => {
                download(menu, system)
            }
            (Self::Stopped { .. }, UiEvent::Retry) => {
                (Self::connecting(Connecting::Network), Some(Effect::Connect))
            }
            (state, _) => (state, None),
        }
    }

    /// What the shell reports.
    fn step_work<P: Proof>(self, event: Event<P>) -> Step<P> {
        match (self, event) {
            (Self::Connecting { .. }, Event::Connecting(what, detail)) => {
                (Self::Connecting { what, detail }, None)
            }
            // A server that was missing has come back.
            (Self::Connecting { .. } | Self::Stopped { menu: None, .. }, Event::Ready(ready)) => {
                open(ready)
            }
            (
                Self::Connecting { .. } | Self::Stopped { menu: None, .. },
                Event::ConnectFailed(problem),
            ) => (Self::Stopped { menu: None, system: None, problem }, None),
            (Self::Menu { menu, countdown: Some(countdown) }, Event::Tick) => tick(menu, countdown),
            (Self::Downloading { menu, system, .. }, Event::Progress(of, progress))
                if of == system =>
            {
                (Self::Downloading { menu, system, progress }, None)
            }
            (Self::Downloading { menu, system, progress }, Event::Downloaded(of))
                if of == system =>
            {
                let total = progress.total;
                let effect = Effect::Verify(of);
                (Self::Verifying { menu, system, done: 0, total }, Some(effect))
            }
            (Self::Verifying { menu, system, .. }, Event::Hashed(of, done, total))
                if of == system =>
            {
                (Self::Verifying { menu, system, done, total }, None)
            }
            (Self::Verifying { menu, system, .. }, Event::Verified(proof))
                if *proof.id() == system =>
            {
                (Self::Starting { menu, system }, Some(Effect::Start(proof)))
            }
            (
                Self::Downloading { menu, system, .. }
                | Self::Verifying { menu, system, .. }
                | Self::Starting { menu, system },
                Event::Failed(of, problem),
            ) if of == system => {
                (Self::Stopped { menu: Some(menu), system: Some(system), problem }, None)
            }
            (state, _) => (state, None),
        }
    }

    /// Power off or restart, from everywhere but a kernel that is already being started.
    fn leave<P>(self, how: Leaving) -> Step<P> {
        match self {
            Self::Starting { .. } | Self::Leaving { .. } => (self, None),
            _ => (Self::Leaving { how }, Some(Effect::Leave(how))),
        }
    }

    fn connecting(what: Connecting) -> Self {
        Self::Connecting { what, detail: String::new() }
    }

    fn menu(menu: Arc<Menu>) -> Self {
        Self::Menu { menu, countdown: None }
    }

    /// This state in a report to the server.
    #[must_use]
    pub fn stage(&self) -> NodeStage {
        match self {
            Self::Connecting { .. } | Self::Menu { .. } | Self::Leaving { .. } => NodeStage::Menu,
            Self::Downloading { .. } => NodeStage::Downloading,
            Self::Verifying { .. } => NodeStage::Verifying,
            Self::Starting { .. } => NodeStage::Starting,
            Self::Stopped { .. } => NodeStage::Problem,
        }
    }
}

/// Begins the download of a system of this menu, or stops with its obstacle.
fn download<P>(menu: Arc<Menu>, system: SystemId) -> Step<P> {
    if let Some(problem) = menu.item(&system).and_then(|item| item.obstacle.clone()) {
        return (Journey::Stopped { menu: Some(menu), system: Some(system), problem }, None);
    }
    let total = menu.item(&system).map_or(0, |item| item.size);
    let progress = DownloadProgress { total, ..DownloadProgress::default() };
    let effect = Effect::Download(system.clone());
    (Journey::Downloading { menu, system, progress }, Some(effect))
}

/// The catalog is here: a preset starts, else the menu opens with its countdown.
fn open<P>(ready: Connected) -> Step<P> {
    let Connected { menu, preset, timeout } = ready;
    let preset = preset.map(|name| {
        let item = menu.systems.iter().find(|item| item.id.as_str() == name);
        item.map(|item| item.id.clone()).ok_or(name)
    });
    match preset {
        Some(Ok(id)) => download(menu, id),
        Some(Err(name)) => {
            let problem = unknown_preset(&name);
            (Journey::Stopped { menu: Some(menu), system: None, problem }, None)
        }
        None => {
            let default = menu.default.clone().filter(|id| menu.item(id).is_some());
            let countdown = default.zip(timeout.filter(|seconds| *seconds > 0));
            let countdown =
                countdown.map(|(system, seconds_left)| Countdown { system, seconds_left });
            (Journey::Menu { menu, countdown }, None)
        }
    }
}

/// One second of the countdown.
fn tick<P>(menu: Arc<Menu>, countdown: Countdown) -> Step<P> {
    let Countdown { system, seconds_left } = countdown;
    if seconds_left <= 1 {
        return download(menu, system);
    }
    let countdown = Some(Countdown { system, seconds_left: seconds_left - 1 });
    (Journey::Menu { menu, countdown }, None)
}

fn unknown_preset(name: &str) -> Problem {
    Problem::new(
        ProblemKind::BadCatalog,
        "This PC's preset system is not available",
        format!("This PC is set to start “{name}”, but the lab has no system of that name."),
        "Go back to the menu and choose another system, or tell your supervisor.",
        format!("bt.preset={name}: not in the catalog"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A proof of nothing, for a journey that only hands it on.
    #[derive(Debug)]
    struct Claim(SystemId);

    impl Proof for Claim {
        fn id(&self) -> &SystemId {
            &self.0
        }
    }

    type Event = super::Event<Claim>;

    fn proof(name: &str) -> Claim {
        Claim(id(name))
    }

    fn id(text: &str) -> SystemId {
        text.parse().expect("an id")
    }

    fn menu() -> Arc<Menu> {
        let item = |name: &str| MenuItem {
            id: id(name),
            name: name.to_owned(),
            note: String::new(),
            icon: IconRef::Builtin(String::new()),
            size: 10,
            obstacle: None,
        };
        let obstacle = Some(Problem::internal("too big"));
        let too_big = MenuItem { obstacle, ..item("too-big") };
        Arc::new(Menu {
            lab_name: "Lab".into(),
            room: None,
            node_name: None,
            address: None,
            systems: vec![item("a"), item("b"), too_big],
            default: Some(id("b")),
        })
    }

    fn ready(preset: Option<&str>, timeout: Option<u32>) -> Event {
        Event::Ready(Connected { menu: menu(), preset: preset.map(str::to_owned), timeout })
    }

    fn choose(name: &str) -> Event {
        Event::Ui(UiEvent::Choose(id(name)))
    }

    /// Plays the events from power-on; returns the last state and every effect as text.
    fn play(events: Vec<Event>) -> (Journey, Vec<String>) {
        let mut journey = Journey::begin();
        let mut effects = Vec::new();
        for event in events {
            let (next, effect) = journey.step(event);
            journey = next;
            effects.extend(effect.map(|effect| match effect {
                Effect::Start(proof) => format!("start {}", proof.id()),
                other => format!("{other:?}"),
            }));
        }
        (journey, effects)
    }

    fn check(events: Vec<Event>, stage: &str, effects: &[&str]) {
        let (journey, did) = play(events);
        assert_eq!(journey.stage().name(), stage, "{journey:?}");
        let did: Vec<String> =
            did.iter().map(|text| text.replace("SystemId(\"", "").replace("\")", "")).collect();
        assert_eq!(did, effects);
    }

    #[test]
    fn the_usual_path_leads_from_power_on_to_kexec() {
        let events = vec![
            Event::Connecting(Connecting::Network, String::new()),
            ready(None, None),
            choose("a"),
            Event::Progress(
                id("a"),
                DownloadProgress { done: 10, total: 10, ..DownloadProgress::default() },
            ),
            Event::Downloaded(id("a")),
            Event::Hashed(id("a"), 10, 10),
            Event::Verified(Box::new(proof("a"))),
        ];
        check(events, "starting", &["Download(a)", "Verify(a)", "start a"]);
    }

    #[test]
    fn a_preset_starts_without_asking_and_an_unknown_one_is_reported() {
        check(vec![ready(Some("a"), Some(9))], "downloading", &["Download(a)"]);
        check(vec![ready(Some("zzz"), None)], "problem", &[]);
        check(vec![ready(Some("zzz"), None), Event::Ui(UiEvent::Back)], "menu", &[]);
    }

    #[test]
    fn what_does_not_fit_is_reported_before_the_download() {
        check(vec![ready(None, None), choose("too-big")], "problem", &[]);
        check(vec![ready(Some("too-big"), None)], "problem", &[]);
        let back = vec![ready(None, None), choose("too-big"), Event::Ui(UiEvent::Back)];
        check(back, "menu", &[]);
    }

    #[test]
    fn the_countdown_starts_the_default_unless_a_key_is_pressed() {
        check(vec![ready(None, Some(2)), Event::Tick], "menu", &[]);
        check(
            vec![ready(None, Some(2)), Event::Tick, Event::Tick],
            "downloading",
            &["Download(b)"],
        );
        let stopped = vec![ready(None, Some(1)), Event::Ui(UiEvent::AnyKey), Event::Tick];
        check(stopped, "menu", &[]);
    }

    #[test]
    fn late_events_about_another_system_change_nothing() {
        let events = vec![
            ready(None, None),
            choose("a"),
            Event::Ui(UiEvent::Cancel),
            choose("b"),
            Event::Downloaded(id("a")),
            Event::Failed(id("a"), Problem::internal("late")),
            Event::Verified(Box::new(proof("a"))),
        ];
        check(events, "downloading", &["Download(a)", "Abandon(a)", "Download(b)"]);
    }

    #[test]
    fn every_problem_can_be_left() {
        let fail = || Event::Failed(id("a"), Problem::internal("x"));
        let retry = || Event::Ui(UiEvent::Retry);
        check(
            vec![ready(None, None), choose("a"), fail(), retry()],
            "downloading",
            &["Download(a)", "Download(a)"],
        );
        check(
            vec![ready(None, None), choose("a"), fail(), Event::Ui(UiEvent::Back)],
            "menu",
            &["Download(a)"],
        );
        check(vec![Event::ConnectFailed(Problem::internal("x")), retry()], "menu", &["Connect"]);
        let recovered = vec![Event::ConnectFailed(Problem::internal("x")), ready(None, None)];
        check(recovered, "menu", &[]);
    }

    #[test]
    fn a_refused_kernel_brings_the_picker_back() {
        let events = vec![
            ready(None, None),
            choose("a"),
            Event::Downloaded(id("a")),
            Event::Verified(Box::new(proof("a"))),
            Event::Ui(UiEvent::PowerOff),
            Event::Failed(id("a"), Problem::internal("kexec")),
        ];
        check(events, "problem", &["Download(a)", "Verify(a)", "start a"]);
    }

    #[test]
    fn leaving_is_final() {
        let events = vec![ready(None, None), Event::Ui(UiEvent::Restart), choose("a")];
        check(events, "menu", &["Leave(Restart)"]);
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let name = prop_oneof![Just("a"), Just("b"), Just("zzz")];
        (0..16_u8, name).prop_map(|(kind, name)| match kind {
            0 => Event::Tick,
            1 => ready(None, Some(1)),
            2 => ready(Some(name), None),
            3 => Event::ConnectFailed(Problem::internal("x")),
            4 => Event::Progress(id(name), DownloadProgress::default()),
            5 | 6 => Event::Downloaded(id(name)),
            7 => Event::Hashed(id(name), 1, 2),
            8 => Event::Failed(id(name), Problem::internal("x")),
            9 | 10 => choose(name),
            11 => Event::Ui(UiEvent::Cancel),
            12 => Event::Ui(UiEvent::Back),
            13 => Event::Ui(UiEvent::Retry),
            14 => Event::Verified(Box::new(proof(if name == "zzz" { "a" } else { name }))),
            _ => Event::Connecting(Connecting::Catalog, String::new()),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// Whatever happens in whatever order: a kernel starts only with a proof for the very system whose
        /// verification was asked for last, and only out of the state that waits for it.
        #[test]
        fn no_order_of_events_reaches_kexec_unverified(events in proptest::collection::vec(any_event(), 0..60)) {
            let mut journey = Journey::begin();
            let mut asked: Option<SystemId> = None;
            for event in events {
                let is_proof = matches!(event, Event::Verified(_));
                let (next, effect) = journey.step(event);
                match effect {
                    Some(Effect::Verify(system)) => asked = Some(system),
                    Some(Effect::Start(proof)) => {
                        prop_assert!(is_proof);
                        let took = asked.take();
                        prop_assert_eq!(took.as_ref(), Some(proof.id()));
                        let is_starting =
                            matches!(&next, Journey::Starting { system, .. } if system == proof.id());
                        prop_assert!(is_starting);
                    }
                    Some(_) => asked = None,
                    None => {}
                }
                journey = next;
            }
        }
    }
}
