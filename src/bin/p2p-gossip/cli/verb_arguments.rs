//! The verbs and their arguments. argh finds the verb, and its descriptions and notes are the help texts.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use super::action::{KeySource, Keygen, Verb};
use super::control_arguments::{
    AllowArguments, ConnectArguments, DenyArguments, DoctorArguments, LeaveArguments, MembersArguments,
    PingArguments, ReloadArguments, RotateArguments, SendArguments, StatusArguments, WaitArguments,
    WatchArguments, WhyArguments, control_socket, no_node_named,
};
use super::usage_error::UsageError;
use super::values::{IdPrefix, Output, parse_file, parse_id_prefix};

/// A verb with its arguments as argh takes them.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand)]
pub(super) enum VerbArguments {
    Keygen(KeygenArguments),
    Id(IdArguments),
    Peers(PeersArguments),
    Forget(ForgetArguments),
    Invite(InviteArguments),
    Members(MembersArguments),
    Status(StatusArguments),
    Watch(WatchArguments),
    Why(WhyArguments),
    Ping(PingArguments),
    Send(SendArguments),
    Connect(ConnectArguments),
    Allow(AllowArguments),
    Deny(DenyArguments),
    Reload(ReloadArguments),
    Rotate(RotateArguments),
    Leave(LeaveArguments),
    Wait(WaitArguments),
    Doctor(DoctorArguments),
}

impl VerbArguments {
    pub(super) fn check(self) -> Result<Verb, UsageError> {
        match self {
            Self::Keygen(arguments) => arguments.check(),
            Self::Id(arguments) => arguments.check(),
            Self::Peers(arguments) => Ok(arguments.check()),
            Self::Invite(arguments) => Ok(arguments.check()),
            Self::Forget(arguments) => arguments.check(),
            Self::Members(arguments) => arguments.check(),
            Self::Status(arguments) => arguments.check(),
            Self::Watch(arguments) => arguments.check(),
            Self::Why(arguments) => arguments.check(),
            Self::Ping(arguments) => arguments.check(),
            Self::Send(arguments) => arguments.check(),
            Self::Connect(arguments) => arguments.check(),
            Self::Allow(arguments) => arguments.check(),
            Self::Deny(arguments) => arguments.check(),
            Self::Reload(arguments) => arguments.check(),
            Self::Rotate(arguments) => arguments.check(),
            Self::Leave(arguments) => arguments.check(),
            Self::Wait(arguments) => arguments.check(),
            Self::Doctor(arguments) => Ok(arguments.check()),
        }
    }
}

/// make the key of a node or of a network
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "keygen",
    note = "Never overwrites a file. Prints the id of a node's key. Only the owner can read\nthe files with secrets."
)]
pub(super) struct KeygenArguments {
    /// file for a new private key of a node
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    key: Option<PathBuf>,

    /// file for that key's certificate
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    cert: Option<PathBuf>,

    /// file for a new key of a closed network
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    network: Option<PathBuf>,
}

impl KeygenArguments {
    fn check(self) -> Result<Verb, UsageError> {
        let (node, network) = match (self.key, self.cert, self.network) {
            (Some(key), Some(cert), network) => (Some((key, cert)), network),
            (None, None, Some(network)) => (None, Some(network)),
            (None, None, None) => {
                return Err(UsageError::new("keygen needs --key and --cert, or --network"));
            }
            (Some(_), None, _) => {
                return Err(UsageError::new("--key needs --cert for the key's certificate"));
            }
            (None, Some(_), _) => return Err(UsageError::new("--cert needs --key for the private key")),
        };
        Ok(Verb::Keygen(Keygen { node, network }))
    }
}

/// print the id of a key
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "id",
    note = "The id is the SHA-256 of the public key. A node with this key has this id."
)]
pub(super) struct IdArguments {
    /// PEM private key
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    key: Option<PathBuf>,

    /// PEM certificate
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    cert: Option<PathBuf>,

    /// state directory of a node
    #[argh(option, arg_name = "DIR", from_str_fn(parse_file))]
    state: Option<PathBuf>,
}

impl IdArguments {
    fn check(self) -> Result<Verb, UsageError> {
        match (self.key, self.cert, self.state) {
            (Some(key), None, None) => Ok(Verb::Id(KeySource::Key(key))),
            (None, Some(cert), None) => Ok(Verb::Id(KeySource::Certificate(cert))),
            (None, None, Some(state)) => Ok(Verb::Id(KeySource::State(state))),
            _ => Err(UsageError::new("id needs one of --key, --cert and --state")),
        }
    }
}

/// list the peers that a node knows
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "peers", note = "Reads the state directory of a node, which may be running.")]
pub(super) struct PeersArguments {
    /// state directory of the node
    #[argh(option, arg_name = "DIR", from_str_fn(parse_file))]
    state: PathBuf,

    /// text or json, one object on each line [default: text]
    #[argh(option, arg_name = "FORMAT")]
    output: Option<Output>,
}

impl PeersArguments {
    fn check(self) -> Verb {
        Verb::Peers(self.state, self.output.unwrap_or_default())
    }
}

/// make a node forget a peer
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "forget",
    note = "Asks the node if it runs; otherwise changes its state directory. A connected\npeer is not forgotten: deny it first."
)]
pub(super) struct ForgetArguments {
    /// state directory of the node
    #[argh(option, arg_name = "DIR", from_str_fn(parse_file))]
    state: Option<PathBuf>,

    /// control socket of the node
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    control: Option<PathBuf>,

    /// id of the peer, or at least its first 8 digits
    #[argh(positional, arg_name = "ID", from_str_fn(parse_id_prefix))]
    id: IdPrefix,
}

impl ForgetArguments {
    fn check(self) -> Result<Verb, UsageError> {
        let socket = control_socket(self.control, self.state.as_deref()).ok_or_else(no_node_named)?;
        Ok(Verb::Forget { socket, state: self.state, prefix: self.id })
    }
}

/// print the command with which another node joins
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "invite",
    note = "The command contains a ticket with the key of the closed network:\nevery holder can join. Works while the node runs, and after it has\nstopped."
)]
pub(super) struct InviteArguments {
    /// state directory of a node of a closed network
    #[argh(option, arg_name = "DIR", from_str_fn(parse_file))]
    state: PathBuf,

    /// print the ticket as a QR code
    #[argh(switch)]
    qr: bool,
}

impl InviteArguments {
    fn check(self) -> Verb {
        Verb::Invite { state: self.state, as_qr_code: self.qr }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::testing::{error, verb};
    use super::*;

    #[test]
    fn keygen_needs_key_and_cert_together() {
        let (node, network) = (Some(("k".into(), "c".into())), Some("n".into()));
        for (line, node, network) in [
            (&["keygen", "--key=k", "--cert=c"][..], node.clone(), None),
            (&["keygen", "--network=n"], None, network.clone()),
            (&["keygen", "--key=k", "--cert=c", "--network=n"], node, network),
        ] {
            let Verb::Keygen(made) = verb(line).unwrap() else { panic!("not keygen: {line:?}") };
            assert_eq!(made, Keygen { node, network });
        }
        assert_eq!(error(&["keygen"]), "keygen needs --key and --cert, or --network");
        assert_eq!(error(&["keygen", "--key=k"]), "--key needs --cert for the key's certificate");
        assert_eq!(error(&["keygen", "--cert=k", "--network=n"]), "--cert needs --key for the private key");
    }

    #[test]
    fn peers_and_forget_take_a_state_directory_and_an_id_prefix() {
        assert!(matches!(verb(&["peers", "--state=s"]), Ok(Verb::Peers(_, Output::Text))));
        assert!(matches!(
            verb(&["peers", "--output", "json", "--state=s"]),
            Ok(Verb::Peers(_, Output::Json))
        ));
        assert_eq!(error(&["peers"]), "option --state is missing");
        assert_eq!(error(&["peers", "--state=s", "x"]), "unexpected argument 'x'");
        for line in [&["forget", "--state=s", "ABCDEF01"][..], &["forget", "ABCDEF01", "--state", "s"]] {
            let Verb::Forget { socket, state, prefix } = verb(line).unwrap() else { panic!("{line:?}") };
            assert_eq!((socket, state), ("s/control".into(), Some("s".into())));
            assert_eq!(prefix.to_string(), "abcdef01");
        }
        assert_eq!(error(&["forget", "--state=s"]), "ID is missing");
        assert_eq!(error(&["forget", "abcdef0123"]), "name the node with --state or --control");
        for bad in ["abcdef0", "abcdefgh", "", &"a".repeat(65)] {
            let message = error(&["forget", "--state=s", bad]);
            assert!(message.contains("from 8 to 64 hexadecimal digits"), "{message}");
        }
    }

    #[test]
    fn id_takes_exactly_one_source() {
        let source = |line: &[&str]| match verb(line).unwrap() {
            Verb::Id(source) => source,
            other => panic!("{other:?}"),
        };
        assert_eq!(source(&["id", "--key", "k"]), KeySource::Key("k".into()));
        assert_eq!(source(&["id", "--cert=c"]), KeySource::Certificate("c".into()));
        assert_eq!(source(&["id", "--state=s"]), KeySource::State("s".into()));
        for line in [&["id"][..], &["id", "--key=k", "--cert=c"], &["id", "--key=k", "--state=c"]] {
            assert_eq!(error(line), "id needs one of --key, --cert and --state");
        }
        assert_eq!(error(&["id", "me"]), "unexpected argument 'me'");
    }
}
