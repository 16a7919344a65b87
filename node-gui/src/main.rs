//! Shell: `bt-node`: as process 1 the node itself, else its command line.

use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        bt_node::app::run_as_init();
    }
    let level = EnvFilter::try_from_env("BT_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    bt_node::cli::run(&arguments)
}
