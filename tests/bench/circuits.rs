//! Figures of circuits: what a carrier pays, and how fast data passes through one.
//!
//! Each figure is measured twice, in one run and with the same nodes: once each pair connects by itself, and once all
//! but the first node are kept from each other, so that the first one carries.

use std::io;
use std::process::Command;
use std::time::Duration;

use crate::clock;
use crate::cluster::Cluster;
use crate::measure::PATIENCE;
use crate::netns::{self, Network};
use crate::procfs;
use crate::stop::{Signals, Stop};
use crate::system_under_test::embedded::BURST_ROLE;
use crate::system_under_test::ours::Ours;
use crate::system_under_test::{OutputParser, Plan, SystemUnderTest};

/// Nodes of the mesh at rest. The first one carries for all pairs of the others.
pub(crate) const STAR: usize = 9;
/// Circuits in that mesh.
pub(crate) const CIRCUITS: usize = (STAR - 1) * (STAR - 2) / 2;
/// The node that carries.
const CARRIER: usize = 0;
/// Nodes of the mesh in which one sends: the carrier, the sender and the receiver.
const SENDER: usize = 1;
const RECEIVER: usize = 2;
/// Messages that one node sends in a burst, 10 MB in all: fewer than what a receiver takes at once.
pub(crate) const BURST_MESSAGES: usize = 2500;
/// Threads that send them, because one that waits for the node's answer to each message measures that answer.
pub(crate) const BURST_SENDERS: usize = 4;
/// Bytes of each of them.
pub(crate) const BURST_BYTES: usize = 4000;
/// After a mesh has formed, first pings and digests go out.
const SETTLED: Duration = Duration::from_secs(3);

/// One figure of direct connections, and the same through a carrier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Both<T> {
    pub(crate) direct: T,
    pub(crate) carried: T,
}

impl<T> Both<T> {
    /// Measures both. `None` if the system does not allow this program to create networks.
    fn measure(
        nodes: usize,
        mut measure: impl FnMut(&Network) -> Result<T, Stop>,
    ) -> Result<Option<Self>, Stop> {
        let mut measured = Vec::new();
        for is_carried in [false, true] {
            let Some(network) = Network::new(nodes) else { return Ok(None) };
            if is_carried {
                let apart = (2..=nodes).flat_map(|a| (a + 1..=nodes).map(move |b| (a, b)));
                let rules: Vec<String> = apart.flat_map(|(a, b)| netns::partition(&[a], &[b])).collect();
                network.set_faults(&rules);
            }
            measured.push(measure(&network)?);
        }
        let carried = measured.pop();
        Ok(measured.pop().zip(carried).map(|(direct, carried)| Self { direct, carried }))
    }
}

/// The carrier at rest, when nothing but heartbeats is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    /// CPU seconds a second.
    pub(crate) cpu_s: f64,
    pub(crate) memory_bytes: f64,
}

/// Measures the first of [`STAR`] nodes at rest.
pub(crate) fn rest(ours: &Ours, signals: &Signals, window: Duration) -> Result<Option<Both<Rest>>, Stop> {
    Both::measure(STAR, |network| {
        let mut cluster = Cluster::new(ours, signals)?.in_network(network);
        cluster.form(STAR, PATIENCE)?;
        cluster.listen_for(SETTLED)?;
        let (began, cpu) = (clock::now(), cluster.cpu_of(CARRIER)?);
        cluster.listen_for(window)?;
        let (took, cpu) = (clock::now() - began, cluster.cpu_of(CARRIER)? - cpu);
        let memory_bytes = cluster.memory()?[CARRIER].rss as f64;
        Ok(Rest { cpu_s: cpu.as_secs_f64() / took.as_secs_f64(), memory_bytes })
    })
}

/// A burst of messages from one node to the two others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Burst {
    /// Megabytes a second, from before the first message is sent until the receiver has shown the last one.
    pub(crate) mb_per_s: f64,
    /// CPU seconds of the sender, the carrier and the receiver.
    pub(crate) cpu_s: f64,
    pub(crate) carrier_cpu_s: f64,
}

/// Measures how fast 10 MB arrive. The carrier gets each message as well. The nodes are embedded in this program, so
/// that what the program pays for showing so many texts is no part of the figure.
pub(crate) fn burst(ours: &Ours, signals: &Signals) -> Result<Option<Both<Burst>>, Stop> {
    Both::measure(RECEIVER + 1, |network| {
        let system = OneBurst(ours.clone());
        let mut cluster = Cluster::new(&system, signals)?.in_network(network);
        cluster.form(RECEIVER + 1, PATIENCE)?;
        cluster.listen_for(SETTLED)?;
        let (began, cpu, carrier_cpu) = (clock::now(), cluster.cpu()?, cluster.cpu_of(CARRIER)?);
        cluster.signal(SENDER)?;
        // The carrier is first: it takes what the receiver is sent.
        cluster.until("all messages", began + PATIENCE, |cluster| cluster.messages >= 2 * BURST_MESSAGES)?;
        let took = clock::now() - began;
        let megabytes = (BURST_MESSAGES * BURST_BYTES) as f64 / 1e6;
        Ok(Burst {
            mb_per_s: megabytes / took.as_secs_f64(),
            cpu_s: (cluster.cpu()? - cpu).as_secs_f64(),
            carrier_cpu_s: (cluster.cpu_of(CARRIER)? - carrier_cpu).as_secs_f64(),
        })
    })
}

/// A mesh of embedded nodes, each of which sends a burst when it is told to.
struct OneBurst(Ours);

impl SystemUnderTest for OneBurst {
    fn name(&self) -> String {
        self.0.name()
    }

    fn version(&self) -> Result<String, String> {
        self.0.version()
    }

    fn command(&self, plan: &Plan<'_>) -> io::Result<Command> {
        let addr = plan.addr.ok_or_else(|| io::Error::other("a burst needs a network"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args([BURST_ROLE, &addr.to_string()]).args(plan.join);
        Ok(command)
    }

    fn parser(&self, plan: &Plan<'_>) -> Box<dyn OutputParser> {
        self.0.parser(plan)
    }
}

/// CPU seconds that `socat` takes to carry as many bytes between two sockets on loopback, which is what a carrier without
/// encryption would do. `None` without socat.
pub(crate) fn socat() -> Result<Option<f64>, Stop> {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    let target = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = free.local_addr()?.port();
    drop(free);
    let listen = format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr");
    let connect = format!("TCP:{}", target.local_addr()?);
    let Ok(mut child) = Command::new("socat").args([listen, connect]).spawn() else {
        return Ok(None);
    };
    let carried = || -> io::Result<f64> {
        let deadline = clock::now() + PATIENCE;
        let mut near = loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                Ok(near) => break near,
                Err(error) if clock::now() > deadline => return Err(error),
                Err(_) => std::thread::yield_now(),
            }
        };
        let (mut far, _) = target.accept()?;
        let bytes = BURST_MESSAGES * BURST_BYTES;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let chunk = vec![7; BURST_BYTES];
                (0..BURST_MESSAGES).try_for_each(|_| near.write_all(&chunk))?;
                // Open until socat has been measured: its CPU time goes with it.
                near.read(&mut [0]).map(drop)
            });
            far.read_exact(&mut vec![0; bytes])?;
            let cpu = procfs::cpu(child.id())?;
            far.write_all(b"x")?;
            Ok(cpu.as_secs_f64())
        })
    };
    let cpu_s = carried();
    let _ = child.kill();
    let _ = child.wait();
    Ok(Some(cpu_s?))
}
