//! The figures of the tests, by row; each part of a program's tests adds cells.

use std::collections::BTreeMap;
use std::fmt::Display;

use crate::report::Report;
use crate::stop::Stop;
use crate::system_under_test::SystemUnderTest;
use crate::table::NOTHING;

/// The figures of all programs, or those of one part of the tests in a single column.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    columns: usize,
    /// The program of a single column.
    system: String,
    /// Reach and cells of each row, by the row's name; a name begins with its test.
    rows: BTreeMap<String, (String, Vec<Option<String>>)>,
    /// The tests that failed, and why.
    failed: Vec<(String, String)>,
}

impl Rows {
    pub(crate) fn new(columns: usize) -> Self {
        Self { columns, ..Self::default() }
    }

    /// The rows of a part of this program's tests.
    pub(crate) fn of(system: &dyn SystemUnderTest) -> Self {
        Self { columns: 1, system: system.name(), ..Self::default() }
    }

    /// Adds a figure to a part, and shows it on stderr, because the table comes long after.
    pub(crate) fn add(&mut self, name: impl Into<String>, reach: &str, cell: impl Display) {
        let name = name.into();
        eprintln!("  {}: {name}: {cell}", self.system);
        self.rows.insert(name, (reach.to_owned(), vec![Some(cell.to_string())]));
    }

    /// Notes why a test has no figures. Only [`Stop::Requested`] is returned as an error.
    pub(crate) fn or_note(&mut self, test: &str, done: Result<(), Stop>) -> Result<(), Stop> {
        match done {
            Err(Stop::Failed(why)) => {
                eprintln!("  {}: {test}: {why}", self.system);
                // The nodes' last output is shown to the user and left out of the table.
                let why = why.lines().next().unwrap_or_default().to_owned();
                self.failed.push((test.to_owned(), why));
                Ok(())
            }
            other => other,
        }
    }

    /// Takes the figures of a part into a column; returns the tests that failed.
    pub(crate) fn merge(&mut self, column: usize, part: Rows) -> Vec<(String, String)> {
        for (name, (reach, cells)) in part.rows {
            let row = self.rows.entry(name).or_insert_with(|| (reach, vec![None; self.columns]));
            row.1[column] = cells.into_iter().next().flatten();
        }
        part.failed
    }

    pub(crate) fn show(self, report: &mut Report) {
        for (name, (reach, cells)) in self.rows {
            let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| NOTHING.to_owned()));
            report.table.row([name, reach].into_iter().chain(cells).collect::<Vec<_>>());
        }
    }
}
