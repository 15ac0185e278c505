//! What the visitor sees: lines under the names and colours of the nodes, and headings between them.

use std::env;
use std::io::{self, IsTerminal, Write};

use crate::Stop;

/// Colours of the nodes, by turns (ANSI, without the ones that are hard to read on either background).
const COLOURS: [u8; 6] = [36, 33, 35, 32, 34, 31];
const BOLD: u8 = 1;
const DIM: u8 = 2;

/// Stdout. A closed stdout means that the user wants to stop; it is no failure.
pub(crate) struct Screen {
    colour: bool,
    name_width: usize,
}

impl Screen {
    pub(crate) fn new(name_width: usize) -> Self {
        let wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colour: wanted && io::stdout().is_terminal(), name_width }
    }

    /// A line that a node said.
    pub(crate) fn line(&self, node: usize, name: &str, text: &str) -> Result<(), Stop> {
        let name = format!("{name:<width$}", width = self.name_width);
        let name = self.paint(COLOURS[node % COLOURS.len()], &name);
        print(&format!("{name} │ {text}\n"))
    }

    /// What happens next.
    pub(crate) fn heading(&self, text: &str) -> Result<(), Stop> {
        print(&format!("\n{}\n", self.paint(BOLD, &format!("==> {text}"))))
    }

    /// A word about the heading above.
    pub(crate) fn remark(&self, text: &str) -> Result<(), Stop> {
        print(&format!("{}\n", self.paint(DIM, &format!("    {text}"))))
    }

    fn paint(&self, code: u8, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn print(text: &str) -> Result<(), Stop> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|_| Stop::Asked)
}
