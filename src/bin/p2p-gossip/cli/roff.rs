//! Text in the form of manual pages.

use std::fmt::Write as _;

/// Escapes text for the manual page: roff has its own notations for the minus sign and the backslash.
pub(super) fn roff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// Limit of bytes in a line of the manual page's source; mandoc warns of longer ones.
const ROFF_LINE_BYTES_MAX: usize = 80;

/// Formats sentences for the manual page: each begins a line, and long ones are broken.
pub(super) fn roff_sentences(text: &str) -> String {
    let mut lines = String::new();
    for sentence in text.lines() {
        let mut line = String::new();
        for word in roff(sentence).split(' ') {
            if !line.is_empty() && line.len() + 1 + word.len() > ROFF_LINE_BYTES_MAX {
                let _ = writeln!(lines, "{line}");
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        let _ = writeln!(lines, "{line}");
    }
    lines
}
