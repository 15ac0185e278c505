//! The nodes of the tour: started, followed through what they say, and ended with it.

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
/// From more nodes than this only one of them is shown receiving pings.
const ALL_PINGS_SHOWN_MAX: usize = 8;

/// What the tour waits for: a node's word, or the visitor's wish to stop.
enum News {
    Said { node: usize, run: u32, at: Instant, output: Output },
    StopAsked,
}

/// One named node, running or not.
struct Seat {
    name: String,
    key: PathBuf,
    process: Option<Process>,
    /// Counts starts, so that late words of a killed process are known as such.
    run: u32,
    listening: Option<(PeerId, SocketAddr)>,
    /// Where its page is, if it has one.
    page: Option<String>,
    /// Peers that are up by its account.
    view: BTreeSet<PeerId>,
    /// The time at which it lost each peer that has not returned.
    lost: BTreeMap<PeerId, Instant>,
    pinged_by: BTreeSet<PeerId>,
    log: VecDeque<String>,
}

pub(crate) struct Cluster {
    pub(crate) screen: Screen,
    program: PathBuf,
    // Before the directory, so that the nodes are gone when their keys are removed.
    seats: Vec<Seat>,
    _keys: tempfile::TempDir,
    sender: Sender<News>,
    news: Receiver<News>,
    /// `RUST_LOG`, if the visitor asked for logs.
    log: Option<String>,
}

impl Cluster {
    /// Prepares the nodes without starting any. From here on signals end the tour, not the process.
    pub(crate) fn new(program: PathBuf, count: usize) -> io::Result<Self> {
        let (sender, news) = channel();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let on_signal = sender.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for _ in signals.forever() {
                if on_signal.send(News::StopAsked).is_err() {
                    break;
                }
            }
        })?;
        let keys = tempfile::Builder::new().prefix("p2p-gossip-demo-").tempdir()?;
        let seat = |node: usize| {
            let name = NAMES.get(node).map_or_else(|| format!("node-{}", node + 1), ToString::to_string);
            let key = keys.path().join(&name);
            write_key(&key)?;
            Ok(Seat::new(name, key))
        };
        let seats: Vec<Seat> = (0..count).map(seat).collect::<io::Result<_>>()?;
        let name_width = seats.iter().map(|seat| seat.name.len()).max().unwrap_or_default();
        let log = env::var("RUST_LOG").ok().filter(|log| !log.is_empty());
        Ok(Self { screen: Screen::new(name_width), program, seats, _keys: keys, sender, news, log })
    }

    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }

    pub(crate) fn name(&self, node: usize) -> &str {
        &self.seats[node].name
    }

    pub(crate) fn id(&self, node: usize) -> Option<PeerId> {
        self.seats[node].listening.map(|(id, _)| id)
    }

    /// Where the node listens, once it does.
    pub(crate) fn addr(&self, node: usize) -> Option<SocketAddr> {
        self.seats[node].listening.map(|(_, addr)| addr)
    }

    /// Where the page of the first node is.
    pub(crate) fn page(&self) -> Option<&str> {
        self.seats[0].page.as_deref()
    }

    /// Process ids of the running nodes, by name.
    pub(crate) fn pids(&self) -> String {
        let pid = |seat: &Seat| seat.process.as_ref().map(|p| format!("{} {}", seat.name, p.pid()));
        self.seats.iter().filter_map(pid).collect::<Vec<_>>().join(", ")
    }

    /// Time between pings: a handful of lines a second, whatever the number of nodes.
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

    /// Starts a node, on the port where it was before, if it was there before.
    pub(crate) fn start(&mut self, node: usize, join: Option<SocketAddr>) -> Result<(), Stop> {
        let seat = &mut self.seats[node];
        let addr = seat.listening.map_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)), |(_, addr)| addr);
        let mut spec = Spec::named(&seat.name)
            .with_bind(addr)
            .with_key(&seat.key)
            .with_own_group()
            .with_log(self.log.as_deref().unwrap_or("info"));
        if let Some(join) = join {
            spec = spec.with_connect(join);
        }
        if node == 0 {
            spec = spec.with_args("--http 0");
        }
        *seat = Seat { run: seat.run + 1, ..Seat::new(seat.name.clone(), seat.key.clone()) };
        let run = seat.run;
        let period_s = f64::from(self.period_s());
        let sender = self.sender.clone();
        let sink = move |output| {
            // After the tour there is no listener.
            let _ = sender.send(News::Said { node, run, at: Instant::now(), output });
        };
        let process = Process::spawn(&self.program, &spec.with_period(period_s), sink)
            .map_err(|error| Stop::Failed(format!("cannot start {}: {error}", self.program.display())))?;
        self.seats[node].process = Some(process);
        Ok(())
    }

    /// Kills a node. Returns its id, which the others lose.
    pub(crate) fn kill(&mut self, node: usize) -> Result<PeerId, Stop> {
        let seat = &mut self.seats[node];
        if let Some(mut process) = seat.process.take() {
            process.kill()?;
        }
        let (id, _) = seat.listening.ok_or_else(|| Stop::Failed(format!("{} never listened", seat.name)))?;
        Ok(id)
    }

    /// Whether each running node sees exactly all others of them.
    pub(crate) fn is_whole(&self) -> bool {
        let ids: BTreeSet<PeerId> = self.seats.iter().filter_map(|s| s.listening.map(|(id, _)| id)).collect();
        let complete = |seat: &Seat| {
            seat.listening.is_some_and(|(id, _)| {
                seat.view.len() == ids.len() - 1 && !seat.view.contains(&id) && seat.view.is_subset(&ids)
            })
        };
        ids.len() == self.seats.len() && self.seats.iter().all(complete)
    }

    pub(crate) fn forget_pings(&mut self) {
        self.seats.iter_mut().for_each(|seat| seat.pinged_by.clear());
    }

    pub(crate) fn has_pinged_everywhere(&self) -> bool {
        self.seats.iter().all(|seat| seat.pinged_by.len() == self.seats.len() - 1)
    }

    /// Whether all running nodes have lost this one.
    pub(crate) fn all_lost(&self, lost: PeerId) -> bool {
        self.seats.iter().filter(|seat| seat.process.is_some()).all(|seat| seat.lost.contains_key(&lost))
    }

    /// Who lost this one, and when.
    pub(crate) fn losses(&self, lost: PeerId) -> Vec<(String, Instant)> {
        let loss = |seat: &Seat| seat.lost.get(&lost).map(|&at| (seat.name.clone(), at));
        self.seats.iter().filter_map(loss).collect()
    }

    pub(crate) fn running(&self) -> usize {
        self.seats.iter().filter(|seat| seat.process.is_some()).count()
    }

    /// Follows the nodes until `probe` finds what it looks for.
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
            match self.news.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(News::StopAsked) => return Err(Stop::Asked),
                Ok(News::Said { node, run, at, output }) => {
                    if self.hear(node, run, at, output)? == Heard::End {
                        let name = self.name(node);
                        return Err(Stop::Failed(format!(
                            "waited for {awaited}, but {name} ended by itself"
                        )));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Stop::Failed(format!("waited {STEP_DEADLINE:?} for {awaited}, in vain")));
                }
                Err(RecvTimeoutError::Disconnected) => unreachable!("the cluster holds a sender itself"),
            }
        }
    }

    /// Follows the nodes until the visitor has seen enough, or none is left.
    pub(crate) fn watch(&mut self) -> Result<(), Stop> {
        while self.running() > 0 {
            match self.news.recv() {
                Ok(News::Said { node, run, at, output }) => {
                    if self.hear(node, run, at, output)? == Heard::End {
                        // The user ended it and knows; the other nodes show how they react.
                        self.seats[node].process = None;
                        self.screen.line(node, &self.seats[node].name, "(ended)")?;
                    }
                }
                Ok(News::StopAsked) | Err(_) => return Err(Stop::Asked),
            }
        }
        Ok(())
    }

    /// Asks all nodes to leave, and kills those that don't. Says how many left cleanly.
    pub(crate) fn leave(&mut self) -> usize {
        for seat in &mut self.seats {
            if let Some(process) = &mut seat.process {
                // A stopped node has to wake to leave. One that can't be signalled is killed below.
                let _ = process.signal(Signal::TERM).and_then(|()| process.signal(Signal::CONT));
            }
        }
        let deadline = Instant::now() + LEAVE_DEADLINE;
        let mut clean = 0;
        let mut waiting = self.running();
        while waiting > 0 {
            match self.news.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(News::Said { node, run, at, output }) => {
                    // A broken screen is no reason to leave the nodes waiting.
                    if matches!(self.hear(node, run, at, output), Ok(Heard::End)) {
                        waiting -= 1;
                        let process = self.seats[node].process.take();
                        let status = process.and_then(|mut p| p.wait_until(deadline).ok().flatten());
                        clean += usize::from(status.is_some_and(|status| status.success()));
                    }
                }
                // Asked a second time: no patience left.
                Ok(News::StopAsked) | Err(_) => break,
            }
        }
        self.seats.iter_mut().for_each(|seat| seat.process = None);
        clean
    }

    /// Shows the last log lines of each node, on stderr.
    pub(crate) fn explain(&self) {
        for seat in &self.seats {
            eprintln!("--- {}, sees {} up", seat.name, seat.view.len());
            seat.log.iter().for_each(|line| eprintln!("  {line}"));
        }
    }

    /// Takes note of what a node said, and shows it.
    fn hear(&mut self, node: usize, run: u32, at: Instant, output: Output) -> Result<Heard, Stop> {
        let first_only = self.shows_first_only();
        let seat = &mut self.seats[node];
        if run != seat.run || seat.process.is_none() {
            // A killed node's last words come late.
            return Ok(Heard::Word);
        }
        match output {
            Output::Event { json, event } => {
                seat.apply(&event, at);
                seat.page = json["http"].as_str().map(ToOwned::to_owned).or(seat.page.take());
                if node == 0 || !first_only || !matches!(event, Event::Ping { .. }) {
                    self.screen.line(node, &seat.name, &event.to_string())?;
                }
            }
            Output::Log(line) => {
                if self.log.is_some() {
                    self.screen.line(node, &seat.name, &Escaped(&line).to_string())?;
                }
                if seat.log.len() == LOG_LINES_MAX {
                    seat.log.pop_front();
                }
                seat.log.push_back(line);
            }
            Output::Garbage { line, error } => {
                let name = &seat.name;
                return Err(Stop::Failed(format!(
                    "{name} printed something that is no event ({error}): {line}"
                )));
            }
            Output::Ended => return Ok(Heard::End),
        }
        Ok(Heard::Word)
    }
}

#[derive(PartialEq)]
enum Heard {
    Word,
    End,
}

impl Seat {
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
