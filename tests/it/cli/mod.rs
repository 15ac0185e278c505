//! The program as a user meets it: arguments, messages, exit codes, key files, signals, and
//! standard streams that nobody reads. Runs the real binary.

mod program;

mod hooks;
mod key_files;
mod members;
mod output;
mod state_dir;
mod stdin;
mod streams;
mod systemd;
mod unusable_addresses;
mod usage;
