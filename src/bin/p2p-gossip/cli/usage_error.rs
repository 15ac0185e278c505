//! Errors of the command line.

use std::fmt;

use p2p_gossip::Ticket;

/// The program's name in its own messages; the name of the executable file does not matter.
pub(crate) const PROGRAM: &str = "p2p-gossip";

/// Hexadecimal digits of a network key.
const KEY_DIGITS: usize = 64;

/// Characters from which a word that begins as a ticket is not shown.
const TICKET_DIGITS_MIN: usize = 16;

/// An error of the command line; the program exits with code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsageError {
    pub(super) message: String,
    /// The verb on the command line, if there is one.
    pub(super) verb: Option<&'static str>,
}

impl UsageError {
    /// Makes an error. A value in the message that may be a network key or a ticket is not shown.
    pub(super) fn new(message: impl Into<String>) -> Self {
        let mut message = message.into();
        let is_key = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
        while let Some(at) = message.as_bytes().windows(KEY_DIGITS).position(is_key) {
            let digits = message[at..].bytes().take_while(u8::is_ascii_hexdigit).count();
            message.replace_range(at..at + digits, "<hexadecimal digits>");
        }
        let words = message.split(|c: char| !c.is_ascii_alphanumeric());
        let tickets: Vec<String> = words
            .filter(|word| word.len() >= TICKET_DIGITS_MIN && Ticket::is_ticket(word))
            .map(str::to_owned)
            .collect();
        for ticket in tickets {
            message = message.replace(&ticket, "<ticket>");
        }
        Self { message, verb: None }
    }

    /// The command that prints the matching help.
    pub(crate) fn help_command(&self) -> String {
        match self.verb {
            Some(verb) => format!("{PROGRAM} {verb} --help"),
            None => format!("{PROGRAM} --help"),
        }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::testing::error;

    #[test]
    fn network_key_in_the_place_of_another_value_is_not_shown() {
        let key = "0123456789abcDEF".repeat(4);
        for line in [&["--connect", &*key][..], &["--bind", &key], &["--port", &key], &[&key], &["id", &key]]
        {
            let message = error(line);
            assert!(message.contains("<hexadecimal digits>") && !message.contains("0123"), "{message}");
        }
        let ticket = format!("p2pg{}", "0a1b".repeat(20));
        for line in [&["--join", &*ticket][..], &["--jion", &ticket], &["--port", &ticket], &[&ticket]] {
            let message = error(line);
            assert!(!message.contains("0a1b0a1b"), "{message}");
        }
        let short = &key[1..];
        assert!(error(&["--allow", short]).contains(short));
    }
}
