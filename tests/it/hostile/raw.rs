//! A peer without rules: TLS and frames without the checks of a node, as dialler and as listener.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use p2p_gossip::internals::wire::{self, ByeReason, FrameReader, Hello, Message};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::support::DEADLINE;
pub(super) use crate::support::credentials::{
    Credentials, client_config, client_config_with, provider, server_config,
};

/// A dialler's TLS connection that has not sent any bytes yet.
pub(super) fn client(config: impl Into<Arc<ClientConfig>>) -> ClientConnection {
    ClientConnection::new(config.into(), ServerName::try_from("peer.invalid").unwrap()).unwrap()
}

/// How a connection ended, as seen by this end.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// The reason in the node's Bye.
    pub(super) bye: Option<ByeReason>,
    /// The TLS error, for example an alert.
    pub(super) tls: Option<rustls::Error>,
}

/// One connection to a node.
pub(super) struct Raw {
    pub(super) socket: TcpStream,
    pub(super) tls: Connection,
    frames: FrameReader,
}

impl Raw {
    fn new(socket: TcpStream, tls: Connection) -> Self {
        // A node that does not answer must not block the test.
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        socket.set_nodelay(true).unwrap();
        let mut frames = FrameReader::new();
        frames.after_hello();
        Self { socket, tls, frames }
    }

    /// Dials, without a handshake yet.
    pub(super) fn open(to: SocketAddr, config: impl Into<Arc<ClientConfig>>) -> Self {
        Self::over(TcpStream::connect(to).unwrap(), config)
    }

    /// Dials over the given socket, without a handshake yet.
    pub(super) fn over(socket: TcpStream, config: impl Into<Arc<ClientConfig>>) -> Self {
        Self::new(socket, client(config).into())
    }

    /// Dials, and completes this end's handshake.
    pub(super) fn dial(to: SocketAddr, me: &Credentials) -> Self {
        let mut raw = Self::open(to, client_config(me));
        raw.shake_hands().expect("the node accepts the handshake");
        raw
    }

    /// Takes over a connection that a node has dialled.
    pub(super) fn accept(socket: TcpStream, me: &Credentials) -> Self {
        Self::accept_with(socket, server_config(me))
    }

    /// Takes over a connection that a node has dialled, with this configuration.
    pub(super) fn accept_with(socket: TcpStream, config: ServerConfig) -> Self {
        Self::new(socket, ServerConnection::new(Arc::new(config)).unwrap().into())
    }

    /// Sends early data if a ticket from an earlier session allows it.
    pub(super) fn send_early(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Connection::Client(client) = &mut self.tls else { panic!("only a dialler can send early data") };
        let mut early = client.early_data().ok_or(io::ErrorKind::Unsupported)?;
        early.write_all(bytes)
    }

    pub(super) fn is_early_data_accepted(&self) -> bool {
        matches!(&self.tls, Connection::Client(client) if client.is_early_data_accepted())
    }

    pub(super) fn shake_hands(&mut self) -> io::Result<()> {
        while self.tls.is_handshaking() {
            self.tls.complete_io(&mut self.socket)?;
        }
        self.flush()
    }

    /// Dials and completes the exchange of Hellos as an honest peer does.
    pub(super) fn join(to: SocketAddr, me: &Credentials) -> Self {
        let mut raw = Self::dial(to, me);
        raw.exchange_hello(hello("raw"));
        raw
    }

    /// Sends a Hello and waits for the node's.
    pub(super) fn exchange_hello(&mut self, hello: Hello) {
        self.send(&Message::Hello(hello)).unwrap();
        match self.receive() {
            Ok(Message::Hello(_)) => {}
            other => panic!("a Hello was expected: {other:?}"),
        }
    }

    pub(super) fn send(&mut self, message: &Message) -> io::Result<()> {
        self.send_bytes(&wire::encode(message).expect("within the limits"))
    }

    /// Sends arbitrary bytes inside TLS.
    pub(super) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.chunks(16 * 1024) {
            self.tls.writer().write_all(chunk)?;
            self.flush()?;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Waits for the node's next message or the end of the connection.
    pub(super) fn receive(&mut self) -> Result<Message, Ending> {
        loop {
            if let Some(message) = self.frames.next_message().expect("a node keeps to the format") {
                return Ok(message);
            }
            match self.tls.read_tls(&mut self.socket) {
                Ok(0) => return Err(Ending::default()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    panic!("the connection is still open after {DEADLINE:?}")
                }
                Err(_) => return Err(Ending::default()),
            }
            match self.tls.process_new_packets() {
                Ok(state) => {
                    let start = self.frames.buffer().len();
                    self.frames.buffer().resize(start + state.plaintext_bytes_to_read(), 0);
                    let buffer = &mut self.frames.buffer()[start..];
                    self.tls.reader().read_exact(buffer).unwrap();
                }
                Err(error) => return Err(Ending { tls: Some(error), ..Ending::default() }),
            }
        }
    }

    /// Reads until the node has closed the connection.
    pub(super) fn wait_end(mut self) -> Ending {
        let mut bye = None;
        loop {
            match self.receive() {
                Ok(Message::Bye(reason)) => bye = Some(reason),
                Ok(_) => {}
                Err(ending) => return Ending { bye, ..ending },
            }
        }
    }
}

/// Waits until the node has closed a connection that never had TLS.
pub(super) fn wait_closed(mut socket: &TcpStream) {
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut bytes = [0; 4096];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                panic!("the connection is still open after {DEADLINE:?}")
            }
            Err(_) => return,
        }
    }
}

/// A Hello without a port, so that the node cannot dial back.
pub(super) fn hello(name: &str) -> Hello {
    Hello {
        instance: fastrand::u64(..),
        name: name.to_owned(),
        listen_port: 0,
        advertised: Vec::new(),
        heartbeat_ms: 60_000,
        capabilities: Vec::new(),
        proofs: Vec::new(),
    }
}

/// Wraps arbitrary bytes in a frame.
pub(super) fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&length.to_be_bytes()[..], body].concat()
}
