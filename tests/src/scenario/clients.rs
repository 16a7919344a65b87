//! Shell: stock programs that must accept what the lab publishes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::host::http;
use crate::host::process::{Running, command, run, tail};
use crate::room::namespace::command_in;
use crate::room::sample::SampleLab;
use crate::room::server::HTTP;
use crate::room::testbed::Testbed;

/// The sample system is a few seconds' download; a swarm may need a while to begin.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(120);
/// The catalog entry that is fetched.
const SYSTEM: &str = "sample";

pub fn minisign(testbed: &mut Testbed) -> Result<String> {
    let lab = testbed.sample_lab("minisign")?;
    let server = testbed.serve(&lab, "minisign")?;
    let folder = testbed.scratch("minisign-files")?;
    for name in ["catalog.toml", "catalog.toml.minisig", "lab.pub"] {
        std::fs::write(folder.join(name), http::get(HTTP, &format!("/{name}"))?)?;
    }
    server.explain(run(check_command(&folder)))?;
    flip_a_bit(&folder.join("catalog.toml"))?;
    ensure!(run(check_command(&folder)).is_err(), "minisign accepts a catalog with a flipped bit");
    Ok("minisign -V accepts the catalog, and refuses it with one bit flipped".into())
}

fn check_command(folder: &Path) -> std::process::Command {
    let mut minisign = command("minisign");
    minisign.args(["-V", "-p", "lab.pub", "-m", "catalog.toml"]).current_dir(folder);
    minisign
}

fn flip_a_bit(file: &Path) -> Result<()> {
    let mut bytes = std::fs::read(file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(std::fs::write(file, bytes)?)
}

pub fn aria2(testbed: &mut Testbed) -> Result<String> {
    let lab = testbed.sample_lab("aria2")?;
    let server = testbed.serve(&lab, "aria2")?;
    let catalog = String::from_utf8(http::get(HTTP, "/catalog.toml")?)?;
    let magnet = magnet_of(&catalog, SYSTEM)?;
    let folder = testbed.scratch("aria2-files")?;
    let namespace = testbed.lan.namespace()?;
    let mut aria2 = command_in(&namespace, "aria2c");
    aria2.args(["--no-conf", "--seed-time=0", "--enable-dht=false", "--enable-dht6=false"]);
    aria2.args(["--bt-enable-lpd=false", "--summary-interval=0", "--file-allocation=none"]);
    aria2.arg("--dir").arg(&folder).arg(&magnet);
    let mut process = Running::start("aria2c", aria2, &testbed.out.join("aria2c.log"))?;
    let outcome = process.wait(DOWNLOAD_LIMIT).and_then(|is_content| {
        ensure!(is_content, "aria2c failed:\n{}", tail(&process.printed(), 15));
        Ok(())
    });
    server.explain(outcome)?;
    check_same_files(&lab, &folder.join(SYSTEM))?;
    let magnet = magnet.split('&').next().unwrap_or(&magnet);
    Ok(format!("aria2c needs only {magnet}; all files have the right SHA-256"))
}

/// The magnet link of the system `id` in a published catalog.
fn magnet_of(catalog: &str, id: &str) -> Result<String> {
    let catalog: toml::Table = catalog.parse().context("the catalog is not TOML")?;
    let systems = catalog.values().filter_map(toml::Value::as_array).flatten();
    let system = systems
        .filter_map(toml::Value::as_table)
        .find(|system| system.get("id").and_then(toml::Value::as_str) == Some(id));
    let magnet = system.and_then(|system| system.get("magnet")).and_then(toml::Value::as_str);
    magnet.map(str::to_owned).with_context(|| format!("the catalog has no magnet link of `{id}`"))
}

fn digest(file: &Path) -> Result<String> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(hex::encode(Sha256::digest(bytes)))
}

/// The SHA-256 of each file of `lab`'s sample, compared with what is in `folder`.
pub fn check_same_files(lab: &SampleLab, folder: &Path) -> Result<()> {
    for name in ["kernel", "initrd"] {
        ensure!(
            digest(&folder.join(name))? == digest(&lab.image(name))?,
            "{name} in {} differs from the lab's own",
            folder.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_magnet_link_is_found_by_the_systems_id() {
        let catalog = "version = 1\n[[systems]]\nid = \"a\"\nmagnet = \"magnet:?a\"\n\
                       [[systems]]\nid = \"b\"\nmagnet = \"magnet:?b\"\n";
        assert_eq!(magnet_of(catalog, "b").expect("it is there"), "magnet:?b");
        assert!(magnet_of(catalog, "c").is_err());
    }
}
