//! Bounds the sessions that are up or closing, and the frames that they have received in part; chooses the session to
//! end if there is one too many.
//!
//! Invariant: reads no clock and has no thread, so the simulator runs it as it ships.

use std::collections::BTreeMap;

use crate::limits::{LONG_FRAMES_MAX, SESSIONS_PER_KEY_MAX};
use crate::mesh::SessionId;
use crate::trust::peer_id::PeerId;

/// The sessions of one node that are up or closing. `H` is what the owner needs to end a session.
#[derive(Debug)]
pub struct SessionLimits<H> {
    sessions_max: usize,
    sessions: BTreeMap<SessionId, Place<H>>,
    /// The sessions of each key, oldest first.
    keys: BTreeMap<PeerId, Vec<SessionId>>,
    /// Sessions on which one side has said goodbye, in that order.
    closing: BTreeMap<u64, SessionId>,
    /// Sessions that have received a part of a long frame, in that order.
    unfinished: BTreeMap<u64, SessionId>,
    /// The number of the last change.
    changes: u64,
}

#[derive(Debug)]
struct Place<H> {
    key: PeerId,
    closing: Option<u64>,
    unfinished: Option<u64>,
    handle: H,
}

/// Why a session must end at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surplus {
    /// Its key has too many sessions.
    OfKey,
    /// The node has too many sessions.
    OfNode,
    /// Too many sessions have received a part of a long frame.
    LongFrame,
}

impl Surplus {
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::OfKey => "its key has more sessions than a node keeps with one peer",
            Self::OfNode => "this node has no place for another session",
            Self::LongFrame => "too many peers have sent a part of a long message, and it waited for longest",
        }
    }
}

impl<H> SessionLimits<H> {
    /// Limits for at most `sessions_max` sessions.
    #[must_use]
    pub fn new(sessions_max: usize) -> Self {
        Self {
            sessions_max,
            sessions: BTreeMap::new(),
            keys: BTreeMap::new(),
            closing: BTreeMap::new(),
            unfinished: BTreeMap::new(),
            changes: 0,
        }
    }

    /// Adds a session that is up. Returns a session that must end at once, which may be this one.
    ///
    /// - A key with more than [`SESSIONS_PER_KEY_MAX`] loses its session that has been closing for longest, or else its
    ///   oldest.
    /// - If there are too many, the session that has been closing for longest ends, or else the oldest session of the
    ///   key that has most. If no key has two sessions, the new one ends: the mesh has decided who the others are.
    pub fn add(&mut self, session: SessionId, key: PeerId, handle: H) -> Option<(H, Surplus)> {
        self.sessions.insert(session, Place { key, closing: None, unfinished: None, handle });
        let of_key = self.keys.entry(key).or_default();
        of_key.push(session);
        if of_key.len() > SESSIONS_PER_KEY_MAX {
            let closing = of_key.iter().filter_map(|id| Some((self.sessions.get(id)?.closing?, *id))).min();
            let victim = closing.map_or(of_key[0], |(_, id)| id);
            return Some((self.remove(victim)?, Surplus::OfKey));
        }
        if self.sessions.len() > self.sessions_max {
            let closing = self.closing.first_key_value().map(|(_, id)| *id);
            let victim = closing.or_else(|| self.oldest_of_largest_key()).unwrap_or(session);
            return Some((self.remove(victim)?, Surplus::OfNode));
        }
        None
    }

    /// Notes the state of a session before it waits: whether one side has said goodbye, and whether it keeps a part of a
    /// long frame. Returns a session that must end at once.
    pub fn note(&mut self, session: SessionId, is_closing: bool, holds_memory: bool) -> Option<(H, Surplus)> {
        if is_closing {
            self.close(session);
        }
        if holds_memory {
            return self.begin_long_frame(session);
        }
        self.end_long_frame(session);
        None
    }

    fn close(&mut self, session: SessionId) {
        self.changes += 1;
        if let Some(place) = self.sessions.get_mut(&session)
            && place.closing.is_none()
        {
            place.closing = Some(self.changes);
            self.closing.insert(self.changes, session);
        }
    }

    /// If too many sessions keep a part of a long frame, the one that has waited for the rest for longest must end.
    fn begin_long_frame(&mut self, session: SessionId) -> Option<(H, Surplus)> {
        self.changes += 1;
        if let Some(place) = self.sessions.get_mut(&session)
            && place.unfinished.is_none()
        {
            place.unfinished = Some(self.changes);
            self.unfinished.insert(self.changes, session);
        }
        if self.unfinished.len() <= LONG_FRAMES_MAX {
            return None;
        }
        let (_, victim) = self.unfinished.first_key_value()?;
        Some((self.remove(*victim)?, Surplus::LongFrame))
    }

    fn end_long_frame(&mut self, session: SessionId) {
        if let Some(place) = self.sessions.get_mut(&session)
            && let Some(at) = place.unfinished.take()
        {
            self.unfinished.remove(&at);
        }
    }

    /// Removes a session that has ended, or must end. Returns its handle if it had a place.
    pub fn remove(&mut self, session: SessionId) -> Option<H> {
        let Place { key, closing, unfinished, handle } = self.sessions.remove(&session)?;
        closing.map(|at| self.closing.remove(&at));
        unfinished.map(|at| self.unfinished.remove(&at));
        if let Some(of_key) = self.keys.get_mut(&key) {
            of_key.retain(|&other| other != session);
            if of_key.is_empty() {
                self.keys.remove(&key);
            }
        }
        Some(handle)
    }

    /// Number of sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    fn oldest_of_largest_key(&self) -> Option<SessionId> {
        let most = self.keys.values().max_by_key(|of_key| of_key.len())?;
        most.first().filter(|_| most.len() > 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table whose handles are the numbers of its sessions.
    fn table(sessions_max: usize) -> SessionLimits<u64> {
        SessionLimits::new(sessions_max)
    }

    fn id(n: u64) -> SessionId {
        SessionId::accepted(n)
    }

    /// Adds session `n` of key `key`. Returns the number of the session that must end.
    fn add(table: &mut SessionLimits<u64>, n: u64, key: u8) -> Option<(u64, Surplus)> {
        table.add(id(n), PeerId::from_bytes([key; 32]), n)
    }

    const PER_KEY: u64 = SESSIONS_PER_KEY_MAX as u64;

    #[test]
    fn key_with_too_many_sessions_loses_one_that_closes_or_else_its_oldest() {
        let mut table = table(1000);
        assert_eq!(add(&mut table, 100, 2), None);
        assert!((0..PER_KEY).all(|n| add(&mut table, n, 1).is_none()));
        assert_eq!(add(&mut table, 10, 1), Some((0, Surplus::OfKey)));
        table.close(id(5));
        table.close(id(3));
        assert_eq!(add(&mut table, 11, 1), Some((5, Surplus::OfKey)));
        assert_eq!(add(&mut table, 12, 1), Some((3, Surplus::OfKey)));
        assert_eq!(add(&mut table, 13, 1), Some((1, Surplus::OfKey)));
        assert_eq!(table.len(), SESSIONS_PER_KEY_MAX + 1);
    }

    #[test]
    fn full_table_ends_sessions_that_close_then_surplus_ones_then_the_newcomer() {
        let mut table = table(5);
        for (n, key) in [(0, 1), (1, 2), (2, 2), (3, 3), (4, 4)] {
            assert_eq!(add(&mut table, n, key), None);
        }
        table.close(id(3));
        table.close(id(0));
        assert_eq!(add(&mut table, 5, 5), Some((3, Surplus::OfNode)));
        assert_eq!(add(&mut table, 6, 6), Some((0, Surplus::OfNode)));
        assert_eq!(add(&mut table, 7, 7), Some((1, Surplus::OfNode)));
        assert_eq!(add(&mut table, 8, 8), Some((8, Surplus::OfNode)));
        assert_eq!(table.remove(id(8)), None, "its place is free already");
        assert_eq!((table.remove(id(2)), add(&mut table, 9, 9)), (Some(2), None));
        assert_eq!(table.len(), 5);
    }

    #[test]
    fn oldest_part_of_a_long_frame_gives_way() {
        let mut table = table(1000);
        let most = LONG_FRAMES_MAX as u64;
        for n in 0..=most + 1 {
            add(&mut table, n, u8::try_from(n).unwrap());
        }
        assert!((0..most).all(|n| table.begin_long_frame(id(n)).is_none()));
        // A session that is named again keeps its place in the order.
        assert_eq!(table.begin_long_frame(id(0)), None);
        assert_eq!(table.begin_long_frame(id(most)), Some((0, Surplus::LongFrame)));
        table.end_long_frame(id(1));
        assert_eq!(table.begin_long_frame(id(most + 1)), None);
        table.remove(id(2));
        assert_eq!(table.begin_long_frame(id(1)), None);
        assert_eq!(table.unfinished.len(), LONG_FRAMES_MAX);
    }

    #[test]
    fn table_without_sessions_keeps_nothing() {
        let mut table = table(10);
        for n in 0..1000 {
            add(&mut table, n, 1);
            table.begin_long_frame(id(n));
            table.close(id(n));
            assert_eq!(table.remove(id(n)), Some(n));
        }
        table.close(id(1));
        assert!(table.is_empty() && table.keys.is_empty());
        assert!(table.closing.is_empty() && table.unfinished.is_empty());
    }
}
