//! The command line: what may be written on it, and what that asks for.
//!
//! Options alone start a node; a verb as the first word does something else and ends.
//!
//! | file | owns |
//! |---|---|
//! | `node_arguments.rs` | the arguments that start a node |
//! | `verb_arguments.rs` | the verbs and their arguments |
//! | `values.rs` | how single values parse |
//! | `normalize.rs` | arguments as argh takes them, and what is wrong with them |
//! | `help.rs` | the help texts |
//! | `dist.rs` | completions and manual page: held to the options by a test |
//! | `reference.rs` | the reference in the manual page: details of options, events as JSON |

mod action;
#[cfg(test)]
mod dist;
mod help;
mod node_arguments;
mod normalize;
mod parse;
#[cfg(test)]
mod reference;
mod usage_error;
mod values;
mod verb;
mod verb_arguments;

pub(crate) use action::{Action, AfterStdin, IdentitySource, KeySource, Keygen, OnEvent, Options, Verb};
pub(crate) use parse::parse;
pub(crate) use usage_error::PROGRAM;
pub(crate) use values::{IdPrefix, Output};
