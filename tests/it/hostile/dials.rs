//! Third parties that a stranger makes a node dial: the kernel counts the node's connection attempts.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{iter, thread};

use nix::sched::{CloneFlags, setns};
use p2p_gossip::internals::mesh::CREDIT_MAX;
use p2p_gossip::internals::wire::{Hello, Message, PeerRecord, RECORDS_MAX};
use p2p_gossip::{Event, PeerId};

use super::raw::{Credentials, Raw, client_config, hello};
use super::resources::alone;
use crate::support::history::Member;
use crate::support::netns::{Network, addr, partition};
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
/// Time between two acts of the attacker.
const FLAP_EVERY: Duration = Duration::from_millis(100);
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
        Self::with_victim(|_, spec| spec)
    }

    /// The attacked node has what `change` adds.
    fn with_victim(change: impl FnOnce(&Cluster, Spec) -> Spec) -> Option<Self> {
        let network = Network::new(NEWCOMER)?;
        network.ip(VICTIM, &format!("route add {ELSEWHERE} via {}", addr(THIRD).ip()));
        network.ip(THIRD, &format!("route add local {ELSEWHERE} dev lo"));
        network.ip(THIRD, &format!("route add {} dev eth0", addr(VICTIM).ip()));
        let members = format!("{}, {}", addr(HONEST).ip(), addr(NEWCOMER).ip());
        let rule = format!("ip daddr != {{ {members} }} tcp flags & (syn | ack) == syn counter");
        network.set_sender_faults(VICTIM, &[rule]);
        let mut cluster = Cluster::new();
        let victim = change(&cluster, spec(&network, VICTIM));
        let victim = cluster.start(victim);
        let honest = cluster.start(spec(&network, HONEST).with_connect(addr(VICTIM)));
        cluster.wait_full_mesh(&[victim, honest]);
        Some(Self { cluster, victim, honest, network })
    }

    /// Runs the attacker in its namespace.
    fn attack(&self, attack: impl FnOnce() + Send) {
        self.attack_beside(attack, || ());
    }

    /// Runs the attacker in its namespace, and `during` beside it.
    fn attack_beside(&self, attack: impl FnOnce() + Send, during: impl FnOnce()) {
        let namespace = self.network.namespace(ATTACKER);
        thread::scope(|scope| {
            scope.spawn(|| {
                let file = File::open(format!("/run/netns/{namespace}")).unwrap();
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                attack();
            });
            during();
        });
    }

    /// From now on only the attempts to this machine are counted.
    fn count_attempts_to(&self, third: SocketAddr) {
        let rule = format!("ip daddr {} tcp flags & (syn | ack) == syn counter", third.ip());
        self.network.set_sender_faults(VICTIM, &[rule]);
    }

    /// Connection attempts to others than the members, or to the machine that is counted.
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

/// An address of the third party.
fn elsewhere(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddr::from(([10, 88, high, low], 22))
}

/// An invented peer at this address.
fn invented(at: SocketAddr) -> PeerRecord {
    let mut id = [0; 32];
    id.fill_with(|| fastrand::u8(..));
    PeerRecord { id: PeerId::from_bytes(id), addrs: vec![at.into()], connected: true }
}

/// Sets a flag when it is dropped, also by a panic.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// One key comes and goes.
fn flap(to: SocketAddr, over: &AtomicBool) {
    let me = Credentials::new();
    while !over.load(Ordering::SeqCst) {
        if let Ok(socket) = TcpStream::connect(to) {
            let mut raw = Raw::over(socket, client_config(&me));
            if raw.shake_hands().is_ok() {
                let _ = raw.send(&Message::Hello(hello("flaps")));
            }
        }
        thread::sleep(FLAP_EVERY);
    }
}

/// A member answers each question with a list of invented peers, and makes the node ask again.
fn invent_peers(to: SocketAddr, id: PeerId, over: &AtomicBool) {
    // The peer with the smaller id sends the heartbeats.
    let lower = iter::repeat_with(Credentials::new).find(|me| me.id() < id);
    let mut raw = Raw::join(to, &lower.expect("there is one"));
    for seq in 1.. {
        let heartbeat = Message::Heartbeat { seq, digest: fastrand::u64(..), interval_ms: 1000, rtt_us: 0 };
        if over.load(Ordering::SeqCst) || raw.send(&heartbeat).is_err() {
            return;
        }
        loop {
            match raw.receive() {
                Ok(Message::HeartbeatAck { .. }) => break,
                Ok(Message::PeersRequest) => {
                    let records: Vec<PeerRecord> = (1..=INVENTED).map(|n| invented(elsewhere(n))).collect();
                    for records in records.chunks(RECORDS_MAX) {
                        let _ = raw.send(&Message::Peers { records: records.to_vec(), more: true });
                    }
                    let _ = raw.send(&Message::Peers { records: Vec::new(), more: false });
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
        thread::sleep(FLAP_EVERY);
    }
}

/// Two members that have lost each other meet again although one key comes and goes at both and another invents peers.
#[test]
fn members_that_lost_each_other_meet_beside_flapping_and_invented_peers() {
    let _alone = alone();
    let Some(scene) = Scene::new() else { return };
    let pair = [scene.victim, scene.honest];
    let ids = pair.map(|member| scene.cluster.id(member));
    let over = &AtomicBool::new(false);
    let attack = || {
        thread::scope(|scope| {
            for (node, id) in [VICTIM, HONEST].into_iter().zip(ids) {
                scope.spawn(move || flap(addr(node), over));
                scope.spawn(move || invent_peers(addr(node), id, over));
            }
        });
    };
    let (cluster, network) = (&scene.cluster, &scene.network);
    scene.attack_beside(attack, || {
        let _over = SetOnDrop(over);
        scene.wait_attempt();
        let mark = cluster.mark();
        network.set_faults(&partition(&[VICTIM], &[HONEST]));
        cluster.wait_for("both to lose each other", &pair, |history| {
            let is_lost = |at: usize| !history.view(pair[at]).contains(&ids[1 - at]);
            (is_lost(0) && is_lost(1)).then_some(())
        });
        network.clear_faults();
        let healed = Instant::now();
        cluster.wait_for("both to meet again", &pair, |history| {
            let is_met = |at: usize| history.view(pair[at]).contains(&ids[1 - at]);
            (is_met(0) && is_met(1)).then_some(())
        });
        let flaps =
            cluster.wait_for("the events", &[], |history| Some(history.ups_since(pair[0], mark).len()));
        eprintln!("met again after {:?}; {flaps} peers came to the node meanwhile", healed.elapsed());
    });
}

/// The node dials invented peers only as often as their teller can pay for.
#[test]
fn invented_peers_at_one_and_at_a_thousand_addresses_cost_a_third_party_few_connects() {
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
        eprintln!("{INVENTED} invented peers: {attempts} connection attempts");
        assert!(attempts > 0 && attempts <= u64::from(CREDIT_MAX) + RETURNED_MAX, "{attempts} attempts");
    }
}

/// What a stranger advertises is not dialled once it has left, and where it came from only a few times.
#[test]
fn fresh_keys_that_advertise_a_third_party_cost_it_nothing() {
    let third = SocketAddr::new(addr(THIRD).ip(), 22);
    for (is_third_counted, attempts_max) in [(true, 0), (false, u64::from(CREDIT_MAX) + RETURNED_MAX)] {
        let _alone = alone();
        let Some(mut scene) = Scene::new() else { return };
        if is_third_counted {
            scene.count_attempts_to(third);
        }
        scene.attack(|| {
            for _ in 0..FRESH_KEYS {
                let mut raw = Raw::dial(addr(VICTIM), &Credentials::new());
                raw.exchange_hello(Hello {
                    advertised: vec![third.into()],
                    listen_port: 22,
                    ..hello("fresh")
                });
            }
        });
        scene.newcomer_joins();
        let attempts = scene.attempts_in_the_end();
        assert!(attempts <= attempts_max, "{attempts} attempts of {attempts_max}");
    }
}

/// A node remembers nothing of a stranger that would make it dial a third party in its next run, whether the stranger
/// goes before the node does or stays longer.
#[test]
fn stranger_that_came_for_a_moment_lends_no_dials_to_the_next_run() {
    for stays in [false, true] {
        let _alone = alone();
        let state = |cluster: &Cluster, spec: Spec| spec.with_state(&cluster.path("state"));
        let Some(mut scene) = Scene::with_victim(state) else { return };
        let (third, stranger) = (SocketAddr::new(addr(THIRD).ip(), 22), Credentials::new());
        let mut session = None;
        scene.attack(|| {
            let mut raw = Raw::dial(addr(VICTIM), &stranger);
            raw.exchange_hello(Hello { advertised: vec![third.into()], listen_port: 22, ..hello("moment") });
            scene.cluster.wait_for("the stranger to be up", &[scene.victim], |history| {
                history.view(scene.victim).contains(&stranger.id()).then_some(())
            });
            session = stays.then_some(raw);
        });
        if !stays {
            scene.cluster.wait_for("the stranger to be down", &[scene.victim], |history| {
                (!history.view(scene.victim).contains(&stranger.id())).then_some(())
            });
        }
        let next = scene.cluster.restart_spec(scene.victim);
        scene.cluster.terminate(scene.victim);
        drop(session);
        scene.count_attempts_to(third);
        scene.victim = scene.cluster.start(next);
        scene.cluster.wait_full_mesh(&[scene.victim, scene.honest]);
        assert_eq!(scene.attempts_in_the_end(), 0, "if the stranger stays: {stays}");
    }
}
