//! A payload, a seed and nodes on the loopback interface.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bt_swarm::{
    FileSpec, Files, Metainfo, Node, NodeOptions, ReadOnlyFiles, Seed, SeedOptions, Storage, create,
};
use tempfile::TempDir;

/// More than any test here takes, even on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);

/// Two files that share a piece, their torrent, and a folder for all.
pub struct Payload {
    pub folder: TempDir,
    pub meta: Metainfo,
    pub specs: Vec<FileSpec>,
    pub bytes: Vec<u8>,
}

impl Payload {
    /// About `mebibytes` of numbers that do not repeat.
    pub fn new(mebibytes: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut state = 1_u64;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33).to_le_bytes()
        })
        .take(mebibytes << 17)
        .flatten()
        .chain([1, 2, 3])
        .collect();
        let (kernel, image) = bytes.split_at(100_000);
        let specs: Vec<FileSpec> = [("kernel", kernel), ("zimage", image)]
            .into_iter()
            .map(|(name, content)| {
                let path = folder.path().join(name);
                std::fs::write(&path, content).expect("the folder is writable");
                FileSpec { name: name.to_owned(), path }
            })
            .collect();
        let created = create("sample", &specs, "http://127.0.0.1:1/announce", 2, &|_| ())
            .expect("the files can be read");
        let meta = Metainfo::parse(&created.torrent).expect("own torrents are well-formed");
        Self { folder, meta, specs, bytes }
    }

    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(ReadOnlyFiles::open(&self.meta, &self.specs).expect("the files are there"))
    }

    /// A seed of this payload on any port.
    pub async fn seed(&self) -> Seed {
        self.seed_at(0).await
    }

    pub async fn seed_at(&self, port: u16) -> Seed {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let seed = Seed::start(SeedOptions { listen }).await.expect("the port is free");
        seed.add(self.meta.clone(), self.storage());
        seed
    }

    pub async fn node(&self, name: &str) -> TestNode {
        self.node_at(name, Ipv4Addr::LOCALHOST).await
    }

    pub async fn node_at(&self, name: &str, ip: Ipv4Addr) -> TestNode {
        let folder = self.folder.path().join(name);
        let files = Arc::new(Files::create(&self.meta, &folder).expect("there is room"));
        let options = NodeOptions { listen: SocketAddr::from((ip, 0)), ..NodeOptions::default() };
        let node = Node::start(self.meta.clone(), files, options).await.expect("a free port");
        let address = SocketAddr::from((ip, node.port()));
        TestNode { node, address, folder }
    }

    /// Panics unless the node has finished and its files are right.
    pub async fn assert_finishes(&self, node: &TestNode) {
        let finished = tokio::time::timeout(LONG, node.node.finished()).await;
        let progress = node.node.progress();
        finished.unwrap_or_else(|_| panic!("not finished: {progress:?}")).expect("no error");
        let read = |name: &str| std::fs::read(node.folder.join(name)).expect("the file is there");
        assert!([read("kernel"), read("zimage")].concat() == self.bytes, "wrong content");
    }
}

pub struct TestNode {
    pub node: Node,
    pub address: SocketAddr,
    pub folder: PathBuf,
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Waits until `is_so`, and panics if that takes too long.
pub async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, waiting).await.is_ok(), "never came: {what}");
}
