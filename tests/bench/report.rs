//! The report of a run: the machine and versions, the table, and notes on figures and failures.

use std::fmt::Write as _;

use crate::machine;
use crate::stop::Stop;
use crate::table::Table;

#[derive(Debug)]
pub(crate) struct Report {
    head: Vec<String>,
    pub(crate) table: Table,
    notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(versions: &[String], headings: &[&str]) -> Self {
        let head = machine::describe(versions);
        let mut report = Self { head, table: Table::new(headings), notes: Vec::new() };
        if let Some(disturbance) = machine::disturbance() {
            report.note(disturbance);
        }
        report
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Returns the measurement, or `None` after it has noted why the figure is missing. Only [`Stop::Requested`] is
    /// returned as an error, which ends the run.
    pub(crate) fn or_note<T>(&mut self, figure: &str, measured: Result<T, Stop>) -> Result<Option<T>, Stop> {
        match measured {
            Ok(measured) => Ok(Some(measured)),
            Err(Stop::Requested) => Err(Stop::Requested),
            Err(Stop::Failed(why)) => {
                eprintln!("  {why}");
                // The nodes' last output is shown to the user and left out of the table.
                let why = why.lines().next().unwrap_or_default();
                self.note(format!("{figure}: {why}"));
                Ok(None)
            }
        }
    }

    /// The same as one JSON object: `head` and `notes` are lines, `rows` are objects with the headings as keys.
    pub(crate) fn json(&self) -> Result<String, Stop> {
        let report =
            serde_json::json!({ "head": self.head, "rows": self.table.objects(), "notes": self.notes });
        serde_json::to_string_pretty(&report).map_err(|error| Stop::Failed(error.to_string()))
    }

    pub(crate) fn show(&self, markdown: bool) -> String {
        let mut text = String::from("\n");
        for line in &self.head {
            let _ = writeln!(text, "{line}{}", if markdown { "  " } else { "" });
        }
        text.push('\n');
        text += &if markdown { self.table.markdown() } else { self.table.text() };
        text.push('\n');
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text
    }
}

/// Shows on stderr the figure that is being measured now.
pub(crate) fn progress(figure: &str) {
    eprintln!("· {figure}");
}
