//! The mesh: who is a member, whom to dial, what to say, who is dead. A pure state machine.
//!
//! Invariant: no thread, socket, channel, file, clock or unseeded randomness in this module. Time
//! is a parameter and one `u64` seed decides every random choice, so that a simulator can run a
//! thousand meshes on a virtual clock and replay any of them (guide: architecture, "The mesh").
//!
//! The driver feeds [`Input`]s and due timers in, and carries out every [`Output`] before the
//! next. Sessions are named by [`SessionId`]s that are never used again, so late news of a
//! finished session is harmless.
//!
//! | file | rule |
//! |---|---|
//! | `sessions.rs` | one active session a peer, restarts, keys used twice, leaving |
//! | `admission.rs` | who may be a peer, when that changes; addresses that are somebody's |
//! | `dialing.rs` | whom to dial, when, and how many at once |
//! | `addrs.rs`, `reach.rs` | where one peer is, and which of that means something to whom |
//! | `lists.rs` | exchange of peer lists, and the roster check that keeps a full mesh full |
//! | `liveness.rs` | heartbeats, pings, silence |
//! | `status.rs` | what all that looks like from outside |
//! | `memory.rs` | peers known from an earlier life, and for the next one |
//! | `connected_time.rs` | the time after which a lost peer is forgotten |

mod addrs;
mod admission;
pub mod backoff;
mod connected_time;
mod dialing;
pub mod event;
mod lists;
mod liveness;
mod memory;
mod peer;
mod reach;
mod roster;
mod rtt;
mod sessions;
pub mod status;
mod timers;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::access::{Access, Refusal};
use crate::addr::DialAddr;
use crate::config::Config;
use crate::identity::PeerId;
use crate::pin::{Expected, Pin};
use crate::token_bucket::TokenBucket;
use crate::wire::{ByeReason, Hello, Message};
use connected_time::ConnectedTime;
use dialing::Dialing;
use event::Event;
use liveness::Beat;
use peer::Peer;
use timers::{Timer, Timers};

pub use dialing::{DIALS_BURST, DIALS_IN_FLIGHT_MAX, DIALS_PER_SECOND, RUMOUR_FAILURES_MAX};
pub use liveness::{HELD_UP, Routine};
pub use memory::{KnownAddr, KnownPeer};
pub use roster::roster_of;
pub use rtt::{RTT_BUCKETS_US, RttHistogram};
pub use sessions::{GRACE, SESSIONS_PER_PEER_MAX};

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
        /// When: not after now, but before if it is [`Routine`].
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
    /// [`Mesh::known_peers`] is worth remembering anew, soon.
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
    SeedUnreachable {
        /// Where.
        addr: DialAddr,
        /// What went wrong.
        detail: String,
    },
    /// A `--connect` address leads to this very node; it is not tried again.
    SeedIsSelf {
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
    TurnedAway {
        /// Who.
        peer: PeerId,
        /// Why, by its own account.
        reason: ByeReason,
    },
    /// Peers are known from an earlier life of this node, and looked for.
    Recalled {
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
    HeldUp {
        /// For how long.
        gap: Duration,
    },
}

/// One node's view of the mesh. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct Mesh {
    config: Config,
    id: PeerId,
    instance: u64,
    rng: fastrand::Rng,
    /// Every other node known, in whatever state; at most `config.peers_max`.
    peers: BTreeMap<PeerId, Peer>,
    /// Every session that came up and has not ended.
    sessions: BTreeMap<SessionId, Session>,
    dialing: Dialing,
    timers: Timers,
    outputs: VecDeque<Output>,
    /// Digest of ourselves and all live peers.
    roster: u64,
    live: usize,
    /// How long this node has had a member, in this life.
    connected_time: ConnectedTime,
    /// How many ever came up.
    came: u64,
    /// Every round-trip time measured.
    rtt: RttHistogram,
    /// Lists asked for because of rosters.
    roster_questions: TokenBucket,
    /// Since when membership has been changing, if it has.
    unsettled_since: Option<Instant>,
    /// Whether any list of peers has been received yet.
    has_list: bool,
    leaving: bool,
    /// What the clock on the wall says, as far as we were told.
    wall: UnixTime,
    started: Instant,
    /// When the driver last called.
    last_turn: Instant,
    /// From when until when this node was last held up.
    stood_still: Option<(Instant, Instant)>,
}

/// A session that came up and has not ended.
#[derive(Debug)]
struct Session {
    peer: PeerId,
    remote: SocketAddr,
    /// We said goodbye on it; what still arrives is counted, nothing is sent.
    closing: bool,
}

impl Mesh {
    /// A node that knows nobody but the addresses in `config.connect`, which it dials at once.
    /// `instance` is random for each process and goes into its Hello.
    #[must_use]
    pub fn new(config: Config, id: PeerId, instance: u64, seed: u64, now: Instant) -> Self {
        let mut mesh = Self {
            dialing: Dialing::new(&config.connect, now),
            config,
            id,
            instance,
            rng: fastrand::Rng::with_seed(seed),
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            roster: roster_of([&id]),
            live: 0,
            connected_time: ConnectedTime::default(),
            came: 0,
            rtt: RttHistogram::default(),
            roster_questions: lists::roster_questions(now),
            unsettled_since: None,
            has_list: false,
            leaving: false,
            wall: UnixTime::default(),
            started: now,
            last_turn: now,
            stood_still: None,
        };
        mesh.dial_seeds(now);
        mesh
    }

    /// Takes note of something that happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.notice_gap(now);
        match input {
            Input::SessionUp(up) => self.session_up(now, up),
            Input::Received { session, message, arrived } => self.received(now, session, message, arrived),
            Input::SessionDown { session, reason } => self.session_down(now, session, reason),
            Input::Quiet { session } => self.session_quiet(now, session),
            Input::DialFailed { session, reason } => self.dial_failed(now, session, reason),
            Input::Access(access) => self.access_changed(now, access),
            Input::Leave => self.leave(),
        }
    }

    /// Does everything that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.notice_gap(now);
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Dial(target) => self.dial_due(now, target),
                Timer::Heartbeat(peer) => self.heartbeat_due(now, peer),
                Timer::Ping(peer) => self.send_ping(now, peer),
                Timer::Silence(peer) => self.check_silence(now, peer),
                Timer::Grace(peer) => self.grace_over(now, peer),
                Timer::RosterCheck(peer) => self.check_roster(now, peer),
                Timer::Forget(peer) => self.forget_due(now, peer),
                Timer::Settled => self.settled(now),
            }
        }
        self.pump_dials(now);
    }

    /// The next thing to do outside, in order; ask until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Mesh::handle_timeout`] is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Live members, including this node.
    #[must_use]
    pub fn members(&self) -> usize {
        self.live + 1
    }

    /// Digest of this node and its live peers.
    #[must_use]
    pub fn roster(&self) -> u64 {
        self.roster
    }

    /// The sessions that messages to live peers are sent on, for checks: at most one a peer.
    pub fn active_sessions(&self) -> impl Iterator<Item = (PeerId, SessionId)> {
        self.peers.iter().filter_map(|(id, peer)| Some((*id, peer.live()?.active()?)))
    }

    /// The sessions with one peer that are up and that nobody has said goodbye on, oldest first.
    #[must_use]
    pub fn open_sessions(&self, peer: &PeerId) -> &[SessionId] {
        self.peers.get(peer).and_then(Peer::live).map_or(&[], |live| &live.sessions)
    }

    /// Dials that have been ordered and not been answered.
    #[must_use]
    pub fn dials_in_flight(&self) -> usize {
        self.dialing.in_flight()
    }

    fn received(&mut self, now: Instant, session: SessionId, message: Message, arrived: Instant) {
        let Some(&Session { peer, remote, closing }) = self.sessions.get(&session) else {
            return;
        };
        // After a goodbye only what the application sent still counts, and only while the peer
        // is a member: nobody is heard of after "down".
        if let Message::Ping { seq, text } = message {
            self.received_ping(now, arrived, peer, seq, text);
        } else if let Message::Broadcast { text } = message {
            self.received_broadcast(now, arrived, peer, text);
        } else if !closing {
            self.heard(now, arrived, &peer);
            match message {
                Message::Heartbeat { seq, echo, roster } => {
                    self.received_heartbeat(now, peer, Beat { seq, echo, roster, arrived });
                }
                Message::PeersRequest => self.answer_list(now, peer, session),
                Message::Peers { records, more } => self.received_list(now, peer, remote, records, more),
                Message::Notice(notice) => self.received_notice(notice),
                Message::Hello(_) | Message::Bye(_) | Message::Ping { .. } | Message::Broadcast { .. } => {}
            }
        }
        self.pump_dials(now);
    }

    fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn report(&mut self, report: Report) {
        self.outputs.push_back(Output::Report(report));
    }

    fn notify(&mut self, event: Event) {
        self.outputs.push_back(Output::Notify(event));
    }

    /// Sends on the peer's active session, if it has one.
    fn send(&mut self, now: Instant, peer: &PeerId, message: Message) {
        let active = self.peers.get(peer).and_then(Peer::live).and_then(peer::Live::active);
        if let Some(session) = active {
            self.sending(now, peer);
            self.output(Output::Send { session, message });
        }
    }

    fn random_between(&mut self, low: Duration, high: Duration) -> Duration {
        backoff::between(&mut self.rng, low, high)
    }

    fn is_live(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.live().is_some())
    }
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
