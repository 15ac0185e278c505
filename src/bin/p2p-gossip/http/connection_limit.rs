//! How many connections there may be at once, and who gives way: one that has not yet said what it
//! wants, so that silent ones never keep a scraper out.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections at once: a few browsers with a few tabs each, and a scraper or two.
pub(super) const CONNECTIONS_MAX: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Places(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    taken: BTreeMap<u64, Taken>,
}

#[derive(Debug)]
struct Taken {
    socket: Arc<TcpStream>,
    /// Its request is known.
    is_answered: bool,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for this connection; `None` if all are taken by connections that are being answered.
    /// Otherwise, when all are taken, the oldest one that has not said what it wants is closed.
    pub(super) fn enter(self: &Arc<Self>, socket: &Arc<TcpStream>) -> Option<Place> {
        let mut table = self.lock();
        if table.taken.len() >= CONNECTIONS_MAX {
            // Ids grow, so the first is the oldest.
            let silent = table.taken.iter().find(|(_, taken)| !taken.is_answered).map(|(id, _)| *id);
            let victim = table.taken.remove(&silent?)?;
            // Its thread finds that nothing more comes. One that has gone already is what was wanted.
            let _ = victim.socket.shutdown(Shutdown::Both);
        }
        let id = table.next;
        table.next += 1;
        table.taken.insert(id, Taken { socket: Arc::clone(socket), is_answered: false });
        Some(Place { places: Arc::clone(self), id })
    }
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    id: u64,
}

impl Place {
    /// It has said what it wants; from now on it stays until it is answered.
    pub(super) fn answering(&mut self) {
        if let Some(taken) = self.places.lock().taken.get_mut(&self.id) {
            taken.is_answered = true;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().taken.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _};
    use std::net::TcpListener;

    use super::*;

    fn is_closed(mut socket: &TcpStream) -> bool {
        socket.set_nonblocking(true).unwrap();
        match socket.read(&mut [0]) {
            Ok(0) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_oldest_that_said_nothing_gives_way_and_nobody_who_is_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (Arc::new(listener.accept().unwrap().0), _client)
        };
        let places = Arc::new(Places::default());
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let (socket, client) = connect();
            held.push((places.enter(&socket).unwrap(), socket, client));
        }
        held[0].0.answering();
        let (newcomer, _client) = connect();
        let mut place = places.enter(&newcomer).unwrap();
        let closed: Vec<usize> = (0..held.len()).filter(|&n| is_closed(&held[n].1)).collect();
        assert_eq!(closed, [1]);

        place.answering();
        held.iter_mut().for_each(|(place, ..)| place.answering());
        let (refused, _client) = connect();
        assert!(places.enter(&refused).is_none());
        drop(place);
        assert!(places.enter(&refused).is_some());
        drop(held);
        assert_eq!(places.lock().taken.len(), 0);
    }
}
