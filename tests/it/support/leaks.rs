//! Checks that outputs show no bytes of a key, and ways to damage a key file for that.

/// This many consecutive base64 characters or hexadecimal digits of a key are a leak.
const DIGITS: usize = 12;
/// This many consecutive byte values of a key are a leak.
const BYTES: usize = 6;

/// Panics if a text shows a piece of a PEM file: as base64, as decimal byte values or in hexadecimal.
#[track_caller]
pub(crate) fn assert_hidden(pem: &str, shown: &str) {
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = pem::parse(pem).expect("a whole PEM file").into_contents();
    let secrets = [base64.as_bytes(), &der];

    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    for piece in pieces(shown, is_base64) {
        assert!(!base64.contains(piece), "{piece:?} of the base64 is in {shown:?}");
    }
    let numbers: Vec<Option<u8>> = shown
        .split(|c: char| !c.is_ascii_digit())
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().ok())
        .collect();
    for run in numbers.windows(BYTES) {
        let Some(run) = run.iter().copied().collect::<Option<Vec<u8>>>() else { continue };
        let is_in = |secret: &&[u8]| secret.windows(BYTES).any(|piece| piece == run);
        assert!(!secrets.iter().any(is_in), "the bytes {run:?} of the key are in {shown:?}");
    }
    // Hexadecimal bytes may be separated: "30 2e", "30:2e", "0x30, 0x2e".
    let shown_hex = shown.to_lowercase().replace("0x", "").replace([' ', ':', ','], "");
    let hex = secrets.map(|secret| secret.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    for piece in pieces(&shown_hex, u8::is_ascii_hexdigit) {
        let is_in = hex.iter().any(|hex| hex.contains(piece));
        assert!(!is_in, "{piece:?} of the key in hexadecimal is in {shown:?}");
    }
}

/// All runs of `DIGITS` digits in a text.
fn pieces(text: &str, is_digit: impl Fn(&u8) -> bool) -> impl Iterator<Item = &str> {
    let runs = text.as_bytes().windows(DIGITS).enumerate().filter(move |(_, run)| run.iter().all(&is_digit));
    // Digits are ASCII, so the text can be cut before and after them.
    runs.map(|(start, _)| &text[start..start + DIGITS])
}

/// The text with blanks instead of line breaks, as `echo $KEY` writes it.
pub(crate) fn with_blanks(pem: &str) -> String {
    format!("{}\n", pem.trim_end().replace('\n', " "))
}

/// The text with the two characters `\n` instead of line breaks, as in many environment files.
pub(crate) fn with_backslashes(pem: &str) -> String {
    pem.replace('\n', "\\n")
}
