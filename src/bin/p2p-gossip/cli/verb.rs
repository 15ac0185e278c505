//! The verbs: their names and their help texts.

/// A verb without its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Keygen,
    Id,
    Peers,
    Forget,
}

impl Kind {
    /// All verbs, in the order of the help.
    pub(super) const ALL: &[Self] = &[Self::Keygen, Self::Id, Self::Peers, Self::Forget];

    /// The verb with this name.
    pub(super) fn from_name(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == word)
    }

    /// The verb's word on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Keygen => "keygen",
            Self::Id => "id",
            Self::Peers => "peers",
            Self::Forget => "forget",
        }
    }

    /// The verb's line in the help.
    pub(super) fn summary(self) -> &'static str {
        match self {
            Self::Keygen => "make the key of a node or of a network",
            Self::Id => "print the id of a key",
            Self::Peers => "list the peers that a node knows",
            Self::Forget => "make a node forget a peer",
        }
    }

    /// More lines for the verb's own help.
    pub(super) fn details(self) -> &'static str {
        match self {
            Self::Keygen => {
                "Never overwrites a file. Prints the id of a node's key. Only the owner can read\n\
                 the files with secrets.\n"
            }
            Self::Id => "The id is the SHA-256 of the public key. A node with this key has this id.\n",
            Self::Peers => "Reads the state directory of a node, which may be running.\n",
            Self::Forget => "Stop the node first: a running node would write the peer back.\n",
        }
    }
}
