//! The table of the report, aligned for a terminal or as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The text of an empty cell.
pub(crate) const NOTHING: &str = "–";

#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row; missing cells become empty ones.
    pub(crate) fn row(&mut self, cells: impl Into<Vec<String>>) {
        let mut cells = cells.into();
        cells.resize(self.rows[0].len(), NOTHING.to_owned());
        self.rows.push(cells);
    }

    /// The rows as objects with the headings as keys.
    pub(crate) fn objects(&self) -> Vec<BTreeMap<&str, &str>> {
        let headings = || self.rows[0].iter().map(String::as_str);
        self.rows[1..].iter().map(|row| headings().zip(row.iter().map(String::as_str)).collect()).collect()
    }

    pub(crate) fn text(&self) -> String {
        let widths = self.widths();
        let rule = widths.iter().map(|&width| "─".repeat(width)).collect::<Vec<_>>().join("  ");
        let mut text = String::new();
        for (at, row) in self.rows.iter().enumerate() {
            let line = Self::padded(row, &widths).join("  ");
            let _ = writeln!(text, "{}", line.trim_end());
            if at == 0 {
                let _ = writeln!(text, "{rule}");
            }
        }
        text
    }

    pub(crate) fn markdown(&self) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for (at, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> =
                Self::padded(row, &widths).iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
            if at == 0 {
                let rule = |(at, &width): (usize, &usize)| {
                    if at == 0 { "-".repeat(width) } else { "-".repeat(width - 1) + ":" }
                };
                let _ = writeln!(
                    text,
                    "| {} |",
                    widths.iter().enumerate().map(rule).collect::<Vec<_>>().join(" | ")
                );
            }
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max();
        // The rule below a Markdown heading has two characters or more.
        (0..self.rows[0].len()).map(|column| width(column).unwrap_or_default().max(2)).collect()
    }

    /// Pads the cells: the first column is aligned to the left, the figures to the right.
    fn padded(row: &[String], widths: &[usize]) -> Vec<String> {
        let pad = |(at, (cell, &width)): (usize, (&String, &usize))| {
            if at == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        };
        row.iter().zip(widths).enumerate().map(pad).collect()
    }
}

/// Shows a time in seconds, milliseconds or microseconds, depending on its size.
pub(crate) fn time(seconds: f64) -> String {
    if !seconds.is_finite() {
        return NOTHING.to_owned();
    }
    match seconds {
        s if s >= 9.995 => format!("{s:.1} s"),
        s if s >= 0.9995 => format!("{s:.2} s"),
        s if s >= 0.009_995 => format!("{:.0} ms", s * 1e3),
        s if s >= 0.000_999_5 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.1} µs", s * 1e6),
    }
}

pub(crate) fn bytes(bytes: f64) -> String {
    if bytes >= 1e6 { format!("{:.1} MB", bytes / 1e6) } else { format!("{:.1} kB", bytes / 1e3) }
}

pub(crate) fn ratio(value: f64, baseline: f64) -> String {
    let ratio = value / baseline;
    if ratio.is_finite() { format!("{ratio:.2}") } else { NOTHING.to_owned() }
}
