//! Shell: what PID 1 does when it cannot continue. If it just exited, the kernel would panic without a useful reason.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::{mounts, reaper, serial};
use crate::init::console;

/// How long the reason stays on the screen before the PC restarts by itself.
const SHOW_FOR: Duration = Duration::from_secs(60);
/// Where a person may read it: the screen, and what `console=` names.
const CONSOLES: [&str; 2] = ["/dev/tty0", "/dev/console"];

static MAY_SHELL: AtomicBool = AtomicBool::new(false);

/// Allows a shell after a failure (`bt.shell`).
pub fn allow_shell() {
    MAY_SHELL.store(true, Ordering::Relaxed);
}

/// Starts a shell in addition to the picker, once, where `bt.shell` allows it: on the serial console, or else on the
/// second virtual console, which comes to the front (Alt-F1 leads back).
pub fn offer_shell(serial: Option<&str>) {
    if !MAY_SHELL.swap(false, Ordering::Relaxed) {
        return;
    }
    let tty = format!("/dev/{}", serial.unwrap_or("tty2"));
    let started = OpenOptions::new().read(true).write(true).open(&tty).and_then(|console| {
        // A new session with the console as its terminal, so that Ctrl-C works.
        let mut shell = Command::new("/bin/busybox");
        shell.args(["setsid", "-c", "/bin/busybox", "sh"]);
        shell.stdin(console.try_clone()?).stdout(console.try_clone()?).stderr(console).spawn()
    });
    match started {
        Ok(_) if serial.is_none() => {
            reaper::run(reaper::busybox("chvt").arg("2")).map(|_| ()).unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot switch to the emergency shell's console");
            });
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, tty, "cannot start the emergency shell"),
    }
}

/// Makes every panic end here, whatever thread it is in.
pub fn install() {
    std::panic::set_hook(Box::new(|panic| give_up(&panic.to_string())));
}

/// Shows why, waits for Enter or a minute, and restarts the PC.
pub fn give_up(why: &str) -> ! {
    console::restore();
    // The consoles need /dev. It is usually mounted already; if not, nothing more can be done.
    mounts::mount_devices().ok();
    serial::step("problem", &[("kind", "internal"), ("text", why)]);
    say(&format!("\nThis PC's boot program failed:\n  {why}\n"));
    if MAY_SHELL.load(Ordering::Relaxed) {
        say("bt.shell is set, so here is a shell. The PC restarts when you exit it.\n");
        let mut shell = Command::new("/bin/busybox");
        let shell = shell.arg("sh").stdin(Stdio::inherit());
        if let Err(error) = shell.status() {
            say(&format!("cannot start a shell: {error}\n"));
        }
    } else {
        say("Press Enter to restart. The PC restarts by itself after a minute.\n");
        wait_for_enter();
    }
    restart()
}

fn say(text: &str) {
    for console in CONSOLES {
        if let Ok(mut tty) = OpenOptions::new().write(true).open(console) {
            tty.write_all(text.replace('\n', "\r\n").as_bytes()).ok();
        }
    }
}

fn wait_for_enter() {
    let (pressed, wait) = mpsc::channel();
    for console in CONSOLES {
        let pressed = pressed.clone();
        std::thread::spawn(move || {
            let Ok(mut tty) = File::open(console) else { return };
            if matches!(tty.read(&mut [0; 16]), Ok(n) if n > 0) {
                // Only the first key counts.
                pressed.send(()).ok();
            }
        });
    }
    // The thread of a console that cannot be opened drops its sender at once; this sender keeps the channel open.
    wait.recv_timeout(SHOW_FOR).ok();
    drop(pressed);
}

fn restart() -> ! {
    nix::unistd::sync();
    // SAFETY: reboot(2) with this command touches no memory of this process.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_RESTART) };
    // Only where PID 1 may not restart the machine, as in a container.
    loop {
        std::thread::park();
    }
}
