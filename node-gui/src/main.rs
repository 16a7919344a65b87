//! `/init` of a node when it is process 1, else the node's tools on the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        bt_node::app::run_as_init();
    }
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    bt_node::cli::run(&arguments)
}
