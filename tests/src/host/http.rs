//! Shell: just enough HTTP/1.1 to ask `bt-server` something, without another dependency.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The server answers from memory; longer means it hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// Fetches `path` from `server`.
pub fn get(server: SocketAddr, path: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, LIMIT)
        .with_context(|| format!("cannot reach {server}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")
        .with_context(|| format!("cannot ask {server} for {path}"))?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("the answer for {path} is cut short"))?;
    body(&answer).with_context(|| format!("http://{server}{path}"))
}

/// The body of an answer with status 200.
fn body(answer: &[u8]) -> Result<Vec<u8>> {
    const END_OF_HEAD: &[u8] = b"\r\n\r\n";
    let head = answer.windows(END_OF_HEAD.len()).position(|window| window == END_OF_HEAD);
    let Some(head) = head else { bail!("the answer has no complete header") };
    let status = String::from_utf8_lossy(&answer[..head]);
    let status = status.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        bail!("the server answered {status}");
    }
    Ok(answer[head + END_OF_HEAD.len()..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_follows_the_empty_line() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(body(answer).expect("a body"), b"hi");
    }

    #[test]
    fn any_other_status_is_reported() {
        let error = body(b"HTTP/1.1 404 Not Found\r\n\r\n").expect_err("no success");
        assert!(error.to_string().contains("404"), "{error}");
    }
}
