//! The screen: lines with the names and colours of the nodes, and headings between them.

use std::env;
use std::io::{self, IsTerminal, Write};

use crate::Stop;

/// ANSI colours that the nodes get in turn; colours that are hard to read on a light or dark background are absent.
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

    /// Prints a line of a node's output.
    pub(crate) fn line(&self, node: usize, name: &str, text: &str) -> Result<(), Stop> {
        let name = format!("{name:<width$}", width = self.name_width);
        let name = self.paint(COLOURS[node % COLOURS.len()], &name);
        print(&format!("{name} │ {text}\n"))
    }

    /// Prints a heading that announces the next step.
    pub(crate) fn heading(&self, text: &str) -> Result<(), Stop> {
        print(&format!("\n{}\n", self.paint(BOLD, &format!("==> {text}"))))
    }

    /// Prints a remark on the heading above.
    pub(crate) fn remark(&self, text: &str) -> Result<(), Stop> {
        print(&format!("{}\n", self.paint(DIM, &format!("    {text}"))))
    }

    fn paint(&self, code: u8, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn print(text: &str) -> Result<(), Stop> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|_| Stop::Requested)
}
