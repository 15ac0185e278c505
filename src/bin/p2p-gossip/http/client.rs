//! Asks a running node through its control socket: one request and its answer, within a time and a size.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::control_socket::{as_stream, connect, is_key, is_trusted_server};
use super::request::read_some;
use super::response::write_all;

/// Time limit for an answer. The node itself needs milliseconds; a machine may be busy.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// Size limit of an answer in bytes: the list of the largest table of peers has a tenth of it.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Limit of the fields in an answer's head.
const FIELDS_MAX: usize = 32;

/// Why a running node gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no node runs there: nothing listens at {}", .0.display())]
    NoNode(PathBuf),
    #[error("the name of a control socket is needed, not a key itself")]
    KeyAsName,
    #[error("the process at {} belongs to another user; nothing was asked", .0.display())]
    ForeignProcess(PathBuf),
    #[error("the node at {} does not answer: {source}", path.display())]
    Failed { path: PathBuf, source: io::Error },
    /// The node's own words; shown escaped, as every error is.
    #[error("{0}")]
    Refused(String),
}

/// The control socket of a running node.
#[derive(Debug)]
pub(crate) struct Client {
    path: PathBuf,
}

impl Client {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Reads this path.
    pub(crate) fn get(&self, path: &str) -> Result<String, ClientError> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n"))
    }

    /// Asks for a change; `body` is its argument.
    pub(crate) fn post(&self, path: &str, body: &str) -> Result<String, ClientError> {
        let length = body.len();
        self.ask(&format!("POST {path} HTTP/1.1\r\nHost: node\r\nContent-Length: {length}\r\n\r\n{body}"))
    }

    fn ask(&self, request: &str) -> Result<String, ClientError> {
        if is_key(&self.path) {
            return Err(ClientError::KeyAsName);
        }
        let deadline = Instant::now() + ANSWER_TIME;
        let failed = |source| ClientError::Failed { path: self.path.clone(), source };
        let socket = as_stream(connect(&self.path).map_err(|error| no_node(&self.path, error))?);
        if !is_trusted_server(&socket) {
            return Err(ClientError::ForeignProcess(self.path.clone()));
        }
        // A node that refuses early may close before it has read everything.
        let written = write_all(&socket, request.as_bytes(), deadline);
        let mut answer = Vec::new();
        let mut buffer = [0; 16 * 1024];
        loop {
            match read_some(&mut &socket, &mut buffer, deadline) {
                Ok(0) => break,
                Ok(count) if answer.len() + count <= ANSWER_BYTES_MAX => {
                    answer.extend_from_slice(&buffer[..count]);
                }
                Ok(_) => return Err(failed(io::Error::other("its answer is too long"))),
                Err(_) if !answer.is_empty() => break,
                Err(error) => return Err(failed(error)),
            }
        }
        if answer.is_empty() {
            written.map_err(failed)?;
        }
        let (code, body) = parse(&answer).map_err(failed)?;
        match code {
            200..=299 => Ok(body),
            _ => Err(ClientError::Refused(body.trim_end().to_owned())),
        }
    }
}

fn no_node(path: &Path, error: io::Error) -> ClientError {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => {
            ClientError::NoNode(path.to_owned())
        }
        _ => ClientError::Failed { path: path.to_owned(), source: error },
    }
}

/// The status code and the body of a complete answer.
fn parse(answer: &[u8]) -> io::Result<(u16, String)> {
    let wrong = || io::Error::new(ErrorKind::InvalidData, "its answer is incomplete or no HTTP");
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let Ok(httparse::Status::Complete(start)) = head.parse(answer) else { return Err(wrong()) };
    let length = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|field| str::from_utf8(field.value).ok()?.parse::<usize>().ok());
    let body = answer.get(start..).filter(|body| Some(body.len()) == length).ok_or_else(wrong)?;
    let body = String::from_utf8(body.to_vec()).map_err(|_| wrong())?;
    Ok((head.code.ok_or_else(wrong)?, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_answer_is_taken() {
        let answer = b"HTTP/1.1 409 Conflict\r\ncontent-length: 5\r\n\r\nhello";
        assert_eq!(parse(answer).unwrap(), (409, "hello".to_owned()));
        for end in 0..answer.len() {
            assert!(parse(&answer[..end]).is_err(), "{end}");
        }
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\nhello").is_err());
        assert!(parse(b"SSH-2.0-x\r\n").is_err());
    }
}
