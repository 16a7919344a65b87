//! Core: what a loader runs: iPXE's script and GRUB's menu, which load our small Linux.
//!
//! Rendered per request with absolute URLs: iPXE of 2019 (Debian 12) cannot resolve relative ones
//! in a script that DHCP named. `initrd=` repeats the initrd's name because EFI builds need it.
//! The script never asks for an address: iPXE has one, and a plain `dhcp` would wait 16 s for IPv6.
//! Only [`Scripts::autoexec`] asks, for iPXE runs that one before it has an address.
//!
//! Where `server.toml` tells PCs apart, a loader is first sent on to a name that says who it is:
//! only the loader knows the card it booted from, and behind a relay no ARP table does.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bt_catalog::paths::{BOOT_FOLDER, INITRAMFS, KERNEL, SCRIPT};
use bt_catalog::word::{BOOTIF, SERVER};
use bt_catalog::{BOOTIF_ETHERNET, Mac, Uuid};

use crate::lab::config::{Identity, Nodes};

/// Words that every node's kernel gets: quiet on the way to the picker, and no random placement,
/// which would get in the way of the memory that the started system takes over.
const KERNEL_WORDS: &str = "nokaslr quiet loglevel=3 vt.global_cursor_default=0";
/// The folder of GRUB's menus on TFTP; Debian's signed GRUB looks for `/grub/grub.cfg`.
pub const GRUB_FOLDER: &str = "grub/";

/// The base URL of our HTTP server at `address`.
pub fn base_url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// Renders what the loaders of a lab run. Cheap to clone: TFTP and HTTP render the same.
#[derive(Debug, Clone)]
pub struct Scripts {
    lab: String,
    nodes: Arc<Nodes>,
}

impl Scripts {
    /// `lab` is shown, `nodes` says what each PC gets.
    pub fn new(lab: &str, nodes: Arc<Nodes>) -> Self {
        Self { lab: plain(lab), nodes }
    }

    /// The iPXE script for a node at `ip` that reaches us at `http`; `query` is what it told of
    /// itself.
    pub fn ipxe(&self, http: SocketAddr, query: Option<&str>, ip: Ipv4Addr) -> String {
        match Known::parse(query.unwrap_or_default()) {
            Known { mac: None, .. } if self.tells_apart() => introduction(http, ""),
            Known { mac, uuid } => {
                let words = self.words(&Identity { mac, uuid, ip: Some(ip), relay: None });
                ipxe_script(&base_url(http), &self.lab, &words)
            }
        }
    }

    /// What newer EFI builds of iPXE fetch by the firmware's own means and run first of all, with
    /// their network card still closed.
    pub fn autoexec(&self, http: SocketAddr) -> String {
        introduction(http, "ifconf -c dhcp ||\n")
    }

    /// GRUB's menu of the name `file`, without its folder; `None` where there is no such menu.
    pub fn grub(&self, http: SocketAddr, file: &str, ip: Ipv4Addr) -> Option<String> {
        let mac = match file {
            "grub.cfg" if self.tells_apart() => {
                return Some(format!("source /{GRUB_FOLDER}$net_default_mac\n"));
            }
            "grub.cfg" => None,
            file => Some(read_mac(file)?),
        };
        let words = self.words(&Identity { mac, ip: Some(ip), ..Identity::default() });
        Some(grub_menu(&base_url(http), &self.lab, &words))
    }

    fn tells_apart(&self) -> bool {
        !self.nodes.hosts.is_empty() || !self.nodes.rooms.is_empty()
    }

    fn words(&self, who: &Identity) -> String {
        let extra = self.nodes.settings(who).words();
        KERNEL_WORDS.split(' ').chain(extra.split_whitespace()).collect::<Vec<_>>().join(" ")
    }
}

/// What an iPXE tells of itself in the query of the script's URL; see [`introduction`].
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    mac: Option<Mac>,
    uuid: Option<Uuid>,
}

impl Known {
    fn parse(query: &str) -> Self {
        let mut known = Self::default();
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "mac" => known.mac = read_mac(value),
                "uuid" => known.uuid = value.parse().ok(),
                _ => {}
            }
        }
        known
    }
}

/// Reads a MAC address, also with its colons as a URL writes them.
fn read_mac(text: &str) -> Option<Mac> {
    text.replace("%3A", ":").replace("%3a", ":").parse().ok()
}

/// Sends an iPXE on to the script of its own; `first` are lines before that.
fn introduction(http: SocketAddr, first: &str) -> String {
    let base = base_url(http);
    format!(
        "#!ipxe\n\
         :again\n\
         {first}\
         chain --autofree {base}{SCRIPT}?mac=${{netX/mac:hexhyp}}&uuid=${{uuid}} ||\n\
         echo This PC could not load its menu from {base}. Trying again in 5 seconds ...\n\
         sleep 5\n\
         goto again\n"
    )
}

/// The menu without a choice: GRUB only loads the picker.
fn grub_menu(base: &str, lab: &str, words: &str) -> String {
    // GRUB's quotes have no escape inside; `plain` leaves none in the name. The signed build shows
    // no progress of its own, and the second file may take half a minute.
    format!(
        "clear\n\
         echo 'BootTorrent - {lab}'\n\
         echo 'Loading, one moment please (1 of 2) ...'\n\
         linux /{KERNEL} {BOOTIF}={BOOTIF_ETHERNET}$net_default_mac {SERVER}={base} {words}\n\
         echo 'Loading, one moment please (2 of 2) ...'\n\
         initrd /{INITRAMFS}\n\
         boot\n\
         echo 'This PC could not load its files. Trying again in 5 seconds ...'\n\
         sleep 5\n\
         configfile /{GRUB_FOLDER}grub.cfg\n"
    )
}

/// The script for a node that reaches us at `base`; `words` go to the kernel.
fn ipxe_script(base: &str, lab: &str, words: &str) -> String {
    // On BIOS the kernel sets a graphics mode itself: 0x344 is 1024x768x32 of QEMU's adapter, 791
    // is the VESA mode 1024x768x16 of the others. `:uristring` keeps spaces of the maker's name
    // from splitting the line, and the `x` keeps an empty one from vanishing.
    format!(
        "#!ipxe\n\
         echo\n\
         echo BootTorrent - {lab}\n\
         echo Loading, one moment please ...\n\
         iseq ${{platform}} pcbios || goto load\n\
         set vga vga=791\n\
         iseq x${{manufacturer:uristring}} xQEMU && set vga vga=0x344 ||\n\
         :load\n\
         imgfree\n\
         kernel {base}{BOOT_FOLDER}{KERNEL} initrd={INITRAMFS} {BOOTIF}={BOOTIF_ETHERNET}${{netX/mac:hexhyp}} {SERVER}={base} {words} ${{vga}} || goto failed\n\
         initrd {base}{BOOT_FOLDER}{INITRAMFS} || goto failed\n\
         boot || goto failed\n\
         :failed\n\
         echo This PC could not load its files from {base}. Trying again in 5 seconds ...\n\
         sleep 5\n\
         goto load\n"
    )
}

/// A lab's name as one line that iPXE shows as it is.
fn plain(text: &str) -> String {
    let is_fit =
        |c: char| c.is_ascii_graphic() && !matches!(c, '$' | '\'' | '{' | '}' | '&' | '|' | '\\');
    let fit: String = text.chars().map(|c| if is_fit(c) { c } else { ' ' }).collect();
    fit.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::config::{Host, Overrides, Place};

    const HTTP: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), 6969);
    const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);

    fn overrides(cmdline: &str) -> Overrides {
        Overrides { cmdline: cmdline.to_owned(), ..Overrides::default() }
    }

    fn scripts(lab: &str, extra: &str) -> Scripts {
        Scripts::new(lab, Arc::new(Nodes { defaults: overrides(extra), ..Nodes::default() }))
    }

    /// A lab with one PC of its own kind.
    fn with_host() -> Scripts {
        let host = Host {
            mac: Some(Mac([0x52, 0x54, 0, 0, 0, 1])),
            uuid: None,
            address: None,
            name: None,
            room: None,
            overrides: overrides("special"),
            place: Place { line: 1, column: 1 },
        };
        Scripts::new("A1", Arc::new(Nodes { hosts: vec![host], ..Nodes::default() }))
    }

    fn script(lab: &str, extra: &str) -> String {
        scripts(lab, extra).ipxe(HTTP, None, NODE)
    }

    #[test]
    fn every_url_is_absolute_and_names_the_address_that_was_reached() {
        let text = script("A1", "");
        assert!(text.starts_with("#!ipxe\n"));
        for line in [
            "initrd http://10.77.0.1:6969/boot/initrd.img || goto failed",
            "kernel http://10.77.0.1:6969/boot/vmlinuz initrd=initrd.img BOOTIF=01-${netX/mac:hexhyp} \
             bt.server=http://10.77.0.1:6969 nokaslr quiet loglevel=3 vt.global_cursor_default=0 ${vga} \
             || goto failed",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
        }
    }

    #[test]
    fn extra_words_reach_the_kernel_and_cannot_add_a_line() {
        let text = script("A1", " console=ttyS0\nshell  bt.preset=x ");
        assert!(text.contains("cursor_default=0 console=ttyS0 shell bt.preset=x ${vga} || goto"));
        assert_eq!(text.lines().count(), script("A1", "").lines().count());
    }

    #[test]
    fn a_labs_name_is_shown_but_never_obeyed() {
        let text = script("Räume ${net0/ip} || shell\nreboot", "");
        assert!(text.contains("echo BootTorrent - R ume net0/ip shell reboot\n"), "{text}");
        let menu = scripts("a'; reboot '", "").grub(HTTP, "grub.cfg", NODE).expect("a menu");
        assert!(menu.contains("echo 'BootTorrent - a ; reboot'\n"), "{menu}");
    }

    #[test]
    fn grub_gets_a_menu_without_a_choice() {
        let menu = scripts("A1", "extra").grub(HTTP, "grub.cfg", NODE).expect("a menu");
        let linux = "linux /vmlinuz BOOTIF=01-$net_default_mac bt.server=http://10.77.0.1:6969 \
                     nokaslr quiet loglevel=3 vt.global_cursor_default=0 extra\n";
        assert!(menu.contains(linux) && menu.contains("\ninitrd /initrd.img\nboot\n"), "{menu}");
        assert_eq!(scripts("A1", "").grub(HTTP, "x86_64-efi/command.lst", NODE), None);
    }

    #[test]
    fn where_pcs_differ_a_loader_first_says_who_it_is() {
        let first = with_host().ipxe(HTTP, None, NODE);
        assert!(first.contains("boot.ipxe?mac=${netX/mac:hexhyp}&uuid=${uuid} "), "{first}");
        assert!(!first.contains("kernel"), "{first}");
        let check = |mac: &str, is_special: bool| {
            let script = with_host().ipxe(HTTP, Some(&format!("mac={mac}&uuid=")), NODE);
            assert_eq!(script.contains(" special "), is_special, "{mac}");
            let menu = with_host().grub(HTTP, mac, NODE).expect("a menu");
            assert_eq!(menu.contains(" special\n"), is_special, "{mac}");
        };
        check("52-54-00-00-00-01", true);
        check("52:54:00:00:00:01", true);
        check("52%3a54%3A00:00:00:01", true);
        check("52-54-00-00-00-02", false);
        let first = with_host().grub(HTTP, "grub.cfg", NODE).expect("a menu");
        assert_eq!(first, "source /grub/$net_default_mac\n");
    }

    #[test]
    fn a_script_that_runs_before_there_is_an_address_asks_for_one() {
        let lines = |text: String| -> Vec<String> { text.lines().map(str::to_owned).collect() };
        let text = lines(scripts("A1", "").autoexec(HTTP));
        assert_eq!(text[..3], ["#!ipxe", ":again", "ifconf -c dhcp ||"]);
        assert!(text[3].starts_with("chain --autofree http://10.77.0.1:6969/boot.ipxe?mac="));
        assert!(!lines(with_host().ipxe(HTTP, None, NODE)).iter().any(|it| it.contains("dhcp")));
    }

    #[test]
    fn what_is_no_hardware_address_is_none() {
        for text in ["", "52", "52-54-00-00-00", "52-54-00-00-00-01-02", "5-54-00-00-00-011", "é"]
        {
            assert_eq!(read_mac(text), None, "{text}");
        }
        assert_eq!(Known::parse("mac=x&&uuid&=&uuid=1"), Known::default());
    }
}
