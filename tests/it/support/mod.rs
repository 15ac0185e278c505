//! Clusters of real processes: what each says is kept, and tests wait for what it must say.
//!
//! A wait has a generous deadline and no other timing: it looks at all that was said so far, again
//! whenever something new is said. That something does *not* happen is checked by waiting for
//! something that must come later, then looking back.

pub(crate) mod credentials;
pub(crate) mod executable;
pub(crate) mod history;
pub(crate) mod leaks;
pub(crate) mod netns;
pub(crate) mod process;
pub(crate) mod site;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use p2p_gossip::{DownReason, PeerId};
use rustix::process::Signal;

use history::{History, Member, report};
use process::{Output, Process, Spec, write_key};

/// How long anything may take: two busy cores are slow, and only a failure waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The program under test.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_p2p-gossip"))
}

/// Any free port of the address that everybody has.
pub(crate) fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A loopback address that no other node, test or test process uses, with a port free on it.
///
/// A node that must come back to its port needs an address of its own: on a shared one, the source
/// port of anybody's connection could take the place while the node is away.
pub(crate) fn own_addr() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        let last = u8::try_from(count % 250 + 1).expect("at most 250");
        // The second octet never is 0: 127.0.0.x is left to the tests that want it by name.
        let block = u8::try_from(count / 250 % 2).expect("at most 1");
        let ip = Ipv4Addr::new(127, (high & 0x3f) << 1 | block | 0x80, low, last);
        // Taken after all, perhaps by a process with a similar id: the next one is tried.
        if let Ok(addr) = TcpListener::bind((ip, 0)).and_then(|listener| listener.local_addr()) {
            return addr;
        }
    }
}

/// Names of the members of a cluster of this size.
pub(crate) fn names(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    (1..=count).map(move |n| format!("{prefix}{n}"))
}

/// Waits until pings have gone over every link for longer than the timeout and a few redials take,
/// and checks that nobody came or went meanwhile.
pub(crate) fn stays_whole(cluster: &Cluster, members: &[Member]) {
    // At five pings a second: five seconds, of which the timeout takes three.
    const PINGS: usize = 25;
    let mark = cluster.mark();
    cluster.wait_pings(members, PINGS, mark);
    cluster.check_steady(members, mark);
}

/// Says which pings were shown twice or out of order.
pub(crate) fn ping_disorder(history: &History) -> Option<String> {
    let disordered = |seqs: &Vec<u64>| !seqs.windows(2).all(|pair| pair[0] < pair[1]);
    history
        .pings_since(0)
        .into_values()
        .find(disordered)
        .map(|seqs| format!("pings shown twice or out of order: {seqs:?}"))
}

/// Says which pings were shown twice. Their order is promised within a session only: what a network
/// had held back on a lost one may arrive after what was sent on the next.
pub(crate) fn pings_shown_twice(history: &History) -> Option<String> {
    let repeated = |seqs: &Vec<u64>| seqs.iter().collect::<BTreeSet<_>>().len() < seqs.len();
    let twice = history.pings_since(0).into_values().find(repeated);
    twice.map(|seqs| format!("pings shown twice: {seqs:?}"))
}

/// What the nodes of a cluster said, and a way to wait for more.
#[derive(Default)]
struct Journal {
    history: Mutex<History>,
    news: Condvar,
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, History> {
        // A poisoned history belongs to a test that failed; the report still wants to read it.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, member: Member, output: Output) {
        self.lock().add(member, output);
        self.news.notify_all();
    }
}

/// Processes started by one test. All of them are killed when it ends, however it ends.
pub(crate) struct Cluster {
    journal: Arc<Journal>,
    processes: Vec<(Spec, Process)>,
    keys: tempfile::TempDir,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let keys = tempfile::tempdir().expect("a temporary directory for keys");
        Self { journal: Arc::default(), processes: Vec::new(), keys }
    }

    /// Starts a node without waiting for anything. A node that is started again is a new member.
    pub(crate) fn spawn(&mut self, spec: Spec) -> Member {
        let member = self.journal.lock().enrol(&spec.name);
        let journal = Arc::clone(&self.journal);
        let sink = move |output| journal.add(member, output);
        let process = Process::spawn(program(), &spec, sink)
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", spec.name));
        self.processes.push((spec, process));
        member
    }

    /// Starts a node and waits until its port accepts connections.
    pub(crate) fn start(&mut self, spec: Spec) -> Member {
        let member = self.spawn(spec);
        self.addr(member);
        member
    }

    /// Starts the first node of a cluster, and the others at once, all of them through the first.
    pub(crate) fn start_star(&mut self, first: Spec, others: impl IntoIterator<Item = Spec>) -> Vec<Member> {
        let first = self.start(first);
        let addr = self.addr(first);
        let mut members = vec![first];
        members.extend(others.into_iter().map(|spec| self.spawn(spec.with_connect(addr))));
        members
    }

    /// A new key file.
    pub(crate) fn new_key(&self, name: &str) -> PathBuf {
        let file = self.keys.path().join(name);
        write_key(&file).expect("a key file can be written");
        file
    }

    /// Where a file of this name would be, in a directory of this cluster's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.keys.path().join(name)
    }

    /// A file of the test's own.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let file = self.path(name);
        std::fs::write(&file, content).expect("a file can be written");
        file
    }

    /// How the member was started, with the address where it listened: what starts it again.
    pub(crate) fn spec_in_place(&self, member: Member) -> Spec {
        let spec = self.processes[member.index()].0.clone();
        spec.with_bind(self.addr(member))
    }

    /// Where the member can be reached.
    pub(crate) fn addr(&self, member: Member) -> SocketAddr {
        let (_, mut addr) = self.listening(member);
        if addr.ip().is_unspecified() {
            addr.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        addr
    }

    pub(crate) fn id(&self, member: Member) -> PeerId {
        self.listening(member).0
    }

    fn listening(&self, member: Member) -> (PeerId, SocketAddr) {
        self.wait_for("it to listen", &[member], |history| history.listening(member))
    }

    /// Waits until `probe` finds what it looks for in all that was said so far.
    pub(crate) fn wait_for<T>(
        &self,
        awaited: &str,
        involved: &[Member],
        mut probe: impl FnMut(&History) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut history = self.journal.lock();
        let why = loop {
            if let Some(found) = probe(&history) {
                return found;
            }
            if let Some(trouble) = history.trouble() {
                break trouble;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break format!("nothing within {DEADLINE:?}");
            }
            history = self.journal.news.wait_timeout(history, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        let report = report(&history, involved);
        drop(history);
        panic!("waited for {awaited}: {why}\n{report}");
    }

    /// Fails with a report on the members if `finding` says what is wrong.
    #[track_caller]
    pub(crate) fn check(&self, involved: &[Member], finding: impl FnOnce(&History) -> Option<String>) {
        let history = self.journal.lock();
        if let Some(finding) = finding(&history) {
            let report = report(&history, involved);
            drop(history);
            panic!("{finding}\n{report}");
        }
    }

    /// Now, as a place in the history to look back to.
    pub(crate) fn mark(&self) -> usize {
        self.journal.lock().len()
    }

    /// Waits until each of these sees exactly all others of them as up.
    pub(crate) fn wait_full_mesh(&self, members: &[Member]) {
        let ids: Vec<PeerId> = members.iter().map(|&member| self.id(member)).collect();
        self.wait_for("a full mesh", members, |history| {
            let complete = |(&member, id): (&Member, &PeerId)| {
                let view = history.view(member);
                view.len() == ids.len() - 1
                    && !view.contains(id)
                    && ids.iter().all(|i| i == id || view.contains(i))
            };
            members.iter().zip(&ids).all(complete).then_some(())
        });
    }

    /// Waits until each of these has had that many pings from each other one since the mark.
    pub(crate) fn wait_pings(&self, members: &[Member], count: usize, mark: usize) {
        let ids: Vec<PeerId> = members.iter().map(|&member| self.id(member)).collect();
        self.wait_for(&format!("{count} pings on every link"), members, |history| {
            let pings = history.pings_since(mark);
            let enough = |&member: &Member| {
                let own = ids[members.iter().position(|&m| m == member).expect("one of them")];
                ids.iter()
                    .all(|&id| id == own || pings.get(&(member, id)).is_some_and(|seqs| seqs.len() >= count))
            };
            members.iter().all(enough).then_some(())
        });
    }

    /// Waits until each of these has lost the peer since the mark, for the reason expected.
    pub(crate) fn wait_down(&self, members: &[Member], peer: PeerId, reason: DownReason, mark: usize) {
        self.wait_for(&format!("down ({reason}) of {}", peer.short()), members, |history| {
            let noticed = |&m: &Member| history.downs_since(m, mark).contains(&(peer, reason));
            members.iter().all(noticed).then_some(())
        });
        self.check(members, |history| {
            let wrong = |&m: &Member| {
                history.downs_since(m, mark).into_iter().find(|&(p, r)| p == peer && r != reason)
            };
            members.iter().find_map(wrong).map(|(_, r)| format!("down for the reason {r}, not {reason}"))
        });
    }

    /// Waits until each of these was told goodbye by the peer since the mark.
    pub(crate) fn wait_left(&self, members: &[Member], peer: PeerId, mark: usize) {
        self.wait_for(&format!("the goodbye of {}", peer.short()), members, |history| {
            members.iter().all(|&m| history.lefts_since(m, mark).contains(&peer)).then_some(())
        });
    }

    /// Checks that these have seen no peer come or go since the mark.
    #[track_caller]
    pub(crate) fn check_steady(&self, members: &[Member], mark: usize) {
        self.check(members, |history| {
            let change = |&m: &Member| history.changes_since(m, mark).first().map(ToString::to_string);
            members
                .iter()
                .find_map(change)
                .map(|change| format!("the mesh was to stay as it was, but: {change}"))
        });
    }

    /// The member's process id.
    pub(crate) fn pid(&self, member: Member) -> u32 {
        self.processes[member.index()].1.pid()
    }

    /// Sends a signal that does not end the member.
    pub(crate) fn signal(&mut self, member: Member, signal: Signal) {
        self.processes[member.index()].1.signal(signal).expect("the member can be signalled");
    }

    /// Ends the member without warning.
    pub(crate) fn kill(&mut self, member: Member) {
        self.journal.lock().dismiss(member);
        self.processes[member.index()].1.kill().expect("the member can be killed");
    }

    /// Asks the member to leave, and waits until it has ended.
    pub(crate) fn terminate(&mut self, member: Member) -> ExitStatus {
        self.end_by(member, Signal::TERM)
    }

    /// Sends a signal that ends the member, and waits until it has ended.
    pub(crate) fn end_by(&mut self, member: Member, signal: Signal) -> ExitStatus {
        self.journal.lock().dismiss(member);
        self.signal(member, signal);
        self.wait_for("it to end", &[member], |history| history.has_ended(member).then_some(()));
        let status = self.processes[member.index()].1.wait_until(Instant::now() + DEADLINE);
        status.expect("the member is our child").expect("it closed its stdout but does not end")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Everybody at once, not one after the other: nobody is to be seen mourning the others.
        for (_, process) in &mut self.processes {
            let _ = process.signal(Signal::KILL);
        }
    }
}
