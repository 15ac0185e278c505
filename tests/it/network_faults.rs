//! Faults of a real network under real nodes: lost packets, links that go down, kernels that refuse to send.
//! The tests check which peers are declared dead, and that the mesh heals.
//!
//! They need root, network namespaces, and the tools ip, ss and nft; without these they print a message and
//! pass. `cargo test --test it network_faults -- --nocapture` prints the measurements.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use p2p_gossip::internals::limits::{HEARTBEAT, TIMEOUT};
use p2p_gossip::{DownReason, Event, PeerId};

use crate::support::history::{History, Member};
use crate::support::netns::{Network, addr, drop_dials, drop_from_to, partition, random_loss};
use crate::support::process::Spec;
use crate::support::{Cluster, assert_mesh_stays_up, pings_shown_twice, unique_addr};

/// The observer waited for the timeout.
const SILENCE: &[DownReason] = &[DownReason::Timeout];
/// The observer waited for the timeout, or the other end did so first and closed the connection.
const SILENCE_OR_END: &[DownReason] = &[DownReason::Timeout, DownReason::Closed];

/// Nodes 1, 2, …, each in its own namespace. The other nodes join through the first.
struct World {
    // Dropped first: namespaces go after the nodes in them.
    cluster: Cluster,
    network: Network,
    nodes: Vec<Member>,
}

impl World {
    /// Starts `count` nodes on a network with room for `spare` more. `None` if the machine lacks a requirement.
    fn start(count: usize, spare: usize, period_s: f64) -> Option<Self> {
        let network = Network::new(count + spare)?;
        let mut world = Self { cluster: Cluster::new(), network, nodes: Vec::new() };
        for node in 1..=count {
            let spec = world.spec(node).with_period(period_s);
            let spec = if node == 1 { spec } else { spec.with_connect(addr(1)) };
            let member = if node == 1 { world.cluster.start(spec) } else { world.cluster.spawn(spec) };
            world.nodes.push(member);
        }
        world.cluster.wait_full_mesh(&world.nodes);
        Some(world)
    }

    /// Eight nodes that ping five times a second.
    fn start_eight() -> Option<Self> {
        Self::start(8, 0, 0.2)
    }

    /// The start options of a node: its address and key stay the same at each start.
    fn spec(&self, node: usize) -> Spec {
        let name = format!("n{node}");
        let key = self.cluster.new_key(&name);
        // Without circuits, so that each test sees what a fault does to the direct links; circuits have their own tests.
        let spec = Spec::named(name).with_bind(addr(node)).with_key(&key).with_args("--relay off");
        spec.with_namespace(self.network.namespace(node))
    }

    fn member(&self, node: usize) -> Member {
        self.nodes[node - 1]
    }

    /// Waits until each observer has lost each of the `lost` nodes.
    fn wait_lost(&self, observers: &[usize], lost: &[usize], mark: usize) {
        let lost: Vec<PeerId> = lost.iter().map(|&node| self.cluster.id(self.member(node))).collect();
        let observers: Vec<Member> = observers.iter().map(|&node| self.member(node)).collect();
        self.cluster.wait_for("the losses that the fault causes", &observers, |history| {
            let noticed = |&observer: &Member| {
                let downs = history.downs_since(observer, mark);
                lost.iter().all(|id| downs.iter().any(|(peer, _)| peer == id))
            };
            observers.iter().all(noticed).then_some(())
        });
    }

    /// Waits for the losses on both sides of a partition.
    fn wait_split(&self, here: &[usize], there: &[usize], mark: usize) {
        self.wait_lost(here, there, mark);
        self.wait_lost(there, here, mark);
    }

    /// Checks that since the mark exactly these losses occurred, once each and for one of the given reasons.
    #[track_caller]
    fn check_losses(&self, expected: &Losses, mark: usize) {
        self.cluster.check(&self.nodes, |history| {
            self.nodes.iter().enumerate().find_map(|(at, &member)| {
                let mut awaited: BTreeMap<PeerId, (usize, &[DownReason])> = BTreeMap::new();
                for (&(observer, lost), &reasons) in &expected.0 {
                    if observer == at + 1 {
                        awaited.insert(self.id_in(history, lost), (lost, reasons));
                    }
                }
                for (peer, reason) in history.downs_since(member, mark) {
                    match awaited.remove(&peer) {
                        Some((_, reasons)) if reasons.contains(&reason) => {}
                        Some((lost, _)) => return Some(format!("n{} lost n{lost}: {reason}", at + 1)),
                        None => return Some(format!("n{} lost {}: {reason}", at + 1, peer.short())),
                    }
                }
                awaited.pop_first().map(|(_, (lost, _))| format!("n{} never lost n{lost}", at + 1))
            })
        });
    }

    /// Checks that no peer was declared dead before the timeout, and prints the times of silence: from the last
    /// event of the peer to its loss, by the clock of the observer.
    #[track_caller]
    fn check_silences(&self, scenario: &str, mark: usize) {
        let mut silences_s = self.cluster.wait_for("the history", &[], |history| {
            let mut last_sign = BTreeMap::new();
            let mut silences_s = Vec::new();
            for (at, record) in history.records().iter().enumerate() {
                let time = || -> Timestamp { record.json["time"].as_str().unwrap().parse().unwrap() };
                match record.event {
                    // The fault may occur before the first ping.
                    Event::Up { peer, .. } | Event::Ping { peer, .. } => {
                        last_sign.insert((record.member, peer), time());
                    }
                    Event::Down { peer, reason: DownReason::Timeout, .. } if at >= mark => {
                        let silence = time().duration_since(last_sign[&(record.member, peer)]);
                        silences_s.push(silence.as_secs_f64());
                    }
                    _ => {}
                }
            }
            Some(silences_s)
        });
        silences_s.sort_by(f64::total_cmp);
        let (first, last) = (silences_s[0], silences_s[silences_s.len() - 1]);
        println!("{scenario}: dead after {first:.2} s (soonest) to {last:.2} s (latest) of silence");
        // A late event makes a silence look shorter than it was, but by less than a heartbeat.
        assert!(first >= (TIMEOUT - HEARTBEAT).as_secs_f64(), "declared dead after {first} s of silence");
    }

    fn id_in(&self, history: &History, node: usize) -> PeerId {
        history.listening(self.member(node)).expect("it listens").0
    }

    /// Waits until these members are a full mesh, prints how long that took, and checks that the mesh stays
    /// complete with pings on every link.
    fn check_healing(&self, scenario: &str, members: &[Member], lifted: Instant) {
        self.cluster.wait_full_mesh(members);
        println!(
            "{scenario}: whole again {:.2} s after the fault was lifted",
            lifted.elapsed().as_secs_f64()
        );
        assert_mesh_stays_up(&self.cluster, members);
        self.cluster.check(members, pings_shown_twice);
    }
}

/// Expected losses: (observer, lost node) and the accepted reasons.
#[derive(Default)]
struct Losses(BTreeMap<(usize, usize), &'static [DownReason]>);

impl Losses {
    fn and(mut self, observers: &[usize], lost: &[usize], reasons: &'static [DownReason]) -> Self {
        for &observer in observers {
            self.0.extend(lost.iter().map(|&lost| ((observer, lost), reasons)));
        }
        self
    }

    /// Both groups lose each other by timeout.
    fn mutual(here: &[usize], there: &[usize]) -> Self {
        Self::default().and(here, there, SILENCE).and(there, here, SILENCE)
    }
}

#[test]
fn partition_into_halves_for_ten_seconds_heals() {
    let Some(world) = World::start_eight() else { return };
    let (here, there) = (&[1, 2, 3, 4], &[5, 6, 7, 8]);
    let (mark, began) = (world.cluster.mark(), Instant::now());
    world.network.set_faults(&partition(here, there));
    world.wait_split(here, there, mark);
    // The partition lasts so long that the redials have backed off.
    thread::sleep(Duration::from_secs(10).saturating_sub(began.elapsed()));
    for half in [here, there] {
        let half = half.map(|node| world.member(node));
        let split = world.cluster.mark();
        world.cluster.wait_pings(&half, 3, split);
    }

    world.network.clear_faults();
    world.check_healing("4|4 partition", &world.nodes, Instant::now());
    world.check_silences("4|4 partition", mark);
    world.check_losses(&Losses::mutual(here, there), mark);
}

#[test]
fn one_way_loss_breaks_only_the_affected_links() {
    let Some(world) = World::start_eight() else { return };
    let mark = world.cluster.mark();
    world.network.set_faults(&[drop_from_to(&[2], &[3]), drop_from_to(&[4, 5], &[6])]);
    let pairs: [(&[usize], &[usize]); 2] = [(&[2], &[3]), (&[4, 5], &[6])];
    let mut losses = Losses::default();
    for (heard, deaf) in pairs {
        world.wait_split(heard, deaf, mark);
        // The deaf end times out. The other end still receives the goodbye of the deaf end, or times out if
        // unacknowledged data blocks the goodbye.
        losses = losses.and(deaf, heard, SILENCE).and(heard, deaf, SILENCE_OR_END);
    }
    world.network.clear_faults();
    world.check_healing("one-way loss", &world.nodes, Instant::now());
    world.check_losses(&losses, mark);
}

#[test]
fn pings_pass_on_every_link_at_twenty_percent_packet_loss() {
    let Some(world) = World::start_eight() else { return };
    let mark = world.cluster.mark();
    world.network.set_faults(&[random_loss(20)]);
    world.cluster.wait_pings(&world.nodes, 40, mark);
    world.cluster.check(&world.nodes, |history| {
        let downs: Vec<_> = world.nodes.iter().flat_map(|&m| history.downs_since(m, mark)).collect();
        println!("20 % loss: {} losses on 56 link ends meanwhile", downs.len());
        // A late packet can cause a timeout; no other reason is acceptable.
        let odd = downs.iter().find(|(_, reason)| !SILENCE_OR_END.contains(reason));
        odd.map(|(peer, reason)| format!("{} lost: {reason}", peer.short()))
    });

    world.network.clear_faults();
    let lifted = Instant::now();
    world.cluster.wait_full_mesh(&world.nodes);
    println!("20 % loss: whole again {:.2} s after the fault was lifted", lifted.elapsed().as_secs_f64());
    // Some connections may have lost too much to recover, and time out only now.
    let clear = world.cluster.mark();
    world.cluster.wait_pings(&world.nodes, 25, clear);
    world.cluster.wait_full_mesh(&world.nodes);
    assert_mesh_stays_up(&world.cluster, &world.nodes);
    world.cluster.check(&world.nodes, pings_shown_twice);
}

#[test]
fn isolated_node_rejoins() {
    let Some(world) = World::start_eight() else { return };
    let (alone, others) = (&[1], &[2, 3, 4, 5, 6, 7, 8]);
    let mark = world.cluster.mark();
    // The isolated node is the bootstrap peer of the other nodes.
    world.network.set_faults(&partition(alone, others));
    world.wait_split(alone, others, mark);
    world.network.clear_faults();
    world.check_healing("isolated node", &world.nodes, Instant::now());
    world.check_silences("isolated node", mark);
    world.check_losses(&Losses::mutual(alone, others), mark);
}

#[test]
fn node_rejoins_when_its_interface_is_up_again() {
    let Some(world) = World::start_eight() else { return };
    let (alone, others) = (&[5], &[1, 2, 3, 4, 6, 7, 8]);
    let mark = world.cluster.mark();
    world.network.ip(5, "link set eth0 down");
    world.wait_split(alone, others, mark);
    world.network.ip(5, "link set eth0 up");
    world.check_healing("interface down and up", &world.nodes, Instant::now());
    world.check_silences("interface down and up", mark);
    world.check_losses(&Losses::mutual(alone, others), mark);
}

#[test]
fn partition_heals_after_each_side_gained_and_lost_a_node() {
    let Some(mut world) = World::start(8, 2, 0.2) else { return };
    // The network assigns the newcomers 9 and 10 to one side each.
    let (here, there) = (&[1, 2, 3, 4], &[5, 6, 7, 8]);
    let mark = world.cluster.mark();
    world.network.set_faults(&partition(&[1, 2, 3, 4, 9], &[5, 6, 7, 8, 10]));
    world.wait_split(here, there, mark);

    // One node dies and another leaves; the opposite side learns of neither.
    let (dead, left) = (world.member(2), world.member(6));
    let (dead_id, left_id) = (world.cluster.id(dead), world.cluster.id(left));
    world.cluster.kill(dead);
    world.wait_lost(&[1, 3, 4], &[2], mark);
    let split = world.cluster.mark();
    assert_eq!(world.cluster.terminate(left).code(), Some(0), "a leave is a clean end");
    world.cluster.wait_left(&[5, 7, 8].map(|node| world.member(node)), left_id, split);

    let nine = world.cluster.start(world.spec(9).with_connect(addr(4)));
    let ten = world.cluster.start(world.spec(10).with_connect(addr(8)));
    let side =
        |nodes: [usize; 3], newcomer| [&nodes.map(|node| world.member(node))[..], &[newcomer]].concat();
    let (here_now, there_now) = (side([1, 3, 4], nine), side([5, 7, 8], ten));
    world.cluster.wait_full_mesh(&here_now);
    world.cluster.wait_full_mesh(&there_now);

    let healed = world.cluster.mark();
    world.network.clear_faults();
    let all = [here_now, there_now].concat();
    world.check_healing("partition with changes on both sides", &all, Instant::now());
    world.check_silences("partition with changes on both sides", mark);
    let losses = Losses::mutual(here, there).and(&[1, 3, 4], &[2], &[DownReason::Closed]);
    world.check_losses(&losses, mark);
    world.cluster.check(&all, |history| {
        let revived = |&&member: &&Member| {
            let ups = history.ups_since(member, healed);
            ups.contains(&dead_id) || ups.contains(&left_id)
        };
        all.iter().find(revived).map(|_| "a node that had died or left came up again".to_owned())
    });
}

#[test]
fn thirty_two_nodes_restarted_at_once_form_a_full_mesh() {
    // On loopback: 32 namespaces need 992 neighbour entries, about the kernel's limit for all namespaces
    // together. At two seconds a ping, the processor has spare time.
    let mut cluster = Cluster::new();
    let specs: Vec<Spec> = (1..=32)
        .map(|node| {
            let name = format!("n{node}");
            let key = cluster.new_key(&name);
            Spec::named(name).with_bind(unique_addr()).with_key(&key).with_period(2.0)
        })
        .collect();
    let members = cluster.start_star(specs[0].clone(), specs[1..].iter().cloned());
    cluster.wait_full_mesh(&members);
    let specs: Vec<Spec> = members.iter().map(|&member| cluster.restart_spec(member)).collect();
    let ids: Vec<PeerId> = members.iter().map(|&member| cluster.id(member)).collect();
    // All nodes are suspended before the first one dies, so that no node sees the death of another.
    for &node in &members {
        cluster.signal(node, rustix::process::Signal::STOP);
    }
    for &node in &members {
        cluster.kill(node);
    }

    let began = Instant::now();
    let again: Vec<Member> = specs.into_iter().map(|spec| cluster.spawn(spec)).collect();
    cluster.wait_full_mesh(&again);
    println!("32 nodes restarted: whole {:.2} s after the first start", began.elapsed().as_secs_f64());
    let ids_again: Vec<PeerId> = again.iter().map(|&member| cluster.id(member)).collect();
    assert_eq!(ids_again, ids, "a key is an identity");
    let mark = cluster.mark();
    cluster.wait_pings(&again, 3, mark);
    cluster.check_steady(&again, mark);
    cluster.check(&again, pings_shown_twice);
    cluster.check(&again, |history| {
        let lost = |&member: &Member| history.downs_since(member, 0).into_iter().next();
        again.iter().find_map(lost).map(|(peer, reason)| format!("{} lost: {reason}", peer.short()))
    });
}

#[test]
fn dead_link_is_detected_when_the_kernel_refuses_to_send() {
    let Some(world) = World::start_eight() else { return };
    let ip = |node| addr(node).ip();
    let mark = world.cluster.mark();
    // Four links; sending fails at once on each, with a different error.
    world.network.ip(1, &format!("route add unreachable {}/32", ip(2)));
    world.network.ip(3, &format!("route add prohibit {}/32", ip(4)));
    let reset = format!("ip daddr {} meta l4proto tcp reject with tcp reset", ip(6));
    world.network.set_sender_faults(5, &[reset]);
    let reject = format!("ip daddr {} reject with icmp type admin-prohibited", ip(8));
    world.network.set_sender_faults(7, &[reject]);
    let mut losses = Losses::default();
    for sender in [1, 3, 5, 7] {
        let receiver = sender + 1;
        world.wait_split(&[sender], &[receiver], mark);
        // The receiver times out. The sender times out too, or gets the receiver's goodbye.
        losses = losses.and(&[receiver], &[sender], SILENCE).and(&[sender], &[receiver], SILENCE_OR_END);
    }

    world.network.ip(1, &format!("route del unreachable {}/32", ip(2)));
    world.network.ip(3, &format!("route del prohibit {}/32", ip(4)));
    world.network.set_sender_faults(5, &[]);
    world.network.set_sender_faults(7, &[]);
    world.check_healing("local send errors", &world.nodes, Instant::now());
    world.check_losses(&losses, mark);
}

#[test]
fn link_that_only_one_side_can_dial_is_restored() {
    let Some(world) = World::start_eight() else { return };
    // On one link the side that decides about duplicates cannot dial, on the other link the other side.
    let id = |node| world.cluster.id(world.member(node));
    let ordered = |a, b| if id(a) < id(b) { (a, b) } else { (b, a) };
    let ((small, large), (other_small, other_large)) = (ordered(1, 2), ordered(3, 4));
    let mark = world.cluster.mark();
    world.network.set_faults(&[drop_dials(small, large), drop_dials(other_large, other_small)]);

    let cut = Instant::now();
    let links = [(small, large), (other_small, other_large)];
    let mut losses = Losses::default();
    for (one, other) in links {
        world.network.cut_connections(one, &[other]);
        world.wait_split(&[one], &[other], mark);
        let ends: &[DownReason] = &[DownReason::Closed];
        losses = losses.and(&[one], &[other], ends).and(&[other], &[one], ends);
    }
    // The fault stays: the dials of one side must be enough.
    world.check_healing("one side dials (after the cut)", &world.nodes, cut);
    world.check_losses(&losses, mark);
}

/// The resources of a node.
#[derive(Clone, Copy, Debug)]
struct Holdings {
    threads: usize,
    descriptors: usize,
    resident_kib: usize,
}

impl Holdings {
    fn read(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| -> usize {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self { threads: field("Threads:"), descriptors, resident_kib: field("VmRSS:") }
    }
}

impl World {
    fn holdings(&self) -> Vec<Holdings> {
        self.nodes.iter().map(|&member| Holdings::read(self.cluster.pid(member))).collect()
    }

    /// The resources of each node at rest: the minimum during pings for longer than a goodbye may take.
    fn holdings_at_rest(&self) -> Vec<Holdings> {
        let mut least = self.holdings();
        for _ in 0..15 {
            self.ping_round();
            for (least, now) in least.iter_mut().zip(self.holdings()) {
                least.threads = least.threads.min(now.threads);
                least.descriptors = least.descriptors.min(now.descriptors);
                least.resident_kib = now.resident_kib;
            }
        }
        least
    }

    /// Waits until no node has more threads or descriptors than before.
    fn holdings_back_at(&self, before: &[Holdings]) -> Vec<Holdings> {
        self.wait_for_holdings(before, |now, before| {
            now.threads <= before.threads && now.descriptors <= before.descriptors
        })
    }

    /// Waits until no node has more descriptors than before: of the two connections of a pair that dialled each other at the
    /// same time one is closed.
    fn connections_back_at(&self, before: &[Holdings]) {
        self.wait_for_holdings(before, |now, before| now.descriptors <= before.descriptors);
    }

    /// Panics after `ROUNDS_MAX` pings.
    fn wait_for_holdings(
        &self,
        before: &[Holdings],
        fits: impl Fn(&Holdings, &Holdings) -> bool,
    ) -> Vec<Holdings> {
        const ROUNDS_MAX: usize = 100;
        let mut now = self.holdings();
        for _ in 0..ROUNDS_MAX {
            if now.iter().zip(before).all(|(now, before)| fits(now, before)) {
                return now;
            }
            self.ping_round();
            now = self.holdings();
        }
        panic!("resources are left over: {now:?}\nbefore: {before:?}");
    }

    fn ping_round(&self) {
        let mark = self.cluster.mark();
        self.cluster.wait_pings(&self.nodes, 1, mark);
    }
}

#[test]
fn fifty_partitions_leave_no_resources_behind() {
    const CYCLES: usize = 50;
    /// Cycles after which the allocator has reached its steady size.
    const WARM_UP: usize = 10;
    /// Allowed growth beyond that. One leaked session per link and cycle would be four times as much.
    const GROWTH_KIB_MAX: usize = 3 * 1024;

    let Some(world) = World::start_eight() else { return };
    let (here, there) = (&[1, 2, 3, 4], &[5, 6, 7, 8]);
    let before = world.holdings_at_rest();
    let mut warm = before.clone();
    let mut healing_s = Vec::new();
    for cycle in 1..=CYCLES {
        // A second connection that is half up would come up after the first one is cut, and be lost as well.
        world.connections_back_at(&before);
        let mark = world.cluster.mark();
        world.network.set_faults(&partition(here, there));
        // Cutting the connections makes a cycle shorter than the timeout. Both ends are cut, because a reset
        // would not pass the partition.
        thread::scope(|scope| {
            for (group, others) in [(here, there), (there, here)] {
                for &node in group {
                    let network = &world.network;
                    scope.spawn(move || network.cut_connections(node, others));
                }
            }
        });
        world.wait_split(here, there, mark);
        world.network.clear_faults();
        let lifted = Instant::now();
        world.cluster.wait_full_mesh(&world.nodes);
        healing_s.push(lifted.elapsed().as_secs_f64());
        let losses = Losses::default().and(here, there, SILENCE_OR_END).and(there, here, SILENCE_OR_END);
        world.check_losses(&losses, mark);
        if cycle == WARM_UP {
            warm = world.holdings_back_at(&before);
        }
    }
    let after = world.holdings_back_at(&before);
    healing_s.sort_by(f64::total_cmp);
    println!(
        "{CYCLES} partitions: whole again after {:.2} s (median), {:.2} s (longest)",
        healing_s[CYCLES / 2],
        healing_s[CYCLES - 1]
    );
    world.cluster.check(&world.nodes, pings_shown_twice);
    for (node, ((before, warm), after)) in before.iter().zip(&warm).zip(&after).enumerate() {
        println!("n{}: {before:?}\n    warm {warm:?}\n    after {after:?}", node + 1);
        let growth = after.resident_kib.saturating_sub(warm.resident_kib);
        assert!(growth <= GROWTH_KIB_MAX, "n{}: {growth} KiB are left over", node + 1);
    }
}
