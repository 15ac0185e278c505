//! The thread that asks the router to pass on connections from outside to this node.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::command::Command;
use super::stop::Stop;
use crate::net::addr::is_private;
use crate::net::nat_pmp::{ANSWER_BYTES_MAX, PortMapper, ROUTER_PORT, default_router};
use crate::net::socket;
use crate::util::log_limit::{LogLimit, limited_log};
use crate::util::sync::Sender;
use crate::util::worker::Worker;

/// Datagrams read at a time. After that the thread pauses, so that a flood costs little.
const READS_MAX: usize = 16;
const READ_PAUSE: Duration = Duration::from_millis(20);

/// The running thread.
#[derive(Debug)]
pub(crate) struct PortMapping {
    stop: Arc<Stop>,
    thread: Option<Worker>,
}

/// Whether a node that listens there may be behind a router that maps ports.
pub(crate) fn is_useful(listening: SocketAddr) -> bool {
    match listening {
        SocketAddr::V4(v4) => v4.ip().is_unspecified() || is_private(listening.ip()),
        SocketAddr::V6(v6) => v6.ip().is_unspecified(),
    }
}

impl PortMapping {
    /// Starts the thread for a node that listens on this port. It asks this router, or else that of the default route, and
    /// tells the coordinator where the router passes connections on.
    ///
    /// # Errors
    /// The system has no thread or descriptor left.
    pub(crate) fn start(
        port: u16,
        router: Option<SocketAddr>,
        coordinator: Sender<Command>,
    ) -> io::Result<Self> {
        let stop = Arc::new(Stop::new()?);
        let mapper = PortMapper::new(port, Instant::now());
        let asking =
            Asking { mapper, router, coordinator, stop: Arc::clone(&stop), socket: None, told: None };
        let thread = Some(Worker::spawn("port mapping", move || asking.run())?);
        Ok(Self { stop, thread })
    }

    /// Ends what is mapped, and stops the thread.
    pub(crate) fn stop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            thread.join();
        }
    }
}

struct Asking {
    mapper: PortMapper,
    router: Option<SocketAddr>,
    coordinator: Sender<Command>,
    stop: Arc<Stop>,
    /// While the router is asked. It takes datagrams of the router only.
    socket: Option<UdpSocket>,
    /// What the coordinator knows.
    told: Option<SocketAddr>,
}

impl Asking {
    fn run(mut self) {
        loop {
            self.ask(Instant::now());
            self.tell();
            if self.wait() {
                break;
            }
            self.read(Instant::now());
        }
        if let Some(request) = self.mapper.unmap() {
            // The router may be gone. It forgets this node within an hour.
            let _ = self.router_socket().map(|socket| socket.send(&request));
        }
    }

    fn ask(&mut self, now: Instant) {
        if let Some(request) = self.mapper.poll_transmit(now) {
            if self.socket.is_none() {
                self.socket = self.router_socket();
            }
            if self.socket.as_ref().is_none_or(|socket| socket.send(&request).is_err()) {
                self.mapper.give_up(now);
            }
        }
        if self.mapper.is_resting() {
            self.socket = None;
        }
    }

    /// A socket to the router, if this machine is in a private network.
    fn router_socket(&self) -> Option<UdpSocket> {
        let routes = || fs::read_to_string("/proc/net/route").ok();
        let of_default_route = || Some((default_router(&routes()?)?, ROUTER_PORT).into());
        let router = self.router.or_else(of_default_route)?;
        let socket = UdpSocket::from(socket::udp(&(Ipv4Addr::UNSPECIFIED, 0).into()).ok()?);
        socket.connect(router).and_then(|()| socket.set_nonblocking(true)).ok()?;
        let local = socket.local_addr().ok()?.ip();
        (self.router.is_some() || is_private(local)).then_some(socket)
    }

    /// Tells the coordinator the address, if it is another one now.
    fn tell(&mut self) {
        let mapped = self.mapper.mapped();
        if mapped == self.told {
            return;
        }
        // Without a coordinator the node stops.
        let _ = self.coordinator.send(Command::Mapped(mapped));
        if let Some(addr) = mapped {
            limited_log!(LogLimit::new(), info, { addr:% = addr },
                "the router passes on connections to this node");
        } else if let Some(addr) = self.told {
            limited_log!(LogLimit::new(), info, { addr:% = addr },
                "the router passes on no more connections to this node");
        }
        self.told = mapped;
    }

    /// Waits until the next question is due, or for an answer. Returns whether the thread has to stop.
    fn wait(&self) -> bool {
        let socket =
            self.socket.as_ref().map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN));
        self.stop.wait(self.mapper.next(), socket)
    }

    fn read(&mut self, now: Instant) {
        let Some(socket) = &self.socket else {
            return;
        };
        // One byte more, so that a longer datagram is no answer.
        let mut datagram = [0; ANSWER_BYTES_MAX + 1];
        for _ in 0..READS_MAX {
            match socket.recv(&mut datagram) {
                Ok(length) => self.mapper.handle_datagram(now, &datagram[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The router has no such service.
                Err(_) => return self.mapper.give_up(now),
            }
        }
        self.stop.wait(now + READ_PAUSE, None);
    }
}

#[cfg(test)]
mod tests {
    use crate::util::sync::unbounded;

    use super::*;

    const OUTSIDE: [u8; 4] = [203, 0, 113, 7];

    /// Answers one question as a router does, and returns the question.
    fn answer(router: &UdpSocket, lifetime_s: u32) -> Vec<u8> {
        let mut bytes = [0; 64];
        let (length, from) = router.recv_from(&mut bytes).unwrap();
        let question = bytes[..length].to_vec();
        let mut answer = vec![0, question[1] | 128, 0, 0, 0, 0, 0, 1];
        if question[1] == 0 {
            answer.extend(OUTSIDE);
        } else {
            answer.extend(&question[4..6]);
            answer.extend(40_000_u16.to_be_bytes());
            answer.extend(lifetime_s.to_be_bytes());
        }
        router.send_to(&answer, from).unwrap();
        // Another machine, and this router with nonsense.
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _ = stranger.send_to(&[0, 128, 0, 0, 0, 0, 0, 1, 198, 51, 100, 66], from);
        let _ = router.send_to(&[0xff; 60], from);
        question
    }

    fn router() -> UdpSocket {
        let router = UdpSocket::bind("127.0.0.1:0").unwrap();
        router.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        router
    }

    #[test]
    fn peers_learn_the_outside_address_until_the_node_stops() {
        let router = router();
        let (coordinator, commands) = unbounded();
        let at = router.local_addr().unwrap();
        let mut mapping = PortMapping::start(8080, Some(at), coordinator).unwrap();
        assert_eq!(answer(&router, 3600), [0, 0]);
        let question = answer(&router, 3600);
        assert_eq!((question[1], &question[4..6]), (2, &8080_u16.to_be_bytes()[..]));
        let expected = Some((OUTSIDE, 40_000).into());
        let told = commands.recv_timeout(Duration::from_secs(60));
        assert!(matches!(told, Ok(Command::Mapped(mapped)) if mapped == expected), "{told:?}");
        mapping.stop();
        let mut bytes = [0; 64];
        let (length, _) = router.recv_from(&mut bytes).unwrap();
        assert_eq!(bytes[..length], [0, 2, 0, 0, 0x1f, 0x90, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn machine_without_the_service_is_asked_once() {
        let router = router();
        let at = router.local_addr().unwrap();
        drop(router);
        let (coordinator, _commands) = unbounded();
        let (now, stop) = (Instant::now(), Arc::new(Stop::new().unwrap()));
        let mapper = PortMapper::new(8080, now);
        let mut asking = Asking { mapper, router: Some(at), coordinator, stop, socket: None, told: None };
        asking.ask(now);
        // The system says that no program has that port.
        asking.wait();
        asking.read(Instant::now());
        assert!(asking.mapper.is_resting());
    }

    #[test]
    fn nodes_on_loopback_and_with_public_addresses_ask_no_router() {
        let is_useful = |addr: &str| is_useful(addr.parse().unwrap());
        for addr in ["0.0.0.0:8080", "[::]:8080", "192.168.1.7:8080"] {
            assert!(is_useful(addr), "{addr}");
        }
        for addr in
            ["127.0.0.1:8080", "[::1]:8080", "198.51.100.7:8080", "[fd00::1]:8080", "[2001:db8::1]:8080"]
        {
            assert!(!is_useful(addr), "{addr}");
        }
    }
}
