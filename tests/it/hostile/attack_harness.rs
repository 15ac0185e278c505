//! A node under attack, an honest peer beside it, and the checks after the attack.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use p2p_gossip::PeerId;
use p2p_gossip::internals::mesh::STRANGER_REDIAL;

use crate::support::history::Member;
use crate::support::process::Spec;
use crate::support::{Cluster, DEADLINE, localhost};

/// Memory that the victim may keep after an attack: the allocator keeps some of what hundreds of sessions
/// needed.
const RSS_LEFT_KIB: u64 = 48 * 1024;
/// Text of the log line about a handshake that took too long.
pub(super) const HANDSHAKE_TOO_LONG: &str = "handshake not complete";
/// Time between two reads of /proc, which has no change notification.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// The resources of a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resources {
    pub(super) rss_kib: u64,
    pub(super) threads: usize,
    pub(super) descriptors: usize,
}

impl Resources {
    fn read(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the node runs");
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
        let count = |what| fs::read_dir(format!("/proc/{pid}/{what}")).expect("the node runs").count();
        Self {
            rss_kib: rss.trim().trim_end_matches(" kB").parse().expect("a number of kB"),
            threads: count("task"),
            descriptors: count("fd"),
        }
    }

    /// The larger of each.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            rss_kib: self.rss_kib.max(other.rss_kib),
            threads: self.threads.max(other.threads),
            descriptors: self.descriptors.max(other.descriptors),
        }
    }

    fn is_back_to(self, before: Self) -> bool {
        self.threads <= before.threads
            && self.descriptors <= before.descriptors
            && self.rss_kib <= before.rss_kib + RSS_LEFT_KIB
    }
}

/// A node under attack and an honest peer that stays connected to it.
pub(super) struct Attack {
    pub(super) cluster: Cluster,
    pub(super) victim: Member,
    pub(super) honest: Member,
    before: Resources,
    mark: usize,
}

impl Attack {
    pub(super) fn start() -> Self {
        Self::start_on(Spec::named("victim"))
    }

    /// Starts the victim with these options on a loopback address.
    pub(super) fn start_on(victim: Spec) -> Self {
        let mut cluster = Cluster::new();
        let spec = Spec::named("honest").with_bind(localhost());
        let nodes = cluster.start_star(victim.with_bind(localhost()), [spec]);
        let (victim, honest) = (nodes[0], nodes[1]);
        let (victim_id, honest_id) = (cluster.id(victim), cluster.id(honest));
        cluster.wait_for("the honest peer to join", &nodes, |history| {
            let connected =
                history.view(victim).contains(&honest_id) && history.view(honest).contains(&victim_id);
            connected.then_some(())
        });
        cluster.wait_pings(&nodes, 3, 0);
        let before = Resources::read(cluster.pid(victim));
        let mark = cluster.mark();
        Self { cluster, victim, honest, before, mark }
    }

    /// The victim's listening address.
    pub(super) fn addr(&self) -> SocketAddr {
        self.cluster.addr(self.victim)
    }

    /// Waits until the victim counts this peer as a member.
    pub(super) fn wait_up(&self, peer: PeerId) {
        self.cluster.wait_for("the victim to count the raw peer", &[self.victim], |history| {
            history.ups_since(self.victim, 0).contains(&peer).then_some(())
        });
    }

    /// Waits for a line in the victim's log.
    pub(super) fn wait_log(&self, text: &str) {
        self.cluster.wait_for(&format!("{text:?} in the log"), &[self.victim], |history| {
            history.log_mentions(self.victim, text).then_some(())
        });
    }

    /// True if the victim's log contains the text now.
    pub(super) fn has_logged(&self, text: &str) -> bool {
        self.log_count(text) > 0
    }

    /// Number of lines in the victim's log that contain the text now.
    pub(super) fn log_count(&self, text: &str) -> usize {
        self.cluster.wait_for("the log", &[], |history| Some(history.log_count(self.victim, text)))
    }

    /// What the victim uses now.
    pub(super) fn resources(&self) -> Resources {
        Resources::read(self.cluster.pid(self.victim))
    }

    /// Waits until the victim has at most this many threads.
    pub(super) fn wait_threads(&self, most: usize) {
        let deadline = Instant::now() + DEADLINE;
        while self.threads() > most {
            assert!(Instant::now() < deadline, "{:?}", self.resources());
            thread::sleep(POLL_EVERY);
        }
    }

    /// Current number of the victim's threads.
    pub(super) fn threads(&self) -> usize {
        self.resources().threads
    }

    /// Starts a newcomer that joins through the victim, pings it and leaves.
    pub(super) fn newcomer_joins(&mut self) {
        let spec = Spec::named("newcomer").with_bind(localhost()).with_connect(self.addr());
        let mark = self.cluster.mark();
        let newcomer = self.cluster.start(spec);
        let trio = [self.victim, self.honest, newcomer];
        self.cluster.wait_pings(&trio, 2, mark);
        self.cluster.terminate(newcomer);
        let id = self.cluster.id(newcomer);
        self.cluster.wait_left(&trio[..2], id, mark);
    }

    /// Checks the state after the attack: a newcomer joins, the victim never lost the honest peer, and the
    /// victim has freed all resources that the attack used.
    pub(super) fn end(mut self) {
        self.newcomer_joins();
        let (victim, honest) = (self.victim, self.honest);
        let ids = [self.cluster.id(victim), self.cluster.id(honest)];
        let mark = self.mark;
        self.cluster.check(&[victim, honest], |history| {
            let lost = |&m: &Member| history.downs_since(m, mark).into_iter().find(|(p, _)| ids.contains(p));
            [victim, honest].iter().find_map(lost).map(|(p, r)| format!("{} was lost: {r}", p.short()))
        });
        self.wait_resources_freed();
    }

    /// Checks during the attack that the victim uses no more memory than it may keep afterwards.
    pub(super) fn check_memory(&self) {
        let now = Resources::read(self.cluster.pid(self.victim));
        assert!(now.rss_kib <= self.before.rss_kib + RSS_LEFT_KIB, "before {:?}, now {now:?}", self.before);
    }

    /// Waits until the victim uses no more resources than before the attack. It dials lost strangers for a while, and as long
    /// as its handshake threads get work in turn, they do not end.
    pub(super) fn wait_resources_freed(&self) {
        let pid = self.cluster.pid(self.victim);
        let deadline = Instant::now() + STRANGER_REDIAL + DEADLINE;
        loop {
            let now = Resources::read(pid);
            if now.is_back_to(self.before) {
                return;
            }
            assert!(Instant::now() < deadline, "before the attack {:?}, after it {now:?}", self.before);
            thread::sleep(POLL_EVERY);
        }
    }
}
