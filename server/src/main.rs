//! Shell: the program `bt-server`.

use std::io;
use std::process::ExitCode;

use bt_server::commands::Cli;
use bt_server::terminal::tell;
use clap::Parser;

fn main() -> ExitCode {
    match Cli::parse().perform() {
        Ok(code) => code,
        // Whoever read our output has seen enough (`bt-server status | head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("bt-server: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
