//! Shell: `cargo lab handover`: the least memory with which a live system boots, for each boot method.
//!
//! A test system of each size is added to a lab by `bt-server add`, and PCs with less and less memory boot it through the swarm.
//! What runs must see the very medium that was added; what does not run must have been refused with a reason before the
//! download. For comparison with the two boot methods: kexec-tools, which copies the image into an initrd.

pub mod medium;
pub mod method;
mod peer;
mod plot;
pub mod search;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::commands::image::{self, Kind};
use crate::host::cargo::{self, Build};
use crate::host::outcome::Outcome;
use crate::host::packages::{self, Extra};
use crate::room::route::FirmwareKind;
use crate::room::testbed::Testbed;
use medium::{Medium, Proof};
use method::Method;
use plot::Line;
use search::{Attempt, Search};

/// Find the least memory with which a PC boots a live system of each size
///
/// Boots PCs with less and less memory until a system of 130, 300 and 800 MiB does not boot any more, by both boot methods
/// and by kexec-tools. Takes about two hours on two cores; `--sizes 130 --methods pmem` takes some minutes.
#[derive(Args)]
pub struct Options {
    /// Sizes of the image in MiB
    #[arg(long, value_delimiter = ',', default_value = "130,300,800")]
    sizes: Vec<u32>,
    /// Boot methods to try
    #[arg(
        long,
        alias = "ways",
        value_enum,
        value_delimiter = ',',
        default_value = "pmem,initrd,kexec-tools"
    )]
    methods: Vec<Method>,
    /// Resolution of the search, in MiB
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    step: u32,
    /// Boot this ISO, squashfs or folder once instead of test systems; needs `--memory`
    #[arg(long, value_name = "PATH", requires = "memory")]
    source: Option<PathBuf>,
    /// Text that the system of `--source` writes to its serial console once it runs
    #[arg(long, value_name = "WORDS", default_value = "login:")]
    says: String,
    /// The test system to boot; never `plain`, which has no image
    #[arg(long, value_enum, default_value = "alpine-like")]
    kind: Kind,
    /// Boot once with this memory (MiB) instead of searching
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// Boot from the network with this firmware and choose in the picker, instead of directly into the netboot image
    #[arg(long, value_enum)]
    firmware: Option<FirmwareKind>,
    /// Write the plot to this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Install missing Debian packages without asking
    #[arg(long)]
    yes: bool,
    /// Save pictures and logs to this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// One boot method with one size.
struct Found {
    method: Method,
    size: u32,
    search: Search,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Outcome> {
    if options.kind == Kind::Plain {
        bail!("a plain system has no image to hand over; choose another --kind");
    }
    packages::ensure_packages(Extra::Images, options.yes)?;
    if options.methods.contains(&Method::KexecTools) {
        packages::ensure_kexec_tools()?;
    }
    let images = images(options)?;
    let out = options.out.clone().unwrap_or_else(|| cargo::results_folder().join("handover"));
    let mut testbed = Testbed::prepare(Extra::Images, Build::Release, options.yes, &out, None)?;
    let mut found = Vec::new();
    for (size, path) in &images {
        for method in &options.methods {
            let search = search_one(options, &mut testbed, *method, *size, path)?;
            found.push(Found { method: *method, size: *size, search });
        }
    }
    if let Some(file) = &options.plot {
        std::fs::write(file, plot_of(&found))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(report(&found))
}

/// What is to be added, each with its size in MiB.
fn images(options: &Options) -> Result<Vec<(u32, PathBuf)>> {
    if let Some(source) = &options.source {
        let source = std::path::absolute(source)?;
        let bytes =
            source.metadata().with_context(|| format!("cannot read {}", source.display()))?;
        return Ok(vec![(u32::try_from(bytes.len() >> 20)?, source)]);
    }
    let mut images = Vec::new();
    for size in &options.sizes {
        let bytes = u64::from(*size) << 20;
        let path = image::usual_path(options.kind, Some(bytes));
        image::make(options.kind, Some(bytes), &path)?;
        images.push((*size, path));
    }
    Ok(images)
}

/// The least memory for this image and this boot method.
fn search_one(
    options: &Options,
    testbed: &mut Testbed,
    method: Method,
    size: u32,
    image: &Path,
) -> Result<Search> {
    let name = format!("{}-{size}", method.name());
    let proof = match options.source {
        Some(_) => Proof::Words(options.says.clone()),
        None => Proof::Sha256(medium::sha256(image)?),
    };
    let medium = Medium::prepare(testbed, method, image, &name, proof, options.firmware)?;
    let (low, high) = method.guess(size);
    let mut search = match options.memory {
        Some(memory) => Search::new(memory.saturating_sub(1), memory, 1),
        None => Search::new(low, high, options.step),
    };
    while let Some(memory) = search.next() {
        let attempt = match method {
            Method::KexecTools => peer::boot(testbed, &medium, &name, memory),
            Method::Pmem | Method::Initrd => medium.boot(testbed, memory, options.firmware),
        };
        let attempt = attempt?;
        println!("  {name} MiB on a PC with {memory} MiB: {}", words(&attempt));
        search.learn(memory, attempt);
        if options.memory.is_some() {
            break;
        }
    }
    Ok(search)
}

/// The attempt in one line.
pub fn words(attempt: &Attempt) -> String {
    match attempt {
        Attempt::Started => "started".into(),
        Attempt::Refused(why) => format!("refused: {why}"),
        Attempt::Broken(why) => format!("BROKEN: {why}"),
    }
}

fn plot_of(found: &[Found]) -> String {
    let mut lines: Vec<Line> = Vec::new();
    for Found { method, size, search } in found {
        let Some(smallest) = search.smallest() else { continue };
        let point = (f64::from(*size), f64::from(smallest));
        match lines.iter_mut().find(|line| line.name == method.name()) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { name: method.name().into(), points: vec![point] }),
        }
    }
    plot::svg("Least memory that boots a live system", "image, MiB", "memory, MiB", &lines)
}

fn report(found: &[Found]) -> Outcome {
    let figures: Vec<Value> = found
        .iter()
        .map(|Found { method, size, search }| {
            let tried: serde_json::Map<String, Value> = search
                .seen
                .iter()
                .map(|(memory, attempt)| (memory.to_string(), json!(words(attempt))))
                .collect();
            json!({"way": method.name(), "image_mib": size, "smallest_mib": search.smallest(), "tried": tried})
        })
        .collect();
    let mut parts = Vec::new();
    let mut ok = true;
    for Found { method, size, search } in found {
        let smallest = search.smallest().map_or("none".into(), |memory| format!("{memory} MiB"));
        parts.push(format!("{} {size} MiB: {smallest}", method.name()));
        // kexec-tools has no rule that refuses; our own methods must never break.
        ok &= search.smallest().is_some()
            && (*method == Method::KexecTools || search.broken().next().is_none());
    }
    Outcome::new(ok, format!("least memory: {}", parts.join(", "))).with("found", json!(figures))
}
