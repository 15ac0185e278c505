//! A look at an address: whether something answers there, speaks this protocol, who it is, and whether it lets this node
//! in. The Hello says that it is only a look, so the other side counts no peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connect;
use super::counters::Counters;
use super::failure::Failure;
use super::hello::{self, HelloExchange, Role};
use super::link::{Link, LinkError, Stream, Transport};
use super::protocol::{Ends, Protocol, Transmit};
use super::session_event::SessionEvent;
use crate::limits::CONNECT_TIMEOUT;
use crate::mesh::{SessionId, Vitals};
use crate::net::waker::Waker;
use crate::trust::access::Access;
use crate::trust::identity::Identity;
use crate::trust::network_key::NetworkKey;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::Expected;
use crate::trust::tls::{Tls, authenticated_peer};
use crate::wire::{ByeReason, Hello, PROBE_CAPABILITY};

/// Time limit for the TLS handshake and the Hellos.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// What answers at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The time that connecting took.
    pub connected_in: Option<Duration>,
    /// The peer that answers, or why none does.
    pub peer: Result<PeerId, String>,
    /// What that peer says to this node.
    pub answer: ProbeAnswer,
}

/// What a peer says to a node that would like to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAnswer {
    /// Nothing: none answers.
    None,
    /// It lets the node in. Both hold the network key, or neither has one.
    Admitted,
    /// It requires a network key, and the node has none.
    KeyMissing,
    /// It requires another network key.
    KeyWrong,
    /// It has no network key, and the node has one.
    KeyUnknown,
    /// It refuses the node for this reason.
    Refused(String),
}

/// Connects to an address, and asks whether a node with this identity and these network keys may join.
#[must_use]
pub fn probe(addr: SocketAddr, identity: &Identity, keys: &[NetworkKey]) -> Probe {
    let mut probe = Probe { connected_in: None, peer: Err(String::new()), answer: ProbeAnswer::None };
    if let Err(failure) = look(addr, identity, keys, &mut probe) {
        match probe.peer {
            Ok(_) => probe.answer = ProbeAnswer::of(&failure),
            Err(_) => probe.peer = Err(failure.to_string()),
        }
    }
    probe
}

impl ProbeAnswer {
    fn of(failure: &Failure) -> Self {
        match failure {
            Failure::Refused(ByeReason::NetworkKeyMissing) => Self::KeyMissing,
            Failure::Refused(ByeReason::NetworkKeyWrong) => Self::KeyWrong,
            Failure::Refused(ByeReason::NetworkKeyUnknown) => Self::KeyUnknown,
            other => Self::Refused(other.to_string()),
        }
    }
}

/// Fills in what it finds out before it fails.
fn look(
    addr: SocketAddr,
    identity: &Identity,
    keys: &[NetworkKey],
    probe: &mut Probe,
) -> Result<(), Failure> {
    let waker = Waker::new().map_err(Failure::Connect)?;
    let tls = Tls::new(identity, Access::default()).map_err(LinkError::from)?;
    let started = Instant::now();
    let socket = connect::open(addr, None, &waker, started + CONNECT_TIMEOUT, &mut || false);
    let socket = socket.map_err(Failure::Connect)?;
    probe.connected_in = Some(started.elapsed());
    let connection = tls.dial(Expected::AnyPeer).map_err(LinkError::from)?;
    let mut link = Link::new(Transport::Tcp(socket), connection, &Arc::<Counters>::default())
        .map_err(LinkError::from)?;
    let deadline = Instant::now() + HANDSHAKE_TIME;
    let mut early = Vec::new();
    while link.is_handshaking() {
        link.flush()?;
        let ready = link.wait(&waker, true, Some(deadline))?;
        if ready.readable && link.read(|bytes| early.extend_from_slice(bytes))? == Stream::Ended {
            return Err(Failure::ClosedEarly);
        }
        if Instant::now() >= deadline {
            return Err(Failure::Deadline);
        }
    }
    let peer = authenticated_peer(link.tls())?;
    probe.peer = Ok(peer);
    let ends = Ends { session: SessionId::dialled(1), own: identity.id(), peer, remote: addr, local: None };
    let exchange = HelloExchange::new(hello_of_probe(), keys.to_vec());
    let exported = hello::exported(link.tls()).map_err(Failure::Exporter)?;
    let (exchange, vitals) = (Arc::new(exchange), Vitals::default());
    let mut protocol =
        Protocol::new(Instant::now(), ends, Role::Dialler, exchange, exported, vitals, deadline);
    protocol.handle_bytes(Instant::now(), &early);
    let answer = ask(&mut link, &mut protocol, &waker);
    link.close_notify();
    let _ = link.flush();
    probe.answer = answer?;
    Ok(())
}

fn hello_of_probe() -> Hello {
    Hello {
        instance: 0,
        name: String::new(),
        listen_port: 0,
        advertised: Vec::new(),
        heartbeat_ms: 0,
        capabilities: vec![PROBE_CAPABILITY],
        proofs: Vec::new(),
    }
}

/// Exchanges the Hellos.
fn ask(link: &mut Link, protocol: &mut Protocol, waker: &Waker) -> Result<ProbeAnswer, Failure> {
    loop {
        let now = Instant::now();
        protocol.handle_timeout(now);
        while let Some(transmit) = protocol.poll_transmit() {
            match transmit {
                Transmit::Frame(frame) => link.queue(&frame)?,
                Transmit::Close => link.close_notify(),
            }
        }
        let is_done = link.flush()?;
        protocol.handle_transmitted(now, is_done);
        if let Some(SessionEvent::Up(_)) = protocol.poll_event(now) {
            return Ok(ProbeAnswer::Admitted);
        }
        if let Some(failure) = protocol.take_failure() {
            return Err(failure);
        }
        let ready = link.wait(waker, protocol.wants_bytes(), protocol.poll_timeout())?;
        if ready.readable && link.read(|bytes| protocol.handle_bytes(now, bytes))? == Stream::Ended {
            protocol.handle_end();
        }
    }
}
