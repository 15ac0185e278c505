//! A node of the SWIM library foca: one thread and one UDP socket. foca's own settings for a LAN; no encryption.
//!
//! Usage: `foca-node BIND MEMBERS [JOIN]`. Prints `ready ADDRESS`, then `up ADDRESS` and `down ADDRESS`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::error::Error;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use foca::{AccumulatingRuntime, Config, Foca, OwnedNotification, PostcardCodec, Timer};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

/// The version that `Cargo.toml` pins.
const VERSION: &str = "foca 1.0.0";
/// Least wait for a packet: a socket refuses a timeout of zero.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// Time between two requests to join, as long as no member is known.
const JOIN_INTERVAL: Duration = Duration::from_secs(1);

/// A member: its address, and a number that grows with each return.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    addr: SocketAddr,
    life: u64,
}

impl foca::Identity for Member {
    type Addr = SocketAddr;

    /// A member that was declared dead comes back by itself.
    fn renew(&self) -> Option<Self> {
        Some(Self { addr: self.addr, life: self.life + 1 })
    }

    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.life > other.life
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "--version") {
        println!("{VERSION}");
        return Ok(());
    }
    let [bind, members, join @ ..] = &arguments[..] else {
        return Err("usage: foca-node BIND MEMBERS [JOIN]".into());
    };
    let join = join.first().map(|addr| addr.parse::<SocketAddr>()).transpose()?;
    let config = Config::new_lan(members.parse()?);
    let mut buffer = vec![0; config.max_packet_size.get()];
    let socket = UdpSocket::bind(bind.parse::<SocketAddr>()?)?;
    let addr = socket.local_addr()?;
    let life = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis().try_into()?;
    let mut foca = Foca::new(Member { addr, life }, config, StdRng::from_os_rng(), PostcardCodec);
    let mut runtime = AccumulatingRuntime::new();
    let mut timers: BinaryHeap<Reverse<(Instant, Timer<Member>)>> = BinaryHeap::new();
    let mut join_at = join.map(|_| Instant::now());
    println!("ready {addr}");
    loop {
        let now = Instant::now();
        if let (Some(to), Some(at)) = (join, join_at)
            && at <= now
        {
            let is_alone = foca.num_members() == 0;
            if is_alone {
                foca.announce(Member { addr: to, life: 0 }, &mut runtime)?;
            }
            join_at = is_alone.then(|| now + JOIN_INTERVAL);
        }
        while timers.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Reverse((_, timer)) = timers.pop().expect("the queue has a first timer");
            // foca's errors tell of packets and timers that it ignores.
            let _ = foca.handle_timer(timer, &mut runtime);
        }
        while let Some((to, packet)) = runtime.to_send() {
            // A packet that cannot be sent is a lost packet.
            let _ = socket.send_to(&packet, to.addr);
        }
        while let Some((delay, timer)) = runtime.to_schedule() {
            timers.push(Reverse((now + delay, timer)));
        }
        while let Some(notification) = runtime.to_notify() {
            match notification {
                OwnedNotification::MemberUp(member) => println!("up {}", member.addr),
                OwnedNotification::MemberDown(member) => println!("down {}", member.addr),
                _ => {}
            }
        }
        let next = timers.peek().map(|Reverse((at, _))| *at).into_iter().chain(join_at).min();
        let wait = next.map(|at| at.saturating_duration_since(Instant::now()).max(WAIT_MIN));
        socket.set_read_timeout(wait)?;
        match socket.recv(&mut buffer) {
            Ok(length) => drop(foca.handle_data(&buffer[..length], &mut runtime)),
            // The last kind reports that a packet sent before was refused.
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock
                | ErrorKind::TimedOut
                | ErrorKind::Interrupted
                | ErrorKind::ConnectionRefused => {}
                _ => return Err(error.into()),
            },
        }
    }
}
