//! Shell: what the supervisor reads on the terminal: lines, and the progress of hashing.

use std::fmt::Display;
use std::io::{self, Write};

use bt_catalog::SystemId;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing::info;

use crate::humanize;

/// One line for the supervisor. Unlike `println!`, it does not panic when the reader has gone.
///
/// # Errors
/// When it cannot be written.
pub fn say(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// One line on standard error. Unlike `eprintln!`, it does not panic when the terminal is closed or
/// the disk behind it is full: a server goes on without it.
pub fn tell(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// How progress is shown while files are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// To somebody who waits for `start`: a bar on a terminal, else a line for each system.
    Shown,
    /// Only in the log.
    Logged,
}

/// The bar of a system whose files are hashed.
pub fn bar(id: &SystemId, total: u64, progress: Progress) -> ProgressBar {
    info!(system = %id, bytes = total, "hashing");
    if progress == Progress::Logged {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    if bar.is_hidden() {
        tell(format_args!("hashing {id}, {}", humanize::size(total)));
    }
    let style = "hashing {prefix}  [{wide_bar}] {decimal_bytes}/{decimal_total_bytes}, \
                 {decimal_bytes_per_sec}, {eta} left";
    bar.set_style(
        ProgressStyle::with_template(style).expect("a valid template").progress_chars("=> "),
    );
    bar.set_prefix(id.to_string());
    bar
}
