//! Reads and checks the heads of HTTP requests, within a deadline and a size limit.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::time::{Duration, Instant};

/// Size limit of a request's head in bytes. A browser sends the cookies of every program of the same host, whatever
/// its port, and proxies pass on as much as this.
pub(super) const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Size limit of the body of a POST in bytes: a message has at most 4096, an address fewer.
pub(super) const BODY_BYTES_MAX: usize = 8 * 1024;
/// Limit of the fields in a request's head.
const FIELDS_MAX: usize = 64;

/// The parts of a request that this server uses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Whether the method is HEAD.
    pub(super) is_head: bool,
    /// Without the query.
    pub(super) path: String,
    /// Without its question mark.
    pub(super) query: String,
    /// The host that the client addresses: the authority of the request line's URL, or else the `Host` field.
    pub(super) host: Option<String>,
    pub(super) last_event_id: String,
    /// The body of a POST, without the end of its last line.
    pub(super) post: Option<String>,
}

/// Why a request can't be served.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The bytes are no valid request; the text says why.
    Malformed(&'static str),
    /// The head exceeds a limit.
    TooLarge,
    /// The head is incomplete at the deadline.
    TooSlow,
    /// The method is none that this server serves.
    Method,
    /// The HTTP version is not supported.
    Version,
    /// The client has closed the connection.
    Gone,
}

/// Which methods a server serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Methods {
    /// GET and HEAD: clients read only.
    Read,
    /// POST, too.
    ReadAndPost,
}

/// Reads a request. The body of a GET is left unread.
pub(super) fn read(mut socket: &TcpStream, methods: Methods, deadline: Instant) -> Result<Request, Refusal> {
    let mut bytes = [0; HEAD_BYTES_MAX];
    let mut len = 0;
    let mut parsed: Option<Parsed> = None;
    loop {
        let count = match read_some(&mut socket, &mut bytes[len..], deadline) {
            Ok(0) => return Err(Refusal::Gone),
            Ok(count) => count,
            Err(error) if is_timeout(&error) => return Err(Refusal::TooSlow),
            Err(_) => return Err(Refusal::Gone),
        };
        // A head ends with a line.
        let may_be_complete = parsed.is_none() && bytes[len..len + count].contains(&b'\n');
        len += count;
        if may_be_complete {
            parsed = parse(&bytes[..len], methods)?;
        }
        if let Some(Parsed { body_start, body_end, .. }) = parsed
            && len >= body_end
            && let Some(Parsed { mut request, .. }) = parsed.take()
        {
            if let Some(post) = &mut request.post {
                let body = str::from_utf8(&bytes[body_start..body_end]);
                let body = body.map_err(|_| Refusal::Malformed("the body is not UTF-8"))?;
                body.strip_suffix('\n').unwrap_or(body).clone_into(post);
            }
            return Ok(request);
        }
        if len == bytes.len() {
            return Err(Refusal::TooLarge);
        }
    }
}

/// Reads once, until the deadline at most.
pub(super) fn read_some(socket: &mut &TcpStream, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
    loop {
        socket.set_read_timeout(Some(time_left(deadline)?))?;
        match socket.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The time until the deadline.
///
/// # Errors
/// [`ErrorKind::TimedOut`] at and after the deadline.
pub(super) fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Whether an error means a timeout. The system returns `WouldBlock` when a socket's timeout expires.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

/// A request whose head is complete, and the place of its body.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    request: Request,
    body_start: usize,
    /// The same for a GET.
    body_end: usize,
}

/// Parses the head of a request; `None` if it is incomplete.
fn parse(bytes: &[u8], methods: Methods) -> Result<Option<Parsed>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    let body_start = match head.parse(bytes) {
        Ok(httparse::Status::Complete(head_len)) => head_len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooLarge),
        Err(httparse::Error::Version) => return Err(Refusal::Version),
        Err(_) => return Err(Refusal::Malformed("this is not an HTTP request")),
    };
    let (is_head, is_post) = match head.method {
        Some("GET") => (false, false),
        Some("HEAD") => (true, false),
        Some("POST") if methods == Methods::ReadAndPost => (false, true),
        _ => return Err(Refusal::Method),
    };
    let field = |name: &str| {
        let mut values = head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        (
            values.next().map(|field| String::from_utf8_lossy(field.value).into_owned()),
            values.next().is_some(),
        )
    };
    let (host, has_two_hosts) = field("host");
    // RFC 9112 section 3.2.
    if has_two_hosts || (host.is_none() && head.version == Some(1)) {
        return Err(Refusal::Malformed("a request has one Host field"));
    }
    let (authority, target) = split_target(head.path.unwrap_or_default())
        .ok_or(Refusal::Malformed("the request names neither a path nor a URL"))?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let body_len = match field("content-length") {
        _ if !is_post => 0,
        (Some(length), false) => {
            length.parse().map_err(|_| Refusal::Malformed("the Content-Length is no number"))?
        }
        (None, _) if field("transfer-encoding").0.is_none() => 0,
        _ => return Err(Refusal::Malformed("a POST has one Content-Length and no other encoding")),
    };
    if body_len > BODY_BYTES_MAX {
        return Err(Refusal::TooLarge);
    }
    let request = Request {
        is_head,
        path: path.to_owned(),
        query: query.to_owned(),
        host: authority.map(ToOwned::to_owned).or(host),
        last_event_id: field("last-event-id").0.unwrap_or_default(),
        post: is_post.then(String::new),
    };
    Ok(Some(Parsed { request, body_start, body_end: body_start + body_len }))
}

/// Splits a request target into its authority, if it is a whole URL, and its path. Servers must accept both forms
/// (RFC 9112 section 3.2.2).
fn split_target(target: &str) -> Option<(Option<&str>, &str)> {
    if target.starts_with('/') {
        return Some((None, target));
    }
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") {
        return None;
    }
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    Some((Some(authority), if path.is_empty() { "/" } else { path }))
}

/// Whether a `Host` is a loopback address. Without this check a foreign page whose name resolves to 127.0.0.1
/// (DNS rebinding) could read all responses.
pub(super) fn is_loopback_host(host: &str) -> bool {
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let (ip, port) = if let Some(rest) = host.strip_prefix('[') {
        let Some((ip, port)) = rest.split_once(']') else { return false };
        (
            ip.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            port.strip_prefix(':').or(port.is_empty().then_some("")),
        )
    } else {
        let (name, port) = host.split_once(':').unwrap_or((host, ""));
        let is_localhost = is_localhost_name(name);
        let ip = if is_localhost { Some(Ipv4Addr::LOCALHOST) } else { name.parse().ok() };
        (ip.map(IpAddr::from), Some(port))
    };
    ip.is_some_and(|ip| ip.to_canonical().is_loopback()) && port.is_some_and(is_port)
}

/// Whether a name is `localhost` or below it. Resolvers answer such names with loopback addresses only (RFC 6761
/// section 6.3), so no other host can take one.
fn is_localhost_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    fn parsed(head: &str) -> Result<Option<Request>, Refusal> {
        Ok(parse(head.as_bytes(), Methods::Read)?.map(|parsed| parsed.request))
    }

    #[test]
    fn request_is_parsed_into_its_parts() {
        let head = "GET /events?recent=5&x HTTP/1.1\r\nHost: localhost:9\r\nACCEPT: text/html\r\nLAST-event-id: 7\r\n\r\nbody";
        let request = parsed(head).unwrap().unwrap();
        assert_eq!((request.path.as_str(), request.query.as_str()), ("/events", "recent=5&x"));
        assert_eq!((request.host.as_deref(), request.is_head), (Some("localhost:9"), false));
        assert_eq!(request.last_event_id, "7");
        assert!(parsed("HEAD / HTTP/1.0\r\n\r\n").unwrap().unwrap().is_head);
        for end in 0..head.find("body").unwrap() {
            assert_eq!(parsed(&head[..end]), Ok(None));
        }
    }

    #[test]
    fn url_in_the_request_line_overrides_the_host_field() {
        let request =
            parsed("GET http://evil.example/peers?x HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap().unwrap();
        assert_eq!((request.host.as_deref(), request.path.as_str()), (Some("evil.example"), "/peers"));
        let request = parsed("GET http://localhost HTTP/1.1\r\nHost: x\r\n\r\n").unwrap().unwrap();
        assert_eq!((request.host.as_deref(), request.path.as_str()), (Some("localhost"), "/"));
        for target in ["*", "peers", "ftp://a/", "localhost:80"] {
            let refused = parsed(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            assert!(matches!(refused, Err(Refusal::Malformed(_))), "{target}: {refused:?}");
        }
    }

    #[test]
    fn invalid_request_is_refused_with_its_reason() {
        let malformed = [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "\x16\x03\x01\x02\n\n",
            "GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        ];
        for head in malformed {
            let refused = parsed(head);
            assert!(matches!(refused, Err(Refusal::Malformed(_))), "{head:?}: {refused:?}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "get"] {
            assert_eq!(parsed(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")), Err(Refusal::Method));
        }
        assert_eq!(parsed("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), Err(Refusal::Version));
        let fields = "X: y\r\n".repeat(FIELDS_MAX + 1);
        assert_eq!(parsed(&format!("GET / HTTP/1.1\r\n{fields}\r\n")), Err(Refusal::TooLarge));
    }

    #[test]
    fn only_loopback_addresses_and_localhost_are_loopback_hosts() {
        for host in [
            "localhost",
            "LocalHost:9090",
            "localhost.:9090",
            "mesh.localhost",
            "a.mesh.LOCALHOST:9090",
            "127.0.0.1",
            "127.0.0.1:9090",
            "127.3.2.1:1",
            "[::1]",
            "[::1]:9090",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "evillocalhost",
            "localhost.evil.example.",
            "localhost..",
            "127.0.0.1.evil.example",
            "192.0.2.1:9090",
            "[2001:db8::1]",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "localhost:80:80",
            "localhost@evil.example",
            "127.1",
            "2130706433",
            "0.0.0.0",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn head_is_limited_in_size_and_time() {
        let long = Instant::now() + Duration::from_secs(60);
        let (mut client, server) = pair();
        let endless = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; HEAD_BYTES_MAX]].concat();
        client.write_all(&endless[..HEAD_BYTES_MAX]).unwrap();
        assert_eq!(read(&server, Methods::Read, long), Err(Refusal::TooLarge));

        let (mut client, server) = pair();
        client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        assert_eq!(
            read(&server, Methods::Read, Instant::now() + Duration::from_millis(50)),
            Err(Refusal::TooSlow)
        );
        assert_eq!(read(&server, Methods::Read, Instant::now()), Err(Refusal::TooSlow));

        let (client, server) = pair();
        drop(client);
        assert_eq!(read(&server, Methods::Read, long), Err(Refusal::Gone));
    }

    #[test]
    fn post_is_read_with_its_body_where_it_is_served() {
        let long = Instant::now() + Duration::from_secs(60);
        let post = |request: &str, methods| {
            let (mut client, server) = pair();
            client.write_all(request.as_bytes()).unwrap();
            // A body that is too short ends the request.
            client.shutdown(std::net::Shutdown::Write).unwrap();
            read(&server, methods, long).map(|request| request.post)
        };
        let head = "POST /send HTTP/1.1\r\nHost: node\r\n";
        let sized = |length: &str, body: &str| format!("{head}Content-Length: {length}\r\n\r\n{body}");
        let served = Methods::ReadAndPost;
        assert_eq!(post(&sized("6", "hello\n"), served), Ok(Some("hello".to_owned())));
        assert_eq!(post(&sized("5", "hello world"), served), Ok(Some("hello".to_owned())));
        assert_eq!(post(&format!("{head}\r\n"), served), Ok(Some(String::new())));
        assert_eq!(post(&sized("6", "hello"), served), Err(Refusal::Gone));
        assert_eq!(post(&sized("6", "hello\n"), Methods::Read), Err(Refusal::Method));
        assert_eq!(post(&sized("8193", ""), served), Err(Refusal::TooLarge));
        for bad in
            [sized("-1", ""), sized("5", "hell\u{fc}"), format!("{head}Transfer-Encoding: chunked\r\n\r\n")]
        {
            let refused = post(&bad, served);
            assert!(matches!(refused, Err(Refusal::Malformed(_))), "{bad}: {refused:?}");
        }
    }
}
