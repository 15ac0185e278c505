//! Limits the number of connections. At the limit the oldest one without a request gives way, so silent
//! connections never keep a scraper out.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Limit of connections: enough for a few browsers with a few tabs each, and two scrapers.
pub(super) const CONNECTIONS_MAX: usize = 32;

/// The open connections.
#[derive(Debug, Default)]
pub(super) struct ConnectionLimit(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    next_id: u64,
    /// Ids grow, so the first connection is the oldest.
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    socket: Arc<TcpStream>,
    /// Whether its request is read and its answer under way.
    is_answering: bool,
}

impl ConnectionLimit {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // No statement under the lock leaves the table inconsistent, so a panic does not damage it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection. At the limit, the oldest connection without a request gives way; `None` if all of them
    /// are being answered.
    pub(super) fn add(self: &Arc<Self>, socket: &Arc<TcpStream>) -> Option<ConnectionSlot> {
        let mut table = self.lock();
        if table.connections.len() >= CONNECTIONS_MAX {
            let mut oldest_first = table.connections.iter();
            let victim = oldest_first.find(|(_, connection)| !connection.is_answering).map(|(id, _)| *id);
            let victim = table.connections.remove(&victim?)?;
            // The victim's thread stops reading, and tells the client. An error means that the connection is
            // closed already.
            let _ = victim.socket.shutdown(Shutdown::Read);
        }
        let id = table.next_id;
        table.next_id += 1;
        table.connections.insert(id, Connection { socket: Arc::clone(socket), is_answering: false });
        Some(ConnectionSlot { limit: Arc::clone(self), id })
    }
}

/// A connection's entry in the limit; removed when this is dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    limit: Arc<ConnectionLimit>,
    id: u64,
}

impl ConnectionSlot {
    /// Notes that the request is read: the connection does not give way before its answer. Returns whether it still
    /// has its place.
    pub(super) fn set_answering(&mut self) -> bool {
        let mut table = self.limit.lock();
        let connection = table.connections.get_mut(&self.id);
        connection.map(|connection| connection.is_answering = true).is_some()
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.limit.lock().connections.remove(&self.id);
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
    fn oldest_connection_without_a_request_gives_way_at_the_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (Arc::new(listener.accept().unwrap().0), _client)
        };
        let limit = Arc::new(ConnectionLimit::default());
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let (socket, client) = connect();
            held.push((limit.add(&socket).unwrap(), socket, client));
        }
        assert!(held[0].0.set_answering());
        let (newcomer, _client) = connect();
        let mut slot = limit.add(&newcomer).unwrap();
        let closed: Vec<usize> = (0..held.len()).filter(|&n| is_closed(&held[n].1)).collect();
        assert_eq!(closed, [1]);
        assert!(!held[1].0.set_answering());

        assert!(slot.set_answering());
        held.iter_mut().for_each(|(slot, ..)| _ = slot.set_answering());
        let (refused, _client) = connect();
        assert!(limit.add(&refused).is_none());
        drop(slot);
        assert!(limit.add(&refused).is_some());
        drop(held);
        assert_eq!(limit.lock().connections.len(), 0);
    }
}
