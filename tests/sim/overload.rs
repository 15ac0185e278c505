//! Overloaded machines: the threads of a process wait for a processor, the coordinator's as well as those of sessions.

use super::net::{ConnId, Side};
use super::world::{Event, World};

/// Whether a session's thread has a processor. On a machine that is not overloaded it runs when it is woken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Processor {
    #[default]
    NotNeeded,
    Waiting,
    Running,
}

impl World {
    /// Whether the thread at this end runs later, because its machine is overloaded. What arrives until then stays in the
    /// socket, and requests of the coordinator stay in the outbox.
    pub fn runs_later(&mut self, conn: ConnId, side: Side) -> bool {
        let end = &self.conns[conn].ends[side];
        let Some(proc) = end.proc.filter(|_| end.thread.is_some()) else {
            return false;
        };
        let late = self.procs[proc].late;
        if end.processor == Processor::NotNeeded && late > 0 {
            let at = self.now + self.rng.u64(0..=late);
            self.conns[conn].ends[side].processor = Processor::Waiting;
            self.schedule(at, Event::ThreadTurn(conn, side));
        }
        self.conns[conn].ends[side].processor == Processor::Waiting
    }

    /// The thread at this end gets a processor: it reads what has arrived, and handles requests.
    pub fn thread_turn(&mut self, conn: ConnId, side: Side) {
        self.conns[conn].ends[side].processor = Processor::Running;
        self.arrive(conn, 1 - side);
        self.circuit_news(conn, side);
        self.conns[conn].ends[side].processor = Processor::NotNeeded;
    }
}
