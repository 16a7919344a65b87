//! Core: a plot of lines as SVG, for `docs/performance.md`.

use std::fmt::Write as _;

/// One line of the plot.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name, at its end.
    pub name: String,
    /// Its points, by rising x.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// Left, top, right and bottom margins, in pixels.
const MARGINS: [f64; 4] = [70.0, 30.0, 130.0, 50.0];
const COLOURS: [&str; 4] = ["#1f77b4", "#d95f02", "#7570b3", "#444444"];

/// The plot as a file's text; both axes begin at zero.
pub fn svg(title: &str, x_name: &str, y_name: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let x_end = nice(points().map(|point| point.0).fold(1.0, f64::max));
    let y_end = nice(points().map(|point| point.1).fold(1.0, f64::max));
    let [left, top, right, bottom] = MARGINS;
    let x = |value: f64| left + value / x_end * (WIDTH - left - right);
    let y = |value: f64| HEIGHT - bottom - value / y_end * (HEIGHT - top - bottom);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"18\" font-weight=\"bold\">{title}</text>\n"
    );
    let mut add = |line: String| writeln!(text, "{line}").expect("a string takes everything");
    for part in 0..=4 {
        let (at_x, at_y) = (x_end * f64::from(part) / 4.0, y_end * f64::from(part) / 4.0);
        let (from, to, line_y, label_y) = (left, WIDTH - right, y(at_y), y(at_y) + 4.0);
        add(format!("<path d=\"M{from:.1} {line_y:.1}H{to:.1}\" stroke=\"#ddd\"/>"));
        let label_x = left - 8.0;
        add(format!(
            "<text x=\"{label_x}\" y=\"{label_y:.1}\" text-anchor=\"end\">{at_y:.0}</text>"
        ));
        let (tick_x, tick_y) = (x(at_x), HEIGHT - bottom + 18.0);
        add(format!(
            "<text x=\"{tick_x:.1}\" y=\"{tick_y}\" text-anchor=\"middle\">{at_x:.0}</text>"
        ));
    }
    let (middle, low) = (x(x_end / 2.0), HEIGHT - 12.0);
    add(format!("<text x=\"{middle:.1}\" y=\"{low}\" text-anchor=\"middle\">{x_name}</text>"));
    let side = y(y_end / 2.0);
    add(format!(
        "<text x=\"16\" y=\"{side:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {side:.1})\">{y_name}</text>"
    ));
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let path: Vec<String> = line
            .points
            .iter()
            .map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value)))
            .collect();
        add(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        ));
        for (at, value) in &line.points {
            let (at, value) = (x(*at), y(*value));
            add(format!("<circle cx=\"{at:.1}\" cy=\"{value:.1}\" r=\"4\" fill=\"{colour}\"/>"));
        }
        if let Some((at, value)) = line.points.last() {
            let (at, value) = (x(*at) + 8.0, y(*value) + 4.0);
            let name = &line.name;
            add(format!("<text x=\"{at:.1}\" y=\"{value:.1}\" fill=\"{colour}\">{name}</text>"));
        }
    }
    text.push_str("</svg>\n");
    text
}

/// The next round number at or above: 1, 2, 4, 5 or 8 times a power of ten.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0];
    steps.iter().map(|step| step * power).find(|end| *end >= value).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_holds_every_point_and_every_name() {
        let line =
            |name: &str| Line { name: name.into(), points: vec![(100.0, 400.0), (300.0, 800.0)] };
        let text = svg("Title", "image", "guest", &[line("one"), line("two")]);
        assert_eq!(text.matches("<circle").count(), 4);
        assert!(text.contains(">one</text>") && text.contains(">two</text>"));
        // The highest value lies on the upper edge: 800 is a round number.
        assert!(text.contains("cy=\"30.0\""), "{text}");
    }

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!([3.0, 800.0, 1152.0, 4.1].map(nice), [4.0, 800.0, 2000.0, 5.0]);
    }
}
