//! The checked command line: run a node, execute a verb, or print a text.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use p2p_gossip::{AccessSources, Config, ConnectAddr};

use super::values::{IdPrefix, Output, PeerText, TicketSource};

/// An action of the program.
#[derive(Debug)]
pub(crate) enum Action {
    /// Run a node with these options.
    Run(Box<Options>),
    /// Execute this verb and exit.
    Verb(Verb),
    /// Print this text and exit: a help text or the version.
    Print(String),
}

/// A verb with its arguments, checked.
#[derive(Debug)]
pub(crate) enum Verb {
    /// Make keys.
    Keygen(Keygen),
    /// Print the id of a key.
    Id(KeySource),
    /// List the known peers in this state directory.
    Peers(PathBuf, Output),
    /// Print a ticket for the network of this state directory, or its QR code.
    Invite { state: PathBuf, as_qr_code: bool },
    /// Make the node at this control socket forget a peer, or remove it from this state directory if no node runs.
    Forget { socket: PathBuf, state: Option<PathBuf>, prefix: IdPrefix },
    /// Ask the node at this control socket.
    Control(PathBuf, ControlVerb, Output),
    /// Look for what usually goes wrong.
    Doctor(Doctor, Output),
}

/// What `why` is asked about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Peer(PeerText),
    /// An address of `--connect`, as the user wrote it.
    Addr(String),
}

/// A verb that asks a running node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ControlVerb {
    Members,
    Status,
    Watch,
    Why(Subject),
    Ping(PeerText),
    Send(String),
    Connect(ConnectAddr),
    Allow(IdPrefix),
    Deny(IdPrefix),
    Reload,
    /// The time for which the key before is accepted.
    Rotate(Duration),
    Leave,
    Wait {
        members: usize,
        timeout: Duration,
    },
}

/// What the verb `doctor` looks at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Doctor {
    /// The state directory of the node.
    pub(crate) state: Option<PathBuf>,
    /// Addresses of peers.
    pub(crate) connect: Vec<ConnectAddr>,
    /// Files with network keys, besides that of the state directory.
    pub(crate) network_keys: Vec<PathBuf>,
    /// The port on which the node listens, or is to listen.
    pub(crate) port: u16,
}

/// The file or directory with the key whose id the verb `id` prints.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// A file with a private key.
    Key(PathBuf),
    /// A file with a certificate.
    Certificate(PathBuf),
    /// A state directory.
    State(PathBuf),
}

/// The key files that the verb `keygen` writes; at least one field is set.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Keygen {
    /// The files for a node's private key and certificate.
    pub(crate) node: Option<(PathBuf, PathBuf)>,
    /// The file for the key of a closed network.
    pub(crate) network: Option<PathBuf>,
}

/// The options of a node.
#[derive(Debug)]
pub(crate) struct Options {
    /// The checked configuration, without access lists and network keys.
    pub(crate) config: Config,
    /// Whether the name in the configuration is the beginning of a longer host name.
    pub(crate) is_name_shortened: bool,
    /// The source of the node's key and certificate.
    pub(crate) identity: IdentitySource,
    /// The sources of the allow and deny lists.
    pub(crate) access: AccessSources,
    /// The state directory, which keeps the node's key and known peers.
    pub(crate) state: Option<PathBuf>,
    /// Files of network keys; the node proves the first key.
    pub(crate) network_keys: Vec<PathBuf>,
    /// How the node belongs to a closed network whose key is in the state directory.
    pub(crate) membership: Membership,
    /// The format of stdout.
    pub(crate) output: Output,
    /// Whether stdout shows pings.
    pub(crate) shows_pings: bool,
    /// The reaction to the end of stdin; `None` if it does not read stdin.
    pub(crate) stdin: Option<AfterStdin>,
    /// The program to run for events.
    pub(crate) on_event: Option<OnEvent>,
    /// The program that is run for alerts.
    pub(crate) alert: Option<PathBuf>,
    /// The address of the HTTP server.
    pub(crate) http: Option<SocketAddr>,
    /// The control socket.
    pub(crate) control: Option<PathBuf>,
    /// Whether the user gave no argument at all.
    pub(crate) is_bare: bool,
}

/// A program to run for events.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OnEvent {
    /// A path, or a name to find in PATH.
    pub(crate) program: PathBuf,
    /// Whether it also runs for pings.
    pub(crate) with_pings: bool,
}

/// The node's reaction to the end of its standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterStdin {
    /// It stays in the mesh.
    Stay,
    /// It leaves the mesh, and the program exits; also if the node has not joined in this time.
    Leave { join_timeout: Duration },
}

/// How a node belongs to a closed network whose key is in its state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Membership {
    /// It uses the key in the directory, if there is one.
    AsStored,
    /// It makes a key, unless the directory has one.
    Closed,
    /// It joins with a ticket.
    Joins(TicketSource),
}

/// The source of a node's key and certificate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum IdentitySource {
    /// The state directory; without one, a new key that is never written.
    Default,
    /// A key file; the certificate is made for it.
    Key(PathBuf),
    /// A key file and a certificate file.
    KeyAndCertificate(PathBuf, PathBuf),
}
