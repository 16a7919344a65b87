//! Shell: the DHCP clients of real systems, in networks of their own, against the server as it
//! ships: BusyBox's udhcpc, as the netboot image has it, and ISC's dhclient.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, recv};

use crate::host::clock;
use crate::host::process::{Running, command, run as run_command};
use crate::room::addresses::SERVER;
use crate::room::dnsmasq::Dnsmasq;
use crate::room::namespace::{Namespace, command_in};
use crate::room::packets::every_packet;
use crate::room::sample::{Addresses, SampleLab, usual_words};
use crate::room::server::Server;
use crate::room::testbed::Testbed;

/// A PC that is written down, and one network behind a relay.
const MORE: &str = "[[host]]\nmac = \"02:00:00:00:00:09\"\naddress = \"10.77.0.9\"\n\
    name = \"teacher\"\n[[dhcp.subnet]]\nnetwork = \"10.78.0.0/24\"\n\
    range = \"10.78.0.50-10.78.0.60\"\nrouter = \"10.78.0.1\"\n";
const HOST_MAC: &str = "02:00:00:00:00:09";
const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
/// The relay's own address in its clients' network.
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
/// The first address that is given there.
const BEHIND_RELAY: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 50);
/// Clients repeat what is lost after 3 s or more.
const LEASE_LIMIT: Duration = Duration::from_secs(20);
/// Half of the shortest lease, and dhclient's random delay.
const RENEWAL_LIMIT: Duration = Duration::from_secs(75);
/// Within this a rogue server must be reported.
const WARNING_LIMIT: Duration = Duration::from_secs(35);

pub fn run(testbed: &mut Testbed) -> Result<String> {
    let full = full(testbed)?;
    let proxy = proxy(testbed)?;
    Ok(format!("{full}; {proxy}"))
}

fn full(testbed: &mut Testbed) -> Result<String> {
    let lab = testbed.sample_lab("dhcp-clients")?;
    lab.write_settings(Addresses::Ours, &(usual_words() + MORE))?;
    // The shortest lease, so that dhclient renews within the test.
    change_settings(&lab, "lease = \"1h\"", "lease = \"1m\"")?;
    let server = testbed.serve(&lab, "dhcp-clients")?;
    let outcome = (|| {
        let dhclient = Client::dhclient(testbed, "dhclient")?;
        let first = dhclient.wait("BOUND", LEASE_LIMIT)?;
        ensure!(first.router == SERVER.to_string(), "dhclient's router is {:?}", first.router);
        udhcpc(testbed, &lab)?;
        fixed_host(testbed)?;
        behind_relay(testbed)?;
        let renewed = dhclient.wait("RENEW", RENEWAL_LIMIT)?;
        ensure!(renewed.ip == first.ip, "dhclient renewed {} to {}", first.ip, renewed.ip);
        dhclient.release()?;
        was_released(&lab, &first.ip)?;
        let secs = rogue_server(testbed, &server)?;
        Ok(format!(
            "udhcpc and dhclient got, renewed and released leases, a host got its reservation and \
             name, a PC behind a relay a lease of its own network; a rogue server was reported \
             after {secs:.0} s"
        ))
    })();
    server.explain(outcome)
}

/// A lease, a renewal that is asked for, a release.
fn udhcpc(testbed: &mut Testbed, lab: &SampleLab) -> Result<()> {
    let client = Client::udhcpc(testbed, "udhcpc", &[])?;
    let bound = client.wait("bound", LEASE_LIMIT)?;
    client.signal(Signal::SIGUSR1)?;
    let renewed = client.wait("renew", LEASE_LIMIT)?;
    ensure!(renewed.ip == bound.ip, "udhcpc renewed {} to {}", bound.ip, renewed.ip);
    client.signal(Signal::SIGUSR2)?;
    client.wait("deconfig", LEASE_LIMIT)?;
    was_released(lab, &bound.ip)
}

/// The last record of the lease log about `ip` must end before the one that it follows.
fn was_released(lab: &SampleLab, ip: &str) -> Result<()> {
    let file = lab.folder().join("state/leases");
    clock::wait_for(&format!("the release of {ip} in the lease log"), LEASE_LIMIT, || {
        let text = fs::read_to_string(&file).context("cannot read the lease log")?;
        let lines = text.lines().filter(|line| line.split(' ').any(|word| word == ip));
        let ends: Vec<u64> =
            lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        // Renewals end later and later.
        Ok((!ends.is_sorted()).then_some(()))
    })
}

fn fixed_host(testbed: &mut Testbed) -> Result<()> {
    let namespace = testbed.lan.namespace()?;
    ip_in(&namespace, "link set eth0 down")?;
    ip_in(&namespace, &format!("link set eth0 address {HOST_MAC} up"))?;
    let client = Client::udhcpc_in(testbed, "fixed", namespace, &["-O", "hostname"])?;
    let bound = client.wait("bound", LEASE_LIMIT)?;
    ensure!(bound.ip == HOST.to_string(), "the host got {}", bound.ip);
    ensure!(bound.name == "teacher", "the host is called {:?}", bound.name);
    Ok(())
}

/// A router that forwards, with dnsmasq as its relay agent, and a PC on its other side.
fn behind_relay(testbed: &mut Testbed) -> Result<()> {
    let (router, pc) = (testbed.lan.namespace()?, testbed.lan.namespace()?);
    let path = |namespace: &Namespace| {
        format!("/proc/{}/fd/{}", std::process::id(), namespace.network().as_raw_fd())
    };
    ip("link add inner0 type veth peer name inner1")?;
    ip(&format!("link set inner0 netns {}", path(&router)))?;
    ip(&format!("link set inner1 netns {}", path(&pc)))?;
    ip_in(&router, &format!("addr add {RELAY}/24 dev inner0"))?;
    ip_in(&router, "link set inner0 up")?;
    ip_in(&pc, "link del eth0")?;
    ip_in(&pc, "link set inner1 name eth0")?;
    ip_in(&pc, "link set eth0 up")?;
    let mut forward = command_in(&router, "sh");
    forward.args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    run_command(forward)?;
    ip(&format!("route replace 10.78.0.0/24 via {}", router.address()))?;
    let mut relay = command_in(&router, "dnsmasq");
    relay.args(["--no-daemon", "--conf-file=/dev/null", "--port=0", "--pid-file=", "--user=root"]);
    relay.arg(format!("--dhcp-relay={RELAY},{SERVER}"));
    let mut relay =
        Running::start("the relay", relay, &testbed.out.join("dhcp-clients-relay.log"))?;
    clock::pause(Duration::from_secs(1))?;
    relay.check_running()?;
    let client = Client::udhcpc_in(testbed, "behind-relay", pc, &[])?;
    let bound = client.wait("bound", LEASE_LIMIT)?;
    ensure!(bound.ip == BEHIND_RELAY.to_string(), "behind the relay a PC got {}", bound.ip);
    ensure!(bound.router == RELAY.to_string(), "its router is {:?}", bound.router);
    // Without the relay now: through the router, from its own address.
    client.signal(Signal::SIGUSR1)?;
    let renewed = client.wait("renew", LEASE_LIMIT)?;
    ensure!(renewed.ip == bound.ip, "it renewed {} to {}", bound.ip, renewed.ip);
    Ok(())
}

/// Starts another DHCP server; returns the seconds until bt-server reported it.
fn rogue_server(testbed: &mut Testbed, server: &Server) -> Result<f64> {
    let log = server.logged();
    ensure!(!log.contains("port 68"), "the server cannot detect other DHCP servers");
    ensure!(!log.contains("another DHCP server"), "a server was reported before there was one");
    let namespace = testbed.lan.namespace()?;
    let (start, address) = (clock::now(), namespace.address());
    let _stranger = Dnsmasq::give_addresses(namespace, &testbed.scratch("dhcp-clients-rogue")?)?;
    let words = format!("another DHCP server, {address}, assigns addresses here");
    clock::wait_for("the warning about a rogue DHCP server", WARNING_LIMIT, || {
        Ok(server.logged().contains(&words).then_some(()))
    })?;
    Ok(start.elapsed().as_secs_f64())
}

/// With another DHCP server on the network, bt-server names boot files and assigns no address,
/// whoever asks.
fn proxy(testbed: &mut Testbed) -> Result<String> {
    let lab = testbed.sample_lab("dhcp-clients-proxy")?;
    lab.write_settings(Addresses::Others, &(usual_words() + MORE))?;
    let namespace = testbed.lan.namespace()?;
    let stranger = Dnsmasq::give_addresses(namespace, &testbed.scratch("dhcp-clients-proxy-dns")?)?;
    let server = testbed.serve(&lab, "dhcp-clients-proxy")?;
    let outcome = (|| {
        let replies = Replies::watch()?;
        let client = Client::udhcpc(testbed, "proxy-udhcpc", &[])?;
        client.wait("bound", LEASE_LIMIT)?;
        ensure!(replies.ours().is_empty(), "bt-server answered a client that does not boot");
        let dhclient = Client::dhclient(testbed, "proxy-dhclient")?;
        dhclient.wait("BOUND", LEASE_LIMIT)?;
        // As firmware asks. What it makes of the answers does not matter here.
        let class = ["-V", "PXEClient:Arch:00000:UNDI:002001"];
        let _firmware = Client::udhcpc(testbed, "proxy-firmware", &class)?;
        let ours = clock::wait_for("an answer of the proxy", LEASE_LIMIT, || {
            Ok(Some(replies.ours()).filter(|ours| ours.len() > 1))
        })?;
        let given = ours.iter().filter(|ip| !ip.is_unspecified()).count();
        ensure!(
            given == 0,
            "with {} on the network, the proxy assigned {given} addresses",
            stranger.address()
        );
        Ok(format!(
            "with dnsmasq on the network, none of bt-server's {} replies assigned an address",
            ours.len()
        ))
    })();
    server.explain(outcome)
}

fn change_settings(lab: &SampleLab, from: &str, to: &str) -> Result<()> {
    let path = lab.folder().join("server.toml");
    let text = fs::read_to_string(&path).context("cannot read server.toml")?;
    ensure!(text.contains(from), "server.toml has no `{from}`");
    fs::write(&path, text.replace(from, to)).context("cannot write server.toml")
}

/// What a client's script was called with.
#[derive(Debug, Default)]
struct Note {
    ip: String,
    name: String,
    router: String,
}

/// A client in a network of its own.
struct Client {
    process: Running,
    namespace: Namespace,
    name: String,
    folder: PathBuf,
}

impl Client {
    fn udhcpc(testbed: &mut Testbed, name: &str, words: &[&str]) -> Result<Self> {
        let namespace = testbed.lan.namespace()?;
        Self::udhcpc_in(testbed, name, namespace, words)
    }

    fn udhcpc_in(
        testbed: &Testbed,
        name: &str,
        namespace: Namespace,
        words: &[&str],
    ) -> Result<Self> {
        Self::start(testbed, name, namespace, |client, folder| {
            let mut busybox = command_in(client, "busybox");
            busybox.args(["udhcpc", "-f", "-i", "eth0", "-s"]).arg(folder.join("script"));
            busybox.args(words);
            busybox
        })
    }

    fn dhclient(testbed: &mut Testbed, name: &str) -> Result<Self> {
        let namespace = testbed.lan.namespace()?;
        Self::start(testbed, name, namespace, |client, folder| {
            let mut dhclient = command_in(client, "dhclient");
            dhclient.args(["-4", "-d"]).args(dhclient_words(folder)).arg("eth0");
            dhclient
        })
    }

    fn start(
        testbed: &Testbed,
        name: &str,
        namespace: Namespace,
        command: impl FnOnce(&Namespace, &PathBuf) -> Command,
    ) -> Result<Self> {
        let folder = testbed.scratch(&format!("client-{name}"))?;
        let script = folder.join("script");
        fs::write(&script, script_text(&folder.join("notes"))).context("cannot write a script")?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        fs::write(folder.join("dhclient.conf"), "").context("cannot write a configuration")?;
        ip_in(&namespace, "addr flush dev eth0")?;
        let log = testbed.out.join(format!("dhcp-clients-{name}.log"));
        let process = Running::start(name, command(&namespace, &folder), &log)?;
        Ok(Self { process, namespace, name: name.to_owned(), folder })
    }

    /// Waits until its script was called for `reason`; earlier calls are forgotten with it.
    fn wait(&self, reason: &str, limit: Duration) -> Result<Note> {
        let notes = self.folder.join("notes");
        let what = format!("{} to say {reason}", self.name);
        let note = clock::wait_for(&what, limit, || {
            let text = fs::read_to_string(&notes).unwrap_or_default();
            Ok(text.lines().rev().find_map(|line| read_note(line, reason)))
        });
        let note = note.with_context(|| format!("its log: {}", self.process.printed()))?;
        fs::write(&notes, "").context("cannot empty the notes")?;
        Ok(note)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.process.pid(), signal).with_context(|| format!("{} has exited", self.name))
    }

    /// Ends a dhclient; it gives its address back.
    fn release(self) -> Result<()> {
        let mut dhclient = command_in(&self.namespace, "dhclient");
        dhclient.args(["-4", "-r"]).args(dhclient_words(&self.folder)).arg("eth0");
        run_command(dhclient).map(drop)
    }
}

fn dhclient_words(folder: &Path) -> Vec<std::ffi::OsString> {
    let files = [("-sf", "script"), ("-lf", "leases"), ("-pf", "pid"), ("-cf", "dhclient.conf")];
    files.iter().flat_map(|(flag, name)| [(*flag).into(), folder.join(name).into()]).collect()
}

/// What both clients run at each change: it sets the address and notes what it was called with.
fn script_text(notes: &std::path::Path) -> String {
    format!(
        "#!/bin/sh\n\
         why=\"${{1:-$reason}}\" ip=\"${{ip:-$new_ip_address}}\" router=\"${{router:-$new_routers}}\"\n\
         case \"$why\" in\n\
         bound|renew|BOUND|RENEW|REBIND|REBOOT)\n\
           ip addr replace \"$ip/24\" dev eth0\n\
           [ -z \"$router\" ] || ip route replace default via \"$router\";;\n\
         deconfig|PREINIT|EXPIRE|RELEASE|STOP)\n\
           ip -4 addr flush dev eth0\n\
           ip link set eth0 up;;\n\
         esac\n\
         echo \"$why ip=$ip name=${{hostname:-$new_host_name}} router=$router\" >> {}\n",
        notes.display()
    )
}

fn read_note(line: &str, reason: &str) -> Option<Note> {
    let mut note = Note::default();
    for word in line.strip_prefix(reason)?.strip_prefix(' ')?.split(' ') {
        match word.split_once('=')? {
            ("ip", value) => note.ip = value.to_owned(),
            ("name", value) => note.name = value.to_owned(),
            ("router", value) => note.router = value.to_owned(),
            _ => {}
        }
    }
    Some(note)
}

/// The `yiaddr` of every DHCP reply that leaves our server by the bridge.
struct Replies(Arc<Mutex<Vec<Ipv4Addr>>>);

impl Replies {
    fn watch() -> Result<Self> {
        let socket = every_packet()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        std::thread::spawn(move || listen(&socket, &noted));
        Ok(Self(seen))
    }

    fn ours(&self) -> Vec<Ipv4Addr> {
        self.0.lock().expect("the listening thread does not panic").clone()
    }
}

fn listen(socket: &OwnedFd, seen: &Mutex<Vec<Ipv4Addr>>) {
    let mut frame = [0; 2048];
    while let Ok(length) = recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
        if let Some(yiaddr) = our_reply(&frame[..length]) {
            seen.lock().expect("no holder panics").push(yiaddr);
        }
    }
}

/// Reads an Ethernet frame: IPv4 without options, from our server's port 67 to a client's.
fn our_reply(frame: &[u8]) -> Option<Ipv4Addr> {
    let packet = frame.get(14..).filter(|_| frame[12..14] == [8, 0])?;
    let is_ours = packet.get(..24).is_some_and(|header| {
        header[0] == 0x45
            && header[9] == 17
            && header[12..16] == SERVER.octets()
            && header[20..24] == [0, 67, 0, 68]
    });
    let yiaddr: [u8; 4] = packet.get(44..48)?.try_into().ok()?;
    is_ours.then(|| yiaddr.into())
}

fn ip(words: &str) -> Result<()> {
    let mut ip = command("ip");
    ip.args(words.split(' '));
    run_command(ip).map(drop)
}

fn ip_in(namespace: &Namespace, words: &str) -> Result<()> {
    let mut ip = command_in(namespace, "ip");
    ip.args(words.split(' '));
    run_command(ip).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_for_its_reason_only() {
        let line = "bound ip=10.77.0.50 name= router=10.77.0.1";
        let note = read_note(line, "bound").expect("a note");
        assert_eq!((note.ip.as_str(), note.name.as_str()), ("10.77.0.50", ""));
        assert_eq!(note.router, "10.77.0.1");
        assert!(
            read_note(line, "renew").is_none() && read_note("boundless ip=x", "bound").is_none()
        );
    }

    #[test]
    fn only_replies_of_our_server_are_counted() {
        let mut frame = vec![0; 14 + 28 + 240];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[23] = 17;
        frame[26..30].copy_from_slice(&SERVER.octets());
        frame[34..38].copy_from_slice(&[0, 67, 0, 68]);
        frame[58..62].copy_from_slice(&[10, 77, 0, 50]);
        assert_eq!(our_reply(&frame), Some(Ipv4Addr::new(10, 77, 0, 50)));
        frame[29] = 200;
        assert_eq!(our_reply(&frame), None);
        assert_eq!(our_reply(&frame[..20]), None);
    }
}
