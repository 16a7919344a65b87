//! TFTP and HTTP on loopback ports, as clients see them, and after a shower of garbage.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bt_server::boot::loaders::Loaders;
use bt_server::boot::scripts::Scripts;
use bt_server::lab::config::{Nodes, Overrides};
use bt_server::publication::published::{Document, Published, PublishedSystem};
use bt_server::roles::http::{self, Http};
use bt_server::roles::tftp::{self, Tftp};
use bt_server::status::{SharedStatus, StatusBook};
use bt_swarm::Infohash;
use parking_lot::{Mutex, RwLock};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use tokio_util::sync::CancellationToken;

const KERNEL: &[u8] = b"kernel, 0123456789";
const LOADER_BYTES: usize = 100_000;

/// Both roles on free ports of 127.0.0.1; they stop when this is dropped.
struct Roles {
    tftp: SocketAddr,
    http: SocketAddr,
    status: SharedStatus,
    shutdown: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Roles {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let put = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(name), bytes).expect("writes");
        };
        put("vmlinuz", KERNEL);
        std::fs::create_dir(folder.path().join("ipxe")).expect("makes");
        put("ipxe/snponly.efi", &loader());
        let status = Arc::new(Mutex::new(StatusBook::new("A1", 1, SystemTime::now())));
        let loaders = Loaders::read(&[&folder.path().join("ipxe")]).expect("reads");
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let settings = tftp::Settings {
            listen: local,
            networks: vec![(Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(255, 255, 255, 255))],
            loaders: loaders.clone(),
            boot_dir: folder.path().to_owned(),
            scripts: scripts(),
            http: SocketAddr::from(([127, 0, 0, 1], 6969)),
        };
        let tftp = Tftp::bind(settings, status.clone()).expect("a free port");
        let settings = http_settings(local, folder.path(), loaders);
        let current = Arc::new(RwLock::new(Arc::new(published())));
        let http = Http::bind(settings, current, status.clone()).expect("a free port");
        let shutdown = CancellationToken::new();
        let roles = Self {
            tftp: tftp.local_addr().expect("is bound"),
            http: http.local_addr().expect("is bound"),
            status,
            shutdown: shutdown.clone(),
            _folder: folder,
        };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(async {
                let (tftp, http) = tokio::join!(tftp.run(shutdown.clone()), http.run(shutdown));
                tftp.expect("TFTP ends well");
                http.expect("HTTP ends well");
            });
        });
        roles
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.http).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("sets");
        stream
    }

    /// One request on a connection of its own: status line and headers, and the body.
    fn http(&self, request: &str) -> (String, Vec<u8>) {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("sends");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the server answers and closes");
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let body = answer.split_off(end);
        (String::from_utf8(answer).expect("a head is text"), body)
    }

    fn get(&self, path: &str) -> (String, Vec<u8>) {
        self.http(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn scripts() -> Scripts {
    let defaults = Overrides { cmdline: "console=ttyS0".to_owned(), ..Overrides::default() };
    Scripts::new("A1", Arc::new(Nodes { defaults, ..Nodes::default() }))
}

fn http_settings(listen: SocketAddr, boot_dir: &Path, loaders: Loaders) -> http::Settings {
    http::Settings {
        listen,
        boot_dir: boot_dir.to_owned(),
        scripts: scripts(),
        seed_port: 6881,
        loaders,
        invitations: tokio::sync::mpsc::channel(1).0,
    }
}

fn published() -> Published {
    let document = Document { bytes: "lab_id = 1".into(), content_type: "text/plain" };
    let system = PublishedSystem {
        id: "sample".to_owned(),
        name: "Sample".to_owned(),
        infohash: Infohash([7; 20]),
        total: 1,
    };
    Published {
        version: 1,
        documents: [("/catalog.toml".to_owned(), document)].into(),
        systems: vec![system],
    }
}

fn loader() -> Vec<u8> {
    (0..LOADER_BYTES).map(|n| (n % 251) as u8).collect()
}

/// Fetches a file as OVMF does: blksize 1468, windowsize 4.
fn tftp_get(server: SocketAddr, name: &str) -> Result<Vec<u8>, u16> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("sets");
    let request = [b"\0\x01", name.as_bytes(), b"\0octet\0blksize\x001468\0windowsize\x004\0"];
    socket.send_to(&request.concat(), server).expect("sends");
    let mut file = Vec::new();
    let mut packet = [0; 2000];
    loop {
        let (length, from) = socket.recv_from(&mut packet).expect("the server goes on");
        let (kind, number) = (packet[1], [packet[2], packet[3]]);
        let block = match kind {
            3 => u16::from_be_bytes(number),
            5 => return Err(u16::from_be_bytes(number)),
            6 => 0,
            other => panic!("packet {other}"),
        };
        let data = if kind == 3 { &packet[4..length] } else { &[] };
        file.extend(data);
        let is_last = kind == 3 && data.len() < 1468;
        if is_last || block % 4 == 0 {
            let [high, low] = block.to_be_bytes();
            socket.send_to(&[0, 4, high, low], from).expect("sends");
        }
        if is_last {
            return Ok(file);
        }
    }
}

#[test]
fn a_loader_arrives_whole_over_tftp_and_http() {
    let roles = Roles::start();
    assert_eq!(tftp_get(roles.tftp, "/snponly.efi"), Ok(loader()));
    assert_eq!(tftp_get(roles.tftp, "../vmlinuz"), Err(1), "error 1: file not found");
    let (head, body) = roles.get("//snponly.efi");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/efi"), "{head}");
    assert_eq!(body, loader());
}

#[test]
fn grub_finds_its_menu_and_the_small_linux_by_tftp() {
    let roles = Roles::start();
    let menu = tftp_get(roles.tftp, "/grub/grub.cfg").expect("is rendered");
    let menu = String::from_utf8(menu).expect("text");
    let linux = "linux /vmlinuz BOOTIF=01-$net_default_mac bt.server=http://127.0.0.1:6969 ";
    assert!(menu.contains(linux) && menu.contains(" console=ttyS0\n"), "{menu}");
    assert_eq!(tftp_get(roles.tftp, "/vmlinuz"), Ok(KERNEL.to_vec()));
    assert_eq!(tftp_get(roles.tftp, "/initrd.img"), Err(1), "it is missing on disk");
    assert_eq!(tftp_get(roles.tftp, "/grub/x86_64-efi/fs.lst"), Err(1));
    let script = tftp_get(roles.tftp, "autoexec.ipxe").expect("is rendered");
    let script = String::from_utf8(script).expect("text");
    assert!(script.contains("\nchain --autofree http://127.0.0.1:6969/boot.ipxe?"), "{script}");
}

#[test]
fn writes_netascii_and_strangers_get_nothing() {
    let roles = Roles::start();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("sets");
    let answer = |request: &[u8]| {
        let mut packet = [0; 100];
        socket.send_to(request, roles.tftp).expect("sends");
        socket.recv(&mut packet).expect("an answer");
        (packet[1], packet[3])
    };
    assert_eq!(answer(b"\0\x02snponly.efi\0octet\0"), (5, 2), "access violation");
    assert_eq!(answer(b"\0\x01snponly.efi\0netascii\0"), (5, 4), "illegal operation");
    // 127.0.0.2 is outside the one network of these tests.
    let stranger = UdpSocket::bind("127.0.0.2:0").expect("a free port");
    stranger.set_read_timeout(Some(Duration::from_millis(300))).expect("sets");
    stranger.send_to(b"\0\x01snponly.efi\0octet\0", roles.tftp).expect("sends");
    assert!(stranger.recv(&mut [0; 100]).is_err(), "silence");
}

#[test]
fn an_aborted_size_probe_leaves_nothing_behind() {
    let roles = Roles::start();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let mut packet = [0; 2000];
    for _ in 0..20 {
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("sets");
        socket.send_to(b"\0\x01snponly.efi\0octet\0tsize\x000\0", roles.tftp).expect("sends");
        let (length, from) = socket.recv_from(&mut packet).expect("an OACK");
        assert_eq!(&packet[..length], b"\0\x06tsize\x00100000\0");
        socket.send_to(b"\0\x05\0\x08User aborted the transfer\0", from).expect("sends");
        socket.set_read_timeout(Some(Duration::from_millis(5))).expect("sets");
        assert!(socket.recv(&mut packet).is_err(), "no packet after the ERROR");
    }
}

#[test]
fn head_range_and_keep_alive_are_as_firmware_needs_them() {
    let roles = Roles::start();
    let mut stream = roles.connect();
    let two = "HEAD /boot/vmlinuz HTTP/1.1\r\nHost: x\r\n\r\n\
        GET /boot/vmlinuz HTTP/1.1\r\nHost: x\r\nRange: bytes=8-11\r\nConnection: close\r\n\r\n";
    stream.write_all(two.as_bytes()).expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("both answers");
    let (head, get) = answer.split_once("\r\n\r\n").expect("two answers");
    assert!(head.contains("content-length: 18"), "{head}");
    assert!(get.starts_with("HTTP/1.1 206"), "HEAD has no body: {get}");
    assert!(get.contains("content-range: bytes 8-11/18") && get.ends_with("\r\n\r\n0123"), "{get}");
}

#[test]
fn the_script_names_the_address_that_the_node_reached() {
    let roles = Roles::start();
    let get = |path: &str| String::from_utf8(roles.get(path).1).expect("text");
    let script = get("/boot.ipxe");
    assert!(script.contains(&format!("bt.server=http://{} ", roles.http)), "{script}");
    assert!(script.contains(" console=ttyS0 "), "{script}");
    let script = get("/autoexec.ipxe");
    assert!(
        script.contains(&format!("chain --autofree http://{}/boot.ipxe?", roles.http)),
        "{script}"
    );
}

#[test]
fn absent_and_forbidden_look_the_same() {
    let roles = Roles::start();
    let (expected, nothing) = roles.get("/nothing");
    assert!(expected.starts_with("HTTP/1.1 404"), "{expected}");
    let without_date = |head: &str| {
        head.lines().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>().join("\n")
    };
    for path in [
        "/keys/root.key",
        "/boot/",
        "/boot/secret",
        "/boot/../keys/root.key",
        "/boot/%2e%2e/keys",
        "/..%2fkeys",
        "/boot/..;/x",
        "/server.toml",
        "/state/leases",
        "/catalog.toml/",
        "/ipxe.efi",
        "/catalog.toml%00",
        "/\\etc\\passwd",
        "/CATALOG.TOML",
        "/.git/config",
        "/etc/passwd",
    ] {
        let (head, body) = roles.get(path);
        assert_eq!((without_date(&head), &body), (without_date(&expected), &nothing), "{path}");
    }
    let (head, _) =
        roles.http("DELETE /catalog.toml HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}

#[test]
fn announces_and_reports_are_taken() {
    let roles = Roles::start();
    let query =
        format!("info_hash={}&peer_id=-BT0100-abcdefghijkl&port=7000&left=1", "%07".repeat(20));
    let (_, body) = roles.get(&format!("/announce?{query}"));
    assert!(body.ends_with(b"5:peers6:\x7f\0\0\x01\x1a\xe1e"), "{}", body.escape_ascii());
    let (_, body) = roles.get(&format!("/announce?{}", query.replace("%07", "%08")));
    assert!(body.starts_with(b"d14:failure reason"), "{}", body.escape_ascii());

    let report = r#"{"mac":"52:54:00:00:00:01","stage":"menu","name":"<b>pc</b>"}"#;
    let post = |body: &str| {
        let length = body.len();
        roles.http(&format!(
            "POST /report HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    };
    assert!(post(report).0.starts_with("HTTP/1.1 204"));
    assert!(post("{}").0.starts_with("HTTP/1.1 400"));
    assert!(post(&" ".repeat(5000)).0.starts_with("HTTP/1.1 413"));
    let (_, body) = roles.get("/status.json");
    let json = String::from_utf8(body).expect("text");
    assert!(json.contains(r#""stage":"menu""#), "{json}");
    assert!(roles.get("/").0.contains("content-security-policy: default-src 'none'"));
}

#[test]
fn garbage_on_every_port_disturbs_nobody() {
    let roles = Roles::start();
    let mut random = StdRng::seed_from_u64(1);
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let mut bytes = vec![0; 1400];
    let starts: [&[u8]; 4] =
        [b"GET /", b"POST /report HTTP/1.1\r\nContent-Length: 9\r\n\r\n", b"\0\x01", b""];
    for round in 0..400_usize {
        random.fill_bytes(&mut bytes);
        let length = random.next_u32() as usize % bytes.len();
        let garbage = [starts[round % 4], &bytes[..length]].concat();
        udp.send_to(&garbage, roles.tftp).expect("sends");
        if round % 4 == 0 {
            let mut stream = roles.connect();
            // The server may hang up before it has all of it.
            stream.write_all(&garbage).unwrap_or_default();
        }
    }
    assert_eq!(tftp_get(roles.tftp, "snponly.efi"), Ok(loader()));
    assert_eq!(roles.get("/boot/vmlinuz").1, KERNEL);
    assert!(roles.status.lock().snapshot(SystemTime::now()).problems.is_empty());
}

#[test]
fn clients_that_dawdle_are_dropped_while_others_are_served() {
    let roles = Roles::start();
    let mut slow: Vec<TcpStream> = (0..40).map(|_| roles.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /boot/vmlinuz HTTP/1.1\r\nHost: ").expect("sends");
    }
    assert_eq!(roles.get("/boot/vmlinuz").1, KERNEL);
    // One address may have 64 connections: of 60 more, 36 are closed at once. One more is, if the server
    // has not let go of the connection above yet; then its place is free soon.
    let more: Vec<TcpStream> = (0..60).map(|_| roles.connect()).collect();
    let (closed, mut kept): (Vec<_>, Vec<_>) =
        more.into_iter().partition(|stream| is_closed_within(stream, 100));
    assert!((36..=37).contains(&closed.len()), "{} were closed", closed.len());
    kept.extend((kept.len()..24).map(|_| roles.connect()));
    assert!(!kept.iter().any(|stream| is_closed_within(stream, 1)));
    assert!(is_closed_within(&roles.connect(), 1000));
    // The head of a request has ten seconds.
    assert!(is_closed_within(&slow[0], 15_000));
}

fn is_closed_within(mut stream: &TcpStream, millis: u64) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(millis))).expect("sets");
    match stream.read(&mut [0; 1]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}
