//! The arguments of the verbs that ask a running node, and of `doctor`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use p2p_gossip::{Config, ConnectAddr};

use super::action::{ControlVerb, Doctor, Subject, Verb};
use super::usage_error::UsageError;
use super::values::{
    GRACE, IdPrefix, JOIN_TIMEOUT, Output, PeerText, parse_file, parse_grace, parse_id_prefix,
    parse_join_timeout, parse_members, parse_peer, parse_port,
};

/// The name of the control socket in a state directory.
const CONTROL: &str = "control";

/// The control socket: the one that the user names, or that of the state directory.
pub(super) fn control_socket(control: Option<PathBuf>, state: Option<&Path>) -> Option<PathBuf> {
    control.or_else(|| state.map(|state| state.join(CONTROL)))
}

pub(super) fn no_node_named() -> UsageError {
    UsageError::new("name the node with --state or --control")
}

/// The arguments of one verb: those that all of these verbs have, and its own.
macro_rules! control_verb {
    ($arguments:ident, $name:tt, $about:tt, $note:tt, { $($own:tt)* }, |$self:ident| $verb:expr) => {
        #[doc = $about]
        #[derive(Debug, FromArgs, ArgsInfo)]
        #[argh(subcommand, name = $name, note = $note)]
        pub(super) struct $arguments {
            /// state directory of the running node
            #[argh(option, arg_name = "DIR", from_str_fn(parse_file))]
            state: Option<PathBuf>,

            /// control socket of the running node
            #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
            control: Option<PathBuf>,

            /// text or json, one object on each line [default: text]
            #[argh(option, arg_name = "FORMAT")]
            output: Option<Output>,

            $($own)*
        }

        impl $arguments {
            pub(super) fn check(self) -> Result<Verb, UsageError> {
                let $self = self;
                let socket = control_socket($self.control, $self.state.as_deref()).ok_or_else(no_node_named)?;
                let verb: Result<ControlVerb, UsageError> = $verb;
                Ok(Verb::Control(socket, verb?, $self.output.unwrap_or_default()))
            }
        }
    };
}

control_verb!(
    MembersArguments,
    "members",
    "list the peers of a running node",
    "Those that are up come first. SILENCE is the time since a peer's last message.",
    {},
    |_this| Ok(ControlVerb::Members)
);

control_verb!(
    StatusArguments,
    "status",
    "show the state of a running node",
    "The JSON is that of /status.",
    {},
    |_this| Ok(ControlVerb::Status)
);

control_verb!(
    WatchArguments,
    "watch",
    "show the peers of a running node as they change",
    "Keys: s sorts by state, n by name, r by round-trip time; q ends it. Without a\nterminal it prints the list again whenever a peer has changed its state.",
    {},
    |_this| Ok(ControlVerb::Watch)
);

control_verb!(
    WhyArguments,
    "why",
    "say what a running node knows of a peer",
    "Shows its addresses and where each comes from, dials and their errors, sessions\nand losses. With an address of --connect it tells of the dials to it.",
    {
        /// id, its first 8 digits or more, name, or host:port
        #[argh(positional, arg_name = "PEER")]
        peer: String,
    },
    |this| match (parse_peer(&this.peer), this.peer.parse::<ConnectAddr>()) {
        (Ok(PeerText::Name(_)) | Err(_), Ok(_)) => Ok(ControlVerb::Why(Subject::Addr(this.peer))),
        (Ok(peer), _) => Ok(ControlVerb::Why(Subject::Peer(peer))),
        (Err(error), Err(_)) => {
            Err(UsageError::new(format!("wrong PEER: {error}, or an address of --connect")))
        }
    }
);

control_verb!(
    PingArguments,
    "ping",
    "send a ping to a peer and see whether it lives",
    "The exit code is 1 if the node does not hear the peer within its timeout.",
    {
        /// id of the peer, its first 8 digits or more, or name
        #[argh(positional, arg_name = "PEER", from_str_fn(parse_peer))]
        peer: PeerText,
    },
    |this| Ok(ControlVerb::Ping(this.peer))
);

control_verb!(
    SendArguments,
    "send",
    "send a text to every peer that is connected",
    "Prints the number of peers that it was sent to. Each receives it at most once.",
    {
        /// the text
        #[argh(positional, arg_name = "TEXT")]
        text: String,
    },
    |this| Ok(ControlVerb::Send(this.text))
);

control_verb!(
    ConnectArguments,
    "connect",
    "have a running node join through one more address",
    "As --connect, until the node stops. See why ADDR for what comes of it.",
    {
        /// host:port, or ID@host:port
        #[argh(positional, arg_name = "ADDR")]
        addr: ConnectAddr,
    },
    |this| Ok(ControlVerb::Connect(this.addr))
);

control_verb!(
    AllowArguments,
    "allow",
    "have a running node allow a peer",
    "Holds until the node stops, and over reload. Takes back deny, and adds the peer\nto the allow list if there is one.",
    {
        /// id of the peer; of a known one, at least 8 digits
        #[argh(positional, arg_name = "ID", from_str_fn(parse_id_prefix))]
        id: IdPrefix,
    },
    |this| Ok(ControlVerb::Allow(this.id))
);

control_verb!(
    DenyArguments,
    "deny",
    "have a running node refuse a peer",
    "Holds until the node stops, and over reload: for longer, use --deny-file.",
    {
        /// id of the peer; of a known one, at least 8 digits
        #[argh(positional, arg_name = "ID", from_str_fn(parse_id_prefix))]
        id: IdPrefix,
    },
    |this| Ok(ControlVerb::Deny(this.id))
);

control_verb!(
    ReloadArguments,
    "reload",
    "have a running node read its files of lists again",
    "As SIGHUP: reads --allow-file and --deny-file. If one is wrong, the old lists\nstay in force.",
    {},
    |_this| Ok(ControlVerb::Reload)
);

control_verb!(
    RotateArguments,
    "rotate",
    "change the key of a closed network",
    "Needs a node with --closed or --join. The other members get the new key\nfrom this node; status counts them. Make new tickets with invite.",
    {
        /// how long the old key counts, e.g. 1d [default: 7d]
        #[argh(option, arg_name = "TIME", from_str_fn(parse_grace))]
        grace: Option<Duration>,
    },
    |this| Ok(ControlVerb::Rotate(this.grace.unwrap_or(GRACE)))
);

control_verb!(
    LeaveArguments,
    "leave",
    "have a running node leave the mesh and stop",
    "As SIGTERM. Returns when the node has begun to leave.",
    {},
    |_this| Ok(ControlVerb::Leave)
);

control_verb!(
    WaitArguments,
    "wait",
    "wait until a running node sees enough members",
    "Also waits for the node to start. The exit code is 1 if the time is over.",
    {
        /// number of members, this node included [default: 2]
        #[argh(option, arg_name = "N", from_str_fn(parse_members))]
        members: Option<usize>,

        /// time to wait at most [default: 60s]
        #[argh(option, arg_name = "TIME", from_str_fn(parse_join_timeout))]
        timeout: Option<Duration>,
    },
    |this| Ok(ControlVerb::Wait {
        members: this.members.unwrap_or(2),
        timeout: this.timeout.unwrap_or(JOIN_TIMEOUT),
    })
);

/// look for what usually goes wrong
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "doctor",
    note = "Looks at the port, the clock, the state directory, names, addresses and the\nnetwork key, and says what to do. The exit code is 1 if something is wrong. It\njoins no mesh."
)]
pub(super) struct DoctorArguments {
    /// state directory of the node
    #[argh(option, arg_name = "DIR", from_str_fn(parse_file))]
    state: Option<PathBuf>,

    /// address to try: host:port or ID@host:port; repeatable
    #[argh(option, arg_name = "ADDR")]
    connect: Vec<ConnectAddr>,

    /// key of a closed network [default: that of --state]
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    network_key: Vec<PathBuf>,

    /// port on which the node is to listen [default: 8080]
    #[argh(option, arg_name = "PORT", from_str_fn(parse_port))]
    port: Option<u16>,

    /// text or json, one object on each line [default: text]
    #[argh(option, arg_name = "FORMAT")]
    output: Option<Output>,
}

impl DoctorArguments {
    pub(super) fn check(self) -> Verb {
        let port = self.port.unwrap_or(Config::default().port);
        let Self { state, connect, network_key: network_keys, .. } = self;
        let doctor = Doctor { state, connect, network_keys, port };
        Verb::Doctor(doctor, self.output.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::testing::{error, run, verb};
    use super::*;

    #[test]
    fn verb_finds_the_node_by_its_state_directory_or_its_socket() {
        for (line, socket) in [
            (&["members", "--state=d"][..], "d/control"),
            (&["members", "--control=c"], "c"),
            (&["members", "--control=c", "--state=d"], "c"),
        ] {
            let Verb::Control(found, ControlVerb::Members, Output::Text) = verb(line).unwrap() else {
                panic!("{line:?}");
            };
            assert_eq!(found, Path::new(socket));
        }
        assert_eq!(error(&["members"]), "name the node with --state or --control");
        assert_eq!(run(&["--state=d"]).unwrap().control, Some("d/control".into()));
        assert_eq!(run(&[]).unwrap().control, None);
    }

    #[test]
    fn arguments_of_control_verbs_are_checked() {
        let control = |line: &[&str]| match verb(line).unwrap() {
            Verb::Control(_, verb, _) => verb,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            control(&["wait", "--state=d", "--members=5", "--timeout=1m"]),
            ControlVerb::Wait { members: 5, timeout: Duration::from_secs(60) }
        );
        assert!(error(&["wait", "--state=d", "--members=0"]).contains("whole number from 1"));
        for addr in ["db1.example:8080", "192.0.2.7:8080"] {
            assert_eq!(
                control(&["why", "--state=d", addr]),
                ControlVerb::Why(Subject::Addr(addr.to_owned()))
            );
        }
        let id = PeerText::Id(parse_id_prefix("abcdef01").unwrap());
        for (text, peer) in [("ABCDEF01", id), ("bob", PeerText::Name("bob".to_owned()))] {
            assert_eq!(control(&["ping", "--state=d", text]), ControlVerb::Ping(peer.clone()));
            assert_eq!(control(&["why", "--state=d", text]), ControlVerb::Why(Subject::Peer(peer)));
        }
        for wrong in ["", "a\nb", &"a".repeat(65)] {
            assert!(error(&["why", "--state=d", wrong]).contains("or an address of --connect"));
            assert!(
                error(&["ping", "--state=d", wrong]).contains("it must be a name, or from 8 to 64 digits")
            );
        }
        assert!(error(&["connect", "--state=d", "nowhere"]).contains("write host:port"));
        assert_eq!(control(&["send", "--state=d", "a b"]), ControlVerb::Send("a b".to_owned()));
    }
}
