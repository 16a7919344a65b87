//! A seed and a node that receive garbage keep running.

use crate::common::{Payload, local};
use bt_swarm::PeerId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends the handshake of a peer and then `bytes`; returns when the other side has closed.
async fn send(port: u16, infohash: [u8; 20], bytes: &[u8]) {
    let mut stream = TcpStream::connect(local(port)).await.expect("somebody listens");
    let mut hello = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\0".to_vec();
    hello.extend_from_slice(&infohash);
    hello.extend_from_slice(&PeerId::boottorrent(*b"hostile peer").0);
    hello.extend_from_slice(bytes);
    let written = stream.write_all(&hello).await;
    // The other side may have closed before it has read everything.
    if written.is_ok() {
        let _closed = stream.shutdown().await;
        let _closed_or_reset = stream.read_to_end(&mut Vec::new()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_its_own_connection_only() {
    let payload = Payload::new(2);
    let seed = payload.seed().await;
    let node = payload.node("node").await;
    let infohash = payload.meta.infohash().0;
    let pieces = payload.meta.pieces();
    let have_past_the_end = [&[0, 0, 0, 5, 4][..], &pieces.to_be_bytes()].concat();
    let overflow = [&[0, 0, 0, 13, 6, 0, 0, 0, 0][..], &[0xff; 8]].concat();
    let bomb = [&[0, 0, 0x75, 0x30, 20, 0][..], &vec![b'l'; 29_998]].concat();
    let flood = [0, 0, 0, 13, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0].repeat(5000);
    let data = [&[0, 0, 0x40, 9, 7, 0, 0, 0, 0, 0, 0, 0, 0][..], &vec![1; 16384]].concat();
    for port in [seed.port(), node.node.port()] {
        for bytes in [&[0xff; 100][..], &have_past_the_end, &overflow, &bomb, &flood] {
            send(port, infohash, bytes).await;
        }
        send(port, infohash, &data.repeat(400)).await;
        send(port, [0; 20], &[]).await;
    }
    node.node.add_peers(&[local(seed.port())]);
    payload.assert_finishes(&node).await;
}
