//! Shell: the doctor's own small clients: TFTP as firmware speaks it, HTTP as iPXE does, and a
//! BitTorrent handshake.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// Every answer comes from memory, so a server that takes longer does not work.
const PATIENCE: Duration = Duration::from_secs(5);
/// For one packet of TFTP; it is asked for again this often.
const TFTP_PATIENCE: Duration = Duration::from_secs(1);
const TFTP_ATTEMPTS: u32 = 4;
/// What UEFI asks for.
const BLOCK: usize = 1468;
/// More is no boot file.
const MAX_BYTES: usize = 512 << 20;

/// Fetches a file over TFTP (RFC 1350, 2347, 2348).
pub(super) fn tftp(server: SocketAddr, name: &str) -> Result<Vec<u8>, String> {
    let io = |error: std::io::Error| format!("TFTP {server}: {error}");
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(io)?;
    socket.set_read_timeout(Some(TFTP_PATIENCE)).map_err(io)?;
    let mut send =
        [b"\0\x01", name.as_bytes(), b"\0octet\0blksize\0", BLOCK.to_string().as_bytes(), b"\0"]
            .concat();
    let (mut to, mut expected, mut file) = (server, 0_u16, Vec::new());
    let mut block_size = 512;
    let mut packet = [0; BLOCK + 4];
    let mut attempts = 0;
    loop {
        socket.send_to(&send, to).map_err(io)?;
        let Ok((received, from)) = socket.recv_from(&mut packet) else {
            attempts += 1;
            if attempts == TFTP_ATTEMPTS {
                return Err(format!("TFTP {server} does not answer a request for {name}"));
            }
            continue;
        };
        let (head, data) =
            packet[..received].split_at_checked(4).ok_or("a malformed TFTP packet")?;
        let number = u16::from_be_bytes([head[2], head[3]]);
        // A block is only the right one when it comes from where the transfer is.
        if to.port() != server.port() && from != to {
            continue;
        }
        match head[1] {
            5 => {
                let why = String::from_utf8_lossy(data);
                return Err(format!("TFTP refuses {name}: {}", why.trim_matches('\0')));
            }
            6 if expected == 0 => (to, block_size, expected) = (from, BLOCK, 1),
            3 if number == expected.max(1) => {
                (to, expected) = (from, number.wrapping_add(1));
                file.extend_from_slice(data);
                if data.len() < block_size {
                    socket.send_to(&[0, 4, head[2], head[3]], to).map_err(io)?;
                    return Ok(file);
                }
                if file.len() > MAX_BYTES {
                    return Err(format!("{name} by TFTP is larger than any boot file"));
                }
            }
            _ => continue,
        }
        attempts = 0;
        let [high, low] = expected.wrapping_sub(1).to_be_bytes();
        send = vec![0, 4, high, low];
    }
}

/// Fetches `url` and returns its body.
pub(super) fn http(url: &str) -> Result<Vec<u8>, String> {
    let io = |error: std::io::Error| format!("{url}: {error}");
    let rest =
        url.strip_prefix("http://").ok_or_else(|| format!("{url} is not an http:// address"))?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let address: SocketAddr =
        with_port.parse().map_err(|_| format!("{url} does not name an address"))?;
    let mut stream = connect(address).map_err(io)?;
    let path = if path.is_empty() { "/" } else { path };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(io)?;
    let mut answer = Vec::new();
    stream.take(MAX_BYTES as u64).read_to_end(&mut answer).map_err(io)?;
    body(answer).map_err(|why| format!("{url}: {why}"))
}

/// The body of a whole answer with status 200.
fn body(mut answer: Vec<u8>) -> Result<Vec<u8>, String> {
    const END: &[u8] = b"\r\n\r\n";
    let end =
        answer.windows(END.len()).position(|window| window == END).ok_or("not an HTTP response")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let status = head.lines().next().unwrap_or_default().to_owned();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("the answer is {status}"));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: Option<usize> = length.and_then(|length| length.trim().parse().ok());
    answer.drain(..end + END.len());
    match length {
        Some(length) if length != answer.len() => {
            Err(format!("{} of {length} bytes arrived", answer.len()))
        }
        _ => Ok(answer),
    }
}

/// Asks a seed for a swarm (BEP 3): it answers with the same infohash when it shares it.
pub(super) fn handshake(seed: SocketAddr, infohash: [u8; 20]) -> Result<(), String> {
    const PROTOCOL: &[u8] = b"\x13BitTorrent protocol";
    let io = |error: std::io::Error| format!("the seed at {seed}: {error}");
    let mut stream = connect(seed).map_err(io)?;
    let hello = [PROTOCOL, &[0; 8], &infohash, b"-DR0100-looks-at-it."].concat();
    stream.write_all(&hello).map_err(io)?;
    let mut answer = [0; 68];
    stream.read_exact(&mut answer).map_err(io)?;
    if answer.starts_with(PROTOCOL) && answer[28..48] == infohash {
        Ok(())
    } else {
        Err(format!("the seed at {seed} answers for another swarm"))
    }
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_counts() {
        let check = |answer: &str| body(answer.as_bytes().to_vec());
        assert_eq!(check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), Ok(b"hi".to_vec()));
        let cut = check("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhi");
        assert_eq!(cut, Err("2 of 20 bytes arrived".to_owned()));
        assert!(check("HTTP/1.1 404 Not Found\r\n\r\n").expect_err("absent").contains("404"));
        assert!(check("garbage").is_err());
    }
}
