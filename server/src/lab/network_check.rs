//! Shell: whether the network cards and the addresses to give fit together.

use std::net::Ipv4Addr;

use crate::humanize;
use crate::lab::config::{Config, DhcpMode, Pool, Subnet};
use crate::lab::files::Finding;
use crate::os::card::Card;
use crate::os::interfaces;

/// What is wrong with the interfaces and the addresses to give.
pub fn network(config: &Config) -> Vec<Finding> {
    let cards = match interfaces::cards(config.interfaces()) {
        Ok(cards) => cards,
        Err(error) => {
            return vec![Finding::blocking("server.toml".to_owned(), humanize::chain(&error))];
        }
    };
    let DhcpMode::Full(pool) = &config.dhcp else { return Vec::new() };
    let first = &cards[0];
    let mut found = pool_findings(pool, first.ip, first.netmask);
    found.extend(subnet_findings(config, &cards));
    found
}

/// Where networks, cards and fixed addresses do not fit together.
fn subnet_findings(config: &Config, cards: &[Card]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |place: &str, what: String| {
        found.push(Finding::blocking(format!("server.toml, {place}"), what));
    };
    for (index, card) in cards.iter().enumerate().skip(1) {
        for other in cards[..index].iter().filter(|it| it.contains(card.ip) || card.contains(it.ip))
        {
            let what = format!(
                "{} ({}) and {} ({}) are on one network; give each a network of its own, or \
                 remove one from the list",
                other.name,
                network_of(other),
                card.name,
                network_of(card)
            );
            add("interface", what);
        }
        if !config.subnets.iter().any(|subnet| subnet.overlaps_card(card)) {
            let what = format!(
                "no addresses can be assigned on {} ({}): write a [[dhcp.subnet]] with \
                 network = \"{}\"",
                card.name,
                card.ip,
                network_of(card)
            );
            add("interface", what);
        }
        let is_other = |s: &&Subnet| s.overlaps_card(card) && !s.is_of_card(card);
        for subnet in config.subnets.iter().filter(is_other) {
            let length = subnet.netmask.to_bits().count_ones();
            let what = format!(
                "{}/{length} is not the network of {}, but shares addresses with it: write \
                 network = \"{}\", or change the address or the netmask of {}",
                subnet.network,
                card.name,
                network_of(card),
                card.name
            );
            add("[[dhcp.subnet]]", what);
        }
    }
    for subnet in &config.subnets {
        let Subnet { network, .. } = subnet;
        if subnet.overlaps_card(&cards[0]) {
            let what = format!(
                "{network} is the network of {} itself; its addresses are `range` below [dhcp]",
                cards[0].name
            );
            add("[[dhcp.subnet]]", what);
        } else if subnet.pool.router.is_none() && !cards.iter().any(|c| subnet.overlaps_card(c)) {
            let what = format!(
                "the router of {network} is missing: PCs behind a relay reach this server only \
                 through one; write its address in their network"
            );
            add("[[dhcp.subnet]]", what);
        }
    }
    let is_known = |ip: &Ipv4Addr| {
        cards[0].contains(*ip) || config.subnets.iter().any(|subnet| subnet.contains(*ip))
    };
    for address in config.nodes.hosts.iter().filter_map(|host| host.address) {
        if !is_known(&address) {
            let what =
                format!("{address} is not in a network in which this server assigns addresses");
            add("[[host]] address", what);
        } else if cards.iter().any(|card| card.ip == address) {
            add("[[host]] address", format!("{address} is this server's own address"));
        }
    }
    found
}

/// The network of a card as `server.toml` writes it.
fn network_of(card: &Card) -> String {
    let mask = card.netmask.to_bits();
    format!("{}/{}", Ipv4Addr::from_bits(card.ip.to_bits() & mask), mask.count_ones())
}

fn pool_findings(pool: &Pool, ip: Ipv4Addr, netmask: Ipv4Addr) -> Vec<Finding> {
    let mask = netmask.to_bits();
    let network = Ipv4Addr::from_bits(ip.to_bits() & mask);
    let broadcast = Ipv4Addr::from_bits(ip.to_bits() | !mask);
    let (first, last) = pool.range;
    let is_inside = |address: Ipv4Addr| address > network && address < broadcast;
    let mut found = Vec::new();
    if !is_inside(first) || !is_inside(last) {
        let what = format!(
            "the range {first}-{last} is not inside the interface's network {network}/{}; addresses \
             between {} and {} can be assigned",
            mask.count_ones(),
            Ipv4Addr::from_bits(network.to_bits().saturating_add(1)),
            Ipv4Addr::from_bits(broadcast.to_bits().saturating_sub(1)),
        );
        found.push(Finding::blocking("server.toml, [dhcp] range".to_owned(), what));
    }
    if let Some(router) = pool.router.filter(|router| !is_inside(*router)) {
        let what = format!("the router {router} is not in the network of the PCs, {network}");
        found.push(Finding::blocking("server.toml, [dhcp] router".to_owned(), what));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pool(first: [u8; 4], last: [u8; 4], router: Option<[u8; 4]>) -> Vec<String> {
        let pool = Pool {
            range: (first.into(), last.into()),
            lease: Duration::from_hours(1),
            router: router.map(Into::into),
            dns: Vec::new(),
            domain: None,
            ntp: Vec::new(),
            options: Vec::new(),
        };
        let (ip, mask) = (Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(255, 255, 255, 0));
        pool_findings(&pool, ip, mask).iter().map(ToString::to_string).collect()
    }

    /// What is found of cards with these addresses and prefix lengths: eth0 is 10.77.0.1/24.
    fn cards(subnets: &[&str], others: &[([u8; 4], u32)]) -> String {
        let mut text = "interface = [\"eth0\", \"eth1\", \"eth2\"]\n[dhcp]\nmode = \"full\"\n\
            range = \"10.77.0.50-10.77.0.150\"\n"
            .to_owned();
        for network in subnets {
            let (ip, _) = network.rsplit_once('.').expect("an address");
            text += &format!(
                "[[dhcp.subnet]]\nnetwork = \"{network}\"\nrange = \"{ip}.150-{ip}.160\"\n"
            );
        }
        let config = Config::parse(&text).expect("valid");
        let all = [&[([10, 77, 0, 1], 24)], others].concat();
        let card = |(index, &(ip, prefix)): (usize, &([u8; 4], u32))| Card {
            name: format!("eth{index}"),
            ip: ip.into(),
            netmask: Ipv4Addr::from_bits(u32::MAX << (32 - prefix)),
        };
        let cards: Vec<Card> = all.iter().enumerate().map(card).collect();
        let found = subnet_findings(&config, &cards);
        assert!(found.iter().all(|finding| finding.is_blocking));
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    #[test]
    fn each_further_card_needs_exactly_its_own_network() {
        let fits =
            cards(&["10.78.0.0/24", "10.79.0.0/16"], &[([10, 78, 0, 1], 24), ([10, 79, 5, 1], 16)]);
        assert_eq!(fits, "");
        let check = |subnets: &[&str], others: &[([u8; 4], u32)], expected: &[&str]| {
            let found = cards(subnets, others);
            assert_eq!(found.lines().count(), expected.len(), "{found}");
            for (line, part) in found.lines().zip(expected) {
                assert!(line.contains(part), "{part:?} in {found}");
            }
        };
        check(
            &["10.78.0.0/16"],
            &[([10, 78, 1, 1], 24), ([10, 78, 2, 1], 24)],
            &["write network = \"10.78.1.0/24\"", "write network = \"10.78.2.0/24\""],
        );
        check(
            &["10.78.0.0/24"],
            &[([10, 78, 0, 129], 25)],
            &["10.78.0.0/24 is not the network of eth1"],
        );
        check(
            &["10.78.0.0/24", "10.78.1.0/24"],
            &[([10, 78, 0, 1], 16)],
            &["10.78.0.0/24 is not the network", "10.78.1.0/24 is not the network of eth1"],
        );
        check(
            &["10.78.0.0/24"],
            &[([10, 78, 0, 1], 24), ([10, 78, 0, 2], 24)],
            &["eth1 (10.78.0.0/24) and eth2 (10.78.0.0/24) are on one network"],
        );
        check(
            &[],
            &[([10, 77, 0, 2], 24)],
            &["eth0 (10.77.0.0/24) and eth1", "no addresses can be assigned on eth1"],
        );
    }

    #[test]
    fn addresses_of_another_network_are_refused_with_those_that_fit() {
        assert!(pool([10, 77, 0, 50], [10, 77, 0, 150], Some([10, 77, 0, 254])).is_empty());
        let found = pool([10, 77, 1, 50], [10, 77, 1, 150], None);
        assert!(found[0].contains("10.77.0.0/24"), "{found:?}");
        assert!(found[0].contains("between 10.77.0.1 and 10.77.0.254"), "{found:?}");
        assert_eq!(pool([10, 77, 0, 200], [10, 77, 0, 255], None).len(), 1);
        let found = pool([10, 77, 0, 50], [10, 77, 0, 60], Some([192, 168, 0, 1]));
        assert!(found[0].contains("router 192.168.0.1"), "{found:?}");
    }
}
