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

/// Splits a text at its first unsafe character: the text before it, the character, and the text after it. `None` if all
/// of the text is safe.
#[must_use]
pub fn split_at_unsafe(text: &str) -> Option<(&str, char, &str)> {
    let mut at = 0;
    loop {
        // Most texts are ASCII.
        at += text.as_bytes()[at..].iter().position(|byte| !(b' '..=b'~').contains(byte))?;
        let c = text[at..].chars().next()?;
        let after = at + c.len_utf8();
        if is_unsafe(c) {
            return Some((&text[..at], c, &text[after..]));
        }
        at = after;
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
            while let Some((safe, c, after)) = split_at_unsafe(rest) {
                f.write_str(safe)?;
                if c.is_control() {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    write!(f, "{}", c.escape_unicode())?;
                }
                rest = after;
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
            let expected = is_unsafe(c).then_some(("aé~", c, "z"));
            assert_eq!(split_at_unsafe(&format!("aé~{c}z")), expected, "{c:?}");
        }
    }
}
