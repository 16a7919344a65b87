//! Core: one example of every screen, with the awkward ones among them.

use std::sync::Arc;
use std::time::Duration;

use bt_catalog::SystemId;
use bt_node::journey::{
    Connecting, Countdown, DownloadProgress, IconRef, Journey, Leaving, Menu, MenuItem, Problem,
    ProblemKind,
};

/// A system's id.
pub fn id(text: &str) -> SystemId {
    text.parse().expect("a valid id")
}

fn item(id_text: &str, name: &str, note: &str, icon: &str, megabytes: u64) -> MenuItem {
    MenuItem {
        id: id(id_text),
        name: name.to_owned(),
        note: note.to_owned(),
        icon: IconRef::Builtin(icon.to_owned()),
        size: megabytes * 1_000_000,
        obstacle: None,
    }
}

/// A menu of up to 14 systems.
pub fn menu(systems: usize) -> Arc<Menu> {
    let mut all = vec![
        item(
            "debian-12",
            "Debian 12 XFCE",
            "Office, Python, C. Your files: the network drive.",
            "debian",
            980,
        ),
        item(
            "ubuntu",
            "Ubuntu 24.04",
            "The full desktop, with Visual Studio Code and Docker.",
            "ubuntu",
            4_870,
        ),
        item(
            "fedora",
            "Fedora 42",
            "Newest GNOME. For the course “Operating Systems”.",
            "fedora",
            2_310,
        ),
        item("alpine", "Alpine", "A small system for the command line.", "alpine", 62),
        item(
            "exam",
            "Prüfungsumgebung",
            "Übungen und Prüfungen, ohne Zugang zum Internet. Größe geändert!",
            "office",
            1_420,
        ),
        item("compute", "Compute node", "Joins the cluster overnight.", "cluster", 740),
        item("arch", "Arch Linux", "For those who know what they do.", "arch", 1_150),
        item("suse", "openSUSE Leap", "", "opensuse", 3_020),
        item(
            "long",
            "Scientific workstation with everything installed",
            "GROMACS, R, Julia, Octave, ParaView, QGIS, LAMMPS, OpenFOAM and all the other programs that nobody ever starts, each in three versions.",
            "science",
            18_400,
        ),
        item(
            "installer",
            "Debian installer",
            "Erases the disk. Supervisors only.",
            "installer",
            48,
        ),
        item("tools", "Hardware tools", "Memory test, disk health, network speed.", "tools", 35),
        item("kiosk", "Zeichensaal", "No picture of this name.", "no-such-picture", 512),
        item("term", "Terminal", "SSH to the lab’s servers.", "terminal", 29),
        item("mint", "Linux Mint 22", "Familiar and friendly.", "mint", 2_750),
    ];
    all.truncate(systems);
    Arc::new(Menu {
        lab_name: "Computer lab A1".to_owned(),
        room: Some("Room A1".to_owned()),
        node_name: Some("PC 07".to_owned()),
        address: Some("10.77.0.61".to_owned()),
        default: all.first().map(|item| item.id.clone()),
        systems: all,
    })
}

/// Four systems, of which three cannot start here, each for another reason.
pub fn obstacles() -> Arc<Menu> {
    let mut menu = Menu::clone(&menu(4));
    let reasons = [
        "Needs 5.2 GB; this PC has 4.1 GB in up to 4 pieces.",
        "Secure Boot is on, and this system's kernel is not signed.",
        "Needs newer boot files than this PC has.",
    ];
    for (item, why) in menu.systems[1..].iter_mut().zip(reasons) {
        item.obstacle = Some(Problem::new(ProblemKind::DoesNotFit, "what", why, "fix", "detail"));
    }
    Arc::new(menu)
}

/// Every built-in picture.
pub fn all_icons() -> Arc<Menu> {
    let systems = bt_node::screen::icons::built_in_names()
        .map(|name| item(name, name, "A built-in picture.", name, 100))
        .collect();
    let menu = Menu::clone(&menu(1));
    Arc::new(Menu { systems, default: None, ..menu })
}

fn downloading(done: u64, total: u64, speed: u64, peers: usize, stalled: Option<u64>) -> Journey {
    Journey::Downloading {
        menu: menu(6),
        system: id("debian-12"),
        progress: DownloadProgress {
            done: done * 1_000_000,
            total: total * 1_000_000,
            speed: speed * 1_000_000,
            peers,
            from_server: stalled.is_none(),
            stalled_for: stalled.map(Duration::from_secs),
        },
    }
}

fn choosing(menu: Arc<Menu>, seconds_left: Option<u32>) -> Journey {
    let system = menu.default.clone().unwrap_or_else(|| id("none"));
    let countdown = seconds_left.map(|seconds_left| Countdown { system, seconds_left });
    Journey::Menu { menu, countdown }
}

fn hash_wrong() -> Journey {
    Journey::Stopped {
        menu: Some(menu(6)),
        system: Some(id("debian-12")),
        problem: Problem::new(
            ProblemKind::HashWrong,
            "Debian 12 XFCE failed verification",
            "Its file “image” is not the one that your lab signed, so it was not started.",
            "Try again. If this keeps happening, tell your supervisor: the file was changed after signing.",
            "image: SHA-256 is 9f2c41…, the catalog says 1b07aa… (catalog version 41)",
        ),
    }
}

fn no_server() -> Journey {
    Journey::Stopped {
        menu: None,
        system: None,
        problem: Problem::new(
            ProblemKind::NoServer,
            "The server does not answer",
            "This PC cannot reach the lab's server.",
            "Try again. If this keeps happening, tell your supervisor.",
            "error sending request for url (http://10.77.0.1:6969/catalog.toml): connection refused",
        ),
    }
}

fn long_problem() -> Journey {
    let long = "operation timed out while waiting for the kernel to accept the segments of the new image, ";
    Journey::Stopped {
        menu: Some(menu(6)),
        system: Some(id("long")),
        problem: Problem::new(
            ProblemKind::NoMemory,
            "Scientific workstation with everything installed does not fit into this PC’s memory",
            "It needs 39.4 GB of memory while it starts, but this PC has only 16.0 GB, of which 14.9 GB are free for it.",
            "Choose a smaller system, or ask your supervisor which PCs in this room have more memory than this one.",
            long.repeat(6),
        ),
    }
}

/// Every screen with a name for its file.
pub fn all() -> Vec<(&'static str, Journey)> {
    let starting = Journey::Starting { menu: menu(6), system: id("debian-12") };
    let verifying = Journey::Verifying {
        menu: menu(6),
        system: id("debian-12"),
        done: 610_000_000,
        total: 980_000_000,
    };
    let network = Journey::Connecting { what: Connecting::Network, detail: String::new() };
    let cable = "No network cable is plugged in (eth0). Waiting for one.".to_owned();
    let cable = Journey::Connecting { what: Connecting::Network, detail: cable };
    let long = Journey::Downloading {
        menu: menu(9),
        system: id("long"),
        progress: DownloadProgress { total: 18_400_000_000, ..DownloadProgress::default() },
    };
    vec![
        ("connecting", network),
        ("connecting-cable", cable),
        ("menu-00", choosing(menu(0), None)),
        ("menu-01", choosing(menu(1), None)),
        ("menu-02", choosing(menu(2), Some(8))),
        ("menu-04", choosing(menu(4), None)),
        ("menu-06", choosing(menu(6), Some(12))),
        ("menu-14", choosing(menu(14), None)),
        ("menu-icons", choosing(all_icons(), None)),
        ("menu-obstacles", choosing(obstacles(), None)),
        ("download", downloading(412, 980, 38, 3, None)),
        ("download-many", downloading(903, 980, 112, 23, None)),
        ("download-server", downloading(14, 980, 9, 0, None)),
        ("download-stalled", downloading(412, 980, 0, 0, Some(20))),
        ("download-long", long),
        ("verifying", verifying),
        ("starting", starting),
        ("problem-hash", hash_wrong()),
        ("problem-server", no_server()),
        ("problem-long", long_problem()),
        ("leaving", Journey::Leaving { how: Leaving::Restart }),
    ]
}
