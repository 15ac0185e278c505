//! Makes text from peers safe to show on a terminal.

use std::fmt;

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

/// The first unsafe character of a text, and the place of its first byte.
#[must_use]
pub fn find_unsafe(text: &str) -> Option<(usize, char)> {
    let mut at = 0;
    loop {
        // Most texts are ASCII.
        at += text.as_bytes()[at..].iter().position(|byte| !(b' '..=b'~').contains(byte))?;
        let c = text[at..].chars().next()?;
        if is_unsafe(c) {
            return Some((at, c));
        }
        at += c.len_utf8();
    }
}

/// Displays a text with each unsafe character and each backslash escaped as in Rust (`\n`, `\u{1b}`).
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, mut rest) in self.0.split('\\').enumerate() {
            if nth > 0 {
                f.write_str("\\\\")?;
            }
            while let Some((at, c)) = find_unsafe(rest) {
                f.write_str(&rest[..at])?;
                if c.is_control() {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    write!(f, "{}", c.escape_unicode())?;
                }
                rest = &rest[at + c.len_utf8()..];
            }
            f.write_str(rest)?;
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
        assert_eq!(Escaped("").to_string(), "");
    }

    #[test]
    fn unsafe_characters_are_found_among_others() {
        for c in (0..=0x0001_0000).chain(0xe_0000..=0xe_007f).filter_map(char::from_u32) {
            let expected = is_unsafe(c).then_some((4, c));
            assert_eq!(find_unsafe(&format!("aé~{c}z")), expected, "{c:?}");
        }
    }
}
