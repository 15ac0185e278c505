//! Every default, limit and interval, each with its unit and its reason.

use std::time::Duration;

/// Default TCP port on which a node listens.
pub const PORT_DEFAULT: u16 = 8080;
/// Default time between pings to a peer.
pub const PERIOD_DEFAULT: Duration = Duration::from_secs(5);
/// Shortest accepted ping period: below it a mesh of a few dozen nodes would do little else.
pub const PERIOD_MIN: Duration = Duration::from_millis(10);
/// Longest accepted ping period, a day: anything above is a typing error.
pub const PERIOD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Default time between heartbeats to a peer.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Shortest accepted time between heartbeats: a busy machine would send faster ones late.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// Longest accepted time between heartbeats: peers wait for three of them, and none waits longer
/// than a minute ([`PEER_TIMEOUT_MAX`]).
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(20);
/// Default timeout in heartbeats: of the heartbeats of one timeout, one may be late and one lost.
pub const TIMEOUT_HEARTBEATS: u32 = 3;
/// Shortest accepted timeout in heartbeats: a single late heartbeat must not end a session.
pub const TIMEOUT_HEARTBEATS_MIN: u32 = 2;
/// Default silence after which a peer is dead.
pub const TIMEOUT: Duration = HEARTBEAT.saturating_mul(TIMEOUT_HEARTBEATS);
/// Longest accepted timeout: a dead peer would count as a member for an hour.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60 * 60);
/// Longest time that a peer gets because of its own slow heartbeats, so that no peer counts as alive endlessly.
pub const PEER_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Default time for which a dead peer is remembered and redialled. Only time counts in which this node runs and is
/// connected to another peer.
pub const FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Shortest accepted time to remember a dead peer: below it no dead peer would be redialled.
pub const FORGET_AFTER_MIN: Duration = Duration::from_secs(1);
/// Longest accepted time to remember a dead peer, a year: anything above is a typing error.
pub const FORGET_AFTER_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Default number of peers known at once, in any state; a full mesh of more is beyond the
/// descriptors that most systems give a process.
pub const PEERS_MAX: usize = 1024;
/// Largest accepted number of peers: each needs a thread, and a machine runs about four thousand well.
pub const PEERS_LIMIT: usize = 4096;

/// A peer that was a member for this long is acquainted: strangers, whose keys are free, take no place of it.
pub const ACQUAINTED_AFTER: Duration = Duration::from_secs(60);

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
/// Concurrent lookups of names from peer lists: this many for peers that this node has met, and as many for peers
/// that it has never met. A name server that does not answer delays no more dials than that.
pub const PEER_LOOKUPS_AT_ONCE: usize = 4;
/// Such lookups that may start at once, for each kind of peer: a node that joins a mesh of some dozens of names
/// looks all of them up.
pub const PEER_LOOKUPS_BURST: u32 = 32;
/// Such lookups per second in the long run, for each kind of peer, regardless of the number of names: each costs
/// the name server two queries or more.
pub const PEER_LOOKUPS_PER_SECOND: u32 = 4;
/// Concurrent lookups of names given with `--connect`: as many as dials.
pub const USER_LOOKUPS_AT_ONCE: usize = 16;
/// Such lookups that may start at once: as many as dials.
pub const USER_LOOKUPS_BURST: u32 = 128;
/// Such lookups per second in the long run: 64 names that do not answer are each looked up every 2 seconds.
pub const USER_LOOKUPS_PER_SECOND: u32 = 32;
/// From accept or dial until the other side's Hello, all together: a silent or slow stranger holds
/// a thread no longer than this, and a hundred nodes can still start at once on a small machine.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait from this node's goodbye until the other side has closed as well.
pub const LINGER: Duration = Duration::from_secs(2);
/// Longest time from the node's goodbye until its process ends, when it leaves the mesh.
pub const LEAVE_FLUSH: Duration = Duration::from_millis(500);
/// Delay from a change of the known peers until they are written: a mesh that forms changes many times a second.
pub const PERSIST_DELAY: Duration = Duration::from_millis(500);
/// Interval at which the known peers are written although none was added or removed: the times at which they were
/// last seen have changed. After a kill, these times tell the next run which peers have been gone for long.
pub const PERSIST_EVERY: Duration = Duration::from_secs(10 * 60);
/// First and longest wait before known peers that could not be written are written again.
pub const PERSIST_RETRY_MIN: Duration = Duration::from_secs(1);
/// See [`PERSIST_RETRY_MIN`].
pub const PERSIST_RETRY_MAX: Duration = Duration::from_secs(60);
/// Longest time that an ending node waits for its disk: with [`LEAVE_FLUSH`] less than a second.
pub const PERSIST_FLUSH: Duration = Duration::from_millis(400);
/// A peer that takes none of the bytes waiting for it for this long is too slow.
pub const WRITE_STALL: Duration = Duration::from_secs(10);

/// Most accepted connections that have not yet sent a Hello. One more evicts the oldest connection of the source
/// that has the most, so silent strangers never keep a peer out.
pub const UNAUTHENTICATED_MAX: usize = 256;
/// Connections that may wait in the kernel to be accepted: a whole mesh may dial at once.
pub const BACKLOG: i32 = 1024;
/// Frames waiting to be sent to one peer; more means that it is too slow.
pub const OUTBOX_FRAMES: usize = 256;
/// Frames waiting for one peer above which broadcast messages leave it out: a node that broadcasts faster than a peer
/// reads must not fill the room that pings and lists need, and so end the connection.
pub const OUTBOX_FRAMES_WITH_MESSAGES: usize = OUTBOX_FRAMES / 2;
/// Sessions of one key that are up or closing. The mesh keeps four that are up; the others say goodbye.
pub const SESSIONS_PER_KEY_MAX: usize = 8;
/// Sessions beside one for each peer: those that say goodbye, and those that the mesh has not judged yet. In a mesh
/// that forms some dials cross, and a refused peer reads the reason.
pub const SESSIONS_BESIDE_MEMBERS: usize = 64;
/// Sessions that one key may open at once: a node that restarts again and again, or loses its link often.
pub const KEY_SESSIONS_BURST: u32 = 32;
/// Sessions that one key may open per second in the long run. A node dials a lost peer less often.
pub const KEY_SESSIONS_PER_SECOND: u32 = 4;
/// Keys whose rates are kept: those of all peers, and more, so that the rate of a key lasts longer than its session.
pub const KEYS_RATED_MAX: usize = 2 * PEERS_LIMIT;
/// Sessions that keep more than 4 KiB of received bytes while they wait. Each keeps 128 KiB at most; the longest honest
/// frame arrives in milliseconds.
pub const LONG_FRAMES_MAX: usize = 64;
/// Session events waiting for the coordinator; beyond it sessions wait, and TCP slows their peers. The queue's
/// memory is allocated when the node starts.
pub const INBOX_EVENTS: usize = 256;
/// Events waiting for the user; beyond it they are dropped and counted.
pub const EVENTS_QUEUED: usize = 4096;
/// Waiting events above which pings and messages are dropped: a peer that floods this node must not hide up and
/// down events.
pub const EVENTS_QUEUED_WITH_TRAFFIC: usize = EVENTS_QUEUED / 2;
/// Frames accepted from one key per second in the long run, on all of its sessions together. They read a peer that
/// sends more at this rate; an honest peer sends a few.
pub const FRAMES_PER_SECOND: u32 = 2000;
/// Frames accepted from one key at once.
pub const FRAMES_BURST: u32 = 4000;
/// Virtual memory for the stack of a thread on which names are looked up and keys exchanged, or a session runs; only the
/// pages that it touches take memory.
pub const SESSION_STACK_BYTES: usize = 512 * 1024;

/// Most addresses in a list for one peer.
pub const ADDRS_MAX: usize = 4;

/// Bytes that one end of a circuit may send before the other end has taken some: enough for 0.6 MB a second between
/// two continents. No more than that waits for a slow end.
pub const CIRCUIT_WINDOW_BYTES: usize = 64 * 1024;
/// The least that a message about the bytes of a circuit counts for: about the work that it makes.
pub const CIRCUIT_MESSAGE_BYTES_MIN: usize = 1024;
/// Bytes that a stranger's key may send in circuits at once: as many as fit into the messages that one peer accepts at
/// once from it.
pub const CIRCUIT_BYTES_BURST_OF_STRANGER: usize = 16 * 1024 * 1024;
/// Bytes that a stranger's key may send in circuits per second in the long run: as many as one peer accepts from it.
pub const CIRCUIT_BYTES_PER_SECOND_OF_STRANGER: usize = 8 * 1024 * 1024;
/// Bytes that the key of a peer above strangers may send in circuits at once: it may send to several peers.
pub const CIRCUIT_BYTES_BURST: usize = 64 * 1024 * 1024;
/// Bytes that such a key may send in circuits per second in the long run: half of a link of 1 Gbit/s.
pub const CIRCUIT_BYTES_PER_SECOND: usize = 64 * 1024 * 1024;
