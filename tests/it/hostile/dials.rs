//! Third parties that a stranger makes a node dial: the kernel counts the node's connection attempts.

use std::fs::File;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use std::{iter, thread};

use nix::sched::{CloneFlags, setns};
use p2p_gossip::internals::mesh::CREDIT_MAX;
use p2p_gossip::internals::wire::{Hello, Message, PeerRecord, RECORDS_MAX};
use p2p_gossip::{Event, PeerId};

use super::raw::{Credentials, Raw, hello};
use super::resources::alone;
use crate::support::history::Member;
use crate::support::netns::{Network, addr};
use crate::support::process::Spec;
use crate::support::{Cluster, DEADLINE};

const VICTIM: usize = 1;
const ATTACKER: usize = 2;
/// It has no node. It refuses connections, at its own address and at all of [`ELSEWHERE`].
const THIRD: usize = 3;
const HONEST: usize = 4;
const NEWCOMER: usize = 5;
/// A network behind the third party, with 1,000 addresses and more.
const ELSEWHERE: &str = "10.88.0.0/16";
/// Peers that the attacker invents, and keys that it brings.
const INVENTED: u16 = 1_000;
const FRESH_KEYS: u16 = 200;
/// Time between two reads of the kernel's counter, which tells of no change.
const COUNT_EVERY: Duration = Duration::from_millis(50);
/// Payments that return while the test runs, on a slow machine.
const RETURNED_MAX: u64 = 4 * 5;

/// A node that a stranger attacks, with an honest member. The kernel counts the node's connection attempts to others.
struct Scene {
    cluster: Cluster,
    victim: Member,
    honest: Member,
    network: Network,
}

impl Scene {
    fn new() -> Option<Self> {
        let network = Network::new(NEWCOMER)?;
        network.ip(VICTIM, &format!("route add {ELSEWHERE} via {}", addr(THIRD).ip()));
        network.ip(THIRD, &format!("route add local {ELSEWHERE} dev lo"));
        network.ip(THIRD, &format!("route add {} dev eth0", addr(VICTIM).ip()));
        let members = format!("{}, {}", addr(HONEST).ip(), addr(NEWCOMER).ip());
        let rule = format!("ip daddr != {{ {members} }} tcp flags & (syn | ack) == syn counter");
        network.set_sender_faults(VICTIM, &[rule]);
        let mut cluster = Cluster::new();
        let victim = cluster.start(spec(&network, VICTIM));
        let honest = cluster.start(spec(&network, HONEST).with_connect(addr(VICTIM)));
        cluster.wait_full_mesh(&[victim, honest]);
        Some(Self { cluster, victim, honest, network })
    }

    /// Runs the attacker in its namespace.
    fn attack(&self, attack: impl FnOnce() + Send) {
        let namespace = self.network.namespace(ATTACKER);
        thread::scope(|scope| {
            scope.spawn(|| {
                let file = File::open(format!("/run/netns/{namespace}")).unwrap();
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                attack();
            });
        });
    }

    /// Connection attempts to others than the members.
    fn attempts(&self) -> u64 {
        self.network.packets_counted(VICTIM)
    }

    /// The attempts once a second passes with at most one more.
    fn attempts_in_the_end(&self) -> u64 {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let before = self.attempts();
            thread::sleep(Duration::from_secs(1));
            let after = self.attempts();
            if after <= before + 1 {
                return after;
            }
            assert!(Instant::now() < deadline, "{after} attempts, and no end");
        }
    }

    fn wait_attempt(&self) {
        let deadline = Instant::now() + DEADLINE;
        while self.attempts() == 0 {
            assert!(Instant::now() < deadline, "the node dialled no invented peer");
            thread::sleep(COUNT_EVERY);
        }
    }

    /// A newcomer meets all members through the attacked node.
    fn newcomer_joins(&mut self) {
        let newcomer = self.cluster.start(spec(&self.network, NEWCOMER).with_connect(addr(VICTIM)));
        let trio = [self.victim, self.honest, newcomer];
        let ids = trio.map(|member| self.cluster.id(member));
        self.cluster.wait_for("the newcomer to meet both", &trio, |history| {
            let meets = |member: Member| {
                let view = history.view(member);
                trio.into_iter().zip(&ids).all(|(other, id)| other == member || view.contains(id))
            };
            trio.into_iter().all(meets).then_some(())
        });
    }
}

fn spec(network: &Network, node: usize) -> Spec {
    Spec::named(format!("n{node}")).with_namespace(network.namespace(node)).with_bind(addr(node))
}

/// An invented peer at this address.
fn invented(at: SocketAddr) -> PeerRecord {
    let mut id = [0; 32];
    id.fill_with(|| fastrand::u8(..));
    PeerRecord { id: PeerId::from_bytes(id), addrs: vec![at.into()], connected: true }
}

/// The node dials invented peers only as often as their teller can pay for.
#[test]
fn invented_peers_at_one_and_at_a_thousand_addresses_cost_a_third_party_few_connects() {
    let elsewhere = |n: u16| {
        let [high, low] = n.to_be_bytes();
        SocketAddr::from(([10, 88, high, low], 22))
    };
    let third = SocketAddr::new(addr(THIRD).ip(), 22);
    for place in [&(|_| third) as &(dyn Fn(u16) -> SocketAddr + Sync), &elsewhere] {
        let _alone = alone();
        let Some(mut scene) = Scene::new() else { return };
        let victim = scene.cluster.id(scene.victim);
        scene.attack(|| {
            // The peer with the smaller id sends the heartbeats. This one knows of other members, so the node asks for them.
            let lower = iter::repeat_with(Credentials::new).find(|me| me.id() < victim);
            let mut raw = Raw::join(addr(VICTIM), &lower.expect("there is one"));
            raw.send(&Message::Heartbeat { seq: 1, digest: 1, interval_ms: 1000, rtt_us: 0 }).unwrap();
            while !matches!(raw.receive().expect("a session"), Message::PeersRequest) {}
            let records: Vec<PeerRecord> = (1..=INVENTED).map(|n| invented(place(n))).collect();
            for records in records.chunks(RECORDS_MAX) {
                raw.send(&Message::Peers { records: records.to_vec(), more: true }).unwrap();
            }
            raw.send(&Message::Peers { records: Vec::new(), more: false }).unwrap();
            // The node handles what the session sent before this ping.
            raw.send(&Message::Ping { seq: 77, text: "end".to_owned() }).unwrap();
            scene.cluster.wait_for("the ping behind the list", &[scene.victim], |history| {
                let is_end = |event: &Event| matches!(event, Event::Ping { seq: 77, .. });
                history.events_since(scene.victim, 0).any(is_end).then_some(())
            });
            scene.wait_attempt();
        });
        scene.newcomer_joins();
        let attempts = scene.attempts_in_the_end();
        assert!(attempts > 0 && attempts <= u64::from(CREDIT_MAX) + RETURNED_MAX, "{attempts} attempts");
    }
}

/// What a stranger advertises is not dialled once it has left.
#[test]
fn fresh_keys_that_advertise_a_third_party_cost_it_nothing() {
    let _alone = alone();
    let Some(mut scene) = Scene::new() else { return };
    let third = SocketAddr::new(addr(THIRD).ip(), 22);
    scene.attack(|| {
        for _ in 0..FRESH_KEYS {
            let mut raw = Raw::dial(addr(VICTIM), &Credentials::new());
            raw.exchange_hello(Hello { advertised: vec![third.into()], listen_port: 22, ..hello("fresh") });
        }
    });
    scene.newcomer_joins();
    let attempts = scene.attempts_in_the_end();
    assert!(attempts <= u64::from(CREDIT_MAX) + RETURNED_MAX, "{attempts} attempts");
}
