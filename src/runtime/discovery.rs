//! The thread that sends beacons and hears those of others.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rustix::event::{PollFd, PollFlags};
use rustix::net::sockopt;

use super::stop::Stop;
use crate::net::beacon::{BEACON_BYTES, Beacon, Beacons};
use crate::net::discoverer::Discoverer;
use crate::net::links::{BEACON_PORT, Link, links};
use crate::net::socket;
use crate::session::Context;
use crate::util::log_limit::{LogLimit, limited_log};
use crate::util::worker::Worker;

/// Beacons that wait for the coordinator. Beyond that they are dropped; the next beacon repeats them.
pub(crate) const BEACONS_QUEUED: usize = 64;
/// Time between two looks at the interfaces, which come and go.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Datagrams that are read at a time.
const READS_MAX: usize = 256;
/// Datagrams at a time above which the thread pauses before it reads more. The kernel keeps those that come meanwhile, or
/// drops them: a flood costs little processor time.
const READS_WITHOUT_PAUSE: usize = 8;
const READ_PAUSE: Duration = Duration::from_millis(20);

/// The running thread.
#[derive(Debug)]
pub(crate) struct Discovery {
    stop: Arc<Stop>,
    thread: Option<Worker>,
}

impl Discovery {
    /// Starts the thread. `listening` is the address on which the node listens; `found` gets the beacons of others.
    ///
    /// # Errors
    /// Another program uses the port of the beacons alone, or the system has no thread or descriptor left.
    pub(crate) fn start(
        network: String,
        beacons: Beacons,
        listening: SocketAddr,
        context: Arc<Context>,
        found: Sender<Beacon>,
    ) -> io::Result<Self> {
        let sockets = open_sockets(listening.ip())?;
        let stop = Arc::new(Stop::new()?);
        let now = Instant::now();
        let discovering = Discovering {
            network,
            discoverer: Discoverer::new(beacons, listening.port(), fastrand::Rng::new(), now),
            listening: listening.ip(),
            context,
            found,
            sockets,
            stop: Arc::clone(&stop),
            links: Vec::new(),
            look_at: now,
            is_first_look: true,
        };
        let thread = Some(Worker::spawn("discovery", move || discovering.run())?);
        Ok(Self { stop, thread })
    }

    /// Stops the thread.
    pub(crate) fn stop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            thread.join();
        }
    }
}

struct Discovering {
    network: String,
    discoverer: Discoverer,
    /// The address on which the node listens.
    listening: IpAddr,
    context: Arc<Context>,
    found: Sender<Beacon>,
    sockets: Vec<UdpSocket>,
    stop: Arc<Stop>,
    links: Vec<Link>,
    /// The time of the next look at the interfaces.
    look_at: Instant,
    is_first_look: bool,
}

impl Discovering {
    fn run(mut self) {
        loop {
            let now = Instant::now();
            if now >= self.look_at {
                // The network's key may have changed.
                self.discoverer.set_keys(self.context.hello_exchange.get().keys());
                self.look(now);
            }
            if self.discoverer.take_due(now) {
                self.send();
            }
            if self.wait(self.look_at.min(self.discoverer.next()), true) {
                return;
            }
            let now = Instant::now();
            if self.read(now) > READS_WITHOUT_PAUSE && self.wait(now + READ_PAUSE, false) {
                return;
            }
        }
    }

    /// Waits until the time has come, or a datagram if they are `heard`. Returns whether the thread has to stop.
    fn wait(&self, until: Instant, heard: bool) -> bool {
        let sockets = self.sockets.iter().filter(|_| heard);
        self.stop.wait(until, sockets.map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)))
    }

    /// Finds the interfaces that beacons go to. A new one gets the first beacons again.
    fn look(&mut self, now: Instant) {
        self.look_at = now + LOOK_INTERVAL;
        let is_known = |link: &Link| self.links.contains(link);
        let usable = |link: &Link| is_known(link) || link.is_usable();
        let found: Vec<Link> = links(self.listening).into_iter().filter(usable).collect();
        if found == self.links && !self.is_first_look {
            return;
        }
        let mut has_new = false;
        for link in found.iter().filter(|link| !self.links.contains(link)) {
            has_new = true;
            for socket in &self.sockets {
                // Fails for the socket of the other IP version, or if an address of the interface has joined before.
                let _ = link.join(socket);
            }
        }
        if has_new {
            self.discoverer.start_again(now);
        }
        self.links = found;
        self.is_first_look = false;
        self.log_links();
    }

    fn log_links(&self) {
        let mut names: Vec<&str> = self.links.iter().map(|link| link.interface.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let network = &self.network;
        if names.is_empty() {
            limited_log!(LogLimit::new(), warn, { network:% = network },
                "no interface for beacons; looking again for interfaces that come up");
        } else {
            limited_log!(LogLimit::new(), info, { network:% = network, interfaces:% = names.join(", ") },
                "looking for nodes of this network by beacons");
        }
    }

    /// Sends this node's beacon to all links.
    fn send(&self) {
        for link in &self.links {
            let beacon = self.discoverer.encode(link.source.ip());
            if let Err(error) = link.send(&beacon) {
                limited_log!(LogLimit::debug(), debug, { interface:% = link.interface, reason:% = error },
                    "cannot send a beacon");
            }
        }
    }

    /// Reads the datagrams that have arrived. Returns their number.
    fn read(&mut self, now: Instant) -> usize {
        let mut read = 0;
        // One byte more, so that a longer datagram is no beacon.
        let mut datagram = [0; BEACON_BYTES + 1];
        for at in 0..self.sockets.len() {
            // Each socket may be flooded, so each gets its share.
            for _ in 0..READS_MAX / 2 {
                match self.sockets[at].recv_from(&mut datagram) {
                    Ok((length, from)) => self.heard(now, &datagram[..length], from),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // An error of an earlier datagram, for example that a machine refused it.
                    Err(_) => {}
                }
                read += 1;
            }
        }
        read
    }

    fn heard(&mut self, now: Instant, datagram: &[u8], from: SocketAddr) {
        // Machines that are not on a link of this node count for nothing.
        let Some(link) = self.links.iter().find(|link| link.contains(&from)) else {
            return;
        };
        let Some(found) = self.discoverer.handle_datagram(now, datagram, from) else {
            return;
        };
        if found.answer {
            // The answer has as many bytes as the beacon.
            let _ = link.send_to(&self.discoverer.encode(link.source.ip()), from);
        }
        let _ = self.found.try_send(found.beacon);
    }
}

/// The sockets that hear beacons, one for each IP version that the node listens with.
fn open_sockets(listen: IpAddr) -> io::Result<Vec<UdpSocket>> {
    let v4 = || open_socket((Ipv4Addr::UNSPECIFIED, BEACON_PORT).into());
    let v6 = || open_socket((Ipv6Addr::UNSPECIFIED, BEACON_PORT).into());
    match listen {
        IpAddr::V4(_) => Ok(vec![v4()?]),
        IpAddr::V6(ip) if !ip.is_unspecified() => Ok(vec![v6()?]),
        IpAddr::V6(_) => Ok(vec![v4()?, v6()?]),
    }
}

/// A socket that shares its port with those of other nodes on this machine.
fn open_socket(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket::udp(&addr)?;
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &addr)?;
    let socket = UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    Ok(socket)
}
