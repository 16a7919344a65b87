//! Shell: the QEMU Machine Protocol over its unix socket: keys in, pictures out.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::host::clock;

/// How long QEMU may take to answer; a loaded machine is slow to draw a screen.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long QEMU may take to open its socket.
const OPEN_LIMIT: Duration = Duration::from_secs(20);

/// One open conversation with a QEMU.
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Connects as soon as QEMU listens on `socket`, and leaves the negotiation mode.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream =
            clock::wait_for("QEMU to start", OPEN_LIMIT, || Ok(UnixStream::connect(socket).ok()))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT)).context("cannot limit the wait for QEMU")?;
        let writer = stream.try_clone().context("cannot share QEMU's socket")?;
        let mut qmp = Self { reader: BufReader::new(stream), writer };
        let mut greeting = String::new();
        qmp.reader.read_line(&mut greeting).context("QEMU sent no greeting")?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Presses and releases one key, by its QEMU name (`ret`, `down`, `esc`, `f10`).
    pub fn press(&mut self, key: &str) -> Result<()> {
        let keys = json!([{ "type": "qcode", "data": key }]);
        self.execute("send-key", json!({ "keys": keys, "hold-time": 60 }))?;
        // QEMU releases the key after the hold time; the next press must not overlap.
        clock::pause(Duration::from_millis(150))
    }

    /// Writes what the screen shows now to `file`, as PNG.
    pub fn screenshot(&mut self, file: &Path) -> Result<()> {
        self.execute("screendump", json!({ "filename": file, "format": "png" })).map(drop)
    }

    /// Ends the machine as if its plug were pulled.
    pub fn quit(&mut self) -> Result<()> {
        self.execute("quit", json!({})).map(drop)
    }

    fn execute(&mut self, name: &str, arguments: Value) -> Result<Value> {
        // In one write: QEMU obeys at the closing brace, and after `quit` nobody reads the rest.
        let question = format!("{}\n", json!({ "execute": name, "arguments": arguments }));
        let written = self.writer.write_all(question.as_bytes());
        written.with_context(|| format!("QEMU has exited ({name})"))?;
        loop {
            let mut line = String::new();
            let read = self.reader.read_line(&mut line);
            if read.with_context(|| format!("QEMU does not answer {name}"))? == 0 {
                bail!("QEMU exited before it answered {name}");
            }
            let mut answer: Value =
                serde_json::from_str(&line).context("QEMU's answer is not JSON")?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {name}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            // Everything else is an event, of which the lab needs none.
        }
    }
}
