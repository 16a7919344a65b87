//! The lease log on a real file system: a full one, and one that two servers want.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bt_catalog::Mac;
use bt_server::roles::dhcp::lease::{Claim, ClaimKind, LeaseBook, Range};
use bt_server::roles::dhcp::lease_log::{Change, Kept, LeaseLog, Ledger, LogError};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// A server's leases, without the threads between books and log.
struct Server {
    ledger: Ledger,
    log: LeaseLog,
}

fn server(path: &Path, now: SystemTime) -> Server {
    let range = Range::new(Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 3, 250));
    let book = LeaseBook::new(range.expect("not empty"), vec![], Duration::from_hours(1));
    let (log, found) = LeaseLog::open(path).expect("opens");
    Server { ledger: Ledger::new(vec![book], &found.records, now), log }
}

fn give(server: &mut Server, node: u16, now: SystemTime) -> Kept {
    let Server { ledger, log } = server;
    let [high, low] = node.to_be_bytes();
    let mac = Mac([2, 0, 0, 0, high, low]);
    let ip = ledger.book(0).offer(mac, None, now).expect("there are enough");
    match ledger.book(0).request(mac, ip, ClaimKind::Selecting, now) {
        Claim::Granted { lease, before } => {
            ledger.change(Change::Granted { lease, before });
            let work = ledger.begin().expect("there is a change");
            let outcome = work.append_to(log);
            ledger.settle(&outcome, now)[0]
        }
        claim => panic!("{claim:?}"),
    }
}

#[test]
fn a_full_file_system_stops_newcomers_only_until_there_is_space() {
    // Only root may mount; the thread's own mounts are gone with it.
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        println!("not root: the full disk is tested on the simulated one only");
        return;
    }
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = Some("size=16k,nr_inodes=16");
    mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), options).expect("mounts");
    let path = folder.path().join("leases");
    let now = SystemTime::now();
    let mut server = server(&path, now);
    let kept = (0..1000).take_while(|&node| give(&mut server, node, now) == Kept::Durable).count();
    assert!((50..600).contains(&kept), "16 KiB hold {kept} leases");
    assert!(matches!(give(&mut server, 3, now), Kept::Until(_)), "a renewal goes on");
    assert_eq!(give(&mut server, 999, now), Kept::Lost, "a newcomer does not");

    // It also starts again on the full disk, with all its leases.
    drop(server);
    let mut server = self::server(&path, now);
    assert_eq!(server.ledger.book(0).len(), kept);

    let larger = Some("size=256k,nr_inodes=16");
    mount(none, folder.path(), none, MsFlags::MS_REMOUNT, larger).expect("makes space");
    assert_eq!(give(&mut server, 999, now), Kept::Durable);
    nix::mount::umount2(folder.path(), nix::mount::MntFlags::MNT_DETACH).expect("unmounts");
}

#[test]
fn of_many_starts_at_once_one_gets_the_log() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("leases");
    for _ in 0..50 {
        let opened: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| LeaseLog::open(&path))).collect();
            starts.into_iter().map(|start| start.join().expect("does not panic")).collect()
        });
        assert_eq!(opened.iter().filter(|it| it.is_ok()).count(), 1);
        let is_refused = |it: &&Result<_, _>| matches!(it, Err(LogError::InUse(_)));
        assert_eq!(opened.iter().filter(is_refused).count(), 3);
    }
}
