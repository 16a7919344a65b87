//! Core: draws runs as one SVG: when each node was done, and who sent to whom.

use std::fmt::Write;
use std::net::Ipv4Addr;

use super::figures::Seen;
use crate::room::addresses::SERVER;

const WIDTH: f64 = 1000.0;
/// Left of the bars: the nodes' names.
const MARGIN: f64 = 60.0;
const BARS: f64 = 520.0;
/// Where the matrix begins.
const MATRIX: f64 = 660.0;
const MATRIX_WIDTH: f64 = 320.0;
const HEAD: f64 = 56.0;
const FOOT: f64 = 40.0;
/// Least and most height of a node's row.
const ROW: (f64, f64) = (6.0, 24.0);

/// Draws these runs below each other.
pub fn draw(runs: &[&Seen]) -> String {
    let slowest = runs
        .iter()
        .flat_map(|run| run.nodes.iter().map(|node| node.finish / run.wire_secs))
        .fold(1.0, f64::max);
    let mut panels = String::new();
    let mut top = 0.0;
    for run in runs {
        writeln!(panels, "<g transform=\"translate(0 {top:.0})\">").expect("a String takes all");
        bars(&mut panels, run, slowest);
        matrix(&mut panels, run);
        panels += "</g>\n";
        top += height(run);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{top:.0}\" fill=\"#ffffff\"/>\n{panels}</svg>\n"
    )
}

fn row(run: &Seen) -> f64 {
    (320.0 / run.nodes.len() as f64).clamp(ROW.0, ROW.1)
}

fn height(run: &Seen) -> f64 {
    HEAD + row(run) * (run.nodes.len() + 1) as f64 + FOOT
}

/// A bar for each node from its start to its finish; the dark part is the server's share.
fn bars(out: &mut String, run: &Seen, slowest: f64) {
    let scale = BARS / slowest;
    let row = row(run);
    let [last, median, first] = run.over_wire();
    text(
        out,
        (MARGIN, 20.0),
        "start",
        &format!(
            "{}: last {last:.2}, median {median:.2}, first {first:.2} wire times; the server sent {:.2} copies",
            run.engine.name(),
            run.copies()
        ),
    );
    text(out, (MARGIN, 40.0), "start", "start to finish; dark: share from the server");
    for (number, node) in run.nodes.iter().enumerate() {
        let y = HEAD + row * number as f64;
        let (x, width) = (node.start / run.wire_secs * scale, node.secs() / run.wire_secs * scale);
        let of_server = width * server_share(run, node.address);
        rect(out, (MARGIN + x, y), (width, row * 0.8), "#9ecae1");
        rect(out, (MARGIN + x, y), (of_server, row * 0.8), "#2171b5");
        if row >= 10.0 || number % 5 == 0 {
            text(out, (MARGIN - 6.0, y + row * 0.7), "end", &format!("{}", number + 1));
        }
    }
    let bottom = HEAD + row * run.nodes.len() as f64;
    let mut mark = 0.0;
    while mark <= slowest {
        let x = MARGIN + mark * scale;
        let colour = if mark == 1.0 { "#d62728" } else { "#cccccc" };
        writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{HEAD}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"{colour}\"/>"
        )
        .expect("a String takes all");
        text(out, (x, bottom + 16.0), "middle", &format!("{mark}"));
        mark += if slowest > 6.0 { 2.0 } else { 0.5 };
    }
}

/// A square for each pair: the darker, the larger that source's share of what the node got.
fn matrix(out: &mut String, run: &Seen) {
    if run.flows.is_empty() {
        return;
    }
    let count = run.nodes.len();
    let cell = (MATRIX_WIDTH / (count + 1) as f64).min(row(run));
    text(out, (MATRIX, 20.0), "start", "who (row, the server first) sent to whom (column)");
    let address = |number: usize| run.nodes[number].address;
    for to in 0..count {
        let total = received(run, address(to), |_| true).max(1.0);
        for from in 0..=count {
            let source = if from == 0 { SERVER } else { address(from - 1) };
            let share = received(run, address(to), |it| it == source) / total;
            // The root makes small shares visible.
            let shade = (255.0 * (1.0 - share.sqrt())) as u8;
            let place = (MATRIX + cell * to as f64, HEAD + cell * from as f64);
            rect(out, place, (cell, cell), &format!("#{shade:02x}{shade:02x}ff"));
        }
    }
    let (width, height) = (cell * count as f64, cell * (count + 1) as f64);
    writeln!(
        out,
        "<rect x=\"{MATRIX}\" y=\"{HEAD}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"none\" stroke=\"#888888\"/>"
    )
    .expect("a String takes all");
}

/// What part of a node's image came from the server; nothing when it was not counted.
fn server_share(run: &Seen, node: Ipv4Addr) -> f64 {
    received(run, node, |from| from == SERVER) / received(run, node, |_| true).max(1.0)
}

fn received(run: &Seen, node: Ipv4Addr, is_source: impl Fn(Ipv4Addr) -> bool) -> f64 {
    let flows = run.flows.iter().filter(|flow| flow.to == node && is_source(flow.from));
    flows.map(|flow| flow.bytes as f64).sum()
}

fn rect(out: &mut String, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str) {
    writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
    )
    .expect("a String takes all");
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>")
        .expect("a String takes all");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::swarm::engine::Engine;
    use crate::commands::swarm::figures::tests::seen;

    #[test]
    fn every_node_has_a_bar_and_every_pair_a_square() {
        let (one, two) = (seen(Engine::Ours, 12.0), seen(Engine::Http, 20.0));
        let svg = draw(&[&one, &two]);
        let count = |what: &str| svg.matches(what).count();
        assert_eq!(count("<g "), 2);
        // The page; per run a light and a dark bar for each of 2 nodes, 3 x 2 squares, a frame.
        assert_eq!(count("<rect"), 1 + 2 * (4 + 6 + 1));
        assert!(svg.contains(
            "boottorrent: last 1.20, median 1.15, first 1.10 wire times; the server sent 1.10"
        ));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn without_counted_flows_there_is_no_matrix() {
        let mut run = seen(Engine::Ours, 12.0);
        run.flows.clear();
        assert!(!draw(&[&run]).contains("who (row"));
        assert_eq!(server_share(&run, run.nodes[0].address), 0.0);
    }
}
