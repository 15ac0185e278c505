//! The verbs: each returns a text for stdout or an error.

mod control;
mod doctor;
mod forget;
mod id;
pub(crate) mod invite;
mod keygen;
mod peers;
mod running_node;
mod watch;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use p2p_gossip::{Escaped, IdentityError, NetworkKeyError, StateError};

use crate::cli::{IdPrefix, Verb};
use crate::http::{Client, ClientError};
use crate::output::count;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerbError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    NetworkKey(#[from] NetworkKeyError),
    #[error("cannot write the network key {}: entity already exists", .0.display())]
    NetworkKeyExists(PathBuf),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("a node uses {}{}; stop it first, or it writes the peer back", path.display(), process(*pid))]
    NodeRuns { path: PathBuf, pid: Option<u32> },
    #[error("no known peer has an id that begins with {0}")]
    NoSuchPeer(IdPrefix),
    #[error("{count} known peers have ids that begin with {prefix}; give more digits")]
    Ambiguous { prefix: IdPrefix, count: usize },
    // Does not repeat the name: a user may have pasted a secret.
    #[error("no known peer has this name; an id needs at least 8 digits")]
    NoSuchName,
    #[error("several known peers have this name; give the id of one: {}", Escaped(.0))]
    AmbiguousName(String),
    #[error("{} has no network key; start its node with --closed or --join first", .0.display())]
    NotClosed(PathBuf),
    #[error("no address of a member is known for the ticket; start the node of {} first", .0.display())]
    NoAddress(PathBuf),
    #[error("the ticket is too long for a QR code")]
    TooLongForQrCode,
    #[error("cannot show the peers as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the answer of the node is not understood; is it another version?")]
    Answer,
    #[error("the node did not hear {0} within its timeout")]
    Unheard(String),
    #[error("{members} of {} after {}s", count(*wanted, "member"), waited.as_secs())]
    TooFewMembers { members: usize, wanted: usize, waited: Duration },
    #[error("cannot use the terminal: {0}")]
    Terminal(#[from] io::Error),
    /// The findings are printed already.
    #[error("{0}; see above")]
    Findings(String),
}

/// Executes the verb and returns the text for stdout.
pub(crate) fn perform(verb: Verb) -> Result<String, VerbError> {
    match verb {
        Verb::Keygen(keys) => keygen::keygen(&keys),
        Verb::Id(source) => id::id(&source),
        Verb::Peers(state, output) => peers::peers(&state, output),
        Verb::Invite { state, as_qr_code } => invite::invite(&state, as_qr_code),
        Verb::Forget { socket, state, prefix } => forget::forget(socket, state.as_deref(), prefix),
        Verb::Control(socket, verb, output) => control::perform(&Client::new(socket), verb, output),
        Verb::Doctor(doctor, output) => doctor::doctor(&doctor, output),
    }
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}
