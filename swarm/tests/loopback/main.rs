//! Seeds and nodes as they are used, on the loopback interface.

mod common;
mod garbage;
mod room;
