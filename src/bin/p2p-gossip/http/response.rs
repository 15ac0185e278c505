//! Responses with their security fields, and writing them within a time limit.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::request::{HEAD_BYTES_MAX, Refusal, time_left};

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const JSON: &str = "application/json";
pub(super) const HTML: &str = "text/html; charset=utf-8";
pub(super) const CSS: &str = "text/css; charset=utf-8";
pub(super) const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
pub(super) const EVENT_STREAM: &str = "text/event-stream";

/// The content security policy of all responses except the page: a browser may load and run nothing.
const POLICY_NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";

/// A status code and its phrase (RFC 9110 section 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(pub(super) u16, &'static str);

pub(super) const OK: Status = Status(200, "OK");
const MOVED: Status = Status(308, "Permanent Redirect");
pub(super) const BAD_REQUEST: Status = Status(400, "Bad Request");
pub(super) const FORBIDDEN: Status = Status(403, "Forbidden");
pub(super) const CONFLICT: Status = Status(409, "Conflict");
pub(super) const NOT_FOUND: Status = Status(404, "Not Found");
pub(super) const MISDIRECTED: Status = Status(421, "Misdirected Request");
pub(super) const UNAVAILABLE: Status = Status(503, "Service Unavailable");

/// A response with its body. For a stream only the head is used.
#[derive(Debug)]
pub(super) struct Response {
    status: Status,
    content_type: &'static str,
    /// The content security policy (CSP).
    policy: &'static str,
    /// One more field, with its value.
    extra: Option<(&'static str, Cow<'static, str>)>,
    body: Cow<'static, str>,
}

impl Response {
    pub(super) fn new(
        status: Status,
        content_type: &'static str,
        body: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, content_type, policy: POLICY_NOTHING, extra: None, body: body.into() }
    }

    pub(super) fn with_policy(self, policy: &'static str) -> Self {
        Self { policy, ..self }
    }

    fn with(self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        Self { extra: Some((name, value.into())), ..self }
    }

    /// The response that sends the client to another place. The parser of requests lets no line end into the place.
    pub(super) fn moved(place: String) -> Self {
        Self::new(MOVED, TEXT, format!("moved to {place}\n")).with("Location", place)
    }

    /// The response at the limit of connections.
    pub(super) fn busy() -> Self {
        Self::new(UNAVAILABLE, TEXT, "too many connections; try again\n").with("Retry-After", "3")
    }

    /// The response to a request that can't be served; `None` if the client has closed the connection.
    pub(super) fn for_refusal(refusal: &Refusal) -> Option<Self> {
        let new = |code, phrase, body: &str| Self::new(Status(code, phrase), TEXT, format!("{body}\n"));
        Some(match refusal {
            Refusal::Malformed(reason) => new(400, "Bad Request", reason),
            Refusal::TooLarge => {
                let most = format!(
                    "the head of the request has more than {HEAD_BYTES_MAX} bytes or too many fields"
                );
                new(431, "Request Header Fields Too Large", &most)
            }
            Refusal::TooSlow => new(408, "Request Timeout", "the request was not complete in time"),
            Refusal::Method => {
                new(405, "Method Not Allowed", "only GET and HEAD are allowed").with("Allow", "GET, HEAD")
            }
            Refusal::Version => {
                new(505, "HTTP Version Not Supported", "only HTTP/1.1 and HTTP/1.0 are supported")
            }
            Refusal::Gone => return None,
        })
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> u16 {
        self.status.0
    }

    /// The head with the empty line at its end. A stream has no Content-Length.
    pub(super) fn head(&self) -> String {
        let Status(code, phrase) = self.status;
        let mut head = format!(
            "HTTP/1.1 {code} {phrase}\r\n\
             Content-Type: {}\r\n\
             Content-Security-Policy: {}\r\n\
             Cache-Control: no-store\r\n\
             Cross-Origin-Opener-Policy: same-origin\r\n\
             Cross-Origin-Resource-Policy: same-origin\r\n\
             Referrer-Policy: no-referrer\r\n\
             X-Content-Type-Options: nosniff\r\n\
             Connection: close\r\n",
            self.content_type, self.policy,
        );
        // Writing into a String does not fail.
        if self.content_type != EVENT_STREAM {
            let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
        }
        if let Some((name, value)) = &self.extra {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        head
    }

    /// Writes the head, and the body if `with_body`.
    ///
    /// # Errors
    /// The client has closed the connection, or has not taken all bytes by the deadline.
    pub(super) fn write(&self, socket: &TcpStream, with_body: bool, deadline: Instant) -> io::Result<()> {
        let mut bytes = self.head();
        if with_body {
            bytes.push_str(&self.body);
        }
        write_all(socket, bytes.as_bytes(), deadline)
    }
}

/// Writes all bytes.
///
/// # Errors
/// The client has closed the connection, or has not taken all bytes by the deadline.
pub(super) fn write_all(mut socket: &TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        socket.set_write_timeout(Some(time_left(deadline)?))?;
        match socket.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    #[test]
    fn response_has_security_fields() {
        let head = Response::new(OK, JSON, "{}").head();
        for line in [
            "HTTP/1.1 200 OK",
            "Content-Type: application/json",
            "Content-Length: 2",
            "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'",
            "Cache-Control: no-store",
            "Referrer-Policy: no-referrer",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        ] {
            assert!(head.lines().any(|found| found == line), "{line} is missing:\n{head}");
        }
        assert!(head.ends_with("\r\n\r\n") && !head.contains("Access-Control"), "{head}");
        assert!(!Response::new(OK, EVENT_STREAM, "").head().contains("Content-Length"));
    }

    #[test]
    fn write_to_a_client_that_does_not_read_ends_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let endless = "x".repeat(16 * 1024 * 1024);
        let error = Response::new(OK, TEXT, endless).write(
            &server,
            true,
            Instant::now() + Duration::from_millis(200),
        );
        assert!(super::super::request::is_timeout(&error.unwrap_err()));
    }
}
