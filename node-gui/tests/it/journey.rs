//! Shell: draws the journey of a node by walking it: every transition in `docs/journey.md` is one that the code made.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bt_catalog::SystemId;
use bt_node::journey::{
    Connected, Connecting, DownloadProgress, Effect, Event, IconRef, Journey, Menu, MenuItem,
    Problem, Proof, UiEvent,
};

/// Everything below this line of the page is drawn.
const DRAWN: &str = "<!-- Drawn by node-gui/tests/it/journey.rs; BT_ACCEPT=1 redraws it. -->\n";
/// More places than the walk may find: each has another menu, system, countdown or figure.
const MAX_PLACES: usize = 2_000;

/// A proof of nothing, for a journey that only hands it on.
#[derive(Debug)]
struct Claim(SystemId);

impl Proof for Claim {
    fn id(&self) -> &SystemId {
        &self.0
    }
}

fn id(name: &str) -> SystemId {
    name.parse().expect("an id")
}

fn menu() -> Arc<Menu> {
    let item = |name: &str, obstacle| MenuItem {
        id: id(name),
        name: name.to_owned(),
        note: String::new(),
        icon: IconRef::Builtin(String::new()),
        size: 10,
        obstacle,
    };
    Arc::new(Menu {
        lab_name: String::new(),
        room: None,
        node_name: None,
        address: None,
        systems: vec![item("a", None), item("too-big", Some(Problem::internal("too big")))],
        default: Some(id("a")),
    })
}

/// The word of an event. A new one must be added to [`events`] too.
fn word(event: &Event<Claim>) -> &'static str {
    match event {
        Event::Ui(UiEvent::Choose(_)) => "Choose",
        Event::Ui(UiEvent::Cancel) => "Cancel",
        Event::Ui(UiEvent::Back) => "Back",
        Event::Ui(UiEvent::Retry) => "Retry",
        Event::Ui(UiEvent::PowerOff) => "PowerOff",
        Event::Ui(UiEvent::Restart) => "Restart",
        Event::Ui(UiEvent::AnyKey) => "AnyKey",
        Event::Tick => "Tick",
        Event::Connecting(..) => "Connecting",
        Event::Ready(_) => "Ready",
        Event::ConnectFailed(_) => "ConnectFailed",
        Event::Progress(..) => "Progress",
        Event::Downloaded(_) => "Downloaded",
        Event::Hashed(..) => "Hashed",
        Event::Verified(_) => "Verified",
        Event::Failed(..) => "Failed",
    }
}

/// Every kind of event, about every kind of system: one that starts, one with an obstacle, one that does not exist.
fn events() -> Vec<Event<Claim>> {
    use UiEvent::{AnyKey, Back, Cancel, Choose, PowerOff, Restart, Retry};
    let mut events = vec![Event::Tick, Event::ConnectFailed(Problem::internal("no server"))];
    events.extend([Cancel, Back, Retry, PowerOff, Restart, AnyKey].map(Event::Ui));
    for what in [Connecting::Drivers, Connecting::Network, Connecting::Catalog] {
        events.push(Event::Connecting(what, String::new()));
    }
    let ready = |preset: Option<&str>, timeout| {
        Event::Ready(Connected { menu: menu(), preset: preset.map(str::to_owned), timeout })
    };
    events.extend([ready(None, None), ready(None, Some(2))]);
    for name in ["a", "too-big", "missing"] {
        let progress = DownloadProgress { done: 5, total: 10, ..DownloadProgress::default() };
        events.extend([
            ready(Some(name), None),
            Event::Ui(Choose(id(name))),
            Event::Progress(id(name), progress),
            Event::Downloaded(id(name)),
            Event::Hashed(id(name), 5, 10),
            Event::Verified(Box::new(Claim(id(name)))),
            Event::Failed(id(name), Problem::internal("failed")),
        ]);
    }
    events
}

/// The name of a place in the drawing. A menu that counts down, and a problem without a menu, respond differently
/// from the others.
fn state(journey: &Journey) -> &'static str {
    match journey {
        Journey::Connecting { .. } => "Connecting",
        Journey::Menu { countdown: None, .. } => "Menu",
        Journey::Menu { countdown: Some(_), .. } => "Menu with countdown",
        Journey::Downloading { .. } => "Downloading",
        Journey::Verifying { .. } => "Verifying",
        Journey::Starting { .. } => "Starting",
        Journey::Stopped { menu: Some(_), .. } => "Stopped",
        Journey::Stopped { menu: None, .. } => "Stopped before the menu",
        Journey::Leaving { .. } => "Leaving",
    }
}

/// The first word of what `Debug` says: the name of an effect.
fn first_word(effect: &Effect<Claim>) -> String {
    format!("{effect:?}").chars().take_while(|c| c.is_alphanumeric()).collect()
}

/// One step that changed something: from, to, and what else the shell must do.
type Arrow = (&'static str, &'static str, Option<String>);

/// Which events lead from one place to another, each with the name of its effect.
type Steps = BTreeSet<(String, Option<String>)>;

/// What a walk found: the places in the order in which they were reached, and what led from one to another.
#[derive(Default)]
struct Map {
    places: Vec<&'static str>,
    arrows: BTreeMap<(usize, usize), Steps>,
}

impl Map {
    fn place(&mut self, name: &'static str) -> usize {
        if let Some(known) = self.places.iter().position(|place| *place == name) {
            return known;
        }
        self.places.push(name);
        self.places.len() - 1
    }

    fn add(&mut self, (from, to, effect): Arrow, event: &str) {
        let ends = (self.place(from), self.place(to));
        self.arrows.entry(ends).or_default().insert((event.to_owned(), effect));
    }
}

/// The journey after these events, each given by its number.
fn at(path: &[usize]) -> Journey {
    path.iter()
        .fold(Journey::begin(), |journey, number| journey.step(events().swap_remove(*number)).0)
}

/// Visits every state that events lead to, the shortest paths first.
fn walk() -> Map {
    let mut map = Map::default();
    map.place(state(&Journey::begin()));
    let mut seen = BTreeSet::from([format!("{:?}", Journey::begin())]);
    let mut paths = VecDeque::from([Vec::new()]);
    while let Some(path) = paths.pop_front() {
        for (number, event) in events().into_iter().enumerate() {
            let before = at(&path);
            let (from, unchanged, word) = (state(&before), format!("{before:?}"), word(&event));
            let (after, effect) = before.step(event);
            let now = format!("{after:?}");
            if now == unchanged && effect.is_none() {
                continue;
            }
            map.add((from, state(&after), effect.as_ref().map(first_word)), word);
            if seen.insert(now) {
                assert!(seen.len() < MAX_PLACES, "the walk does not end");
                paths.push_back([&path[..], &[number]].concat());
            }
        }
    }
    map
}

fn label(event: &str, effect: Option<&String>) -> String {
    effect.map_or_else(|| event.to_owned(), |effect| format!("{event} / {effect}"))
}

/// The drawing for people, and the same as a table.
fn draw(map: &Map) -> String {
    let mut page = String::from("\n```mermaid\nstateDiagram-v2\n");
    let mut line = |text: String| writeln!(page, "{text}").expect("a String takes everything");
    for (number, place) in map.places.iter().enumerate() {
        line(format!("    state \"{place}\" as s{number}"));
    }
    line("    [*] --> s0".to_owned());
    for ((from, to), steps) in &map.arrows {
        let steps: Vec<String> =
            steps.iter().map(|(event, effect)| label(event, effect.as_ref())).collect();
        line(format!("    s{from} --> s{to}: {}", steps.join("<br/>")));
    }
    for end in 0..map.places.len() {
        if !map.arrows.keys().any(|(from, to)| *from == end && *to != end) {
            line(format!("    s{end} --> [*]"));
        }
    }
    line("```\n\n| from | event | to | the shell must |\n|---|---|---|---|".to_owned());
    for ((from, to), steps) in &map.arrows {
        for (event, effect) in steps {
            let (from, to) = (map.places[*from], map.places[*to]);
            let effect = effect.as_deref().unwrap_or_default();
            line(format!("| {from} | {event} | {to} | {effect} |"));
        }
    }
    page
}

#[test]
fn the_page_of_the_journey_shows_what_the_code_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/journey.md");
    let page = fs::read_to_string(&path).expect("docs/journey.md is there");
    let (written, drawn) = page.split_once(DRAWN).expect("the page has the line of the drawing");
    let now = draw(&walk());
    if std::env::var_os("BT_ACCEPT").is_some() {
        fs::write(&path, format!("{written}{DRAWN}{now}")).expect("docs/journey.md is writable");
        return;
    }
    let shown: BTreeSet<&str> = drawn.lines().collect();
    let made: BTreeSet<&str> = now.lines().collect();
    assert!(
        drawn == now,
        "docs/journey.md shows another journey than the code.\n  no longer true: {:#?}\n  not shown yet: {:#?}\n\
         If that is intended, redraw it and review the change:\n  BT_ACCEPT=1 cargo test -p bt-node --test it journey",
        shown.difference(&made).collect::<Vec<_>>(),
        made.difference(&shown).collect::<Vec<_>>(),
    );
}

#[test]
fn every_kind_of_event_is_tried_and_every_one_leads_somewhere() {
    let tried: BTreeSet<&str> = events().iter().map(word).collect();
    let map = walk();
    let taken: BTreeSet<&str> =
        map.arrows.values().flatten().map(|(event, _)| event.as_str()).collect();
    assert_eq!(tried, taken, "an event that changes nothing anywhere is of no use");
}
