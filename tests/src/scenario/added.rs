//! Shell: a live ISO that `bt-server add` made a system of, on a PC that is large enough and on one that is not.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::commands::handover::medium::{self, Medium, Proof};
use crate::commands::handover::method::Method;
use crate::commands::handover::search::Attempt;
use crate::commands::handover::words;
use crate::commands::image::{self, Kind};
use crate::room::testbed::Testbed;

/// Large enough to matter compared with all else in memory.
const IMAGE: u64 = 160 << 20;
/// Image, system and node fit, but no second image would: in MiB.
const ENOUGH: u32 = 512;
/// The picker runs, but the image does not fit in addition.
const TOO_LITTLE: u32 = 320;

/// Memory with holes, as firmware leaves it on some PCs: no piece is as long as the image.
const DIVIDED: &str = "memmap=2M$120M,2M$240M,2M$360M";

pub fn live(testbed: &mut Testbed) -> Result<String> {
    let attempt = boot(testbed, "added-live", ENOUGH, "")?;
    ensure!(attempt == Attempt::Started, "{}", words(&attempt));
    let image = IMAGE >> 20;
    Ok(format!("an ISO of {image} MiB runs on a PC with {ENOUGH} MiB and has the right SHA-256"))
}

pub fn divided(testbed: &mut Testbed) -> Result<String> {
    let name = "added-divided";
    let attempt = boot(testbed, name, ENOUGH, DIVIDED)?;
    ensure!(attempt == Attempt::Started, "{}", words(&attempt));
    let console = testbed.out.join(format!("{name}-in-{ENOUGH}-serial.log"));
    let console = std::fs::read_to_string(&console).context("cannot read the serial log")?;
    ensure!(console.contains("device=/dev/dm-0"), "the image was not split");
    Ok("the image was split over several regions of memory, and the system read it unchanged"
        .into())
}

pub fn too_large(testbed: &mut Testbed) -> Result<String> {
    match boot(testbed, "added-too-large", TOO_LITTLE, "")? {
        Attempt::Refused(why) if why.contains("Needs ") => Ok(format!("the screen says \"{why}\"")),
        other => bail!("{}", words(&other)),
    }
}

/// Makes the ISO, unless it is there already.
pub fn make_image() -> Result<PathBuf> {
    let iso = image::usual_path(Kind::AlpineLike, Some(IMAGE));
    image::make(Kind::AlpineLike, Some(IMAGE), &iso)?;
    Ok(iso)
}

fn boot(testbed: &mut Testbed, name: &str, memory: u32, words: &str) -> Result<Attempt> {
    let iso = make_image()?;
    let proof = Proof::Sha256(medium::sha256(&iso)?);
    let mut medium = Medium::prepare(testbed, Method::Pmem, &iso, name, proof, None)?;
    medium.words = words.into();
    medium.boot(testbed, memory, None)
}
