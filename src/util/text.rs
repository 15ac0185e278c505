//! Makes text from peers safe to show on a terminal.

use std::fmt;
use std::fmt::Write as _;

/// Whether a character could move the cursor, or recolour, reorder or hide the text around it:
/// control characters, line separators, bidirectional controls (Unicode UAX #9), zero-width characters.
#[must_use]
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{200B}'..='\u{200F}'
            | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{061C}'
            | '\u{FEFF}'
            | '\u{FFF9}'..='\u{FFFB}'
            | '\u{E0000}'..='\u{E007F}')
}

/// Displays a text with each unsafe character and each backslash escaped as in Rust (`\n`, `\u{1b}`).
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                c if c.is_control() => write!(f, "{}", c.escape_default())?,
                c if is_unsafe(c) => write!(f, "{}", c.escape_unicode())?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_control_characters_are_escaped() {
        let hostile = "a\u{1b}[31mb\nc\u{202e}d\u{200b}\\";
        assert_eq!(Escaped(hostile).to_string(), "a\\u{1b}[31mb\\nc\\u{202e}d\\u{200b}\\\\");
        assert_eq!(Escaped("Zoë – 東京").to_string(), "Zoë – 東京");
    }
}
