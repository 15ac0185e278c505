//! The command line: its grammar, checks, help, completions and reference.
//!
//! Options alone start a node. A verb as the first word executes that verb and exits.
//!
//! | file | owns |
//! |---|---|
//! | `node_arguments.rs` | the arguments that start a node |
//! | `verb_arguments.rs` | the verbs and their arguments |
//! | `control_arguments.rs` | the arguments of the verbs that ask a running node |
//! | `values.rs` | parsers of single values |
//! | `normalize.rs` | the arguments in the form that argh takes, and errors of their form |
//! | `help.rs` | the help texts |
//! | `dist.rs` | completions and manual page; a test compares them with the options |
//! | `reference.rs` | the reference in the manual page: details of options, events as JSON |

mod action;
mod control_arguments;
#[cfg(test)]
mod dist;
mod help;
mod node_arguments;
mod normalize;
mod parse;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod roff;
mod usage_error;
mod values;
mod verb_arguments;

pub(crate) use action::{
    Action, AfterStdin, ControlVerb, Doctor, IdentitySource, KeySource, Keygen, Membership, Options, Subject,
    Verb,
};
pub(crate) use parse::parse;
pub(crate) use usage_error::PROGRAM;
pub(crate) use values::{IdPrefix, Output, PeerText, TicketSource, parse_grace, parse_id_prefix};
