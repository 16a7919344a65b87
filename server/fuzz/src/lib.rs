//! Shell: hands libFuzzer's inputs to one entry of the server.

pub mod harness;

use std::cell::RefCell;

pub use libfuzzer_sys;

pub use self::harness::Target;
use self::harness::Victim;

thread_local! {
    static VICTIM: RefCell<Victim> = RefCell::default();
}

/// Feeds one input. The server's memory is kept from one to the next, as a running server's is.
pub fn take(target: Target, input: &[u8]) {
    VICTIM.with_borrow_mut(|victim| victim.take(target, input));
}

/// A program that fuzzes one target.
#[macro_export]
macro_rules! target {
    ($target:expr) => {
        $crate::libfuzzer_sys::fuzz_target!(|input: &[u8]| $crate::take($target, input));
    };
}
