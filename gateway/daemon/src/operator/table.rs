//! Tables for people.

use std::io::Write as _;

use amtsbote_core::Timestamp;
use serde_json::Value;

/// A member as text; nothing if it is not there.
pub(super) fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object[name].as_str().unwrap_or_default()
}

/// A foreign text without its control characters.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Prints a line. Who reads no further, such as `head`, has what they want.
pub(crate) fn say(line: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        let enough = error.kind() == std::io::ErrorKind::BrokenPipe;
        std::process::exit(if enough { 0 } else { 70 });
    }
}

/// Prints columns as wide as they need to be.
pub(super) fn print_table(heads: &[&str], rows: impl Iterator<Item = Vec<String>>, nothing: &str) {
    let rows: Vec<Vec<String>> = rows.map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    if rows.is_empty() {
        return say(nothing);
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heads[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    say(&line(heads));
    for row in &rows {
        say(&line(&row.iter().map(String::as_str).collect::<Vec<_>>()));
    }
}

/// Time since then in its two largest units.
pub(super) fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let ages = [5, 65, 3_665, 90_000].map(|second| age(at(0), at(second)));
        assert_eq!(ages, ["5s", "1m 5s", "1h 1m", "1d 1h"]);
    }
}
