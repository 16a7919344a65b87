//! Shell: whether this machine's firewall lets PCs in, as far as `nft` and `iptables-save` tell.
//!
//! Best effort: only rules for the ports themselves are understood. It matters most here, since
//! the doctor's own packets come from inside and pass many a firewall that PCs do not.

use std::process::Command;

use super::Diagnosis;
use crate::lab::config::{Config, DhcpMode};

/// A port that PCs must reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Door {
    role: &'static str,
    protocol: &'static str,
    port: u16,
}

/// This machine's rules, as they were read once.
pub struct Firewall {
    rules: Option<String>,
}

impl Firewall {
    /// Asks both tools.
    pub fn read() -> Self {
        let rules = [output("nft", &["list", "ruleset"]), output("iptables-save", &[])];
        let is_told = rules.iter().any(Option::is_some);
        let rules = rules.map(Option::unwrap_or_default).join("\n");
        Self { rules: is_told.then_some(rules) }
    }

    /// Whether one of them told anything.
    pub fn is_known(&self) -> bool {
        self.rules.is_some()
    }

    /// Says that none did.
    pub fn tell_unknown(found: &mut Diagnosis) {
        let remedy = "run doctor as root with `nft` installed to check them";
        found.warn("firewall", "cannot read this machine's firewall rules".to_owned(), remedy);
    }

    /// Whether what DHCP servers answer to this machine is dropped; PCs are not touched by that.
    pub fn hides_answers(&self, card: &str) -> bool {
        let door = Door { role: "DHCP client", protocol: "udp", port: 68 };
        self.rules.as_ref().is_some_and(|rules| is_closed(rules, door, card))
    }

    /// Looks for rules that keep PCs out that come by `card`.
    pub fn examine(&self, config: &Config, card: &str, found: &mut Diagnosis) {
        let Some(rules) = &self.rules else { return };
        let closed: Vec<Door> =
            doors(config).into_iter().filter(|door| is_closed(rules, *door, card)).collect();
        if closed.is_empty() {
            found.good("firewall", "no rule that blocks PCs".to_owned());
        }
        for Door { role, protocol, port } in closed {
            let what = format!("{role} on {protocol} port {port} seems to be closed");
            found.fail("firewall", what, let_in(card, protocol, port));
        }
    }
}

/// What opens a port.
pub(super) fn let_in(card: &str, protocol: &str, port: u16) -> String {
    format!(
        "let it in: `nft insert rule inet filter input iifname {card} {protocol} dport {port} accept`, \
         with the names of your own table and chain; add it to the firewall's configuration file too"
    )
}

fn doors(config: &Config) -> Vec<Door> {
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
    doors
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

/// Whether a packet that comes by `card` to `door` is dropped: by a rule of its own, or by an input
/// chain's policy without a rule that lets it in.
fn is_closed(rules: &str, door: Door, card: &str) -> bool {
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
        if !is_rule || !is_about(&words, card) {
            continue;
        }
        let has = |verdicts: &[&str]| words.iter().any(|word| verdicts.contains(word));
        match (names(&words, door), has(&["drop", "reject", "DROP", "REJECT"])) {
            (true, true) if !lets_in => return true,
            (true, false) if has(&["accept", "ACCEPT"]) => lets_in = true,
            // `iifname "eth0" accept` for this card, or a jump to a chain that cannot be judged here.
            (false, false) if !words.contains(&"dport") && !words.contains(&"--dport") => {
                lets_in |= has(&CARD_WORDS) || has(&["jump", "goto"]);
            }
            _ => {}
        }
    }
    drops_the_rest && !lets_in
}

/// What a rule names a card by.
const CARD_WORDS: [&str; 3] = ["iif", "iifname", "-i"];

/// Whether a rule is about packets that come by `card`: it names no card, or this one, or some in a
/// way that cannot be judged here.
fn is_about(words: &[&str], card: &str) -> bool {
    let Some(at) = words.iter().position(|word| CARD_WORDS.contains(word)) else { return true };
    let mut names = &words[at + 1..];
    let mut is_other = at > 0 && words[at - 1] == "!";
    if names.first() == Some(&"!=") {
        (is_other, names) = (true, &names[1..]);
    }
    if names.first().is_none_or(|name| name.starts_with('@') || *name == "vmap") {
        return true;
    }
    let is_set = names[0].starts_with('{');
    let end = names.iter().position(|name| name.ends_with('}')).filter(|_| is_set).unwrap_or(0);
    let is_named = names[..=end].iter().any(|name| {
        let name = name.trim_matches(['{', '}', ',', '"']);
        match name.strip_suffix(['*', '+']) {
            Some(start) => card.starts_with(start),
            None => name == card,
        }
    });
    is_named != is_other
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
        let check = |rules: String, is| assert_eq!(is_closed(&rules, TFTP, "eth0"), is, "{rules}");
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
    fn each_card_has_its_own_rules() {
        let check = |rule: &str, expected: [bool; 2]| {
            let rules = input("drop", rule);
            let closed = ["eth0", "eth1"].map(|card| is_closed(&rules, TFTP, card));
            assert_eq!(closed, expected, "{rule}");
        };
        check("iifname \"eth0\" accept", [false, true]);
        check("iifname \"eth0\" udp dport 69 accept", [false, true]);
        check("iifname { \"eth0\", \"eth1\" } accept", [false, false]);
        check("iifname { \"eth2\", \"eth1\" } udp dport 69 accept", [true, false]);
        check("iifname != \"eth0\" accept", [true, false]);
        check("iifname \"eth*\" accept", [false, false]);
        check("iifname @lan accept", [false, false]);
        let old = ":INPUT DROP [0:0]\n-A INPUT -i eth1 -p udp -m udp --dport 69 -j ACCEPT";
        assert!(is_closed(old, TFTP, "eth0") && !is_closed(old, TFTP, "eth1"));
    }

    #[test]
    fn the_doctors_own_port_is_looked_at_apart() {
        let firewall = |rule| Firewall { rules: Some(input("drop", rule)) };
        assert!(firewall("udp dport { 67, 69 } accept").hides_answers("eth0"));
        assert!(!firewall("udp dport 67-69 accept").hides_answers("eth0"));
        assert!(!Firewall { rules: None }.hides_answers("eth0"));
    }

    #[test]
    fn the_old_tools_rules_are_understood_too() {
        let check = |rules: &str, is| assert_eq!(is_closed(rules, TFTP, "eth0"), is, "{rules}");
        check("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\nCOMMIT", false);
        check("*filter\n:INPUT DROP [0:0]\nCOMMIT", true);
        check(":INPUT DROP [0:0]\n-A INPUT -p udp -m udp --dport 69 -j ACCEPT", false);
        check(":INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 67:69 -j DROP", true);
    }
}
