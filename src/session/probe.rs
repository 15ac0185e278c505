//! A look at an address: whether something answers there, speaks this protocol, and who it is. It sends no Hello, so the
//! other side counts no peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connect;
use super::counters::Counters;
use super::failure::Failure;
use super::link::{Link, LinkError, Stream, Transport};
use crate::limits::CONNECT_TIMEOUT;
use crate::net::waker::Waker;
use crate::trust::access::Access;
use crate::trust::identity::Identity;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::Expected;
use crate::trust::tls::{Tls, authenticated_peer};

/// Time limit for the TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Time for the other side's refusal: in TLS 1.3 it comes after the dialler's own handshake is complete.
const REFUSAL_TIME: Duration = Duration::from_millis(500);

/// What answers at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The time that connecting took.
    pub connected_in: Option<Duration>,
    /// The peer that answers, or why none does.
    pub peer: Result<PeerId, String>,
    /// Why the peer that answers refuses this identity, if it does.
    pub refusal: Option<String>,
}

/// Connects to an address, and completes the TLS handshake with this identity.
#[must_use]
pub fn probe(addr: SocketAddr, identity: &Identity) -> Probe {
    let mut probe = Probe { connected_in: None, peer: Err(String::new()), refusal: None };
    match look(addr, identity, &mut probe) {
        Ok(peer) => probe.peer = Ok(peer),
        Err(failure) => match probe.peer {
            Ok(_) => probe.refusal = Some(failure.to_string()),
            Err(_) => probe.peer = Err(failure.to_string()),
        },
    }
    probe
}

/// Fills in what it finds out before it fails.
fn look(addr: SocketAddr, identity: &Identity, probe: &mut Probe) -> Result<PeerId, Failure> {
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
    while link.is_handshaking() {
        step(&mut link, &waker, deadline)?;
        if Instant::now() >= deadline {
            return Err(Failure::Deadline);
        }
    }
    let peer = authenticated_peer(link.tls())?;
    probe.peer = Ok(peer);
    let deadline = Instant::now() + REFUSAL_TIME;
    while Instant::now() < deadline {
        step(&mut link, &waker, deadline)?;
    }
    link.close_notify();
    let _ = link.flush();
    Ok(peer)
}

/// One round of writing, waiting and reading.
fn step(link: &mut Link, waker: &Waker, deadline: Instant) -> Result<(), Failure> {
    link.flush()?;
    let ready = link.wait(waker, true, Some(deadline))?;
    if ready.readable && link.read(|_| {})? == Stream::Ended {
        return Err(Failure::ClosedEarly);
    }
    Ok(())
}
