//! Shell: the command `bt-server`.
fn main() {}
