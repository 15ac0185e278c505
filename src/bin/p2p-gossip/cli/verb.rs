//! The verbs: their names and what the help says of each.

/// A verb without its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Keygen,
    Id,
    Peers,
    Forget,
}

impl Kind {
    /// In the order of the help.
    pub(super) const ALL: &[Self] = &[Self::Keygen, Self::Id, Self::Peers, Self::Forget];

    pub(super) fn named(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == word)
    }

    /// The word on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Keygen => "keygen",
            Self::Id => "id",
            Self::Peers => "peers",
            Self::Forget => "forget",
        }
    }

    /// One line for the help.
    pub(super) fn summary(self) -> &'static str {
        match self {
            Self::Keygen => "make the key of a node or of a network",
            Self::Id => "print the id of a key",
            Self::Peers => "list the peers that a node knows",
            Self::Forget => "make a node forget a peer",
        }
    }

    /// What the verb's own help says beyond that, in lines.
    pub(super) fn details(self) -> &'static str {
        match self {
            Self::Keygen => {
                "Never overwrites a file. Prints the id of a node's key. Secrets can be read by\n\
                 their owner only.\n"
            }
            Self::Id => "The id is the SHA-256 of the public key: of a node that runs with this key.\n",
            Self::Peers => "Reads the memory of a node, which may be running.\n",
            Self::Forget => "The node must not be running, or it would write the peer back.\n",
        }
    }
}
