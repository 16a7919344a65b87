//! Rooms on the loopback interface: who gets what, with peers that join, leave and send wrong data.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::{Payload, TestNode, local, wait_until};
use bt_swarm::{Node, NodeOptions, Seed, SeedOptions, Storage, SwarmError};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket};

/// A peer id of another client.
const STOCK_ID: &[u8] = b"-qB4520-abcdefghijkl";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_gets_everything_from_the_seed() {
    let payload = Payload::new(8);
    let seed = payload.seed().await;
    let node = payload.node("one").await;
    node.node.add_peers(&[local(seed.port())]);
    payload.assert_finishes(&node).await;
    let progress = node.node.progress();
    assert_eq!(progress.done, progress.total);
    assert_eq!(progress.peers_sending, [(local(seed.port()), progress.total)]);
    let stats = seed.stats(payload.meta.infohash()).expect("the seed has it");
    assert!(stats.uploaded >= progress.total, "{stats:?}");
    node.node.stop().await;
    seed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_that_start_together_share() {
    let payload = Payload::new(24);
    let seed = payload.seed().await;
    let nodes = [payload.node("a").await, payload.node("b").await, payload.node("c").await];
    for (number, node) in nodes.iter().enumerate() {
        let mut peers = vec![local(seed.port())];
        peers.extend(nodes[..number].iter().map(|other| other.address));
        node.node.add_peers(&peers);
    }
    for node in &nodes {
        payload.assert_finishes(node).await;
    }
    let stats = seed.stats(payload.meta.infohash()).expect("the seed has it");
    let copies = stats.uploaded as f64 / payload.meta.total() as f64;
    println!("the seed sent {copies:.2} copies to 3 nodes");
    assert!(copies < 2.9, "no node uploaded anything: {copies}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_dial_each_other_keep_one_connection() {
    let payload = Payload::new(1);
    let (one, two) = (payload.node("one").await, payload.node("two").await);
    one.node.add_peers(&[two.address, one.address]);
    two.node.add_peers(&[one.address, two.address]);
    wait_until("a connection", || one.node.progress().peers + two.node.progress().peers == 2).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!((one.node.progress().peers, two.node.progress().peers), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_finish_when_a_node_vanishes_midway() {
    let payload = Payload::new(24);
    let seed = payload.seed().await;
    let (stays, goes) = (payload.node("stays").await, payload.node("goes").await);
    goes.node.add_peers(&[local(seed.port())]);
    stays.node.add_peers(&[local(seed.port()), goes.address]);
    wait_until("a first piece", || goes.node.progress().done > 0).await;
    drop(goes);
    payload.assert_finishes(&stays).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_finish_among_themselves_once_one_copy_is_out() {
    let payload = Payload::new(16);
    let seed = payload.seed().await;
    let (one, two) = (payload.node("one").await, payload.node("two").await);
    one.node.add_peers(&[local(seed.port())]);
    payload.assert_finishes(&one).await;
    seed.stop().await;
    two.node.add_peers(&[one.address]);
    payload.assert_finishes(&two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_continues_when_the_seed_is_back() {
    let payload = Payload::new(24);
    let seed = payload.seed().await;
    let port = seed.port();
    let node = payload.node("node").await;
    node.node.add_peers(&[local(port)]);
    wait_until("a first piece", || node.node.progress().done > 0).await;
    seed.stop().await;
    wait_until("the loss of the seed", || node.node.progress().peers == 0).await;
    let done = node.node.progress().done;
    let seed = payload.seed_at(port).await;
    payload.assert_finishes(&node).await;
    let stats = seed.stats(payload.meta.infohash()).expect("the seed has it");
    assert!(stats.uploaded <= payload.meta.total() - done + (4 << 20), "{stats:?} after {done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_seed_uploads_several_torrents_and_stops_uploading_one() {
    let (first, second) = (Payload::new(1), Payload::new(2));
    let seed = first.seed().await;
    seed.add(second.meta.clone(), second.storage());
    for payload in [&first, &second] {
        let node = payload.node("node").await;
        node.node.add_peers(&[local(seed.port())]);
        payload.assert_finishes(&node).await;
    }
    seed.remove(second.meta.infohash());
    assert_eq!(seed.stats(second.meta.infohash()), None);
    let late = second.node("late").await;
    late.node.add_peers(&[local(seed.port())]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(late.node.progress().peers, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invited_peer_gets_everything_without_dialling() {
    let payload = Payload::new(1);
    let seed = payload.seed().await;
    let node = payload.node("node").await;
    seed.invite(payload.meta.infohash(), node.address);
    payload.assert_finishes(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_dials_a_second_after_its_announce_is_not_dialled() {
    let payload = Payload::new(1);
    let infohash = payload.meta.infohash();
    let seed = payload.seed().await;
    let ip = Ipv4Addr::new(127, 0, 0, 77);
    let listener = TcpListener::bind((ip, 0)).await.expect("a free port");
    seed.invite(infohash, listener.local_addr().expect("it listens"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((ip, 0).into()).expect("a free port");
    let mut stream = socket.connect(local(seed.port())).await.expect("the seed listens");
    let hello = [b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\0", &infohash.0[..], STOCK_ID].concat();
    stream.write_all(&hello).await.expect("the seed reads");
    let is_there = || seed.stats(infohash).is_some_and(|stats| stats.peers == 1);
    wait_until("the client's place in the swarm", is_there).await;
    let dialled = tokio::time::timeout(Duration::from_secs(3), listener.accept()).await;
    assert!(dialled.is_err(), "the seed dialled a client that was connected");
}

/// Reads wrong bytes and counts how often it was read.
struct Wrong(AtomicU64);

impl Storage for Wrong {
    fn read_at(&self, _offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        buf.fill(0x55);
        Ok(())
    }

    fn read_at_once(&self, _offset: u64, _buf: &mut [u8]) -> bool {
        false
    }

    fn write_at(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evil_peer_is_banned_and_the_download_completes() {
    let payload = Payload::new(16);
    let evil = Ipv4Addr::new(127, 0, 0, 66);
    let liar = Seed::start(SeedOptions { listen: (evil, 0).into() }).await.expect("a free port");
    let wrong = Arc::new(Wrong(AtomicU64::new(0)));
    liar.add(payload.meta.clone(), Arc::clone(&wrong) as Arc<dyn Storage>);
    let node = payload.node("node").await;
    node.node.add_peers(&[(evil, liar.port()).into()]);
    wait_until("the liar's first block", || wrong.0.load(Ordering::Relaxed) > 0).await;
    let seed = payload.seed().await;
    node.node.add_peers(&[local(seed.port())]);
    payload.assert_finishes(&node).await;
    let requested = wrong.0.load(Ordering::Relaxed) * 16384;
    assert!(requested < 4 << 20, "{requested} bytes were requested from the liar");
    assert_eq!(liar.stats(payload.meta.infohash()).map(|stats| stats.peers), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_among_good_peers_harms_nobody_else() {
    let payload = Payload::new(16);
    let evil = Ipv4Addr::new(127, 0, 0, 66);
    let liar = Seed::start(SeedOptions { listen: (evil, 0).into() }).await.expect("a free port");
    liar.add(payload.meta.clone(), Arc::new(Wrong(AtomicU64::new(0))));
    let seed = payload.seed().await;
    let one = payload.node_at("one", Ipv4Addr::new(127, 0, 0, 2)).await;
    let two = payload.node_at("two", Ipv4Addr::new(127, 0, 0, 3)).await;
    let both = [local(seed.port()), (evil, liar.port()).into()];
    one.node.add_peers(&both);
    two.node.add_peers(&[both[0], both[1], one.address]);
    payload.assert_finishes(&one).await;
    payload.assert_finishes(&two).await;
    let helped = |node: &TestNode| {
        let mut helpers = node.node.progress().peers_sending;
        helpers.retain(|(address, _)| address.ip() != evil);
        !helpers.is_empty()
    };
    assert!(helped(&one) && helped(&two));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_data_from_the_server_is_reported() {
    let payload = Payload::new(1);
    let seed = Seed::start(SeedOptions { listen: local(0) }).await.expect("a free port");
    seed.add(payload.meta.clone(), Arc::new(Wrong(AtomicU64::new(0))));
    let files = bt_swarm::Files::create(&payload.meta, &payload.folder.path().join("node"))
        .expect("there is room");
    let server = Some(Ipv4Addr::LOCALHOST.into());
    let options = NodeOptions { listen: local(0), server, network: None };
    let node =
        Node::start(payload.meta.clone(), Arc::new(files), options).await.expect("a free port");
    node.add_peers(&[local(seed.port())]);
    let outcome = tokio::time::timeout(crate::common::LONG, node.finished()).await;
    assert!(matches!(outcome, Ok(Err(SwarmError::WrongSource { .. }))), "{outcome:?}");
}
