//! Shell: TFTP with stock clients, and with an attacker who requests what is not served.

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::host::clock;
use crate::host::process::output;
use crate::room::addresses::SERVER;
use crate::room::namespace::{Namespace, command_in};
use crate::room::testbed::Testbed;

/// Where Debian has what the server reads.
const LOADERS: [(&str, &str); 6] = [
    ("undionly.kpxe", "/usr/lib/ipxe/undionly.kpxe"),
    ("ipxe.pxe", "/usr/lib/ipxe/ipxe.pxe"),
    ("snponly.efi", "/usr/lib/ipxe/snponly.efi"),
    ("ipxe.efi", "/usr/lib/ipxe/ipxe.efi"),
    ("shimx64.efi", "/usr/lib/shim/shimx64.efi.signed"),
    ("grubx64.efi", "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"),
];
/// More than 65536 blocks of 512 bytes: their numbers begin again.
const LONG: u64 = (33 << 20) + 77;
/// For an answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);
/// A client that never answers is forgotten by then.
const FORGOTTEN: Duration = Duration::from_secs(15);

pub fn run(testbed: &mut Testbed) -> Result<String> {
    let lab = testbed.sample_lab("tftp-clients")?;
    let initramfs = fs::File::options().append(true).open(lab.initramfs())?;
    initramfs.set_len(LONG).context("cannot lengthen the initramfs")?;
    set_traps(&lab.folder().join("ipxe"))?;
    let server = testbed.serve(&lab, "tftp-clients")?;
    let namespace = testbed.lan.namespace()?;
    let mut allowed = BTreeMap::from([
        ("vmlinuz", fs::read(lab.kernel())?),
        ("initrd.img", fs::read(lab.initramfs())?),
    ]);
    for (name, path) in LOADERS {
        allowed.insert(name, fs::read(path).with_context(|| path.to_owned())?);
    }
    let folder = testbed.scratch("tftp-fetched")?;
    let outcome = stock_clients(&namespace, &allowed, &folder)
        .and_then(|fetched| Ok((fetched, strangers(&namespace, &allowed)?)));
    let (fetched, (names, bytes)) = server.explain(outcome)?;
    Ok(format!(
        "{} stock clients fetched {fetched} files unchanged, one longer than 65536 blocks; {names} \
         hostile requests got nothing; a client that never answers was sent {bytes} bytes",
        Stock::ALL.len()
    ))
}

/// What must not be followed: a link, a pipe, a folder.
fn set_traps(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("dir.efi"))?;
    std::os::unix::fs::symlink("../keys/root.key", folder.join("link.efi"))?;
    nix::unistd::mkfifo(&folder.join("pipe.efi"), nix::sys::stat::Mode::S_IRWXU)?;
    Ok(())
}

/// A client as Debian has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stock {
    Curl,
    TftpHpa,
    Busybox,
    Atftp,
}

impl Stock {
    const ALL: [Self; 4] = [Self::Curl, Self::TftpHpa, Self::Busybox, Self::Atftp];

    /// The command that fetches `name` into `file`.
    fn fetch(self, namespace: &Namespace, name: &str, file: &Path) -> Command {
        let server = SERVER.to_string();
        match self {
            Self::Curl => {
                let mut curl = command_in(namespace, "curl");
                curl.args(["--silent", "--show-error", "--tftp-blksize", "1432", "--output"]);
                curl.arg(file).arg(format!("tftp://{server}/{name}"));
                curl
            }
            Self::TftpHpa => {
                let mut tftp = command_in(namespace, "tftp");
                tftp.args(["-m", "binary", &server, "-c", "get", name]).arg(file);
                tftp
            }
            Self::Busybox => {
                let mut busybox = command_in(namespace, "busybox");
                busybox.args(["tftp", "-g", "-r", name, "-l"]).arg(file).arg(&server);
                busybox
            }
            Self::Atftp => {
                let mut atftp = command_in(namespace, "atftp");
                atftp.args(["--option", "windowsize 8", "--option", "blksize 1428", "--get"]);
                atftp.args(["--remote-file", name, "--local-file"]).arg(file).arg(&server);
                atftp
            }
        }
    }
}

/// Every file with every client; returns how many were fetched.
fn stock_clients(
    namespace: &Namespace,
    allowed: &BTreeMap<&str, Vec<u8>>,
    folder: &Path,
) -> Result<usize> {
    let mut fetched = 0;
    for stock in Stock::ALL {
        for (name, expected) in allowed {
            let file = folder.join(format!("{stock:?}-{name}"));
            let mut fetch = stock.fetch(namespace, name, &file);
            let said = output(&mut fetch)?;
            let got = fs::read(&file).unwrap_or_default();
            ensure!(
                got == *expected,
                "{stock:?} fetched {} of {} bytes of {name}, or wrong ones: {said:?}",
                got.len(),
                expected.len()
            );
            fs::remove_file(&file)?;
            fetched += 1;
        }
        let mut absent = stock.fetch(namespace, "absent.efi", &folder.join("absent"));
        let said = output(&mut absent)?;
        let printed = [said.stdout, said.stderr].concat();
        let words = String::from_utf8_lossy(&printed).to_lowercase();
        // curl 7.88 loses the words of an error that comes first of all, and says something else.
        let is_reported =
            words.contains("not found") || stock == Stock::Curl && !said.status.success();
        ensure!(is_reported, "{stock:?} does not report that the file is missing: {words}");
    }
    Ok(fetched)
}

/// Hostile requests. Returns how many, and the bytes that a silent client was sent.
fn strangers(namespace: &Namespace, allowed: &BTreeMap<&str, Vec<u8>>) -> Result<(usize, usize)> {
    let names = hostile_names();
    for name in &names {
        let answer = ask(namespace, &[b"\0\x01", &name[..], b"\0octet\0"].concat())?;
        // Some names only spell an allowed one in an odd form; anything else is refused or ignored.
        let is_allowed = answer.get(..2) == Some(b"\0\x03")
            && allowed.values().any(|file| file.starts_with(&answer[4..]));
        let is_refused = answer.is_empty() || answer.starts_with(b"\0\x05");
        ensure!(
            is_allowed || is_refused,
            "{} is answered with {}",
            name.escape_ascii(),
            answer.escape_ascii()
        );
    }
    let write = ask(namespace, b"\0\x02snponly.efi\0octet\0")?;
    ensure!(write.starts_with(b"\0\x05\0\x02"), "a write is answered: {}", write.escape_ascii());
    Ok((names.len() + 1, silent_client(namespace)?))
}

/// Names that lead somewhere on a careless server.
fn hostile_names() -> Vec<Vec<u8>> {
    let targets = [
        "etc/passwd",
        "etc/shadow",
        "keys/root.key",
        "keys/signing.key",
        "server.toml",
        "state/leases",
        "state/log",
        "catalog/sample.toml",
        "images/sample/vmlinuz",
        "proc/self/environ",
        "proc/self/mem",
        "dev/zero",
        "state/boot/../../keys/root.key",
    ];
    let ways = [
        "",
        "/",
        "//",
        "../",
        "../../",
        "../../../../../../../../",
        "/../",
        "./../",
        "..\\",
        "..\\..\\",
        "%2e%2e/",
        "..%2f",
        "....//",
        "..;/",
        "/proc/self/cwd/",
        "/proc/self/root/",
        "file:///",
        "grub/../",
        "boot/../../",
    ];
    let mut names: Vec<Vec<u8>> = ways
        .iter()
        .flat_map(|way| targets.iter().map(move |target| format!("{way}{target}").into_bytes()))
        .collect();
    names.extend([
        b"".to_vec(),
        b"/".to_vec(),
        b".".to_vec(),
        b"..".to_vec(),
        b"*".to_vec(),
        b"ipxe/".to_vec(),
        b"link.efi".to_vec(),
        b"pipe.efi".to_vec(),
        b"dir.efi".to_vec(),
        b"dir.efi/".to_vec(),
        b"ipxe/link.efi".to_vec(),
        b"snponly.efi/..".to_vec(),
        b"SNPONLY.EFI".to_vec(),
        b"vmlinuz\0/../../etc/shadow".to_vec(),
        b"grub/../../etc/passwd".to_vec(),
        b"grub/%s%n%x".to_vec(),
        b"`id`".to_vec(),
        b"$(id)".to_vec(),
        b"|id".to_vec(),
        b"\xff\xfe\xfd".to_vec(),
        "\u{202e}ife.ylnopns".into(),
        "snponly.ef\u{456}".into(),
    ]);
    for length in [255, 258, 510, 513, 1000, 1400] {
        names.push(vec![b'a'; length]);
        names.push(b"../".repeat(length / 3));
    }
    names
}

/// Sends one packet to port 69 from a port of its own; returns the first answer, or nothing.
fn ask(namespace: &Namespace, packet: &[u8]) -> Result<Vec<u8>> {
    let socket = socket_in(namespace)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(packet, (SERVER, 69))?;
    let mut answer = [0; 2048];
    match socket.recv_from(&mut answer) {
        Ok((length, from)) => {
            // Ends the transfer, so that the next name finds a free slot.
            socket.send_to(b"\0\x05\0\0enough\0", from)?;
            Ok(answer[..length].to_vec())
        }
        Err(_) => Ok(Vec::new()),
    }
}

/// As a victim whose address was forged: it never answers. Returns the bytes that it was sent.
fn silent_client(namespace: &Namespace) -> Result<usize> {
    const WINDOW: usize = 16 * (1468 + 4);
    let socket = socket_in(namespace)?;
    let request = b"\0\x01initrd.img\0octet\0blksize\x001468\0windowsize\x0016\0";
    socket.send_to(request, (SERVER, 69))?;
    let (mut bytes, mut last) = (0, clock::now());
    let (start, mut answer) = (clock::now(), [0; 2048]);
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    // Twice the time in which it must be forgotten, to see that nothing comes any more.
    while clock::now() < start + FORGOTTEN * 2 {
        clock::check_interrupted()?;
        if let Ok((length, _)) = socket.recv_from(&mut answer) {
            bytes += length;
            last = clock::now();
        }
    }
    ensure!(bytes > 0, "the request got no answer");
    ensure!(bytes <= 5 * WINDOW, "{bytes} bytes were sent to a client that never answered");
    let sent_for = last - start;
    ensure!(
        sent_for <= FORGOTTEN,
        "a client that never answered was sent packets for {sent_for:?}"
    );
    Ok(bytes)
}

fn socket_in(namespace: &Namespace) -> Result<UdpSocket> {
    let (address, network) = (namespace.address(), namespace.network());
    // A socket belongs to the network in which it was made, whoever uses it.
    std::thread::scope(|scope| {
        let made = scope.spawn(|| -> Result<UdpSocket> {
            setns(network, CloneFlags::CLONE_NEWNET)?;
            Ok(UdpSocket::bind((address, 0))?)
        });
        made.join().expect("it makes two system calls")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_200_hostile_names_and_no_two_are_the_same() {
        let mut names = hostile_names();
        let all = names.len();
        names.sort();
        names.dedup();
        assert!(names.len() == all && all >= 200, "{all}");
    }
}
