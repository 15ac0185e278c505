//! Clusters of real processes: their outputs are kept, and tests wait for the outputs that must come.
//!
//! A wait has a generous deadline and no other timing: it examines all outputs so far, again after each
//! new one. To check that something does *not* happen, a test waits for an output that must come later,
//! then looks back.

pub(crate) mod credentials;
pub(crate) mod executable;
pub(crate) mod history;
pub(crate) mod leaks;
pub(crate) mod netns;
pub(crate) mod port_mapper;
pub(crate) mod process;
pub(crate) mod site;
pub(crate) mod skip;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use p2p_gossip::{DownReason, PeerId};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::Signal;

use history::{History, Member, report};
use process::{Output, Process, Spec, write_key};

/// Deadline of every wait. Long, because two busy cores are slow; only a failure waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The program under test.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_p2p-gossip"))
}

/// Any free port of 127.0.0.1.
pub(crate) fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A loopback address that no other node, test or test process uses, with a port free on it.
///
/// A node that restarts on its port needs such an address: on a shared one, the source port of any
/// connection could be that port while the node is down.
pub(crate) fn unique_addr() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        let last = u8::try_from(count % 250 + 1).expect("at most 250");
        // The second octet never is 0: some tests use 127.0.0.x by name.
        let block = u8::try_from(count / 250 % 2).expect("at most 1");
        let ip = Ipv4Addr::new(127, (high & 0x3f) << 1 | block | 0x80, low, last);
        // Another process, perhaps with a similar id, may have the address: then the next one is tried.
        if let Ok(addr) = TcpListener::bind((ip, 0)).and_then(|listener| listener.local_addr()) {
            return addr;
        }
    }
}

/// Names of the members of a cluster of this size.
pub(crate) fn names(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    (1..=count).map(move |n| format!("{prefix}{n}"))
}

/// Waits until pings have gone over every link for longer than the timeout and a few redials take, and
/// checks that no peer went up or down meanwhile.
pub(crate) fn assert_mesh_stays_up(cluster: &Cluster, members: &[Member]) {
    // Five seconds at five pings a second; the timeout is three seconds.
    const PINGS: usize = 25;
    let mark = cluster.mark();
    cluster.wait_pings(members, PINGS, mark);
    cluster.check_steady(members, mark);
}

/// Pings that a member printed twice or out of order, as a message; `None` if there are none.
pub(crate) fn ping_disorder(history: &History) -> Option<String> {
    let disordered = |seqs: &Vec<u64>| !seqs.windows(2).all(|pair| pair[0] < pair[1]);
    history
        .pings_since(0)
        .into_values()
        .find(disordered)
        .map(|seqs| format!("pings shown twice or out of order: {seqs:?}"))
}

/// Pings that a member printed twice, as a message; `None` if there are none. Order holds within a
/// session only: delayed pings of a lost session may arrive after those of the next.
pub(crate) fn pings_shown_twice(history: &History) -> Option<String> {
    let repeated = |seqs: &Vec<u64>| seqs.iter().collect::<BTreeSet<_>>().len() < seqs.len();
    let twice = history.pings_since(0).into_values().find(repeated);
    twice.map(|seqs| format!("pings shown twice: {seqs:?}"))
}

/// The history of a cluster, and a way to wait for more outputs.
#[derive(Default)]
struct Journal {
    history: Mutex<History>,
    changed: Condvar,
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, History> {
        // A failed test poisons the lock; its report still reads the history.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, member: Member, output: Output) {
        self.lock().add(member, output);
        self.changed.notify_all();
    }
}

/// Processes started by one test. All of them are killed when it ends, however it ends.
pub(crate) struct Cluster {
    journal: Arc<Journal>,
    processes: Vec<(Spec, Process)>,
    /// The ports of killed members on shared addresses.
    kept: Vec<(SocketAddr, OwnedFd)>,
    keys: tempfile::TempDir,
}

/// Keeps a port from other tests: the peers of the member that had it would meet a stranger there. Connections to it are
/// refused. Fails if another process has the port already.
fn keep_port(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // The connections of the member that had it are not quite closed yet.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &addr)?;
    // From here on the system gives it to no other process.
    sockopt::set_socket_reuseaddr(&socket, false)?;
    Ok(socket)
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let keys = tempfile::tempdir().expect("a temporary directory for keys");
        Self { journal: Arc::default(), processes: Vec::new(), kept: Vec::new(), keys }
    }

    /// Starts a node without waiting for it. A restarted node is a new member.
    pub(crate) fn spawn(&mut self, spec: Spec) -> Member {
        self.kept.retain(|(addr, _)| addr.port() != spec.port);
        let member = self.journal.lock().add_member(&spec.name);
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

    /// Starts the first node and waits for it, then starts all others at once with the first as bootstrap.
    pub(crate) fn start_star(&mut self, first: Spec, others: impl IntoIterator<Item = Spec>) -> Vec<Member> {
        let first = self.start(first);
        let addr = self.addr(first);
        let mut members = vec![first];
        members.extend(others.into_iter().map(|spec| self.spawn(spec.with_connect(addr))));
        members
    }

    /// Writes a new key file; returns its path.
    pub(crate) fn new_key(&self, name: &str) -> PathBuf {
        let file = self.keys.path().join(name);
        write_key(&file).expect("a key file can be written");
        file
    }

    /// The path of this name in the cluster's temporary directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.keys.path().join(name)
    }

    /// Writes a file in the cluster's temporary directory; returns its path.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let file = self.path(name);
        std::fs::write(&file, content).expect("a file can be written");
        file
    }

    /// The spec that restarts the member: its own, with the address where it listened.
    pub(crate) fn restart_spec(&self, member: Member) -> Spec {
        let spec = self.processes[member.index()].0.clone();
        spec.with_bind(self.addr(member))
    }

    /// The address where peers reach the member. Waits until it listens.
    pub(crate) fn addr(&self, member: Member) -> SocketAddr {
        let (_, mut addr) = self.listening(member);
        if addr.ip().is_unspecified() {
            addr.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        addr
    }

    /// The member's id. Waits until it listens.
    pub(crate) fn id(&self, member: Member) -> PeerId {
        self.listening(member).0
    }

    fn listening(&self, member: Member) -> (PeerId, SocketAddr) {
        self.wait_for("the member to listen", &[member], |history| history.listening(member))
    }

    /// Waits until `find` finds something in the history; returns it. Panics with a report on the
    /// `involved` members at `DEADLINE` or at an unexpected output.
    pub(crate) fn wait_for<T>(
        &self,
        awaited: &str,
        involved: &[Member],
        mut find: impl FnMut(&History) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut history = self.journal.lock();
        let reason = loop {
            if let Some(found) = find(&history) {
                return found;
            }
            if let Some(failure) = history.failure() {
                break failure;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break format!("nothing within {DEADLINE:?}");
            }
            history =
                self.journal.changed.wait_timeout(history, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        let report = report(&history, involved);
        drop(history);
        panic!("waited for {awaited}: {reason}\n{report}");
    }

    /// Panics with a report on the `involved` members if `finding` returns an error message.
    #[track_caller]
    pub(crate) fn check(&self, involved: &[Member], finding: impl FnOnce(&History) -> Option<String>) {
        let history = self.journal.lock();
        if let Some(finding) = finding(&history) {
            let report = report(&history, involved);
            drop(history);
            panic!("{finding}\n{report}");
        }
    }

    /// The current length of the history, for `…_since` queries.
    pub(crate) fn mark(&self) -> usize {
        self.journal.lock().len()
    }

    /// Waits until each of these members sees exactly all others of them as up.
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

    /// Waits until each of these members has had that many pings from each other one since the mark.
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

    /// Waits until each of these members has lost the peer since the mark; panics if the reason differs.
    pub(crate) fn wait_down(&self, members: &[Member], peer: PeerId, reason: DownReason, mark: usize) {
        self.wait_for(&format!("down ({reason}) of {}", peer.short()), members, |history| {
            let noticed = |&m: &Member| history.downs_since(m, mark).iter().any(|(lost, _)| *lost == peer);
            members.iter().all(noticed).then_some(())
        });
        self.check(members, |history| {
            let wrong = |&m: &Member| {
                history.downs_since(m, mark).into_iter().find(|&(p, r)| p == peer && r != reason)
            };
            members.iter().find_map(wrong).map(|(_, r)| format!("down for the reason {r}, not {reason}"))
        });
    }

    /// Waits until each of these members has reported the peer's leave since the mark.
    pub(crate) fn wait_left(&self, members: &[Member], peer: PeerId, mark: usize) {
        self.wait_for(&format!("the leave of {}", peer.short()), members, |history| {
            members.iter().all(|&m| history.lefts_since(m, mark).contains(&peer)).then_some(())
        });
    }

    /// Panics if one of these members has seen a peer go up or down since the mark.
    #[track_caller]
    pub(crate) fn check_steady(&self, members: &[Member], mark: usize) {
        self.check(members, |history| {
            let change = |&m: &Member| history.changes_since(m, mark).first().map(ToString::to_string);
            members.iter().find_map(change).map(|change| format!("the mesh changed: {change}"))
        });
    }

    /// The member's process id (pid).
    pub(crate) fn pid(&self, member: Member) -> u32 {
        self.processes[member.index()].1.pid()
    }

    /// Sends a signal that does not end the member.
    pub(crate) fn signal(&mut self, member: Member, signal: Signal) {
        self.processes[member.index()].1.signal(signal).expect("the member can be signalled");
    }

    /// Ends the member without warning.
    pub(crate) fn kill(&mut self, member: Member) {
        self.journal.lock().expect_end(member);
        self.processes[member.index()].1.kill().expect("the member can be killed");
        let is_here = self.processes[member.index()].0.namespace.is_none();
        let is_shared = |addr: &SocketAddr| addr.ip().is_unspecified() || addr.ip() == Ipv4Addr::LOCALHOST;
        let listening = self.journal.lock().listening(member).filter(|_| is_here);
        if let Some(addr) = listening.map(|(_, addr)| addr).filter(is_shared) {
            self.kept.extend(keep_port(addr).map(|port| (addr, port)));
        }
    }

    /// Asks the member to leave, and waits until it has ended.
    pub(crate) fn terminate(&mut self, member: Member) -> ExitStatus {
        self.end_with_signal(member, Signal::TERM)
    }

    /// Sends a signal that ends the member, and waits until it has ended.
    pub(crate) fn end_with_signal(&mut self, member: Member, signal: Signal) -> ExitStatus {
        self.journal.lock().expect_end(member);
        self.signal(member, signal);
        self.wait_for("the member to end", &[member], |history| history.has_ended(member).then_some(()));
        let status = self.processes[member.index()].1.wait_until(Instant::now() + DEADLINE);
        status.expect("the member is our child").expect("the member has closed its stdout and ends")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // All at once, so that no member logs the death of the others.
        for (_, process) in &mut self.processes {
            let _ = process.signal(Signal::KILL);
        }
    }
}
