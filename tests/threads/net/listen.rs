//! The checker's counterpart of the program's `net::listen`: a listening socket.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use loom::sync::{Condvar, Mutex};

/// What the system offers to end a blocked accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// Linux: shutdown(2) makes every accept fail.
    Shutdown,
    /// Others: a connection to the own socket.
    Connection,
}

#[derive(Debug)]
pub(crate) struct ListenSocket {
    system: System,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Connections that wait to be accepted.
    waiting: usize,
    is_shut_down: bool,
}

impl ListenSocket {
    /// A socket at which this many connections wait.
    pub(crate) fn new(system: System, waiting: usize) -> Self {
        let state = Mutex::new(State { waiting, is_shut_down: false });
        Self { system, state, changed: Condvar::new() }
    }

    pub(crate) fn accept(&self) -> io::Result<(Connection, SocketAddr)> {
        let mut state = self.state.lock().unwrap();
        while state.waiting == 0 && !state.is_shut_down {
            state = self.changed.wait(state).unwrap();
        }
        if state.is_shut_down {
            return Err(ErrorKind::InvalidInput.into());
        }
        state.waiting -= 1;
        Ok((Connection, SocketAddr::from((Ipv4Addr::LOCALHOST, 1))))
    }

    pub(crate) fn interrupt_accept(&self) {
        let mut state = self.state.lock().unwrap();
        match self.system {
            System::Shutdown => state.is_shut_down = true,
            System::Connection => state.waiting += 1,
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Connection;
