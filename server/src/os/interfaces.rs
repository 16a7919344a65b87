//! Shell: the machine's network interfaces, and why one cannot be used.

use std::io;
use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::os::card::Card;

/// One network interface of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Such as `eth0`.
    pub name: String,
    /// Its first IPv4 address and netmask.
    pub address: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Whether it is switched on.
    pub is_up: bool,
    /// Whether it only reaches this machine itself.
    pub is_loopback: bool,
}

/// All network interfaces, in the system's order.
///
/// # Errors
/// When the system does not tell.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut found: Vec<Interface> = Vec::new();
    for part in getifaddrs()? {
        let known = found.iter().position(|known| known.name == part.interface_name);
        let index = known.unwrap_or_else(|| {
            found.push(Interface {
                name: part.interface_name.clone(),
                address: None,
                is_up: part.flags.contains(InterfaceFlags::IFF_UP),
                is_loopback: part.flags.contains(InterfaceFlags::IFF_LOOPBACK),
            });
            found.len() - 1
        });
        let ip = part.address.as_ref().and_then(|a| a.as_sockaddr_in()).map(|a| a.ip());
        let mask = part.netmask.as_ref().and_then(|a| a.as_sockaddr_in()).map(|a| a.ip());
        if let (Some(ip), Some(mask), None) = (ip, mask, found[index].address) {
            found[index].address = Some((ip, mask));
        }
    }
    Ok(found)
}

/// The cards of these names, in their order.
///
/// # Errors
/// For the first that does not exist or has no address, with what there is instead.
pub fn cards<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Vec<Card>, InterfaceError> {
    let card = |name: &str| {
        let (ip, netmask) = address_of(name)?;
        Ok(Card { name: name.to_owned(), ip, netmask })
    };
    names.into_iter().map(card).collect()
}

/// Why the interface of `server.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// There is none of that name.
    #[error(
        "there is no network interface `{name}`; this machine has {existing}: correct `interface` in \
         server.toml"
    )]
    Unknown {
        /// The name in server.toml.
        name: String,
        /// Those that exist, for people.
        existing: String,
    },
    /// It has no IPv4 address.
    #[error(
        "interface {name} has no IPv4 address, so the PCs cannot reach this server; give it one, for \
         example: ip address add {example}/24 dev {name} && ip link set {name} up"
    )]
    NoAddress {
        /// The name in server.toml.
        name: String,
        /// One on a network that no other interface is on.
        example: Ipv4Addr,
    },
    /// The system did not tell.
    #[error("the network interfaces of this machine cannot be listed")]
    Io(#[from] io::Error),
}

/// The IPv4 address and netmask of the interface called `name`.
///
/// # Errors
/// When it does not exist or has no address, with what there is instead.
pub fn address_of(name: &str) -> Result<(Ipv4Addr, Ipv4Addr), InterfaceError> {
    let all = interfaces()?;
    match all.iter().find(|interface| interface.name == name) {
        Some(Interface { address: Some(address), .. }) => Ok(*address),
        Some(_) => {
            Err(InterfaceError::NoAddress { name: name.to_owned(), example: free_address(&all) })
        }
        None => Err(InterfaceError::Unknown { name: name.to_owned(), existing: list(&all) }),
    }
}

/// The first of 10.77.0.1, 10.78.0.1, ... whose /24 shares nothing with the networks there are.
fn free_address(all: &[Interface]) -> Ipv4Addr {
    let is_free = |ip: &Ipv4Addr| {
        !all.iter().filter_map(|interface| interface.address).any(|(other, netmask)| {
            let mask = netmask.to_bits() & Ipv4Addr::new(255, 255, 255, 0).to_bits();
            (ip.to_bits() ^ other.to_bits()) & mask == 0
        })
    };
    let mut examples = (77..=u8::MAX).map(|net| Ipv4Addr::new(10, net, 0, 1));
    examples.find(is_free).unwrap_or(Ipv4Addr::new(192, 168, 77, 1))
}

/// `eth0 (10.77.0.1), wlan0 (no IPv4 address)`.
pub fn list(interfaces: &[Interface]) -> String {
    let words = interfaces.iter().map(|interface| match interface.address {
        Some((ip, _)) => format!("{} ({ip})", interface.name),
        None => format!("{} (no IPv4 address)", interface.name),
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_interface_is_answered_with_those_that_exist() {
        let text = address_of("nosuch0").expect_err("no such interface").to_string();
        assert!(text.contains("`nosuch0`") && text.contains("lo ("), "{text}");
    }

    #[test]
    fn the_example_address_is_on_a_network_of_its_own() {
        let interface = |address: [u8; 4], netmask: [u8; 4]| Interface {
            name: "eth0".into(),
            is_up: true,
            is_loopback: false,
            address: Some((address.into(), netmask.into())),
        };
        assert_eq!(free_address(&[]), Ipv4Addr::new(10, 77, 0, 1));
        let all = [
            interface([10, 77, 0, 9], [255, 255, 255, 0]),
            interface([10, 78, 0, 200], [255, 255, 255, 128]),
        ];
        assert_eq!(free_address(&all), Ipv4Addr::new(10, 79, 0, 1));
        let all = [interface([10, 1, 2, 3], [255, 0, 0, 0])];
        assert_eq!(free_address(&all), Ipv4Addr::new(192, 168, 77, 1));
    }
}
