//! Several ranges of memory, each a block device of its own, become one: `/dev/dm-0`, by the device mapper's linear target.
//!
//! The driver names them in the order of their addresses: `pmem0`, `pmem1`, … Formats: linux/dm-ioctl.h.

use core::ffi::CStr;

use super::{O_RDONLY, READ, call, call5, close, log, log_error, make_node, open};

const SYS: &CStr = c"/.bt-handover/sys";
const CONTROL: &CStr = c"/.bt-handover/dm-control";
const NAME: &[u8] = b"boottorrent";

const IOCTL: usize = 16;
const NANOSLEEP: usize = 35;
const MKDIR: usize = 83;
const MOUNT: usize = 165;
const UMOUNT: usize = 166;
const DM_DEV_CREATE: usize = 0xc138_fd03;
const DM_DEV_SUSPEND: usize = 0xc138_fd06;
const DM_TABLE_LOAD: usize = 0xc138_fd09;
const DM_READONLY: u32 = 1;
/// Bytes of `struct dm_ioctl`, and of each target with its parameter behind it.
const HEAD: usize = 312;
const TARGET: usize = 40 + 24;
const MOST: usize = HEAD + 9 * TARGET;
/// The driver looks at the ranges in a thread of its own; waited for at most this long, in hundredths of a second.
const PATIENCE: usize = 1000;

/// Joins `count` devices.
pub fn join(count: u8) {
    // SAFETY: paths and names are C strings.
    unsafe {
        call(MKDIR, [SYS.as_ptr() as usize, 0o700, 0, 0]);
        let kind = c"sysfs".as_ptr() as usize;
        call5(MOUNT, [kind, SYS.as_ptr() as usize, kind, 0], 0);
    }
    let done = linear(count);
    // SAFETY: a path.
    unsafe { call(UMOUNT, [SYS.as_ptr() as usize, 0, 0, 0]) };
    match done {
        Ok(()) => log(&[b"<5>boottorrent: /dev/dm-0 is the ranges of the image"]),
        Err(error) => log_error(b"cannot join the ranges of the image by ", CONTROL, error),
    }
}

fn linear(count: u8) -> Result<(), isize> {
    let mut request = Request::new();
    let mut sector = 0;
    for number in 0..count {
        let mut size = *b"/.bt-handover/sys/block/pmem0/size\0";
        size[28] += number;
        let length = wait_for_number(&size)?;
        let mut device = *b"/.bt-handover/sys/block/pmem0/dev\0";
        device[28] += number;
        request.add(sector, length, &device)?;
        sector += length;
    }
    make_node(CONTROL, 0o020_600, 10, 236);
    let control = open(CONTROL, O_RDONLY)?;
    let done = request.perform(control);
    close(control);
    done
}

/// Reads a file with a number, as soon as it is there.
fn wait_for_number(path: &[u8]) -> Result<u64, isize> {
    let mut text = [0; 24];
    let mut tries = 0;
    loop {
        match read(path, &mut text) {
            Ok(length) => {
                let digits = text.iter().take(length).take_while(|digit| digit.is_ascii_digit());
                return Ok(digits.fold(0, |number: u64, digit| {
                    number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))
                }));
            }
            Err(error) if tries == PATIENCE => return Err(error),
            Err(_) => {
                tries += 1;
                let pause: [u64; 2] = [0, 10_000_000];
                // SAFETY: a struct timespec.
                unsafe { call(NANOSLEEP, [(&raw const pause) as usize, 0, 0, 0]) };
            }
        }
    }
}

fn read(path: &[u8], text: &mut [u8; 24]) -> Result<usize, isize> {
    // SAFETY: every path here ends with its one NUL.
    let file = open(unsafe { CStr::from_bytes_with_nul_unchecked(path) }, O_RDONLY)?;
    // SAFETY: the kernel writes at most the length of `text`.
    let length = unsafe { call(READ, [file, text.as_mut_ptr() as usize, text.len(), 0]) };
    close(file);
    usize::try_from(length).map_err(|_| length)
}

/// A `struct dm_ioctl` with its targets behind it.
struct Request {
    bytes: &'static mut [u8; MOST],
    targets: usize,
}

impl Request {
    fn new() -> Self {
        static mut BYTES: [u8; MOST] = [0; MOST];
        // SAFETY: called once, by the one thread.
        let bytes = unsafe { &mut *(&raw mut BYTES) };
        Self { bytes, targets: 0 }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    /// Adds a device: `length` sectors from `start` on; the file `device` holds its number as `MAJOR:MINOR`.
    fn add(&mut self, start: u64, length: u64, device: &[u8]) -> Result<(), isize> {
        let mut text = [0; 24];
        let read = read(device, &mut text)?;
        let at = HEAD + self.targets * TARGET;
        self.put(at, &start.to_le_bytes());
        self.put(at + 8, &length.to_le_bytes());
        self.put(at + 20, &(TARGET as u32).to_le_bytes());
        self.put(at + 24, b"linear");
        // `259:0` and a line's end, which becomes the space before where to begin: ` 0`.
        let number = read.saturating_sub(1).min(20);
        for (n, byte) in text.iter().enumerate().take(number) {
            self.put(at + 40 + n, &[*byte]);
        }
        self.put(at + 40 + number, b" 0");
        self.targets += 1;
        Ok(())
    }

    fn perform(&mut self, control: usize) -> Result<(), isize> {
        // Creates the device, gives it its table, and lets it go.
        for (command, flags) in
            [(DM_DEV_CREATE, 0), (DM_TABLE_LOAD, DM_READONLY), (DM_DEV_SUSPEND, 0)]
        {
            let targets = if command == DM_TABLE_LOAD { self.targets as u32 } else { 0 };
            let head = [4, 0, 0, MOST as u32, HEAD as u32, targets, 0, flags, 0, 0, 0, 0];
            for (n, value) in head.iter().enumerate() {
                self.put(4 * n, &u32::to_le_bytes(*value));
            }
            self.put(48, NAME);
            // SAFETY: the request is as long as it says, and the kernel writes its answer over its head.
            let done =
                unsafe { call(IOCTL, [control, command, self.bytes.as_mut_ptr() as usize, 0]) };
            if done != 0 {
                return Err(done);
            }
        }
        Ok(())
    }
}
