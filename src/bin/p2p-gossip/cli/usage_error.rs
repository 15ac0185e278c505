//! Errors of the command line.

use std::fmt;

use p2p_gossip::internals::is_ticket_text;

/// The program's name in its own messages; the name of the executable file does not matter.
pub(crate) const PROGRAM: &str = "p2p-gossip";

/// Hexadecimal digits of a network key.
const KEY_DIGITS: usize = 64;

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
        let words = message.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        let tickets: Vec<String> = words.filter(|word| is_ticket_text(word)).map(str::to_owned).collect();
        for ticket in tickets {
            message = message.replace(&ticket, "<ticket>");
        }
        Self { message, verb: None }
    }

    /// Hides what follows a ticket on the command line: blanks in a ticket without quotes make several arguments of it.
    pub(super) fn without_rest_of_ticket(mut self, arguments: &[String]) -> Self {
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let mut rest = arguments.iter().skip_while(|argument| !is_ticket_text(argument)).skip(1);
        while let Some(part) = rest.next().filter(|part| !part.starts_with('-') && is_digits(part)) {
            self.message = self.message.replace(part.as_str(), "<rest of the ticket>");
        }
        self
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
        let (first, rest) = ticket.split_at(40);
        for line in [&["--join", first, rest][..], &["--port=0", "--join", first, &rest[..9], &rest[9..]]] {
            let message = error(line);
            assert!(!message.contains("0a1b"), "{message}");
        }
        let with_hyphens = format!("p2pg-{}", "0a1b-".repeat(20));
        assert!(!error(&["--port", &with_hyphens]).contains("0a1b"));
        let short = &key[1..];
        assert!(error(&["--allow", short]).contains(short));
    }
}
