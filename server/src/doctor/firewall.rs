//! Shell: whether this machine's firewall lets PCs in, as far as `nft` and `iptables-save` tell.
//!
//! Best effort: only rules for the ports themselves are understood. It matters most here, since
//! the doctor's own packets come from inside and pass many a firewall that PCs do not.

use std::process::Command;

use super::Diagnosis;
use crate::config::{Config, DhcpMode};

/// A port that PCs must reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Door {
    role: &'static str,
    protocol: &'static str,
    port: u16,
}

/// Looks for rules that keep PCs out.
pub fn examine(config: &Config, found: &mut Diagnosis) {
    let mut doors = vec![
        Door { role: "TFTP", protocol: "udp", port: 69 },
        Door { role: "HTTP", protocol: "tcp", port: config.http_port },
        Door { role: "seed", protocol: "tcp", port: config.seed_port },
    ];
    if config.dhcp != DhcpMode::Off {
        doors.push(Door { role: "DHCP", protocol: "udp", port: 67 });
    }
    if config.dhcp == DhcpMode::Proxy {
        doors.push(Door { role: "proxyDHCP", protocol: "udp", port: 4011 });
    }
    let rules = [output("nft", &["list", "ruleset"]), output("iptables-save", &[])];
    if rules.iter().all(Option::is_none) {
        let remedy = "as root, with `nft` installed, doctor reads them";
        found.warn("firewall", "this machine's firewall rules are not told".to_owned(), remedy);
        return;
    }
    let rules = rules.map(Option::unwrap_or_default).join("\n");
    let closed: Vec<Door> = doors.into_iter().filter(|door| is_closed(&rules, *door)).collect();
    if closed.is_empty() {
        found.good("firewall", "no rule that keeps PCs out".to_owned());
    }
    for Door { role, protocol, port } in closed {
        let remedy = format!(
            "let it in: `nft insert rule inet filter input iifname {} {protocol} dport {port} accept`, \
             with the names of your own table and chain, and in its configuration file",
            config.interface
        );
        found.fail(
            "firewall",
            format!("{role} on {protocol} port {port} seems to be closed"),
            remedy,
        );
    }
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a packet to `door` is dropped: by a rule of its own, or by an input chain's policy
/// without a rule that lets it in.
fn is_closed(rules: &str, door: Door) -> bool {
    let mut is_input = false;
    let mut drops_the_rest = false;
    let mut lets_in = false;
    for line in rules.lines().map(str::trim) {
        let words: Vec<&str> = line.split([' ', ';']).filter(|word| !word.is_empty()).collect();
        if words.first() == Some(&"chain") {
            is_input = false;
        }
        if words.windows(2).any(|pair| pair == ["hook", "input"]) {
            is_input = true;
            drops_the_rest |= words.windows(2).any(|pair| pair == ["policy", "drop"]);
        }
        // iptables-save: `:INPUT DROP [0:0]`, `-A INPUT -p udp -m udp --dport 69 -j DROP`.
        drops_the_rest |= line.starts_with(":INPUT DROP");
        let is_rule = is_input || line.starts_with("-A INPUT ");
        if !is_rule {
            continue;
        }
        let has = |verdicts: &[&str]| words.iter().any(|word| verdicts.contains(word));
        match (names(&words, door), has(&["drop", "reject", "DROP", "REJECT"])) {
            (true, true) if !lets_in => return true,
            (true, false) if has(&["accept", "ACCEPT"]) => lets_in = true,
            // `iifname "eth0" accept`, or a jump to a chain that cannot be judged here.
            (false, false) if !words.contains(&"dport") && !words.contains(&"--dport") => {
                let is_card = has(&["iif", "iifname", "-i"]) && !line.contains("\"lo\"");
                lets_in |= is_card && !line.contains("-i lo") || has(&["jump", "goto"]);
            }
            _ => {}
        }
    }
    drops_the_rest && !lets_in
}

/// Whether a rule is about the door's port.
fn names(words: &[&str], door: Door) -> bool {
    let is_protocol = words.contains(&door.protocol) || words.contains(&"th");
    let after = words.iter().position(|word| *word == "dport" || *word == "--dport");
    let Some(after) = after.filter(|_| is_protocol) else { return false };
    let ports = words[after + 1..].iter().take_while(|word| {
        word.trim_matches([',', '{', '}']).chars().next().is_none_or(|c| c.is_ascii_digit())
    });
    ports.map(|word| word.trim_matches([',', '{', '}'])).any(|port| {
        match port.split_once(['-', ':']) {
            Some((first, last)) => {
                let range = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
                range.is_some_and(|(first, last)| (first..=last).contains(&door.port))
            }
            None => port.parse() == Ok(door.port),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TFTP: Door = Door { role: "TFTP", protocol: "udp", port: 69 };

    fn input(policy: &str, rule: &str) -> String {
        format!(
            "table inet filter {{\n\tchain input {{\n\t\ttype filter hook input priority filter; \
             policy {policy};\n\t\t{rule}\n\t}}\n\tchain output {{\n\t\ttype filter hook output \
             priority filter; policy accept;\n\t}}\n}}\n"
        )
    }

    #[test]
    fn a_drop_of_the_port_or_of_all_the_rest_closes_it() {
        let check = |rules: String, is| assert_eq!(is_closed(&rules, TFTP), is, "{rules}");
        check(String::new(), false);
        check(input("accept", ""), false);
        check(input("drop", ""), true);
        check(input("drop", "iifname \"lo\" accept"), true);
        check(input("drop", "ct state established,related accept"), true);
        check(input("drop", "udp dport 69 accept"), false);
        check(input("drop", "udp dport { 53, 60-70 } accept"), false);
        check(input("drop", "tcp dport 69 accept"), true);
        check(input("drop", "iifname \"eth0\" accept"), false);
        check(input("accept", "udp dport 69 counter packets 0 bytes 0 drop"), true);
        check(input("accept", "udp dport 690 drop"), false);
        check(input("accept", "udp dport { 67, 69 } reject with icmp port-unreachable"), true);
    }

    #[test]
    fn the_old_tools_rules_are_understood_too() {
        let check = |rules: &str, is| assert_eq!(is_closed(rules, TFTP), is, "{rules}");
        check("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\nCOMMIT", false);
        check("*filter\n:INPUT DROP [0:0]\nCOMMIT", true);
        check(":INPUT DROP [0:0]\n-A INPUT -p udp -m udp --dport 69 -j ACCEPT", false);
        check(":INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 67:69 -j DROP", true);
    }
}
