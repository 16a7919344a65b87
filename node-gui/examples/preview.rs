//! Draws every screen of the picker to PNG files, for people who work on its looks:
//! `cargo run -p bt-node --example preview -- DIR [WIDTHxHEIGHT ...]`.

#[path = "../tests/it/screens/canvas.rs"]
mod canvas;
#[path = "../tests/it/screens/samples.rs"]
mod samples;

use std::path::PathBuf;

use bt_node::journey::Journey;
use bt_node::screen::input::event::Input;
use bt_node::screen::present::present;
use bt_node::screen::selection::Key;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("usage: preview DIR [WIDTHxHEIGHT ...]")?);
    let mut sizes: Vec<String> = args.collect();
    if sizes.is_empty() {
        sizes = ["800x600", "1024x768", "1280x800", "1920x1080"].map(String::from).to_vec();
    }
    std::fs::create_dir_all(&folder)?;
    let canvas = canvas::Canvas::new(1024, 768);
    for size in sizes {
        let (width, height) = size.split_once('x').ok_or("a size is WIDTHxHEIGHT")?;
        canvas.resize(width.parse()?, height.parse()?);
        for (name, journey) in samples::all() {
            canvas.show(&present(&journey)).save(folder.join(format!("{name}-{size}.png")))?;
        }
        let menu = samples::menu(14);
        canvas.show(&present(&Journey::Menu { menu, countdown: None }));
        for (name, key) in [("menu-end", Key::End), ("menu-tab", Key::Tab)] {
            canvas.window.input(Input::Key { key, repeated: false });
            canvas.window.input(Input::PointerAt(Some(0.6), Some(0.7)));
            canvas.draw().save(folder.join(format!("{name}-{size}.png")))?;
        }
    }
    println!("the screens are in {}", folder.display());
    Ok(())
}
