//! Core: the iPXE script that loads our small Linux.
//!
//! Rendered per request with absolute URLs: iPXE of 2019 (Debian 12) cannot resolve relative ones
//! in a script that DHCP named. `initrd=` repeats the initrd's name because EFI builds need it.
//! The script never asks for an address: iPXE has one, and a plain `dhcp` would wait 16 s for IPv6.

use std::net::SocketAddr;

/// Words that every node's kernel gets: quiet on the way to the picker, and no random placement,
/// which would get in the way of the memory that the started system takes over.
const KERNEL_WORDS: &str = "nokaslr quiet loglevel=3 vt.global_cursor_default=0";

/// The base URL of our HTTP server at `address`.
pub fn base_url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// The script for a node that reaches us at `address`; `lab` is shown, `extra` goes to the kernel.
pub fn render(address: SocketAddr, lab: &str, extra: &str) -> String {
    let base = base_url(address);
    let lab = plain(lab);
    let words: Vec<&str> = KERNEL_WORDS.split(' ').chain(extra.split_whitespace()).collect();
    let words = words.join(" ");
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
         kernel {base}/boot/vmlinuz initrd=initrd.img BOOTIF=01-${{netX/mac:hexhyp}} bt.server={base} {words} ${{vga}} || goto failed\n\
         initrd {base}/boot/initrd.img || goto failed\n\
         boot || goto failed\n\
         :failed\n\
         echo This PC could not load its files from {base}. Trying again in 5 seconds ...\n\
         sleep 5\n\
         goto load\n"
    )
}

/// A lab's name as one line that iPXE shows as it is.
fn plain(text: &str) -> String {
    let is_fit = |c: char| c.is_ascii_graphic() && !matches!(c, '$' | '{' | '}' | '&' | '|' | '\\');
    let fit: String = text.chars().map(|c| if is_fit(c) { c } else { ' ' }).collect();
    fit.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(lab: &str, extra: &str) -> String {
        render(SocketAddr::from(([10, 77, 0, 1], 6969)), lab, extra)
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
    }
}
