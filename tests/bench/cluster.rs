//! The running nodes of one program. One thread starts them, reads their output and kills them at the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::process::{Pid, Signal, kill_process};

use crate::child_guard::ChildGuard;
use crate::clock;
use crate::netns::{self, Network};
use crate::procfs::{self, Memory, Sent};
use crate::stop::{Signals, Stop};
use crate::system_under_test::{Observation, OutputParser, Plan, SystemUnderTest};

/// Last lines of each node, kept to explain a failure.
const TAIL_LINES: usize = 6;
/// Most nodes whose last lines a failure shows.
const NODES_SHOWN: usize = 4;
/// Most pipes that are read after one wait.
const READY_MAX: usize = 64;
/// Bytes of one read: as many as a pipe holds.
const READ_BYTES: usize = 64 * 1024;
/// The epoll data of the signals; the pipes use smaller numbers.
const SIGNALS: u64 = u64::MAX;

/// A fact that a node has reported, and the time at which it was read.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) node: usize,
    pub(crate) at: Duration,
    pub(crate) observation: Observation,
}

struct Node {
    child: Child,
    stdout: Source<ChildStdout>,
    stderr: Source<ChildStderr>,
    parser: Box<dyn OutputParser>,
    /// The node's id and the address through which others join, once it listens.
    ready: Option<(String, String)>,
    /// The nodes that it sees.
    view: BTreeSet<String>,
    tail: VecDeque<String>,
    running: bool,
}

pub(crate) struct Cluster<'a> {
    system: &'a dyn SystemUnderTest,
    signals: &'a Signals,
    /// The network in which each node has a namespace of its own.
    network: Option<&'a Network>,
    /// Waits for all pipes and the signals. The cost of a wait is part of each figure, so it must not grow with
    /// the number of nodes.
    epoll: OwnedFd,
    ready: Vec<epoll::Event>,
    buffer: Vec<u8>,
    nodes: Vec<Node>,
    /// The node of each id that a node has had.
    by_id: BTreeMap<String, usize>,
    /// Changes of views and verdicts, if the caller asked for them.
    pub(crate) changes: Option<Vec<Record>>,
    /// Pings sent and received, if the caller asked for them.
    pub(crate) pings: Option<Vec<Record>>,
    /// Broadcast messages received so far, by all together.
    pub(crate) messages: usize,
    /// Losses reported so far, by all together.
    pub(crate) losses: usize,
    /// The time at which the last change of a view was read.
    last_change: Duration,
    dir: tempfile::TempDir,
    // The last field, because dropping it waits until the process group has ended.
    child_guard: ChildGuard,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(system: &'a dyn SystemUnderTest, signals: &'a Signals) -> Result<Self, Stop> {
        let dir = tempfile::Builder::new().prefix("p2p-gossip-bench-").tempdir()?;
        let child_guard = ChildGuard::start()?;
        let last_change = clock::now();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        add(&epoll, signals.fd(), SIGNALS)?;
        Ok(Self {
            system,
            signals,
            network: None,
            epoll,
            ready: Vec::with_capacity(READY_MAX),
            buffer: vec![0; READ_BYTES],
            nodes: Vec::new(),
            by_id: BTreeMap::new(),
            changes: None,
            pings: None,
            messages: 0,
            losses: 0,
            last_change,
            dir,
            child_guard,
        })
    }

    /// Runs each node in a namespace of this network.
    pub(crate) fn in_network(mut self, network: &'a Network) -> Self {
        self.network = Some(network);
        self
    }

    /// Starts one node, without waiting for anything.
    pub(crate) fn spawn(&mut self, join: Option<&str>) -> Result<usize, Stop> {
        let index = self.nodes.len();
        let node = self.start(index, join)?;
        self.nodes.push(node);
        Ok(index)
    }

    /// Starts a node again that was killed, without waiting for anything. It has a new id if the program keeps none.
    pub(crate) fn restart(&mut self, index: usize, join: &str) -> Result<(), Stop> {
        self.nodes[index].child.wait()?;
        self.nodes[index] = self.start(index, Some(join))?;
        Ok(())
    }

    fn start(&self, index: usize, join: Option<&str>) -> Result<Node, Stop> {
        // Networks count their nodes from 1.
        let addr = self.network.map(|_| netns::addr(index + 1));
        let plan = Plan { index, join, addr, dir: self.dir.path() };
        let mut command = self.system.command(&plan)?;
        if let Some(network) = self.network {
            command = inside(&network.namespace(index + 1), &command);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.child_guard.adopt(&mut command);
        let mut child = command
            .spawn()
            .map_err(|error| Stop::Failed(format!("cannot start {}: {error}", self.system.name())))?;
        let stdout = Source::new(child.stdout.take());
        let stderr = Source::new(child.stderr.take());
        stdout.register(&self.epoll, PipeId { node: plan.index, is_stderr: false })?;
        stderr.register(&self.epoll, PipeId { node: plan.index, is_stderr: true })?;
        Ok(Node {
            child,
            stdout,
            stderr,
            parser: self.system.parser(&plan),
            ready: None,
            view: BTreeSet::new(),
            tail: VecDeque::new(),
            running: true,
        })
    }

    /// Starts the first node, and once it listens, all others at once; they join through the first. Returns the
    /// time at which the last node saw all others.
    pub(crate) fn form(&mut self, count: usize, patience: Duration) -> Result<Duration, Stop> {
        let deadline = clock::now() + patience;
        let first = self.spawn(None)?;
        self.until("the first node to listen", deadline, |cluster| cluster.nodes[first].ready.is_some())?;
        let join = self.join_address(first).to_owned();
        for _ in 1..count {
            self.spawn(Some(&join))?;
        }
        self.until_whole(deadline)
    }

    /// Waits until each running node sees every other; returns the time at which the last node said so.
    pub(crate) fn until_whole(&mut self, deadline: Duration) -> Result<Duration, Stop> {
        self.until("every node to see every other", deadline, |cluster| {
            let count = cluster.running().count();
            cluster.running().all(|node| cluster.nodes[node].view.len() + 1 == count)
        })
    }

    /// Waits until no other running node sees this node any more; returns the time at which the last one said so.
    pub(crate) fn until_lost(&mut self, node: usize, deadline: Duration) -> Result<Duration, Stop> {
        let id = self.id(node).to_owned();
        self.until("every other node to notice the loss", deadline, |cluster| {
            let mut others = cluster.running().filter(|&other| other != node);
            others.all(|other| !cluster.nodes[other].view.contains(&id))
        })
    }

    /// Reads the nodes' output until `is_so` holds; returns the time at which the last change of a view was read.
    pub(crate) fn until(
        &mut self,
        awaited: &str,
        deadline: Duration,
        mut is_so: impl FnMut(&Self) -> bool,
    ) -> Result<Duration, Stop> {
        while !is_so(self) {
            let left = deadline.saturating_sub(clock::now());
            if left.is_zero() {
                return Err(self.failure(&format!("waited in vain for {awaited}")));
            }
            self.listen(left)?;
        }
        Ok(self.last_change)
    }

    /// Reads the nodes' output for this time.
    pub(crate) fn listen_for(&mut self, time: Duration) -> Result<(), Stop> {
        let end = clock::now() + time;
        loop {
            let left = end.saturating_sub(clock::now());
            if left.is_zero() {
                return Ok(());
            }
            self.listen(left)?;
        }
    }

    /// Waits once for output of any node, and handles it.
    fn listen(&mut self, timeout: Duration) -> Result<(), Stop> {
        self.ready.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.ready), Some(&timespec(timeout))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        // Reads all pipes before it parses any text: parsing takes longer and would delay the times of the others.
        let mut read = Vec::with_capacity(self.ready.len());
        for event in &self.ready {
            if event.data.u64() == SIGNALS {
                self.signals.check()?;
                continue;
            }
            let pipe = PipeId::from_data(event.data.u64());
            let node = &mut self.nodes[pipe.node];
            let bytes = if pipe.is_stderr {
                node.stderr.read(&mut self.buffer)
            } else {
                node.stdout.read(&mut self.buffer)
            };
            read.push((pipe, bytes, clock::now()));
        }
        for (pipe, bytes, at) in read {
            let node = &mut self.nodes[pipe.node];
            let partial = if pipe.is_stderr { &mut node.stderr.partial } else { &mut node.stdout.partial };
            let lines = complete_lines(partial, &bytes);
            self.apply_lines(pipe.node, at, lines);
            let node = &self.nodes[pipe.node];
            if node.running && node.stdout.pipe.is_none() {
                return Err(self.failure(&format!("node {} ended by itself", pipe.node + 1)));
            }
        }
        Ok(())
    }

    /// Applies the lines of a node that were read at `now`.
    fn apply_lines(&mut self, number: usize, now: Duration, lines: Vec<String>) {
        let node = &mut self.nodes[number];
        for line in lines {
            let observation = node.parser.parse_line(&line);
            match observation {
                Some(Observation::Ready { id, join }) => {
                    self.by_id.insert(id.clone(), number);
                    node.ready = Some((id, join));
                }
                Some(
                    observation @ (Observation::Up(_)
                    | Observation::Down(_)
                    | Observation::QuietDown(_)
                    | Observation::Path(_)
                    | Observation::Verdict { .. }),
                ) => {
                    let is_change = match &observation {
                        Observation::Up(peer) => node.view.insert(peer.clone()),
                        Observation::Down(peer) | Observation::QuietDown(peer) => {
                            let is_loss = node.view.remove(peer);
                            self.losses += usize::from(is_loss && node.running);
                            is_loss
                        }
                        _ => true,
                    };
                    if let Some(changes) = self.changes.as_mut().filter(|_| is_change) {
                        changes.push(Record { node: number, at: now, observation });
                    }
                }
                Some(Observation::Message) => {
                    self.messages += 1;
                    continue;
                }
                Some(observation @ (Observation::Ping { .. } | Observation::Sent { .. })) => {
                    if let Some(pings) = &mut self.pings {
                        pings.push(Record { node: number, at: now, observation });
                    }
                    continue;
                }
                None => {
                    if node.tail.len() == TAIL_LINES {
                        node.tail.pop_front();
                    }
                    node.tail.push_back(line);
                    continue;
                }
            }
            self.last_change = now;
        }
    }

    fn failure(&self, problem: &str) -> Stop {
        let mut text = format!("{}: {problem}", self.system.name());
        let incomplete = |node: &&Node| node.running && node.view.len() + 1 < self.running().count();
        let behind: Vec<&Node> = self.nodes.iter().filter(incomplete).collect();
        for node in behind.iter().take(NODES_SHOWN) {
            text += &format!("\n  a node that sees {} others:", node.view.len());
            node.tail.iter().for_each(|line| text += &format!("\n    {line}"));
        }
        if behind.len() > NODES_SHOWN {
            text += &format!("\n  and {} more", behind.len() - NODES_SHOWN);
        }
        Stop::Failed(text)
    }

    /// Kills a node without warning, also a stopped one; returns the time.
    pub(crate) fn kill(&mut self, node: usize) -> Result<Duration, Stop> {
        self.nodes[node].running = false;
        let at = clock::now();
        self.nodes[node].child.kill()?;
        self.nodes[node].child.wait()?;
        Ok(at)
    }

    /// Kills these nodes without waiting for the end of any, so that the next output is read without delay.
    pub(crate) fn kill_at_once(&mut self, nodes: &[usize]) -> Result<(), Stop> {
        for &node in nodes {
            self.nodes[node].running = false;
            self.nodes[node].child.kill()?;
        }
        Ok(())
    }

    /// Stops a node with SIGSTOP; returns the time.
    pub(crate) fn stop(&mut self, node: usize) -> Result<Duration, Stop> {
        let at = clock::now();
        kill_process(Pid::from_child(&self.nodes[node].child), Signal::STOP).map_err(io::Error::from)?;
        Ok(at)
    }

    /// Lets a stopped node go on; returns the time.
    pub(crate) fn resume(&mut self, node: usize) -> Result<Duration, Stop> {
        kill_process(Pid::from_child(&self.nodes[node].child), Signal::CONT).map_err(io::Error::from)?;
        Ok(clock::now())
    }

    /// Tells an embedded node to begin, with SIGUSR1.
    pub(crate) fn signal(&self, node: usize) -> Result<(), Stop> {
        Ok(kill_process(Pid::from_child(&self.nodes[node].child), Signal::USR1).map_err(io::Error::from)?)
    }

    /// The node that has or had this id.
    pub(crate) fn node_of(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// The nodes that this node sees now.
    pub(crate) fn view(&self, node: usize) -> BTreeSet<usize> {
        self.nodes[node].view.iter().filter_map(|id| self.node_of(id)).collect()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|&node| self.nodes[node].running)
    }

    pub(crate) fn id(&self, node: usize) -> &str {
        self.nodes[node].ready.as_ref().map_or("", |(id, _)| id)
    }

    pub(crate) fn join_address(&self, node: usize) -> &str {
        self.nodes[node].ready.as_ref().map_or("", |(_, join)| join)
    }

    /// The number of others that this node sees.
    pub(crate) fn seen_by(&self, node: usize) -> usize {
        self.nodes[node].view.len()
    }

    /// CPU time of one node so far.
    pub(crate) fn cpu_of(&self, node: usize) -> Result<Duration, Stop> {
        Ok(procfs::cpu(self.nodes[node].child.id())?)
    }

    /// CPU time of all running nodes so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Stop> {
        self.running().map(|node| self.cpu_of(node)).sum()
    }

    /// Times that a thread of a running node has gone to sleep so far.
    pub(crate) fn sleeps(&self) -> Result<u64, Stop> {
        let sleeps = |node: usize| procfs::sleeps(self.nodes[node].child.id()).map_err(Stop::from);
        self.running().map(sleeps).sum()
    }

    /// What a running node has sent so far, by the counters of its namespace.
    pub(crate) fn sent(&self, node: usize) -> Result<Sent, Stop> {
        Ok(procfs::sent(self.nodes[node].child.id())?)
    }

    /// Memory of each running node.
    pub(crate) fn memory(&self) -> Result<Vec<Memory>, Stop> {
        let memory = |node: usize| procfs::memory(self.nodes[node].child.id()).map_err(Stop::from);
        self.running().map(memory).collect()
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        // Kills all before it waits for any, so that no node spends time on the deaths of others.
        for node in &mut self.nodes {
            let _ = node.child.kill();
        }
        for node in &mut self.nodes {
            let _ = node.child.wait();
        }
    }
}

/// The same command in a network namespace. `ip` becomes the program, so the process id is the node's.
fn inside(namespace: &str, command: &Command) -> Command {
    let mut wrapped = Command::new("ip");
    wrapped.args(["netns", "exec", namespace]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

/// A pipe from a node, and the part of a line that was read from it.
struct Source<P> {
    pipe: Option<P>,
    partial: Vec<u8>,
}

/// Names a pipe: the node, and stdout or stderr.
#[derive(Clone, Copy, Debug)]
struct PipeId {
    node: usize,
    is_stderr: bool,
}

impl PipeId {
    fn to_data(self) -> u64 {
        self.node as u64 * 2 + u64::from(self.is_stderr)
    }

    fn from_data(data: u64) -> Self {
        Self { node: usize::try_from(data / 2).unwrap_or(usize::MAX), is_stderr: data % 2 == 1 }
    }
}

impl<P: io::Read + AsFd> Source<P> {
    fn new(pipe: Option<P>) -> Self {
        Self { pipe, partial: Vec::new() }
    }

    /// Adds the pipe to the epoll set. The kernel removes it when the pipe is closed.
    fn register(&self, epoll: &OwnedFd, id: PipeId) -> io::Result<()> {
        self.pipe.as_ref().map_or(Ok(()), |pipe| add(epoll, pipe, id.to_data()))
    }

    /// Reads once; it does not block if epoll has reported the pipe as readable.
    fn read(&mut self, buffer: &mut [u8]) -> Vec<u8> {
        let Some(pipe) = &mut self.pipe else {
            return Vec::new();
        };
        match pipe.read(buffer) {
            Ok(read) if read > 0 => return buffer[..read].to_vec(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => self.pipe = None,
        }
        Vec::new()
    }
}

/// Takes the complete lines; the rest stays in `partial`.
fn complete_lines(partial: &mut Vec<u8>, bytes: &[u8]) -> Vec<String> {
    partial.extend_from_slice(bytes);
    let Some(end) = partial.iter().rposition(|&byte| byte == b'\n') else {
        return Vec::new();
    };
    let rest = partial.split_off(end + 1);
    let whole = std::mem::replace(partial, rest);
    String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
}

fn add(epoll: &OwnedFd, source: impl AsFd, data: u64) -> io::Result<()> {
    epoll::add(epoll, source, epoll::EventData::new_u64(data), epoll::EventFlags::IN).map_err(io::Error::from)
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}
