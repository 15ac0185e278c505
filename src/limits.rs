//! Every default, limit and interval, each with its unit and its reason.

use std::time::Duration;

/// TCP port a node listens on unless told otherwise.
pub const PORT_DEFAULT: u16 = 8080;
/// Time between pings to a peer unless told otherwise.
pub const PERIOD_DEFAULT: Duration = Duration::from_secs(5);
/// Shortest accepted ping period: below it a mesh of a few dozen nodes would do little else.
pub const PERIOD_MIN: Duration = Duration::from_millis(10);
/// Longest accepted ping period, a day: anything above is a typing error.
pub const PERIOD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Time between heartbeats to a peer unless told otherwise.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Shortest accepted time between heartbeats: faster ones cost a busy machine its own punctuality.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// Longest accepted time between heartbeats: peers wait for three of them, and none waits longer
/// than a minute ([`PEER_TIMEOUT_MAX`]).
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(20);
/// Heartbeats of silence after which a peer is dead unless told otherwise: one may be late, one lost.
pub const TIMEOUT_HEARTBEATS: u32 = 3;
/// Heartbeats of silence that are the least accepted: a single late one is no death.
pub const TIMEOUT_HEARTBEATS_MIN: u32 = 2;
/// Silence after which a peer is dead unless told otherwise.
pub const TIMEOUT: Duration = HEARTBEAT.saturating_mul(TIMEOUT_HEARTBEATS);
/// Longest accepted timeout: a dead peer would count as a member for an hour.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60 * 60);
/// Longest time that a peer gets because of its own slow heartbeats, so that no peer counts as alive endlessly.
pub const PEER_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Time a dead peer is remembered and redialled unless told otherwise. Only time counts in which this node runs
/// and is connected to another peer.
pub const FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Shortest accepted time to remember a dead peer: below it no dead peer would be redialled.
pub const FORGET_AFTER_MIN: Duration = Duration::from_secs(1);
/// Longest accepted time to remember a dead peer, a year: anything above is a typing error.
pub const FORGET_AFTER_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Default number of peers known at once, in any state; a full mesh of more is beyond the
/// descriptors that most systems give a process.
pub const PEERS_MAX: usize = 1024;
/// Most peers that may be asked for: four thousand threads are the end of what a machine does well.
pub const PEERS_LIMIT: usize = 4096;

/// Network keys at once: the one in use, and the one before or after it.
pub const NETWORK_KEYS_MAX: usize = 2;
/// Bytes in a node's name: one label, not a document.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes in the text of a ping.
pub const PING_TEXT_BYTES_MAX: usize = 256;
/// Bytes in a broadcast message: a line of text or a small document, not a file transfer.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// Wait for an answer to a TCP connection attempt. Short, as a fresh attempt finds a healed network
/// sooner than the kernel's ever rarer retries of an old one.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// IP addresses of a name that one dial tries. Any peer can tell a name that has thousands, and so direct
/// this node's connection attempts at machines of its choice.
pub const NAME_ADDRS_MAX: usize = 4;
/// Lookups under way at once of names that peers told: this many for peers that were met and as many for
/// peers never met. A name server that does not answer holds no more dials than that.
pub const PEER_LOOKUPS_AT_ONCE: usize = 4;
/// Such lookups that may start at once, each kind of its own: a node that joins a mesh of some dozens of
/// names looks them all up.
pub const PEER_LOOKUPS_BURST: u32 = 32;
/// Such lookups per second in the long run, for each kind of peer, regardless of the names that peers tell: each costs the
/// name server two queries or more.
pub const PEER_LOOKUPS_PER_SECOND: u32 = 4;
/// Lookups under way at once of names given with `--connect`: as many as there may be dials.
pub const USER_LOOKUPS_AT_ONCE: usize = 16;
/// Such lookups that may start at once: as many as dials.
pub const USER_LOOKUPS_BURST: u32 = 128;
/// Such lookups per second in the long run: 64 names that do not answer are each looked up every 2 seconds.
pub const USER_LOOKUPS_PER_SECOND: u32 = 32;
/// From accept or dial until the other side's Hello, all together: a silent or slow stranger holds
/// a thread no longer than this, and a hundred nodes can still start at once on a small machine.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From our goodbye until the other side has closed as well.
pub const LINGER: Duration = Duration::from_secs(2);
/// From our goodbye until the process may go when it leaves the mesh.
pub const LEAVE_FLUSH: Duration = Duration::from_millis(500);
/// From a change among the known peers until it is handed over to be written: a mesh that forms
/// changes many times a second.
pub const PERSIST_DELAY: Duration = Duration::from_millis(500);
/// Between two times at which the known peers are written though none has come or gone: when they
/// were last seen has changed, and is all that a killed node has to tell who is long gone.
pub const PERSIST_EVERY: Duration = Duration::from_secs(10 * 60);
/// First and longest wait before known peers that could not be written are written again.
pub const PERSIST_RETRY_MIN: Duration = Duration::from_secs(1);
/// See [`PERSIST_RETRY_MIN`].
pub const PERSIST_RETRY_MAX: Duration = Duration::from_secs(60);
/// From the end of a node until it no longer waits for its disk: with [`LEAVE_FLUSH`] less than a
/// second.
pub const PERSIST_FLUSH: Duration = Duration::from_millis(400);
/// A peer that takes none of the bytes waiting for it for this long is too slow.
pub const WRITE_STALL: Duration = Duration::from_secs(10);

/// Accepted connections that have not yet said Hello. For one more, the oldest connection of the source
/// that holds the most gives way, so strangers that say nothing never keep a peer out.
pub const UNAUTHENTICATED_MAX: usize = 256;
/// Connections that may wait in the kernel to be accepted: a whole mesh may dial at once.
pub const BACKLOG: i32 = 1024;
/// Frames waiting to be sent to one peer; more means that it is too slow.
pub const OUTBOX_FRAMES: usize = 256;
/// Frames waiting for one peer above which broadcast messages pass it by: a node that broadcasts faster
/// than a peer reads must not take the room that heartbeats need, and so end the connection.
pub const OUTBOX_FRAMES_WITH_MESSAGES: usize = OUTBOX_FRAMES / 2;
/// Session events waiting for the coordinator; beyond it sessions wait, and TCP slows their peers. The
/// places are made, and take memory, when the node starts.
pub const INBOX_EVENTS: usize = 256;
/// Events waiting for the user; beyond it they are dropped and counted.
pub const EVENTS_QUEUED: usize = 4096;
/// Events waiting above which pings and messages are dropped: a peer that floods this node must not
/// hide who comes and goes.
pub const EVENTS_QUEUED_WITH_TRAFFIC: usize = EVENTS_QUEUED / 2;
/// Frames taken from one peer per second in the long run, and at once; who sends more is read
/// more slowly. An honest peer sends a few.
pub const FRAMES_PER_SECOND: u32 = 2000;
/// See [`FRAMES_PER_SECOND`].
pub const FRAMES_BURST: u32 = 4000;
/// Virtual memory for the stack of a session's thread, on which names are looked up and keys exchanged; only the pages
/// that it touches take memory.
pub const SESSION_STACK_BYTES: usize = 512 * 1024;

/// Addresses told for one peer.
pub const ADDRS_MAX: usize = 4;
