//! What goes into the mesh and what comes out of it.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::event::Event;
use crate::net::addr::DialAddr;
use crate::trust::access::{Access, Refusal};
use crate::trust::peer_id::PeerId;
use crate::trust::pin::{Expected, Pin};
use crate::wire::{ByeReason, Hello, Message};

/// Names one session, dialled or accepted, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

impl SessionId {
    /// The `n`th session that somebody else dialled; numbered by whoever accepts.
    #[must_use]
    pub const fn accepted(n: u64) -> Self {
        Self(n << 1)
    }

    /// The `n`th session that this node dialled; numbered by the mesh.
    #[must_use]
    pub const fn dialled(n: u64) -> Self {
        Self(n << 1 | 1)
    }

    /// Whether this node dialled it.
    #[must_use]
    pub const fn is_dialled(self) -> bool {
        self.0 & 1 == 1
    }
}

/// `d7` for the seventh dialled, `a7` for the seventh accepted.
impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_dialled() { 'd' } else { 'a' }, self.0 >> 1)
    }
}

/// Wall-clock time in whole seconds since 1970 (UTC). It is told to the mesh from outside, to be written down
/// and shown. No rule depends on it, as the clock may be wrong by years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(pub u64);

/// What happened outside.
#[derive(Clone, Debug)]
pub enum Input {
    /// A session is authenticated and both sides have said Hello.
    SessionUp(SessionUp),
    /// A message arrived on a session that is up. `Hello` and `Bye` never get here: the second
    /// Hello is a protocol error and a Bye ends the session, with its reason in `SessionDown`.
    Received {
        /// On which session.
        session: SessionId,
        /// What.
        message: Message,
        /// When: not after now, but before if it is [`Routine`](super::Routine).
        arrived: Instant,
    },
    /// A session that was up has ended; nothing more comes from it.
    SessionDown {
        /// Which.
        session: SessionId,
        /// Why.
        reason: DisconnectReason,
    },
    /// Answers `Output::Probe`: whatever had arrived on the session has been handed over.
    Quiet {
        /// Which.
        session: SessionId,
    },
    /// A dial ended without a session.
    DialFailed {
        /// Which.
        session: SessionId,
        /// Why.
        reason: DialError,
    },
    /// From now on these may be peers, and nobody else.
    Access(Access),
    /// The user wants to leave: say goodbye, then do nothing more.
    Leave,
}

/// A session that has come up.
#[derive(Clone, Debug)]
pub struct SessionUp {
    /// Its name from now on.
    pub session: SessionId,
    /// Who is at the other end, proven by the handshake.
    pub peer: PeerId,
    /// What it says of itself.
    pub hello: Hello,
    /// The other end's socket address: where we dialled, or where it came from.
    pub remote: SocketAddr,
}

/// Why a session that was up has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisconnectReason {
    /// The connection was closed or broke, without a word.
    Closed,
    /// The peer said so.
    Bye(ByeReason),
    /// The peer sent what the protocol does not allow.
    Protocol,
    /// The peer did not read what was sent to it.
    Slow,
}

/// Why a dial ended without a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialError {
    /// No connection, no handshake, or no Hello; in words.
    Failed(String),
    /// Another peer than the expected one answered.
    WrongId {
        /// The id in its certificate; not proven yet.
        found: PeerId,
    },
    /// The mesh itself gave the dial up.
    Cancelled,
}

/// Where the address of a dial comes from. It decides where a name may lead, and which budget pays for
/// looking it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialSource {
    /// The user gave it with `--connect`.
    User,
    /// It is an address of a peer that this node has met.
    KnownPeer,
    /// It is an address of a peer that this node has only heard of.
    UnknownPeer,
}

impl DialSource {
    /// A peer told the address, not the user. A name that a peer told may not lead back to this machine, or a
    /// stranger could point this node at services of its own machine.
    #[must_use]
    pub fn is_hearsay(self) -> bool {
        self != Self::User
    }
}

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Connect, authenticate, say Hello. Answered by `SessionUp` or `DialFailed`.
    Dial {
        /// The session's name, if it comes up.
        session: SessionId,
        /// Where.
        addr: DialAddr,
        /// Who must be there.
        expected: Expected,
        /// Where the address comes from.
        source: DialSource,
    },
    /// Send on a session that is up.
    Send {
        /// On which session.
        session: SessionId,
        /// What.
        message: Message,
    },
    /// Send on a session that is up, together with what is sent on it next or as soon as something arrives
    /// on it, whichever comes first; no earlier.
    Post {
        /// On which session.
        session: SessionId,
        /// What.
        message: Message,
    },
    /// Hand over whatever has arrived on a session that is up but was not read yet, then answer
    /// with `Quiet`: its peer is about to be declared dead for its silence.
    Probe {
        /// Which session.
        session: SessionId,
    },
    /// Say goodbye and close, or give up a dial. What the peer sent before it reads the goodbye
    /// still arrives as `Received`; then follows `SessionDown` or `DialFailed`.
    Close {
        /// Which.
        session: SessionId,
        /// What to say.
        reason: ByeReason,
    },
    /// [`Mesh::known_peers`](super::Mesh::known_peers) is worth remembering anew, soon.
    Remember,
    /// Tell the user.
    Notify(Event),
    /// Tell whoever reads the log.
    Report(Report),
}

/// What is worth a line in the log, beside the events.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// A `--connect` address did not answer for the first time in this outage; it is tried on.
    BootstrapUnreachable {
        /// Where.
        addr: DialAddr,
        /// What went wrong.
        detail: String,
    },
    /// A `--connect` address leads to this very node; it is not tried again.
    BootstrapIsSelf {
        /// Where.
        addr: DialAddr,
    },
    /// A dial failed.
    DialFailed {
        /// To whom, if somebody was expected.
        peer: Option<PeerId>,
        /// Where.
        addr: DialAddr,
        /// What went wrong.
        detail: String,
        /// Until the next attempt; `None` if there is none.
        retry_in: Option<Duration>,
    },
    /// At a known peer's address is somebody else: another key, so another peer.
    WrongId {
        /// Where.
        addr: DialAddr,
        /// Who was there before.
        expected: PeerId,
        /// When that one was met for the first time.
        first_seen: UnixTime,
        /// Who claims to be there now.
        found: PeerId,
        /// Whether that is why it is not let in, or it counts as a new peer.
        is_refused: bool,
    },
    /// At a `--connect` address is another than the pinned peer. Nothing was sent or noted; it is
    /// tried on.
    WrongPin {
        /// Where.
        addr: DialAddr,
        /// Who must be there.
        pin: Pin,
        /// Who claims to be there.
        found: PeerId,
    },
    /// A peer came that the lists keep out, or was there when they changed.
    NotAdmitted {
        /// Who.
        peer: PeerId,
        /// Where.
        addr: DialAddr,
        /// Which list.
        why: Refusal,
    },
    /// A peer turned us away.
    RefusedByPeer {
        /// Who.
        peer: PeerId,
        /// Why, by its own account.
        reason: ByeReason,
    },
    /// Peers are known from an earlier life of this node, and looked for.
    Restored {
        /// How many.
        peers: usize,
        /// How many have missed so much connected time that they are forgotten.
        forgotten: usize,
        /// How many more the table of peers has no room for; they are forgotten too.
        surplus: usize,
    },
    /// Another process uses our key.
    OurKeyInUse {
        /// Where it is, or who says so.
        addr: SocketAddr,
    },
    /// Two processes use one peer's key; the newer one stays connected.
    PeerKeyInUse {
        /// Whose key.
        peer: PeerId,
        /// Where the refused process is.
        addr: SocketAddr,
    },
    /// A list brought peers that are new to us, or back.
    ListNews {
        /// Who sent the list.
        from: PeerId,
        /// How many.
        news: usize,
    },
    /// The table is full of live peers; one was refused.
    TableFull {
        /// Who.
        peer: PeerId,
    },
    /// A peer's table is full of live peers, so it refused us.
    RefusedAsFull {
        /// Who.
        peer: PeerId,
        /// Where.
        addr: SocketAddr,
        /// Until we ask again.
        retry_in: Duration,
    },
    /// This node itself stood still; peers get that much more patience.
    Stalled {
        /// For how long.
        gap: Duration,
    },
}
