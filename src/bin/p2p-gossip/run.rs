//! Runs a node until a signal or the end of standard input, and passes its events on.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, never, select};
use p2p_gossip::internals::queues::{self, QueuedEvent};
use p2p_gossip::internals::worker::Worker;
use p2p_gossip::{
    AccessError, Identity, IdentityError, KeyRing, NetworkKey, NetworkKeyError, Node, PeerId, StartError,
    StateDir, StateError, Ticket, TicketError,
};
use zeroize::Zeroizing;

use crate::access::CurrentAccess;
use crate::cli::{AfterStdin, IdentitySource, Membership, Options, Output, TicketSource};
use crate::commands::invite;
use crate::hooks::{HookError, Hooks, Program, RunsFor};
use crate::http::{self, ControlError, ControlRequest, ControlRequests, ControlSocket, Wanted};
use crate::logging::Logs;
use crate::output::console::{self, JoinHints};
use crate::output::event_json::timestamp;
use crate::output::peer_table;
use crate::output::stream::visible;
use crate::signals::Signals;
use crate::stdin;
use crate::systemd::{self, Systemd};

/// Limit from the signal to the end of the process, also if an output blocks. Only a program of the user that hangs on a
/// busy machine takes longer, until it is killed.
const LEAVE_MAX: Duration = Duration::from_millis(900);
/// Limit for a slow stdout to take the last events.
const CONSOLE_FLUSH_MAX: Duration = Duration::from_millis(500);

/// Largest input with a ticket in bytes.
const TICKET_BYTES_MAX: u64 = 64 * 1024;

/// Why the program ends with exit code 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    NetworkKey(#[from] NetworkKeyError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Ticket(#[from] TicketError),
    #[error("cannot read the ticket from standard input: {0}")]
    TicketStdin(io::Error),
    #[error("cannot read the ticket {}: {source}", file.display())]
    TicketFile { file: PathBuf, source: io::Error },
    #[error("{error}{advice}", error = .0, advice = advice(.0))]
    Start(#[from] StartError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error("cannot serve HTTP on {addr}: {source}{advice}", advice = http_advice(source))]
    Http { addr: SocketAddr, source: io::Error },
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    #[error("{0} of standard input could not be sent")]
    Stdin(String),
    #[error("no peer has answered within {0:?} (--join-timeout); nothing of standard input was sent")]
    NotJoined(Duration),
    #[error("the node's coordinator ended unexpectedly; this is a bug")]
    Died,
}

/// Advice for the user on a failed start, to be appended to its message.
fn advice(error: &StartError) -> &'static str {
    let StartError::Listen { source, .. } = error else { return "" };
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program listens on that port: choose another --port, or 0 for any free one"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need a privilege: choose a --port from 1024 to 65535, or 0 for any free one"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; no interface of this machine has that address: choose another --bind, or omit it for every interface"
        }
        _ => "",
    }
}

/// Advice for the user on a failed start of the HTTP server, to be appended to its message.
fn http_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program listens on that port: choose another port for --http, or 0 for any free one"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need a privilege: choose a port for --http from 1024 to 65535, or 0 for any free one"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        _ => "",
    }
}

/// Runs until a signal, the end of standard input, or a failure.
pub(crate) fn run(options: Options, logs: &Logs) -> Result<(), Failure> {
    let mut program = RunningProgram::start(options)?;
    let outcome = program.wait_for_end(logs)?;
    program.leave();
    outcome
}

/// A running node, its inputs, and the outputs that its events go to.
struct RunningProgram {
    node: Node,
    access: CurrentAccess,
    /// What clients of the control socket ask for.
    control: ControlRequests,
    signals: Signals,
    after_stdin: AfterStdin,
    /// The progress of standard input; never ready without `--stdin` or once the input has ended.
    stdin: Receiver<stdin::Progress>,
    /// Ready if the node has to give up because it has not joined; never with [`AfterStdin::Stay`].
    join_deadline: Receiver<Instant>,
    /// Events for `sinks`; never ready if there is no sink.
    events: Receiver<QueuedEvent>,
    sinks: EventSinks,
    /// Disconnected when the coordinator has ended.
    coordinator_ended: Receiver<()>,
    console: Worker,
}

/// An input that the main thread handles.
enum Input {
    Event(QueuedEvent),
    CoordinatorEnded,
    ShowPeerTable,
    ReloadAccess,
    Control(ControlRequest),
    Stdin(stdin::Progress),
    NotJoined,
    Stop,
}

impl RunningProgram {
    fn start(options: Options) -> Result<Self, Failure> {
        let state = options.state.as_deref().map(StateDir::open).transpose()?;
        let mut config = options.config;
        let mut closed = None;
        if let Some(state) = &state {
            match options.membership {
                Membership::AsStored => {}
                Membership::Closed => closed = Some(state.close_network()?),
                Membership::Joins(source) => {
                    let ticket = read_ticket(source)?;
                    state.join_network(&ticket)?;
                    config.connect.extend(ticket.connect());
                }
            }
        }
        let identity = load_identity(&options.identity, state.as_ref())?;
        // Not earlier: until here Ctrl-C must end a wait for a key that comes through a pipe.
        let signals = Signals::start(options.access.has_files() || systemd::is_wanted())?;
        let network_keys = options.network_keys.iter().map(|file| NetworkKey::from_file(file));
        let network_keys = network_keys.collect::<Result<Vec<_>, _>>()?;
        if options.is_name_shortened {
            log::warn!(name:% = config.name;
                "the name given with --name is too long; peers see this beginning of it");
        }
        let config = config.access(options.access.read()?).network_keys(network_keys);
        // Found before the node starts, so that a mistake is found before the node joins.
        let on_event = options.on_event.as_ref();
        let on_event = on_event.map(|on_event| Program::find("--on-event", &on_event.program)).transpose()?;
        let alert = options.alert.as_deref().map(|program| Program::find("--alert", program)).transpose()?;
        // Opened before the node starts, so that a port in use is found before the node joins.
        let http_socket = options.http.map(open_http).transpose()?;
        let control_socket = open_control(options.control.as_deref(), options.state.as_deref())?;
        let mut builder = Node::builder(config.clone(), identity);
        if let Some(state) = state {
            builder = builder.state(state);
        }
        let has_sinks = on_event.is_some()
            || alert.is_some()
            || http_socket.is_some()
            || control_socket.is_some()
            || systemd::is_wanted();
        builder.events().set_pings(options.shows_pings);
        let with_pings = options.on_event.as_ref().is_some_and(|on_event| on_event.with_pings);
        let events = has_sinks.then(|| builder.subscribe());
        if let Some(events) = &events {
            events.set_pings(with_pings);
        }
        let node = builder.start()?;
        let page = http_socket.as_ref().map(http::Socket::url);
        let invitation = match (&closed, &options.state) {
            (Some(ring), Some(state)) => invitation(ring, state, node.id(), options.output)?,
            _ => None,
        };
        let (http, control) = http::Server::start(
            &node,
            &config,
            http_socket,
            control_socket,
            events.clone().filter(|_| !with_pings),
        )?;
        let is_brief = options.is_bare && io::stdout().is_terminal();
        let has_stored_key = node.status().is_some_and(|status| status.mesh.network_key.is_some());
        let closed = options
            .state
            .as_deref()
            .filter(|_| has_stored_key)
            .map(|state| visible(&state.to_string_lossy()));
        let advertised = config.advertise.first().cloned();
        let hints = JoinHints { page, advertised, invitation, closed, is_brief };
        let console = console::start(node.events().clone(), options.output, hints)?;
        let stdin = if options.stdin.is_some() { stdin::start(node.handle())? } else { never() };
        let after_stdin = options.stdin.unwrap_or(AfterStdin::Stay);
        let join_deadline = match after_stdin {
            AfterStdin::Leave { join_timeout } => after(join_timeout),
            AfterStdin::Stay => never(),
        };
        let programs = [(on_event, RunsFor::Events { with_pings }), (alert, RunsFor::Alerts(node.handle()))];
        let hooks =
            programs.into_iter().filter_map(|(program, runs_for)| Some(Hooks::start(program?, runs_for)));
        let hooks = hooks.collect::<io::Result<_>>()?;
        let sinks = EventSinks { hooks, http, systemd: Systemd::start(&node)? };
        Ok(Self {
            coordinator_ended: queues::coordinator_ended(&node),
            node,
            access: CurrentAccess::new(options.access),
            control,
            signals,
            after_stdin,
            stdin,
            join_deadline,
            events: events.map_or_else(never, |events| queues::events(&events).clone()),
            sinks,
            console,
        })
    }

    /// Handles inputs until the node has to leave. Returns the program's result.
    ///
    /// # Errors
    /// The node has ended by itself.
    fn wait_for_end(&mut self, logs: &Logs) -> Result<Result<(), Failure>, Failure> {
        loop {
            match self.next_input() {
                Input::Event(queued) => self.sinks.handle(&queued),
                Input::CoordinatorEnded => return Err(Failure::Died),
                Input::ShowPeerTable => {
                    if let Some(status) = self.node.status() {
                        logs.show(&peer_table::table(self.node.id(), &status));
                    }
                }
                Input::ReloadAccess => drop(self.reload_access()),
                Input::Control(request) => {
                    let outcome = self.execute(request.wanted);
                    // The client may have gone.
                    let _ = request.reply.try_send(outcome);
                    if request.wanted == Wanted::Leave {
                        log::info!("leaving the mesh; a client of the control socket asked for it");
                        return Ok(Ok(()));
                    }
                }
                Input::Stdin(stdin::Progress::Begun) => self.join_deadline = never(),
                Input::Stdin(stdin::Progress::Ended { unsent_lines }) => {
                    self.stdin = never();
                    if self.after_stdin != AfterStdin::Stay {
                        log::info!("leaving the mesh; standard input has ended");
                        return Ok(stdin_result(unsent_lines));
                    }
                }
                Input::NotJoined => {
                    if let AfterStdin::Leave { join_timeout } = self.after_stdin {
                        return Ok(Err(Failure::NotJoined(join_timeout)));
                    }
                }
                Input::Stop => {
                    log::info!("leaving the mesh; a second Ctrl-C ends at once");
                    return Ok(Ok(()));
                }
            }
        }
    }

    fn next_input(&self) -> Input {
        select! {
            recv(self.events) -> event => {
                event.map_or(Input::CoordinatorEnded, Input::Event)
            }
            recv(self.coordinator_ended) -> _ => Input::CoordinatorEnded,
            recv(self.signals.table) -> _ => Input::ShowPeerTable,
            recv(self.signals.reload) -> _ => Input::ReloadAccess,
            recv(self.control) -> request => request.map_or(Input::Stop, Input::Control),
            recv(self.stdin) -> progress => {
                Input::Stdin(progress.unwrap_or(stdin::Progress::Ended { unsent_lines: 0 }))
            }
            recv(self.join_deadline) -> _ => Input::NotJoined,
            recv(self.signals.stop) -> _ => Input::Stop,
        }
    }

    /// Does what a client of the control socket wants.
    ///
    /// # Errors
    /// A text for the client.
    fn execute(&mut self, wanted: Wanted) -> Result<(), String> {
        match wanted {
            Wanted::Allow(peer) => self.access.allow(peer)?,
            Wanted::Deny(peer) => self.access.deny(peer)?,
            Wanted::Reload => {}
            Wanted::Leave => return Ok(()),
        }
        self.reload_access()
    }

    /// Reads the allow and deny lists again. On an error the old lists stay in force.
    ///
    /// # Errors
    /// The reason as a text.
    fn reload_access(&self) -> Result<(), String> {
        let systemd = self.sinks.systemd.as_ref();
        if let Some(systemd) = systemd {
            systemd.reloading();
        }
        let outcome = match self.access.read() {
            Ok(access) => {
                let allowed =
                    access.allow.as_ref().map_or_else(|| "all".to_owned(), |ids| ids.len().to_string());
                log::info!(allowed:% = allowed, denied = access.deny.len(); "allow and deny lists read again");
                self.node.set_access(access);
                Ok(())
            }
            Err(error) => {
                let reason = visible(&error.to_string());
                log::error!(reason:% = reason;
                    "cannot read the allow and deny lists again; the old lists stay in force");
                Err(format!("{reason}; the old lists stay in force"))
            }
        };
        if let Some(systemd) = systemd {
            systemd.reloaded();
        }
        outcome
    }

    /// Leaves the mesh, then gives each sink a limited time for the last events.
    fn leave(mut self) {
        let deadline = Instant::now() + LEAVE_MAX;
        if let Some(systemd) = self.sinks.systemd.take() {
            systemd.stopping();
        }
        let stdout_events = self.node.events().clone();
        self.node.shutdown();
        let console_deadline = deadline.min(Instant::now() + CONSOLE_FLUSH_MAX);
        for queued in self.events.try_iter() {
            self.sinks.handle(&queued);
        }
        for hooks in self.sinks.hooks {
            hooks.finish(deadline);
        }
        if let Some(http) = self.sinks.http {
            http.finish(console_deadline);
        }
        if !self.console.join_until(console_deadline) {
            log::warn!(dropped = stdout_events.dropped(); "stdout is blocked; the last events were not written");
        }
    }
}

fn stdin_result(unsent_lines: u64) -> Result<(), Failure> {
    match unsent_lines {
        0 => Ok(()),
        1 => Err(Failure::Stdin("a line".to_owned())),
        _ => Err(Failure::Stdin(format!("{unsent_lines} lines"))),
    }
}

/// The command with which others join this closed network, if it may be shown: on a terminal. A pipe may lead to a log.
fn invitation(
    ring: &KeyRing,
    state: &Path,
    id: PeerId,
    output: Output,
) -> Result<Option<Zeroizing<String>>, StateError> {
    if output != Output::Text || !io::stdout().is_terminal() {
        log::info!(path:% = state.display();
            "this network is closed; p2p-gossip invite --state prints the command with which other nodes join");
        return Ok(None);
    }
    let own = invite::own_addresses(StateDir::peek_listening(state)?);
    let ticket = invite::ticket(ring, id, own, &[]);
    Ok(Some(Zeroizing::new(invite::join_command(&ticket))))
}

/// Reads the ticket from where the user says it is.
fn read_ticket(source: TicketSource) -> Result<Ticket, Failure> {
    let mut text = Zeroizing::new(String::new());
    let mut read = |input: &mut dyn Read| input.take(TICKET_BYTES_MAX).read_to_string(&mut text);
    match source {
        TicketSource::Ticket(ticket) => return Ok(*ticket),
        TicketSource::Stdin => read(&mut io::stdin()).map_err(Failure::TicketStdin)?,
        TicketSource::File(file) => match File::open(&file).and_then(|mut input| read(&mut input)) {
            Ok(bytes) => bytes,
            Err(source) => return Err(Failure::TicketFile { file, source }),
        },
    };
    Ok(Ticket::find(&text)?)
}

fn load_identity(source: &IdentitySource, state: Option<&StateDir>) -> Result<Identity, Failure> {
    Ok(match source {
        IdentitySource::Default => match state {
            Some(state) => state.identity()?,
            None => Identity::generate()?,
        },
        IdentitySource::Key(key) => Identity::from_key_file(key)?,
        IdentitySource::KeyAndCertificate(key, cert) => Identity::from_files(key, cert)?,
    })
}

fn open_http(addr: SocketAddr) -> Result<http::Socket, Failure> {
    http::Socket::open(addr).map_err(|source| Failure::Http { addr, source })
}

/// Opens the control socket. Without the one that is there by default the node runs, too: some file systems have no
/// sockets.
fn open_control(control: Option<&Path>, state: Option<&Path>) -> Result<Option<ControlSocket>, Failure> {
    let Some(control) = control else { return Ok(None) };
    match ControlSocket::open(control) {
        Err(ControlError::System { source, .. }) if state.is_some() && control.parent() == state => {
            log::warn!(reason:% = source; "no control socket in the state directory; verbs cannot ask this node");
            Ok(None)
        }
        opened => Ok(Some(opened?)),
    }
}

/// The outputs that the main thread passes events to; stdout has a subscription and a thread of its own.
struct EventSinks {
    /// One for each program.
    hooks: Vec<Hooks>,
    http: Option<http::Server>,
    systemd: Option<Systemd>,
}

impl EventSinks {
    fn handle(&mut self, queued: &QueuedEvent) {
        let (time, event) = (timestamp(queued.time), &queued.event);
        for hooks in &mut self.hooks {
            hooks.offer(time, event, queued.is_acquainted);
        }
        if let Some(http) = &self.http {
            http.tell(time, event);
        }
        if let Some(systemd) = &mut self.systemd {
            systemd.update_status(event);
        }
    }
}
