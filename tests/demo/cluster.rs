//! The nodes of the tour. The cluster starts them, reads their output and ends them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use p2p_gossip::{Escaped, Event, PeerId};
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::process::{Output, Process, Spec, write_key};
use crate::screen::Screen;
use crate::{STEP_DEADLINE, Stop};

const NAMES: [&str; 5] = ["alice", "bob", "carol", "dave", "erin"];
/// How long a node may take to say goodbye before it is killed.
const LEAVE_DEADLINE: Duration = Duration::from_secs(2);
/// Log lines of each node kept to explain a failure.
const LOG_LINES_MAX: usize = 20;
/// Most nodes whose received pings are all shown; with more nodes only the first node's pings are.
const ALL_PINGS_SHOWN_MAX: usize = 8;

/// The input of the tour: output of a node, or a signal from the user.
enum Input {
    NodeOutput { node: usize, run: u32, at: Instant, output: Box<Output> },
    StopRequested,
}

/// One named node, running or not.
struct Node {
    name: String,
    key: PathBuf,
    process: Option<Process>,
    /// Counts starts, so that late output of a killed process is recognised.
    run: u32,
    listening: Option<(PeerId, SocketAddr)>,
    /// The URL of its page, if it has one.
    page: Option<String>,
    /// The peers that this node reports as up.
    view: BTreeSet<PeerId>,
    /// The peers that it lost and that have not returned, with the time of the loss.
    lost: BTreeMap<PeerId, Instant>,
    pinged_by: BTreeSet<PeerId>,
    log: VecDeque<String>,
}

pub(crate) struct Cluster {
    pub(crate) screen: Screen,
    program: PathBuf,
    // Before the directory, so that the nodes are gone when their keys are removed.
    nodes: Vec<Node>,
    _keys: tempfile::TempDir,
    sender: Sender<Input>,
    inputs: Receiver<Input>,
    /// `RUST_LOG`, if the user set it.
    log: Option<String>,
}

impl Cluster {
    /// Prepares the nodes without starting any. From then on signals end the tour, not the process.
    pub(crate) fn new(program: PathBuf, count: usize) -> io::Result<Self> {
        let (sender, inputs) = channel();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let on_signal = sender.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for _ in signals.forever() {
                if on_signal.send(Input::StopRequested).is_err() {
                    break;
                }
            }
        })?;
        let keys = tempfile::Builder::new().prefix("p2p-gossip-demo-").tempdir()?;
        let state = |node: usize| {
            let name = NAMES.get(node).map_or_else(|| format!("node-{}", node + 1), ToString::to_string);
            let key = keys.path().join(&name);
            write_key(&key)?;
            Ok(Node::new(name, key))
        };
        let nodes: Vec<Node> = (0..count).map(state).collect::<io::Result<_>>()?;
        let name_width = nodes.iter().map(|state| state.name.len()).max().unwrap_or_default();
        let log = env::var("RUST_LOG").ok().filter(|log| !log.is_empty());
        Ok(Self { screen: Screen::new(name_width), program, nodes, _keys: keys, sender, inputs, log })
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn name(&self, node: usize) -> &str {
        &self.nodes[node].name
    }

    pub(crate) fn id(&self, node: usize) -> Option<PeerId> {
        self.nodes[node].listening.map(|(id, _)| id)
    }

    /// The address on which the node listens, once it does.
    pub(crate) fn addr(&self, node: usize) -> Option<SocketAddr> {
        self.nodes[node].listening.map(|(_, addr)| addr)
    }

    /// The URL of the first node's page.
    pub(crate) fn page(&self) -> Option<&str> {
        self.nodes[0].page.as_deref()
    }

    /// Process ids of the running nodes, by name.
    pub(crate) fn pids(&self) -> String {
        let pid = |state: &Node| state.process.as_ref().map(|p| format!("{} {}", state.name, p.pid()));
        self.nodes.iter().filter_map(pid).collect::<Vec<_>>().join(", ")
    }

    /// Seconds between pings. Longer for more nodes, so that the screen shows a few lines a second.
    pub(crate) fn period_s(&self) -> u32 {
        match self.len() {
            2..=4 => 1,
            5..=ALL_PINGS_SHOWN_MAX => 3,
            _ => 5,
        }
    }

    pub(crate) fn shows_first_only(&self) -> bool {
        self.len() > ALL_PINGS_SHOWN_MAX
    }

    /// Starts a node; a node that ran before gets its previous port. It finds the others by beacons, or joins through
    /// `join`.
    pub(crate) fn start(&mut self, node: usize, join: Option<SocketAddr>) -> Result<(), Stop> {
        let state = &mut self.nodes[node];
        let addr = state.listening.map_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)), |(_, addr)| addr);
        let mut spec = Spec::named(&state.name)
            .with_bind(addr)
            .with_key(&state.key)
            .with_own_group()
            .with_log(self.log.as_deref().unwrap_or("info"));
        if FINDS_BY_BEACONS {
            // A name of its own, so that two demos at the same time stay apart.
            spec = spec.with_option("--discover", format!("demo-{}", std::process::id()));
        } else if let Some(join) = join {
            spec = spec.with_connect(join);
        }
        if node == 0 {
            spec = spec.with_args("--http 0");
        }
        *state = Node { run: state.run + 1, ..Node::new(state.name.clone(), state.key.clone()) };
        let run = state.run;
        let period_s = f64::from(self.period_s());
        let sender = self.sender.clone();
        let sink = move |output| {
            // Fails after the tour, when the receiver is gone.
            let _ =
                sender.send(Input::NodeOutput { node, run, at: Instant::now(), output: Box::new(output) });
        };
        let process = Process::spawn(&self.program, &spec.with_period(period_s), sink)
            .map_err(|error| Stop::Failed(format!("cannot start {}: {error}", self.program.display())))?;
        self.nodes[node].process = Some(process);
        Ok(())
    }

    /// Kills a node. Returns its id, which the others lose.
    pub(crate) fn kill(&mut self, node: usize) -> Result<PeerId, Stop> {
        let state = &mut self.nodes[node];
        if let Some(mut process) = state.process.take() {
            process.kill()?;
        }
        let (id, _) =
            state.listening.ok_or_else(|| Stop::Failed(format!("{} never listened", state.name)))?;
        Ok(id)
    }

    /// Whether all nodes listen and each sees exactly all others.
    pub(crate) fn is_whole(&self) -> bool {
        let ids: BTreeSet<PeerId> = self.nodes.iter().filter_map(|s| s.listening.map(|(id, _)| id)).collect();
        let complete = |state: &Node| {
            state.listening.is_some_and(|(id, _)| {
                state.view.len() == ids.len() - 1 && !state.view.contains(&id) && state.view.is_subset(&ids)
            })
        };
        ids.len() == self.nodes.len() && self.nodes.iter().all(complete)
    }

    pub(crate) fn forget_pings(&mut self) {
        self.nodes.iter_mut().for_each(|state| state.pinged_by.clear());
    }

    pub(crate) fn has_pinged_everywhere(&self) -> bool {
        self.nodes.iter().all(|state| state.pinged_by.len() == self.nodes.len() - 1)
    }

    /// Whether all running nodes have lost this one.
    pub(crate) fn all_lost(&self, lost: PeerId) -> bool {
        self.nodes.iter().filter(|state| state.process.is_some()).all(|state| state.lost.contains_key(&lost))
    }

    /// The names of the nodes that lost this peer, and the times at which they did.
    pub(crate) fn losses(&self, lost: PeerId) -> Vec<(String, Instant)> {
        let loss = |state: &Node| state.lost.get(&lost).map(|&at| (state.name.clone(), at));
        self.nodes.iter().filter_map(loss).collect()
    }

    pub(crate) fn running(&self) -> usize {
        self.nodes.iter().filter(|state| state.process.is_some()).count()
    }

    /// Reads the nodes' output until `probe` returns a value.
    pub(crate) fn until<T>(
        &mut self,
        awaited: &str,
        mut probe: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T, Stop> {
        let deadline = Instant::now() + STEP_DEADLINE;
        loop {
            if let Some(found) = probe(self) {
                return Ok(found);
            }
            match self.inputs.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Input::StopRequested) => return Err(Stop::Requested),
                Ok(Input::NodeOutput { node, run, at, output }) => {
                    if self.handle_output(node, run, at, *output)? == NodeProcess::Ended {
                        return Err(self.ended_by_itself(node, awaited));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Stop::Failed(format!("waited {STEP_DEADLINE:?} for {awaited}, in vain")));
                }
                Err(RecvTimeoutError::Disconnected) => unreachable!("the cluster holds a sender itself"),
            }
        }
    }

    fn ended_by_itself(&self, node: usize, awaited: &str) -> Stop {
        Stop::Failed(format!("waited for {awaited}, but {} ended by itself", self.name(node)))
    }

    /// Shows the nodes' output until the user stops the tour, or until all nodes have ended.
    pub(crate) fn watch(&mut self) -> Result<(), Stop> {
        while self.running() > 0 {
            match self.inputs.recv() {
                Ok(Input::NodeOutput { node, run, at, output }) => {
                    if self.handle_output(node, run, at, *output)? == NodeProcess::Ended {
                        // The user ended this node. The other nodes show how they react.
                        self.nodes[node].process = None;
                        self.screen.line(node, &self.nodes[node].name, "(ended)")?;
                    }
                }
                Ok(Input::StopRequested) | Err(_) => return Err(Stop::Requested),
            }
        }
        Ok(())
    }

    /// Asks all nodes to leave, and kills those that do not. Returns the number that left cleanly.
    pub(crate) fn leave(&mut self) -> usize {
        for state in &mut self.nodes {
            if let Some(process) = &mut state.process {
                // A stopped node must continue before it can leave. A node without a signal is killed below.
                let _ = process.signal(Signal::TERM).and_then(|()| process.signal(Signal::CONT));
            }
        }
        let deadline = Instant::now() + LEAVE_DEADLINE;
        let mut clean = 0;
        let mut waiting = self.running();
        while waiting > 0 {
            match self.inputs.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Input::NodeOutput { node, run, at, output }) => {
                    // The nodes leave even if nothing can be written to the screen.
                    if matches!(self.handle_output(node, run, at, *output), Ok(NodeProcess::Ended)) {
                        waiting -= 1;
                        let process = self.nodes[node].process.take();
                        let status = process.and_then(|mut p| p.wait_until(deadline).ok().flatten());
                        clean += usize::from(status.is_some_and(|status| status.success()));
                    }
                }
                // A second signal from the user ends the wait.
                Ok(Input::StopRequested) | Err(_) => break,
            }
        }
        self.nodes.iter_mut().for_each(|state| state.process = None);
        clean
    }

    /// Shows the last log lines of each node, on stderr.
    pub(crate) fn explain(&self) {
        for state in &self.nodes {
            eprintln!("--- {}, sees {} up", state.name, state.view.len());
            state.log.iter().for_each(|line| eprintln!("  {line}"));
        }
    }

    /// Applies a node's output to its state, and shows it.
    fn handle_output(
        &mut self,
        node: usize,
        run: u32,
        at: Instant,
        output: Output,
    ) -> Result<NodeProcess, Stop> {
        let first_only = self.shows_first_only();
        let state = &mut self.nodes[node];
        if run != state.run || state.process.is_none() {
            // The output of a killed process arrives late.
            return Ok(NodeProcess::Runs);
        }
        match output {
            Output::Event { json, event } => {
                state.apply(&event, at);
                state.page = json["http"].as_str().map(ToOwned::to_owned).or(state.page.take());
                if node == 0 || !first_only || !matches!(event, Event::Ping { .. }) {
                    self.screen.line(node, &state.name, &event.to_string())?;
                }
            }
            Output::Log(line) => {
                if self.log.is_some() {
                    self.screen.line(node, &state.name, &Escaped(&line).to_string())?;
                }
                if state.log.len() == LOG_LINES_MAX {
                    state.log.pop_front();
                }
                state.log.push_back(line);
            }
            Output::Garbage { line, error } => {
                let name = &state.name;
                return Err(Stop::Failed(format!(
                    "{name} printed a line that is no event ({error}): {line}"
                )));
            }
            Output::Ended => return Ok(NodeProcess::Ended),
        }
        Ok(NodeProcess::Runs)
    }
}

/// Whether the nodes find each other by beacons. Other systems do not tell the program their interfaces.
pub(crate) const FINDS_BY_BEACONS: bool = cfg!(any(target_os = "linux", target_os = "android"));

#[derive(PartialEq)]
enum NodeProcess {
    Runs,
    Ended,
}

impl Node {
    fn new(name: String, key: PathBuf) -> Self {
        Self {
            name,
            key,
            process: None,
            run: 0,
            listening: None,
            page: None,
            view: BTreeSet::new(),
            lost: BTreeMap::new(),
            pinged_by: BTreeSet::new(),
            log: VecDeque::new(),
        }
    }

    fn apply(&mut self, event: &Event, at: Instant) {
        match event {
            Event::Listening { id, addr, .. } => self.listening = Some((*id, *addr)),
            Event::Up { peer, .. } => {
                self.view.insert(*peer);
                self.lost.remove(peer);
            }
            Event::Down { peer, .. } => {
                self.view.remove(peer);
                self.lost.insert(*peer, at);
            }
            Event::Left { peer, .. } => {
                self.view.remove(peer);
            }
            Event::Ping { peer, .. } => {
                self.pinged_by.insert(*peer);
            }
            _ => {}
        }
    }
}
