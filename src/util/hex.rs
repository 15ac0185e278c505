//! Parses bytes of a fixed length that are written as hexadecimal digits.

/// Parses exactly two digits a byte, in upper or lower case, into `bytes`. Returns whether the text is valid;
/// if it is not, the content of `bytes` is unspecified. The caller provides the buffer, so that a secret has
/// no copy elsewhere.
#[must_use]
pub(crate) fn parse_into(digits: &[u8], bytes: &mut [u8]) -> bool {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    digits.len() == 2 * bytes.len()
        && bytes.iter_mut().zip(digits.chunks_exact(2)).all(|(byte, pair)| {
            let parsed = digit(pair[0]).zip(digit(pair[1]));
            *byte = parsed.map_or(0, |(high, low)| high << 4 | low);
            parsed.is_some()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(digits: &str) -> Option<[u8; 2]> {
        let mut bytes = [0; 2];
        parse_into(digits.as_bytes(), &mut bytes).then_some(bytes)
    }

    #[test]
    fn two_digits_of_either_case_make_a_byte() {
        assert_eq!(parse("09aF"), Some([0x09, 0xaf]));
        assert_eq!(parse("ffFF"), Some([0xff, 0xff]));
    }

    #[test]
    fn wrong_length_and_other_characters_are_refused() {
        for digits in ["", "09a", "09aF0", "09aF00", "09ag", "g9af", "+9af", " 9af", "0é0"] {
            assert_eq!(parse(digits), None, "{digits:?}");
        }
    }
}
