//! Shares files with any BitTorrent client: a seed and a tracker of a few lines, to try the engine
//! manually.
//!
//! `cargo run -p bt-swarm --example seed -- 127.0.0.1 FILE...` prints a magnet link;
//! `aria2c --seed-time=0 'LINK'` downloads it.

use std::env;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bt_swarm::{FileSpec, Infohash, Metainfo, ReadOnlyFiles, Seed, SeedOptions, create, magnet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The seed, its torrent, and the peers that have announced.
struct Lab {
    seed: Seed,
    infohash: Infohash,
    peers: Mutex<Vec<SocketAddrV4>>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let ip: Ipv4Addr = words.next().ok_or("usage: seed ADDRESS FILE...")?.parse()?;
    let specs = words.map(|word| spec(word.into())).collect::<Result<Vec<_>, _>>()?;
    let tracker = TcpListener::bind((ip, 0)).await?;
    let announce = format!("http://{}/announce", tracker.local_addr()?);
    let created = create("sample", &specs, &announce, 2, &|_| ())?;
    let meta = Metainfo::parse(&created.torrent)?;
    let storage = Arc::new(ReadOnlyFiles::open(&meta, &specs)?);
    let seed = Seed::start(SeedOptions { listen: SocketAddr::from((ip, 0)) }).await?;
    seed.add(meta, storage);
    println!("{}", magnet(created.infohash, "sample", &announce, created.total));
    let peers = Mutex::new(vec![SocketAddrV4::new(ip, seed.port())]);
    let lab = Arc::new(Lab { seed, infohash: created.infohash, peers });
    tokio::spawn(track(tracker, Arc::clone(&lab)));
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        println!("{:?}", lab.seed.stats(lab.infohash));
    }
}

fn spec(path: PathBuf) -> Result<FileSpec, &'static str> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or("a path that does not end in a file name")?;
    Ok(FileSpec { name: name.to_owned(), path })
}

/// Answers each announce with the seed and all peers that announced before.
async fn track(listener: TcpListener, lab: Arc<Lab>) {
    while let Ok((stream, address)) = listener.accept().await {
        let lab = Arc::clone(&lab);
        tokio::spawn(async move {
            if let SocketAddr::V4(address) = address
                && let Err(error) = answer(stream, *address.ip(), &lab).await
            {
                eprintln!("cannot answer an announce: {error}");
            }
        });
    }
}

async fn answer(mut stream: TcpStream, ip: Ipv4Addr, lab: &Lab) -> std::io::Result<()> {
    let mut buffer = vec![0; 4096];
    let count = stream.read(&mut buffer).await?;
    let request = String::from_utf8_lossy(&buffer[..count]).into_owned();
    println!("{}", request.lines().next().unwrap_or_default());
    let port = request.split(['?', '&', ' ']).find_map(|word| word.strip_prefix("port="));
    let compact: Vec<u8> = {
        let mut peers = lab.peers.lock().expect("no holder of the lock panics");
        let known = peers.clone();
        if let Some(port) = port.and_then(|port| port.parse().ok()) {
            let peer = SocketAddrV4::new(ip, port);
            lab.seed.invite(lab.infohash, peer.into());
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
        let bytes =
            |peer: &SocketAddrV4| [&peer.ip().octets()[..], &peer.port().to_be_bytes()].concat();
        known.iter().flat_map(bytes).collect()
    };
    let mut body = format!("d8:intervali5e5:peers{}:", compact.len()).into_bytes();
    body.extend(compact);
    body.push(b'e');
    let head =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.into_bytes(), body].concat()).await?;
    stream.shutdown().await
}
