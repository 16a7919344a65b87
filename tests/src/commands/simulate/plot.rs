//! Core: draws a simulated run as SVG: the room's rate over time, and when each PC was done.

use std::fmt::Write;

use bt_swarm_simulator::{CURVE_STEP, Outcome};

const WIDTH: f64 = 900.0;
const MARGIN: f64 = 50.0;
const PLOT: f64 = WIDTH - 2.0 * MARGIN;
const CURVE_HEIGHT: f64 = 160.0;
const BARS_HEIGHT: f64 = 320.0;
const HEIGHT: f64 = CURVE_HEIGHT + BARS_HEIGHT + 3.0 * MARGIN;

/// Draws one run whose wire time is `wire_secs`.
pub fn draw(outcome: &Outcome, wire_secs: f64) -> String {
    let finish = |node: &bt_swarm_simulator::Finish| node.finished.map(|at| at.as_secs_f64());
    let end = outcome.nodes.iter().filter_map(finish).fold(wire_secs, f64::max) * 1.02;
    let scale = PLOT / end;
    let mut body = String::new();
    rate(&mut body, outcome, scale);
    let top = CURVE_HEIGHT + 2.0 * MARGIN;
    let row = BARS_HEIGHT / outcome.nodes.len().max(1) as f64;
    for (number, node) in outcome.nodes.iter().enumerate() {
        let (from, to) = (node.started.as_secs_f64(), finish(node).unwrap_or(end));
        let colour = if node.finished.is_some() { "#2a6fb0" } else { "#c0392b" };
        let (x, y) = (MARGIN + from * scale, top + number as f64 * row);
        let (width, height) = ((to - from) * scale, (row * 0.85).max(0.3));
        put(
            &mut body,
            &format!(
                "<rect x=\"{x:.1}\" y=\"{y:.2}\" width=\"{width:.1}\" height=\"{height:.2}\" fill=\"{colour}\"/>"
            ),
        );
    }
    let wire = MARGIN + wire_secs * scale;
    put(
        &mut body,
        &format!(
            "<line x1=\"{wire:.1}\" y1=\"{MARGIN}\" x2=\"{wire:.1}\" y2=\"{:.1}\" stroke=\"#c0392b\"/>",
            top + BARS_HEIGHT
        ),
    );
    label(&mut body, MARGIN, MARGIN - 12.0, "rate at which the room receives data, over time");
    label(
        &mut body,
        MARGIN,
        top - 12.0,
        &format!("from power-on to complete image; red line: wire time, {wire_secs:.2} s"),
    );
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

fn rate(body: &mut String, outcome: &Outcome, scale: f64) {
    let highest = outcome.curve.iter().copied().max().unwrap_or(0).max(1) as f64;
    let bottom = MARGIN + CURVE_HEIGHT;
    let mut points = format!("{MARGIN:.1},{bottom:.1}");
    for (step, bytes) in (0_u32..).zip(&outcome.curve) {
        let x = MARGIN + (CURVE_STEP * step).as_secs_f64() * scale;
        let y = bottom - *bytes as f64 / highest * CURVE_HEIGHT;
        write!(points, " {x:.1},{y:.1}").expect("a String takes all");
    }
    put(body, &format!("<polyline points=\"{points}\" fill=\"none\" stroke=\"#2a6fb0\"/>"));
}

fn label(body: &mut String, x: f64, y: f64, text: &str) {
    put(body, &format!("<text x=\"{x}\" y=\"{y}\">{text}</text>"));
}

fn put(body: &mut String, element: &str) {
    writeln!(body, "{element}").expect("a String takes all");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bt_swarm_simulator::Finish;

    use super::*;

    #[test]
    fn each_node_has_a_bar_and_one_that_did_not_finish_a_red_one() {
        let node = |finished: Option<u64>| Finish {
            host: 1,
            started: Duration::ZERO,
            finished: finished.map(Duration::from_secs),
            received: 0,
            uploaded: 0,
            peers: 0,
        };
        let nodes = vec![node(Some(2)), node(None)];
        let outcome = Outcome { nodes, curve: vec![1, 5, 2], ..Outcome::default() };
        let svg = draw(&outcome, 1.5);
        assert_eq!(svg.matches("fill=\"#2a6fb0\"/>").count(), 1);
        assert_eq!(svg.matches("fill=\"#c0392b\"/>").count(), 1);
        assert!(svg.contains("1.50 s") && svg.ends_with("</svg>\n"));
    }
}
