//! What threads share and wait for: channels, locks, flags, and threads themselves.
//!
//! Files that import from here alone can be checked in every order in which their threads may run: the checker in
//! `tests/threads` compiles the same files against a module of this name with the checker's primitives.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub(crate) use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
pub(crate) use std::thread;

pub(crate) use crossbeam_channel::{
    Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError, bounded, unbounded,
};
