//! Shell: reads keyboards, mice, tablets and touchpads from `/dev/input`, and looks for new ones every second.
//!
//! [`Reader`] combines the events of one device; it does no IO.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use evdev::{AbsoluteAxisCode, Device, KeyCode, PropType};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::event::Input;
use self::reader::{Pointing, Reader};

pub mod event;
pub mod reader;

/// Where the kernel puts input devices.
const FOLDER: &str = "/dev/input";
/// How often new devices are looked for.
const RESCAN: Duration = Duration::from_secs(1);
/// A limit that is above the number of devices of any PC.
const MAX_DEVICES: usize = 64;

/// Starts the thread that reads every device and passes its inputs to `send`.
///
/// It ends when `send` fails: the receiver no longer exists.
///
/// # Errors
/// When the thread cannot be started.
pub fn start<E>(send: impl Fn(Vec<Input>) -> Result<(), E> + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("input".to_owned()).spawn(move || {
        let mut devices = HashMap::new();
        loop {
            rescan(&mut devices);
            let inputs = wait(&mut devices);
            if !inputs.is_empty() && send(inputs).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Opens new devices. A device that cannot be opened yet is retried with the next call.
fn rescan(devices: &mut HashMap<PathBuf, (Device, Reader)>) {
    let Ok(entries) = fs::read_dir(FOLDER) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_event = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("event"));
        if is_event && devices.len() < MAX_DEVICES && !devices.contains_key(&path) {
            match open(&path) {
                Ok(device) => {
                    tracing::debug!(path = %path.display(), name = device.0.name(), "input device");
                    devices.insert(path, device);
                }
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "cannot open input device")
                }
            }
        }
    }
}

fn open(path: &Path) -> io::Result<(Device, Reader)> {
    let device = Device::open(path)?;
    device.set_nonblocking(true)?;
    let mut ranges = [None; 2];
    // A joystick or an accelerometer has axes too, but no pointer.
    let has = |code| device.supported_keys().is_some_and(|keys| keys.contains(code));
    if has(KeyCode::BTN_LEFT) || has(KeyCode::BTN_TOUCH) {
        for (axis, info) in device.get_absinfo()? {
            let range = (info.maximum() > info.minimum()).then(|| (info.minimum(), info.maximum()));
            match axis {
                AbsoluteAxisCode::ABS_X => ranges[0] = range,
                AbsoluteAxisCode::ABS_Y => ranges[1] = range,
                _ => {}
            }
        }
    }
    let is_direct = device.properties().contains(PropType::DIRECT);
    let pointing = match ranges {
        [None, None] => Pointing::Relative,
        _ if has(KeyCode::BTN_TOOL_FINGER) && !is_direct => Pointing::Touchpad,
        _ => Pointing::Absolute,
    };
    Ok((device, Reader::new(pointing, ranges)))
}

/// Waits for input or until a rescan is due; drops devices that were disconnected.
fn wait(devices: &mut HashMap<PathBuf, (Device, Reader)>) -> Vec<Input> {
    let timeout = PollTimeout::try_from(RESCAN).unwrap_or(PollTimeout::MAX);
    let mut fds: Vec<PollFd> = devices
        .values()
        .map(|(device, _)| PollFd::new(device.as_fd(), PollFlags::POLLIN))
        .collect();
    let ready = poll(&mut fds, timeout);
    let mut inputs = Vec::new();
    if !matches!(ready, Ok(1..)) {
        return inputs;
    }
    devices.retain(|path, (device, reader)| match device.fetch_events() {
        Ok(events) => {
            for event in events {
                reader.read(event.destructure(), &mut inputs);
            }
            true
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "input device disconnected");
            false
        }
    });
    inputs
}
