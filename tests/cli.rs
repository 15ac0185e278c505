//! The program as a user meets it: arguments, messages, exit codes, key files, signals, and
//! standard streams that nobody reads. Runs the real binary.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(unix)]

mod cli {
    mod program;

    #[path = "../support/leaks.rs"]
    mod leaks;

    mod addresses;
    mod hooks;
    mod keys;
    mod members;
    mod output;
    mod state;
    mod stdin;
    mod streams;
    mod systemd;
    mod usage;
    mod verbs;
}
