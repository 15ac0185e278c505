//! What the command line asks for.

use std::net::SocketAddr;
use std::path::PathBuf;

use p2p_gossip::{AccessSources, Config};

use super::values::{IdPrefix, Output};

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Action {
    /// Run a node.
    Run(Box<Options>),
    /// Do this and end.
    Verb(Verb),
    /// Print this text and end: a help or the version.
    Print(String),
}

/// A verb with its arguments, checked.
#[derive(Debug)]
pub(crate) enum Verb {
    /// Make keys.
    Keygen(Keygen),
    /// Print the id of a key.
    Id(KeySource),
    /// List the peers known in a state directory.
    Peers(PathBuf, Output),
    /// Remove one of them.
    Forget(PathBuf, IdPrefix),
}

/// Where a key is whose id is wanted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// In this private key.
    Key(PathBuf),
    /// In this certificate.
    Certificate(PathBuf),
    /// In this state directory.
    State(PathBuf),
}

/// What keys to make, and where; at least one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Keygen {
    /// Of a node: the private key's file and the certificate's.
    pub(crate) node: Option<(PathBuf, PathBuf)>,
    /// Of a closed network.
    pub(crate) network: Option<PathBuf>,
}

/// Everything needed to run a node.
#[derive(Debug)]
pub(crate) struct Options {
    /// Checked.
    pub(crate) config: Config,
    /// Where the key and certificate come from.
    pub(crate) identity: IdentitySource,
    /// Where the lists of who may be a peer come from.
    pub(crate) access: AccessSources,
    /// Where its key and the peers that it knows are kept, if anywhere.
    pub(crate) state: Option<PathBuf>,
    /// Files of network keys; the first one's is to be proven.
    pub(crate) network_keys: Vec<PathBuf>,
    /// What stdout carries.
    pub(crate) output: Output,
    /// Whether stdout shows pings.
    pub(crate) shows_pings: bool,
    /// Whether the lines of stdin are messages, and what comes after the last one.
    pub(crate) stdin: Option<AfterStdin>,
    /// What is run for events.
    pub(crate) on_event: Option<OnEvent>,
    /// Where to serve the page and what belongs to it.
    pub(crate) http: Option<SocketAddr>,
}

/// A program to run for events.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OnEvent {
    /// A path, or a name to look for in PATH.
    pub(crate) program: PathBuf,
    /// Whether it is run for pings as well.
    pub(crate) with_pings: bool,
}

/// What a node does when its standard input has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterStdin {
    /// It goes on.
    Stay,
    /// It leaves.
    Leave,
}

/// Where a node's key and certificate come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum IdentitySource {
    /// From the state directory; without one made at the start and gone at the end.
    Default,
    /// The key from a file, with a certificate made for it.
    Key(PathBuf),
    /// Both from files.
    KeyAndCertificate(PathBuf, PathBuf),
}
