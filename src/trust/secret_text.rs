//! Recognizes secrets that were given where the name of a file is needed, so that no message shows them.

use std::path::Path;

/// The beginning of every PEM block.
const PEM_BEGIN: &[u8] = b"-----BEGIN ";
/// Fewest characters of base64 that are taken for a private key; an Ed25519 key has 64.
const BASE64_DIGITS_MIN: usize = 56;
/// Hexadecimal digits of a network key.
const NETWORK_KEY_DIGITS: usize = 64;

/// Whether the text is a PEM block, or the base64 of a private key: all begin with a DER sequence, `M`.
#[must_use]
pub fn is_key_text(text: &[u8]) -> bool {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=\r\n ".contains(byte);
    let bare = text.trim_ascii();
    text.windows(PEM_BEGIN.len()).any(|found| found == PEM_BEGIN)
        || bare.len() >= BASE64_DIGITS_MIN && bare.starts_with(b"M") && bare.iter().all(is_base64)
}

/// The beginning of every ticket.
pub(super) const TICKET_PREFIX: &str = "p2pg";
/// Fewest characters of a text that is taken for a ticket. A ticket has more, and some file may be called `p2pg.txt`.
const TICKET_DIGITS_MIN: usize = 16;

/// Whether the text begins as a ticket does.
pub(super) fn begins_as_ticket(text: &str) -> bool {
    text.get(..TICKET_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(TICKET_PREFIX))
}

/// Whether a word of the text is a ticket, or the beginning of one.
#[must_use]
pub fn is_ticket_text(text: &str) -> bool {
    let is_digit = |digit: char| digit.is_ascii_alphanumeric() || digit == '-';
    text.split(|digit: char| !is_digit(digit))
        .any(|word| word.len() >= TICKET_DIGITS_MIN && begins_as_ticket(word.trim_start_matches('-')))
}

/// Whether this name of a file is a secret instead: text of a private key, a network key or a ticket. A file that exists is
/// one, whatever its name is.
#[must_use]
pub fn is_secret_name(name: &Path) -> bool {
    let text = name.as_os_str().as_encoded_bytes();
    let bare = text.trim_ascii();
    let is_network_key = bare.len() == NETWORK_KEY_DIGITS && bare.iter().all(u8::is_ascii_hexdigit);
    let is_ticket = str::from_utf8(text).is_ok_and(is_ticket_text);
    (is_key_text(text) || is_network_key || is_ticket) && name.symlink_metadata().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_instead_of_a_file_name_is_recognized() {
        let pem = include_str!("../../tests/fixtures/keys/ed25519.pem");
        let base64 = pem.lines().nth(1).unwrap();
        let rsa: String =
            include_str!("../../tests/fixtures/keys/rsa2048_pkcs1.pem").lines().skip(1).take(9).collect();
        let ticket = format!("P2PG{}", "0a1b".repeat(9));
        for text in [pem, base64, &format!("{base64}\n"), &rsa, &"0aF".repeat(22)[..64], &ticket] {
            assert!(is_secret_name(Path::new(text)), "{text}");
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("M".repeat(64));
        std::fs::write(&file, "").unwrap();
        let others =
            ["key.pem", "/home/me/keys/My-key.pem", "", "M", "p2pg.txt", "/run/p2p-gossip/ticket-file"];
        for name in others.into_iter().chain([&*"0".repeat(63), file.to_str().unwrap()]) {
            assert!(!is_secret_name(Path::new(name)), "{name}");
        }
    }
}
