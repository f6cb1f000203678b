//! Small line charts as SVG, with their numbers as a table for those who do not see them.

use amtsbote_core::Timestamp;
use maud::{Markup, html};

use crate::frame::{table, time};
use crate::texts::Texts;

/// Size of a chart in its own units.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 160.0;
/// Rows of the table of numbers.
const ROWS: usize = 12;

/// A line of a chart.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    /// One for each time; none where nothing was measured.
    pub(crate) values: Vec<Option<f64>>,
}

/// A chart of lines over the same times.
pub(crate) fn chart(t: &Texts, title: &str, times: &[Timestamp], lines: &[Line]) -> Markup {
    let all = || lines.iter().flat_map(|line| line.values.iter().flatten().copied());
    let top = nice(all().fold(0.0, f64::max));
    html! {
        figure.chart {
            figcaption {
                (title)
                @for (number, line) in lines.iter().enumerate() {
                    span class={ "key line" (number) } { (line.name) }
                }
            }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label={ (title) ": " (summary(lines)) } {
                @for step in 0..=4 {
                    @let y = HEIGHT - HEIGHT * f64::from(step) / 4.0;
                    line.grid x1="0" x2=(WIDTH) y1=(y) y2=(y) {}
                }
                @for (number, line) in lines.iter().enumerate() {
                    @for points in pieces(&line.values, top) {
                        polyline class={ "line" (number) } points=(points) {}
                    }
                }
                text.top x="4" y="14" { (short(top)) }
            }
            details {
                summary { (t.chart_numbers) }
                (numbers(t, title, times, lines))
            }
        }
    }
}

fn numbers(t: &Texts, title: &str, times: &[Timestamp], lines: &[Line]) -> Markup {
    let heads: Vec<&str> = std::iter::once(t.when).chain(lines.iter().map(|line| line.name)).collect();
    let every = times.len().div_ceil(ROWS).max(1);
    let rows = times.iter().enumerate().rev().step_by(every).map(|(place, at)| {
        html! {
            tr {
                td { (time(*at)) }
                @for line in lines { td.number { (line.values.get(place).copied().flatten().map_or("–".to_owned(), short)) } }
            }
        }
    });
    table(t, title, &heads, &rows.collect::<Vec<_>>())
}

/// The last value of each line in words.
fn summary(lines: &[Line]) -> String {
    let last = |line: &Line| {
        let value = line.values.iter().rev().flatten().next().copied();
        format!("{} {}", line.name, value.map_or("–".to_owned(), short))
    };
    lines.iter().map(last).collect::<Vec<_>>().join(", ")
}

/// Points of the pieces of a line between gaps.
fn pieces(values: &[Option<f64>], top: f64) -> Vec<String> {
    let step = WIDTH / (values.len().max(2) - 1) as f64;
    let mut pieces = vec![String::new()];
    for (place, value) in values.iter().enumerate() {
        match (value, pieces.last_mut()) {
            (Some(value), Some(piece)) => {
                let y = HEIGHT - (value / top).clamp(0.0, 1.0) * HEIGHT;
                piece.push_str(&format!("{:.1},{y:.1} ", place as f64 * step));
            }
            (None, Some(piece)) if !piece.is_empty() => pieces.push(String::new()),
            _ => {}
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    for piece in &mut pieces {
        // A single point is drawn as a line to itself.
        if piece.matches(',').count() == 1 {
            *piece = piece.repeat(2);
        }
    }
    pieces
}

/// The next 1, 2 or 5 times a power of ten.
fn nice(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(most.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|one| one * power).find(|top| *top >= most).unwrap_or(most)
}

fn short(value: f64) -> String {
    if value >= 100.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_gaps_where_nothing_was_measured() {
        let pieces = pieces(&[Some(0.0), Some(5.0), None, None, Some(10.0)], 10.0);
        assert_eq!(pieces, ["0.0,160.0 150.0,80.0 ", "600.0,0.0 600.0,0.0 "]);
        assert!(super::pieces(&[None], 1.0).is_empty());
    }

    #[test]
    fn the_top_is_a_round_number() {
        assert_eq!([0.0, 0.3, 1.0, 3.0, 70.0, 4_200.0].map(nice), [1.0, 0.5, 1.0, 5.0, 100.0, 5_000.0]);
        assert_eq!([0.0, 0.25, 3.0, 123.4].map(short), ["0", "0.25", "3", "123"]);
    }
}
