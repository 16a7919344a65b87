//! Compiles the hand-over part's program, which has neither a standard library nor a start-up file, and so is no target
//! that cargo could build by itself.

use std::env;
use std::path::Path;
use std::process::Command;

const SOURCE: &str = "handover/init.rs";

fn main() {
    println!("cargo::rerun-if-changed=handover");
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| env::var(name).expect("cargo sets it");
    let out = Path::new(&variable("OUT_DIR")).join("handover-init");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-name", "handover_init", "--crate-type", "bin"]);
    // The nodes' kind of machine, whatever this one is.
    rustc.args(["--target", "x86_64-unknown-linux-gnu"]);
    let options = ["panic=abort", "opt-level=s", "lto=fat", "codegen-units=1", "strip=symbols"];
    let linking = ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"];
    for option in options {
        rustc.args(["-C", option]);
    }
    rustc.args(["-C", "relocation-model=static"]);
    for option in linking {
        rustc.args(["-C", &format!("link-arg={option}")]);
    }
    let status = rustc.arg(SOURCE).arg("-o").arg(out).status().expect("cargo's own rustc starts");
    assert!(status.success(), "{SOURCE} does not compile: {status}");
}
