//! Core: what a loader would fetch: iPXE by its script, GRUB by its menu. Only what this server's
//! own scripts and menus say is understood.

use std::collections::BTreeMap;

/// The files that a script names, as it names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The next script.
    pub(super) chain: Option<String>,
    /// The kernel.
    pub(super) kernel: Option<String>,
    /// The initramfs, and what else goes with it.
    pub(super) initrds: Vec<String>,
}

/// Reads a script that lies at `base` with iPXE's settings `known`, such as `net0/mac`.
pub(super) fn plan(script: &str, base: &str, known: &BTreeMap<&str, String>) -> Plan {
    let mut settings: BTreeMap<String, String> =
        known.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let mut plan = Plan::default();
    for line in script.lines() {
        let line = expand(line, &settings);
        // What follows `||` happens when the line fails.
        let line = line.split("||").next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        let target = words.iter().skip(1).find(|word| !word.starts_with('-'));
        let url = target.map(|word| resolve(word, base));
        match words.first().copied() {
            Some("set") if words.len() > 2 => {
                settings.insert(words[1].to_owned(), words[2..].join(" "));
            }
            Some("chain") if plan.chain.is_none() => plan.chain = url,
            Some("kernel") if plan.kernel.is_none() => plan.kernel = url,
            Some("initrd") => plan.initrds.extend(url),
            _ => {}
        }
    }
    plan
}

/// Reads a menu of GRUB on a PC with the address `mac`; names are TFTP's.
pub(super) fn grub_plan(menu: &str, mac: &str) -> Plan {
    let mut plan = Plan::default();
    for line in menu.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words.get(1).map(|name| name.replace("$net_default_mac", mac));
        match words.first().copied() {
            Some("source") if plan.chain.is_none() => plan.chain = name,
            Some("linux") if plan.kernel.is_none() => plan.kernel = name,
            Some("initrd") => plan.initrds.extend(name),
            _ => {}
        }
    }
    plan
}

/// Puts in settings: `${name}`, `${name:format}`; an unknown one is empty, as in iPXE.
fn expand(line: &str, settings: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("${") {
        expanded.push_str(before);
        let Some((name, after)) = after.split_once('}') else { return expanded };
        let name = name.split(':').next().unwrap_or_default();
        expanded.push_str(settings.get(name).map_or("", String::as_str));
        rest = after;
    }
    expanded + rest
}

/// A URL as iPXE resolves it against the script's own.
fn resolve(word: &str, base: &str) -> String {
    if word.starts_with("http://") {
        return word.to_owned();
    }
    let host_end = base.get(7..).and_then(|rest| rest.find('/')).map_or(base.len(), |at| at + 7);
    match word.strip_prefix('/') {
        Some(path) => format!("{}/{path}", &base[..host_end]),
        None => {
            let folder = base.split('?').next().unwrap_or(base);
            let folder =
                folder.rfind('/').filter(|at| *at >= host_end).map_or(base, |at| &base[..at]);
            format!("{folder}/{word}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::boot::scripts::Scripts;
    use crate::lab::config::Config;

    const MAC: &str = "02:00:00:00:00:01";
    const BASE: &str = "http://10.77.0.1:6969/boot.ipxe";

    #[test]
    fn our_boot_script_is_understood() {
        let address = SocketAddr::from(([10, 77, 0, 1], 6969));
        let script = format!(
            "#!ipxe\nkernel http://{address}/boot/vmlinuz initrd=initrd.img || goto failed\n\
             initrd http://{address}/boot/initrd.img || goto failed\nboot || goto failed\n"
        );
        let plan = plan(&script, BASE, &BTreeMap::new());
        assert_eq!(plan.kernel.as_deref(), Some("http://10.77.0.1:6969/boot/vmlinuz"));
        assert_eq!(plan.initrds, ["http://10.77.0.1:6969/boot/initrd.img"]);
        assert_eq!(plan.chain, None);
    }

    #[test]
    fn our_menu_of_grub_is_understood() {
        let config = |host: &str| {
            let config = Config::parse(&format!("interface = \"eth0\"\n{host}")).expect("valid");
            Scripts::new("A1", config.nodes)
        };
        let http = SocketAddr::from(([10, 77, 0, 1], 6969));
        let menu = |scripts: &Scripts, name| {
            scripts.grub(http, name, [10, 77, 0, 50].into()).expect("there is such a menu")
        };
        let plain = grub_plan(&menu(&config(""), "grub.cfg"), MAC);
        assert_eq!(plain.kernel.as_deref(), Some("/vmlinuz"));
        assert_eq!(plain.initrds, ["/initrd.img"]);
        let scripts = config("[[host]]\nmac = \"02:00:00:00:00:02\"\nname = \"pc\"\n");
        let first = grub_plan(&menu(&scripts, "grub.cfg"), MAC);
        assert_eq!(first.chain.as_deref(), Some("/grub/02:00:00:00:00:01"));
        let second = grub_plan(&menu(&scripts, MAC), MAC);
        assert_eq!(second.kernel.as_deref(), Some("/vmlinuz"));
    }

    #[test]
    fn settings_are_put_in_and_urls_are_resolved() {
        let known = BTreeMap::from([("netX/mac", "02:00:00:00:00:01".to_owned())]);
        let script = "set base http://x/y\nchain --replace /boot.ipxe?mac=${netX/mac:hex}&u=${uuid}\n\
            kernel ${base}/k a=${b}\ninitrd i";
        let plan = plan(script, BASE, &known);
        let chain = "http://10.77.0.1:6969/boot.ipxe?mac=02:00:00:00:00:01&u=";
        assert_eq!(plan.chain.as_deref(), Some(chain));
        assert_eq!(plan.kernel.as_deref(), Some("http://x/y/k"));
        assert_eq!(plan.initrds, ["http://10.77.0.1:6969/i"]);
    }
}
