//! Host names, in the form in which resolvers take them for no address.

use std::fmt;

use super::dial_addr_error::DialAddrError;

/// Bytes in a host name as text, with a closing dot (RFC 1035 section 2.3.4 allows 255 in its wire form).
pub(crate) const HOST_BYTES_MAX: usize = 254;
/// Bytes in one label of a host name (RFC 1035 section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// A host name: RFC 1123 section 2.1, plus the underscore, which is common in practice; in lower case.
/// A name whose last label is a number is refused: resolvers take `127.1` and `0x7f.1` for IPv4 addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Box<str>);

impl HostName {
    /// Checks a name and converts it to lower case.
    ///
    /// # Errors
    /// The text is no host name.
    pub fn new(name: &str) -> Result<Self, DialAddrError> {
        let bare = name.strip_suffix('.').unwrap_or(name);
        let label_ok = |label: &str| {
            !label.is_empty()
                && label.len() <= LABEL_BYTES_MAX
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let last_is_number = bare.rsplit('.').next().is_some_and(|last| {
            let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
            last.bytes().all(|b| b.is_ascii_digit())
                || hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
        });
        if bare.len() < HOST_BYTES_MAX && bare.split('.').all(label_ok) && !last_is_number {
            return Ok(Self(name.to_ascii_lowercase().into_boxed_str()));
        }
        Err(bare
            .chars()
            .find(|c| c.is_alphabetic() && !c.is_ascii())
            .map_or(DialAddrError::BadHost, DialAddrError::NotAscii))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name means the machine that resolves it: RFC 6761 section 6.3, and the names that systems
    /// have in /etc/hosts.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let bare = self.0.strip_suffix('.').unwrap_or(&self.0);
        let known = [
            "localhost",
            "localhost.localdomain",
            "localhost4",
            "localhost6",
            "ip6-localhost",
            "ip6-loopback",
        ];
        known.contains(&bare) || bare.ends_with(".localhost")
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_resolvers_take_for_an_address_is_no_host_name() {
        for host in ["127.1", "0x7f.1", "2130706433", "0x7f000001", "a.0X7F", "a.1.", "1"] {
            assert_eq!(HostName::new(host), Err(DialAddrError::BadHost), "{host}");
        }
        for host in ["1.a", "0x7g", "4you.example", "a1"] {
            assert!(HostName::new(host).is_ok(), "{host}");
        }
    }

    #[test]
    fn host_name_and_label_lengths_are_limited() {
        let label = "x".repeat(LABEL_BYTES_MAX);
        let longest = format!("{label}.{label}.{label}.{}", "x".repeat(61));
        assert_eq!(longest.len(), 253);
        assert!(HostName::new(&longest).is_ok() && HostName::new(&format!("{longest}.")).is_ok());
        assert!(HostName::new(&format!("{longest}x")).is_err());
        assert!(HostName::new(&format!("{label}x")).is_err());
        assert!(HostName::new("").is_err() && HostName::new(".").is_err());
    }
}
