//! Figures of messages on their way: how long one takes, how many go through, and how soon a
//! network that was split is one again.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use p2p_gossip::wire::{self, FrameReader, Hello, Message};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::clock::{self, Spread, median};
use crate::cluster::Cluster;
use crate::contender::embedded::EverySecond;
use crate::contender::ours::Ours;
use crate::contender::{Contender, Heard};
use crate::credentials::{Credentials, client_config};
use crate::floor;
use crate::measure::PATIENCE;
use crate::netns::{self, Network};
use crate::stop::{Signals, Stop};

/// Hexadecimal digits of an id in a log.
const SHORT_ID: usize = 10;
/// Until what a session lets through at once is through, and it paces its peer.
const BURST_OVER: Duration = Duration::from_secs(3);
/// Nodes of which one pings all others.
pub(crate) const FAN: usize = 32;
/// Nodes of a network that is split in half.
pub(crate) const SPLIT: usize = 8;

/// From a ping's sending until it is read from the receiver's stdout, on every link from an embedded
/// node to one for use: a quarter of all directions, in a mesh in which all others are as busy.
pub(crate) fn latency(ours: Ours, signals: &Signals, count: usize, window: Duration) -> Result<Spread, Stop> {
    let mixed = EverySecond(ours);
    let mut cluster = Cluster::new(&mixed, signals)?;
    cluster.form(count, PATIENCE)?;
    cluster.listen_for(Duration::from_secs(2))?;
    cluster.pings = Some(Vec::new());
    cluster.listen_for(window)?;
    let records = cluster.pings.take().unwrap_or_default();

    let nodes: BTreeMap<&str, usize> = cluster.running().map(|node| (cluster.id(node), node)).collect();
    let mut sent = BTreeMap::new();
    for record in &records {
        if let Heard::Sent { peer, seq, at } = &record.heard {
            sent.insert((record.node, peer.as_str(), *seq), *at);
        }
    }
    let took = records.iter().filter_map(|record| {
        let Heard::Ping { peer, seq } = &record.heard else { return None };
        let sender = *nodes.get(peer.as_str())?;
        let receiver = cluster.id(record.node).get(..SHORT_ID)?;
        let is_timed = !EverySecond::is_embedded(record.node);
        // What was sent before the window has no time.
        let sent = *sent.get(&(sender, receiver, *seq)).filter(|_| is_timed)?;
        Some(record.at.saturating_sub(sent).as_secs_f64())
    });
    Spread::of(took.collect()).ok_or_else(|| Stop::Failed("no ping was received".to_owned()))
}

/// Frames that a node takes and shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) frames_per_s: f64,
    /// CPU time of the receiving node for one.
    pub(crate) cpu_s: f64,
}

/// One peer that sends pings as fast as it can, over raw rustls, to one node.
pub(crate) fn flood(ours: &Ours, signals: &Signals, window: Duration) -> Result<Taken, Stop> {
    let mut cluster = Cluster::new(ours, signals)?;
    cluster.form(1, PATIENCE)?;
    let mut peer = RawPeer::join(cluster.join_address(0))?;
    let socket = peer.0.sock.try_clone()?;
    thread::scope(|scope| {
        scope.spawn(move || peer.flood());
        let mut measure = || -> Result<Taken, Stop> {
            cluster.listen_for(BURST_OVER)?;
            cluster.pings = Some(Vec::new());
            let (began, cpu) = (clock::now(), cluster.cpu()?);
            cluster.listen_for(window)?;
            let (took, cpu) = (clock::now() - began, cluster.cpu()? - cpu);
            let frames = cluster.pings.take().unwrap_or_default().len() as f64;
            Ok(Taken { frames_per_s: frames / took.as_secs_f64(), cpu_s: cpu.as_secs_f64() / frames })
        };
        let taken = measure();
        // Ends the flood, wherever it waits.
        let _ = socket.shutdown(Shutdown::Both);
        taken
    })
}

/// The other end of a session, without a node around it.
struct RawPeer(StreamOwned<ClientConnection, TcpStream>);

impl RawPeer {
    fn join(address: &str) -> io::Result<Self> {
        let config = Arc::new(client_config(&Credentials::new()));
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(tls, TcpStream::connect(address)?);
        let hello = Message::Hello(Hello {
            instance: fastrand::u64(..),
            name: "flood".to_owned(),
            listen_port: 0,
            advertised: Vec::new(),
            heartbeat_ms: 1000,
        });
        stream.write_all(&wire::encode(&hello).map_err(io::Error::other)?)?;
        let mut frames = FrameReader::new();
        let mut chunk = [0; 4096];
        while frames.next_message().map_err(io::Error::other)?.is_none() {
            let read = stream.read(&mut chunk)?;
            frames.buffer().extend_from_slice(&chunk[..read]);
        }
        Ok(Self(stream))
    }

    /// Pings until the connection is gone.
    fn flood(&mut self) {
        for seq in 1.. {
            let Ok(frame) = floor::ping(seq) else { return };
            if self.0.write_all(&frame).is_err() {
                return;
            }
        }
    }
}

/// One node that pings all others as often as can be asked: pings shown a second, and asked for.
pub(crate) fn fan(ours: Ours, signals: &Signals, window: Duration) -> Result<(f64, f64), Stop> {
    let period = p2p_gossip::config::PERIOD_MIN.as_secs_f64();
    let ours = ours.with_first_period(period);
    let mut cluster = Cluster::new(&ours, signals)?;
    cluster.form(FAN, PATIENCE)?;
    cluster.listen_for(BURST_OVER)?;
    cluster.pings = Some(Vec::new());
    let began = clock::now();
    cluster.listen_for(window)?;
    let took_s = (clock::now() - began).as_secs_f64();
    let first = cluster.id(0).to_owned();
    let of_first = |heard: &Heard| matches!(heard, Heard::Ping { peer, .. } if *peer == first);
    let shown = cluster.pings.take().unwrap_or_default().iter().filter(|r| of_first(&r.heard)).count();
    Ok((shown as f64 / took_s, (FAN - 1) as f64 / period))
}

/// From the end of a partition of this length, 4|4, until all see all again. `None` where the
/// system does not let us make networks.
pub(crate) fn heal(
    ours: &Ours,
    signals: &Signals,
    partition: Duration,
    rounds: usize,
) -> Result<Option<f64>, Stop> {
    let mut all = Vec::new();
    for _ in 0..rounds {
        let Some(network) = Network::new(SPLIT) else { return Ok(None) };
        let places = (1..=SPLIT).map(|node| (network.namespace(node), netns::addr(node))).collect();
        let ours = ours.clone().with_places(places);
        let contender: &dyn Contender = &ours;
        let mut cluster = Cluster::new(contender, signals)?;
        cluster.form(SPLIT, PATIENCE)?;
        let nodes: Vec<usize> = (1..=SPLIT).collect();
        let (here, there) = nodes.split_at(SPLIT / 2);
        let split = clock::now();
        network.impose(&netns::partition(here, there));
        cluster.until("the halves to lose each other", split + PATIENCE, |cluster| {
            cluster.running().all(|node| cluster.seen_by(node) == SPLIT / 2 - 1)
        })?;
        cluster.listen_for((split + partition).saturating_sub(clock::now()))?;
        network.lift();
        let lifted = clock::now();
        let whole = cluster.until_whole(lifted + PATIENCE)?;
        all.push(whole.saturating_sub(lifted).as_secs_f64());
    }
    Ok(Some(median(&all)))
}
