//! Why a text is no address.

/// Why a text is not an address to dial. Holds no part of the text but a character that is no ASCII.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialAddrError {
    /// The text has no `:port` at its end.
    #[error("the port is missing: write host:port, for example 192.0.2.7:8080")]
    NoPort,
    /// The text behind the last colon is no port.
    #[error("the port must be a number from 1 to 65535")]
    BadPort,
    /// The host is empty.
    #[error("the host is missing: write host:port, for example 192.0.2.7:8080")]
    NoHost,
    /// An IPv6 address lacks brackets, or the text in them is none.
    #[error("an IPv6 address is written in brackets: [2001:db8::7]:8080")]
    BadIpv6,
    /// The host is neither an IP address nor a host name.
    #[error("the host is neither an IP address nor a host name")]
    BadHost,
    /// `0.0.0.0` and `[::]` mean every interface; no peer can be reached there.
    #[error(
        "the host is the unspecified address; name the machine to connect to, for example 127.0.0.1:8080"
    )]
    Unspecified,
    /// The text behind the `%` can't be an interface.
    #[error("the text after % is no name or number of a network interface")]
    BadInterface,
    /// The text is a list.
    #[error("this is more than one address; give each with its own option")]
    Several,
    /// The text is a URL.
    #[error("an address is host:port alone, without a scheme such as tls:// and without a path")]
    Url,
    /// The host has a character that is not ASCII.
    #[error("the host contains {0:?}; write the domain in its ASCII form, whose labels begin with xn--")]
    NotAscii(char),
}
