//! Tests of the real binary's command line: arguments, messages, exit codes, key files, signals and
//! standard streams without a reader.

mod program;

mod hooks;
mod key_files;
mod members;
mod output;
mod secrets;
mod state_dir;
mod stdin;
mod streams;
mod systemd;
mod unusable_addresses;
mod usage;
