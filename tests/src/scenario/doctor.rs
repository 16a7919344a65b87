//! Shell: `bt-server doctor` in labs where one thing is wrong at a time, and where nothing is.

use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::host::clock;
use crate::host::process::{command, output, run as run_command};
use crate::room::addresses::SERVER;
use crate::room::dnsmasq::Dnsmasq;
use crate::room::sample::{Addresses, SampleLab, usual_words};
use crate::room::server::server_command;
use crate::room::testbed::Testbed;

/// One PC of the lab has Secure Boot, so that the doctor simulates that boot too.
const SECURE_HOST: &str =
    "[[host]]\nmac = \"52:54:00:00:00:99\"\nname = \"secure\"\nuefi_loader = \"shim-grub\"\n";
/// The kinds of boot, by the doctor's names.
const BOOTS: [&str; 5] = ["BIOS", "UEFI", "HTTP Boot", "iPXE", "Secure Boot"];
const NFT_TABLE: &str = "doctor";

pub fn full(testbed: &mut Testbed) -> Result<String> {
    let lab = testbed.sample_lab("doctor-full")?;
    lab.write_settings(Addresses::Ours, &(usual_words() + SECURE_HOST))?;
    // Without a second one, the bridge has no link once the rogue server has exited.
    let (namespace, _plugged_in) = (testbed.lan.namespace()?, testbed.lan.namespace()?);
    let patient = Patient { testbed, lab: &lab };
    patient.is_well("no server runs", &[("server", "no server of this lab is running")])?;
    let mut seen = files_and_ports(&patient)?;

    let server = testbed.serve(&lab, "doctor-full")?;
    server.explain(patient.is_well("the server runs", &[("dhcp", "no other server")]))?;
    server.explain(patient.boots_every_pc())?;
    seen += broken_while_running(&patient)?;
    let mut stranger = Dnsmasq::give_addresses(namespace, &testbed.scratch("doctor-dns")?)?;
    settle(&mut stranger)?;
    let words = format!("another DHCP server assigns addresses here: {}", stranger.address());
    patient.complains("a rogue DHCP server", "dhcp", &words)?;
    drop(stranger);
    server.explain(patient.is_well("everything is fixed", &[]))?;
    Ok(format!("{} faults found, each with its fix, and none in a working lab", seen + 1))
}

pub fn proxy(testbed: &mut Testbed) -> Result<String> {
    let lab = testbed.sample_lab("doctor-proxy")?;
    lab.write_settings(Addresses::Others, &(usual_words() + SECURE_HOST))?;
    let (namespace, _plugged_in) = (testbed.lan.namespace()?, testbed.lan.namespace()?);
    let patient = Patient { testbed, lab: &lab };
    let mut others = Dnsmasq::give_addresses(namespace, &testbed.scratch("doctor-dns-proxy")?)?;
    settle(&mut others)?;
    let words = format!("addresses are assigned by {}", others.address());
    patient.is_well("no server runs", &[("dhcp", &words)])?;
    let taken = UdpSocket::bind((SERVER, 4011)).context("cannot take port 4011")?;
    patient.complains("port 4011 is taken", "ports", "UDP port 4011, but ")?;
    drop(taken);

    let server = testbed.serve(&lab, "doctor-proxy")?;
    let well = [("dhcp", words.as_str()), ("port 4011", "bt-server")];
    server.explain(patient.is_well("the server runs", &well))?;
    server.explain(patient.boots_every_pc())?;
    let seen = broken_while_running(&patient)?;
    drop(others);
    patient.complains("no server assigns addresses", "dhcp", "no DHCP server answers on bt0")?;
    // The proxy's own part still works, and the doctor says so.
    patient.boots_every_pc()?;
    Ok(format!(
        "{} faults found with another DHCP server on the network, and none in a working lab",
        seen + 2
    ))
}

/// dnsmasq is ready in a moment; `bt-server` would detect it only by a packet that is lost.
fn settle(dnsmasq: &mut Dnsmasq) -> Result<()> {
    clock::pause(Duration::from_secs(1))?;
    dnsmasq.check_running()
}

/// Faults that can be there before a start; returns how many were tried.
fn files_and_ports(patient: &Patient<'_>) -> Result<usize> {
    let own_pid = format!("(process {}) has it", std::process::id());
    let taken = UdpSocket::bind((SERVER, 69)).context("cannot take port 69")?;
    patient.complains("port 69 is taken", "ports", &own_pid)?;
    drop(taken);

    let image = patient.lab.image("initrd");
    let aside = image.with_extension("aside");
    fs::rename(&image, &aside)?;
    patient.complains("an image is missing", "lab", "initrd.img does not exist")?;
    fs::rename(&aside, &image)?;

    let key = patient.lab.folder().join("keys/signing.key");
    fs::set_permissions(&key, Permissions::from_mode(0o644))?;
    patient.complains("a key is readable by all users", "lab", "chmod 600")?;
    fs::set_permissions(&key, Permissions::from_mode(0o600))?;

    let boot_file = patient.lab.initramfs();
    let aside = boot_file.with_extension("aside");
    fs::rename(&boot_file, &aside)?;
    patient.complains(
        "a boot file is missing",
        "lab",
        "initrd.img is missing, so no PC can boot",
    )?;
    fs::rename(&aside, &boot_file)?;
    Ok(4)
}

/// Faults while the server runs; returns how many were tried.
fn broken_while_running(patient: &Patient<'_>) -> Result<usize> {
    let boot_file = patient.lab.initramfs();
    let aside = boot_file.with_extension("aside");
    fs::rename(&boot_file, &aside)?;
    let diagnosis = patient.complains("a boot file was removed", "UEFI", "404")?;
    ensure!(
        find(&diagnosis, "UEFI", "404")
            .is_some_and(|it| text(it, "remedy").contains("bt-initramfs"))
    );
    fs::rename(&aside, &boot_file)?;

    nft("add table inet", "")?;
    nft("add chain inet", "input { type filter hook input priority 0; }")?;
    nft("add rule inet", "input udp dport 69 counter drop")?;
    let diagnosis =
        patient.complains("a firewall on port 69", "firewall", "TFTP on udp port 69")?;
    let way = find(&diagnosis, "BIOS", "does not answer a request for undionly.kpxe");
    ensure!(way.is_some(), "the BIOS PC gets through the firewall: {diagnosis:#}");
    nft("delete table inet", "")?;
    Ok(2)
}

fn nft(what: &str, rest: &str) -> Result<()> {
    let mut nft = command("nft");
    nft.arg(format!("{what} {NFT_TABLE} {rest}"));
    run_command(nft).map(drop)
}

/// A lab that the doctor looks at.
struct Patient<'a> {
    testbed: &'a Testbed,
    lab: &'a SampleLab,
}

impl Patient<'_> {
    /// Runs the doctor; returns whether its exit code says that all is well, and what it saw.
    fn examine(&self) -> Result<(bool, Value)> {
        let mut doctor = server_command(&self.testbed.programs.server, self.lab);
        doctor.args(["doctor", "--json"]);
        let output = output(&mut doctor)?;
        let said = String::from_utf8_lossy(&output.stderr);
        let diagnosis =
            serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())?;
        Ok((output.status.success(), diagnosis))
    }

    /// The doctor must find nothing wrong, and see each of `sights` (a part, and words).
    fn is_well(&self, when: &str, sights: &[(&str, &str)]) -> Result<()> {
        let (is_well, diagnosis) = self.examine()?;
        ensure!(is_well, "{when}, but the doctor reports a fault: {diagnosis:#}");
        for (part, words) in sights {
            let seen = find(&diagnosis, part, words);
            ensure!(seen.is_some(), "{when}: the doctor does not report `{words}`: {diagnosis:#}");
        }
        Ok(())
    }

    /// The doctor must fail, with a finding about `part` that says `words` and what helps.
    fn complains(&self, fault: &str, part: &str, words: &str) -> Result<Value> {
        let (is_well, diagnosis) = self.examine()?;
        ensure!(!is_well, "{fault}, but the doctor exits with 0: {diagnosis:#}");
        let finding = find(&diagnosis, part, words)
            .with_context(|| format!("{fault}: no finding says `{words}`: {diagnosis:#}"))?;
        ensure!(finding["verdict"] == "fail", "{fault}: {finding}");
        ensure!(!text(finding, "remedy").is_empty(), "{fault}: no fix: {finding}");
        println!("  {fault}: {}", text(finding, "what"));
        Ok(diagnosis)
    }

    /// The virtual PC of each kind must get the last byte of the initramfs.
    fn boots_every_pc(&self) -> Result<()> {
        let (_, diagnosis) = self.examine()?;
        for part in BOOTS {
            let way = find(&diagnosis, part, "initrd.img").filter(|it| it["verdict"] == "ok");
            ensure!(way.is_some(), "{part} does not get its initramfs: {diagnosis:#}");
        }
        let signed = find(&diagnosis, "catalog", "signed by this lab");
        ensure!(signed.is_some(), "no catalog: {diagnosis:#}");
        Ok(())
    }
}

/// The first observation about `part` that says `words`.
fn find<'a>(diagnosis: &'a Value, part: &str, words: &str) -> Option<&'a Value> {
    let all = diagnosis["observations"].as_array()?;
    all.iter().find(|it| it["part"] == part && text(it, "what").contains(words))
}

fn text<'a>(observation: &'a Value, key: &str) -> &'a str {
    observation[key].as_str().unwrap_or_default()
}
