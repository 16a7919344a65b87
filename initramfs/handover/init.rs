//! The handover part's program: the kernel starts it in place of the initramfs's own `/init` (`rdinit=`).
//!
//! It loads the modules that `/.bt-handover/load` names, in that order. Then it makes one block device of the image: of the
//! ranges of memory that `bt_ranges=` counts, or of the file `/.bt-handover/image`. Then it is `/init`, which finds its medium as if a disk had always been there. It says what it does
//! in the kernel's log, and goes on after every failure: the system's own words on the screen say more than a halted PC.
//!
//! Nothing of the system's initramfs is used, no shell and no library: it needs a kernel and a few kilobytes. `build.rs`
//! compiles it.

#![no_std]
#![no_main]

mod join;

use core::arch::{asm, global_asm};
use core::ffi::CStr;
use core::panic::PanicInfo;

const LOAD: &CStr = c"/.bt-handover/load";
const IMAGE: &CStr = c"/.bt-handover/image";
const KMSG: &CStr = c"/.bt-handover/kmsg";
const LOOP: &CStr = c"/.bt-handover/loop0";
const LOOP_CONTROL: &CStr = c"/.bt-handover/loop-control";
const INITS: [&CStr; 4] = [c"/init", c"/sbin/init", c"/etc/init", c"/bin/init"];

// Numbers of x86-64's system calls and of the loop driver: asm/unistd_64.h, linux/loop.h, linux/major.h.
const READ: usize = 0;
const OPEN: usize = 2;
const CLOSE: usize = 3;
const IOCTL: usize = 16;
const WRITEV: usize = 20;
const EXECVE: usize = 59;
const UNLINK: usize = 87;
const MKNOD: usize = 133;
const FINIT_MODULE: usize = 313;
const O_RDONLY: usize = 0;
const O_WRONLY: usize = 1;
const LOOP_SET_FD: usize = 0x4c00;
const LOOP_CTL_ADD: usize = 0x4c80;
const EEXIST: isize = -17;

/// How many bytes of `/.bt-handover/load` are read; a test of the builder keeps it shorter.
const LIST_BYTES: usize = 4096;

// The kernel leaves argc, argv and envp on the stack, and no return address.
global_asm!(
    ".globl _start",
    "_start:",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym start,
);

unsafe extern "C" fn start(stack: *const usize) -> ! {
    make_node(KMSG, 0o020_600, 1, 11);
    load_modules();
    // SAFETY: the kernel put argc and then argc pointers and a null onto the stack, then the environment.
    let (argv, envp) = unsafe { (stack.add(1), stack.add(*stack + 2)) };
    // SAFETY: as above; a word `key=value` that the kernel does not know itself becomes part of the environment.
    if let Some(count) = unsafe { ranges(envp) } {
        join::join(count);
    }
    if let Ok(image) = open(IMAGE, O_RDONLY) {
        attach(image);
        close(image);
    }
    for init in INITS {
        // SAFETY: we may change argv[0]; both lists end with a null.
        unsafe {
            argv.cast_mut().write(init.as_ptr() as usize);
            call(EXECVE, [init.as_ptr() as usize, argv as usize, envp as usize, 0]);
        }
    }
    log(&[b"<2>boottorrent: the initrd has no /init that starts"]);
    loop {
        core::hint::spin_loop();
    }
}

/// How many ranges of memory the image is spread over, where they are several: one digit.
///
/// # Safety
/// `envp` is a list of C strings that ends with a null.
unsafe fn ranges(envp: *const usize) -> Option<u8> {
    const KEY: &[u8] = b"bt_ranges=";
    let mut at = envp;
    // SAFETY: the caller's. Reading stops at the first byte that differs, and so inside of each string.
    unsafe {
        while *at != 0 {
            let text = *at as *const u8;
            let is_key = (0..KEY.len()).all(|n| *text.add(n) == KEY[n]);
            if is_key {
                let digit = *text.add(KEY.len());
                return (b'2'..=b'9').contains(&digit).then(|| digit - b'0');
            }
            at = at.add(1);
        }
    }
    None
}

fn load_modules() {
    let Ok(list) = open(LOAD, O_RDONLY) else { return };
    static mut TEXT: [u8; LIST_BYTES] = [0; LIST_BYTES];
    let text = &raw mut TEXT as *mut u8;
    // SAFETY: this one thread is the only user of TEXT, and the kernel writes at most its length.
    let length = unsafe { call(READ, [list, text as usize, LIST_BYTES, 0]) };
    close(list);
    let mut start = 0;
    for at in 0..usize::try_from(length).unwrap_or(0) {
        // SAFETY: `at` is below LIST_BYTES. Each line becomes a C string in place.
        unsafe {
            if *text.add(at) == b'\n' {
                *text.add(at) = 0;
                let line = core::slice::from_raw_parts(text.add(start), at + 1 - start);
                load(CStr::from_bytes_with_nul_unchecked(line));
                start = at + 1;
            }
        }
    }
}

fn load(module: &CStr) {
    let done = match open(module, O_RDONLY) {
        Ok(file) => {
            // SAFETY: the parameters are an empty string.
            let done = unsafe { call(FINIT_MODULE, [file, c"".as_ptr() as usize, 0, 0]) };
            close(file);
            done
        }
        Err(error) => error,
    };
    // SAFETY: a path; frees its memory.
    unsafe { call(UNLINK, [module.as_ptr() as usize, 0, 0, 0]) };
    match done {
        0 => log(&[b"<5>boottorrent: loaded ", module.to_bytes()]),
        EEXIST => {}
        error => log_error(b"cannot load ", module, error),
    }
}

/// Makes `/dev/loop0` of the image. The driver keeps the file, also when the initramfs is emptied later.
fn attach(image: usize) {
    make_node(LOOP_CONTROL, 0o020_600, 10, 237);
    if let Ok(control) = open(LOOP_CONTROL, O_RDONLY) {
        // SAFETY: the argument is a number. The device may be there already.
        unsafe { call(IOCTL, [control, LOOP_CTL_ADD, 0, 0]) };
        close(control);
    }
    make_node(LOOP, 0o060_600, 7, 0);
    let done = match open(LOOP, O_RDONLY) {
        Ok(device) => {
            // SAFETY: the argument is a descriptor, opened for reading: the device is read-only.
            let done = unsafe { call(IOCTL, [device, LOOP_SET_FD, image, 0]) };
            close(device);
            done
        }
        Err(error) => error,
    };
    match done {
        0 => log(&[b"<5>boottorrent: /dev/loop0 is ", IMAGE.to_bytes()]),
        error => log_error(b"cannot make a disk of ", IMAGE, error),
    }
}

fn make_node(path: &CStr, mode: usize, major: usize, minor: usize) {
    // SAFETY: a path, and numbers in the layout of makedev(3) for small ones.
    unsafe { call(MKNOD, [path.as_ptr() as usize, mode, major << 8 | minor, 0]) };
}

fn open(path: &CStr, flags: usize) -> Result<usize, isize> {
    // SAFETY: a path that ends with a NUL.
    let file = unsafe { call(OPEN, [path.as_ptr() as usize, flags, 0, 0]) };
    usize::try_from(file).map_err(|_| file)
}

fn close(file: usize) {
    // SAFETY: nobody uses the descriptor afterwards.
    unsafe { call(CLOSE, [file, 0, 0, 0]) };
}

fn log_error(what: &[u8], path: &CStr, error: isize) {
    let number = error.unsigned_abs();
    let digit = |value: usize| b'0' + u8::try_from(value % 10).unwrap_or(0);
    let digits = [digit(number / 100), digit(number / 10), digit(number)];
    log(&[b"<3>boottorrent: ", what, path.to_bytes(), b": error ", &digits]);
}

/// One record in the kernel's log.
fn log(parts: &[&[u8]]) {
    let Ok(log) = open(KMSG, O_WRONLY) else { return };
    // SAFETY: a slice reference is (address, length), which is what writev(2) takes; one call is one record.
    unsafe { call(WRITEV, [log, parts.as_ptr() as usize, parts.len(), 0]) };
    close(log);
}

/// # Safety
/// As the system call itself.
unsafe fn call(number: usize, arguments: [usize; 4]) -> isize {
    // SAFETY: the caller's.
    unsafe { call5(number, arguments, 0) }
}

/// # Safety
/// As the system call itself.
unsafe fn call5(number: usize, arguments: [usize; 4], fifth: usize) -> isize {
    let result: isize;
    // SAFETY: the caller's; `syscall` changes rax, rcx and r11 only.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") fifth,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
