//! The trace of a run: a hash of everything that happened, and optionally the last notes in words.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use super::clock::{Micros, SECOND};

/// Notes kept for the report of a failure.
const LAST_NOTES: usize = 80;

#[derive(Debug)]
pub struct Trace {
    hash: u64,
    keeps_notes: bool,
    prints_notes: bool,
    last_notes: VecDeque<String>,
}

impl Trace {
    pub fn new() -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            keeps_notes: false,
            prints_notes: false,
            last_notes: VecDeque::new(),
        }
    }

    /// Adds a value to the hash.
    pub fn mix(&mut self, value: &impl Hash) {
        value.hash(self);
    }

    /// Keeps the last notes from now on; with `print`, prints every note.
    pub fn keep_notes(&mut self, print: bool) {
        self.keeps_notes = true;
        self.prints_notes = print;
    }

    /// Notes an event. `text` runs only if notes are kept.
    pub fn note(&mut self, now: Micros, text: impl FnOnce() -> String) {
        if !self.keeps_notes {
            return;
        }
        let line = format!("{:>11.6}  {}", now as f64 / SECOND as f64, text());
        if self.prints_notes {
            println!("{line}");
        }
        if self.last_notes.len() == LAST_NOTES {
            self.last_notes.pop_front();
        }
        self.last_notes.push_back(line);
    }

    pub fn last_notes(&self) -> Vec<String> {
        self.last_notes.iter().cloned().collect()
    }
}

/// FNV-1a for bytes: the same on every machine.
impl Hasher for Trace {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.hash = (self.hash ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}
