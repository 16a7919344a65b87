//! Shell: the program `bt-server`.

use std::process::ExitCode;

use bt_server::cli::Cli;
use clap::Parser;

fn main() -> ExitCode {
    match Cli::parse().perform() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bt-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}
