//! A reverse proxy that shows a page below a path of its own, as nginx does with
//! `location /mesh/ { proxy_pass http://127.0.0.1:9090/; }`.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

/// The path of the page at the proxy.
pub(super) const PATH: &str = "/mesh/";

/// Starts a proxy for the page; it ends with the test's process.
pub(super) fn start(page: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            // A client that breaks its connection ends only that connection.
            thread::spawn(move || pass(&client?, page));
        }
    });
    addr
}

/// Passes one request on without the path of the proxy. Other paths get the answer 404.
fn pass(mut client: &TcpStream, page: SocketAddr) -> io::Result<()> {
    let mut lines = BufReader::new(client).lines();
    let first = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    let Some((method, rest)) = first.split_once(&format!(" {PATH}")) else {
        return client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let mut head = format!("{method} /{rest}\r\nHost: {page}\r\n");
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if !line.to_ascii_lowercase().starts_with("host:") {
            head.push_str(&format!("{line}\r\n"));
        }
    }
    let mut server = TcpStream::connect(page)?;
    server.write_all((head + "\r\n").as_bytes())?;
    io::copy(&mut server, &mut client)?;
    Ok(())
}
