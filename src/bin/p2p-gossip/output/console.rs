//! Stdout: events as lines for people or as JSON, written by a separate thread.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::{io, iter};

use jiff::Timestamp;
use p2p_gossip::internals::PIN_DIGITS_MIN;
use p2p_gossip::internals::log_limit::LogLimit;
use p2p_gossip::internals::queues::{self, QueuedEvent};
use p2p_gossip::internals::worker::Worker;
use p2p_gossip::{DialAddr, Escaped, Event, Events, PeerId, Verdict};
use zeroize::Zeroizing;

use crate::cli::{Output, PROGRAM};
use crate::output::count;
use crate::output::event_json::{self, timestamp};
use crate::output::local_addresses::local_addresses;
use crate::output::stream::{Stream, is_coloured};

/// Limit of bytes that one write collects from waiting events.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// Starts the thread that writes the events to stdout. Only that thread waits for a slow reader of stdout. It ends
/// when the node has stopped and all events are written.
pub(crate) fn start(events: Events, output: Output, hints: JoinHints) -> io::Result<Worker> {
    let mut stdout = Stream::new(io::stdout())?;
    let mut printer = Printer::new(output, is_coloured(&io::stdout()), hints);
    Worker::spawn("console", move || write_events(&events, &mut printer, &mut stdout))
}

fn write_events(events: &Events, printer: &mut Printer, stdout: &mut Stream) {
    let queue = queues::events(events);
    let mut batch = String::new();
    let mut is_broken = false;
    let mut dropped = 0;
    while let Ok(first) = queue.recv() {
        for QueuedEvent { time, event, .. } in iter::once(first).chain(queue.try_iter()) {
            printer.print(&mut batch, timestamp(time), &event);
            if batch.len() >= BATCH_BYTES_MAX {
                break;
            }
        }
        if batch.is_empty() {
            continue;
        }
        match stdout.write_all(batch.as_bytes()) {
            Ok(()) => is_broken = false,
            // The node runs on, since its peers rely on it. A full disk may have room again later.
            Err(error) if !is_broken => {
                is_broken = true;
                log::warn!(reason:% = error; "cannot write to stdout; running on without it");
            }
            Err(_) => {}
        }
        batch.clear();
        report_dropped(events, &mut dropped);
    }
}

/// Logs the number of events that stdout has lost, if there are more than `reported`.
fn report_dropped(events: &Events, reported: &mut u64) {
    static LIMIT: LogLimit = LogLimit::new();
    let dropped = events.dropped();
    if dropped > *reported
        && let Some(suppressed) = LIMIT.check()
    {
        *reported = dropped;
        log::warn!(dropped, suppressed; "stdout was blocked or too slow; events were dropped");
    }
}

/// Turns events into lines. A column is as wide as its widest value so far.
#[derive(Debug)]
struct Printer {
    output: Output,
    is_coloured: bool,
    name_width: usize,
    addr_width: usize,
    hints: JoinHints,
    /// The names of the members that have one.
    names: BTreeMap<PeerId, String>,
}

/// How to reach this node, beside the address that it listens on.
#[derive(Debug, Default)]
pub(crate) struct JoinHints {
    /// The URL of the node's page.
    pub(crate) page: Option<String>,
    /// The first address of `--advertise`.
    pub(crate) advertised: Option<DialAddr>,
    /// The command with which another node joins this closed network. It contains the network key.
    pub(crate) invitation: Option<Zeroizing<String>>,
    /// The state directory of a node of a closed network, for which the verb `invite` prints the same command.
    pub(crate) closed: Option<String>,
    /// Whether a newcomer looks, who gave no argument on a terminal: three lines say what happens and how to go on.
    pub(crate) is_brief: bool,
}

/// Widths in characters up to which a column grows; a longer value shifts only its own line.
const NAME_WIDTH_MAX: usize = 16;
const ADDR_WIDTH_MAX: usize = 24;

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";
const RESET: &str = "\x1b[0m";

impl Printer {
    fn new(output: Output, is_coloured: bool, hints: JoinHints) -> Self {
        Self {
            output,
            is_coloured,
            name_width: 0,
            addr_width: "127.0.0.1:8080".len(),
            hints,
            names: BTreeMap::new(),
        }
    }

    fn print(&mut self, out: &mut String, time: Timestamp, event: &Event) {
        match self.output {
            Output::Text => self.print_text(out, time, event),
            Output::Json => event_json::print(out, time, event, self.hints.page.as_deref()),
        }
    }

    fn print_text(&mut self, out: &mut String, time: Timestamp, event: &Event) {
        // UTC, as the log lines on the same terminal and the events of other nodes.
        let time = time.strftime("%H:%M:%SZ").to_string();
        match event {
            Event::Listening { id, addr, .. } => {
                self.begin(out, &time, "listening", BOLD);
                print_join_hints(out, *id, *addr, &local_addresses(), &self.hints);
            }
            Event::Up { peer, name, addr, via, members, .. } => {
                self.begin(out, &time, "up", GREEN);
                self.print_peer(out, *peer, name, addr);
                let via = via.map_or_else(String::new, |via| format!("  via {}", self.name_of(&via)));
                push(out, format_args!("{}{via}\n", count(*members, "member")));
                if !name.is_empty() {
                    self.names.insert(*peer, Escaped(name).to_string());
                }
            }
            Event::Path { peer, name, addr, via, .. } => {
                self.begin(out, &time, "path", YELLOW);
                self.print_peer(out, *peer, name, addr);
                let via =
                    via.map_or_else(|| "direct".to_owned(), |via| format!("via {}", self.name_of(&via)));
                push(out, format_args!("{via}\n"));
            }
            // It is a part of the line `isolated`.
            Event::Down { quiet: true, .. } | Event::Verdict { verdict: Verdict::Isolated, .. } => {}
            Event::Down { peer, name, addr, reason, members, .. } => {
                self.names.remove(peer);
                self.begin(out, &time, "down", RED);
                self.print_peer(out, *peer, name, addr);
                push(out, format_args!("{}, {reason}\n", count(*members, "member")));
            }
            Event::Left { peer, name, addr, members, .. } => {
                self.names.remove(peer);
                self.begin(out, &time, "left", YELLOW);
                self.print_peer(out, *peer, name, addr);
                push(out, format_args!("{}\n", count(*members, "member")));
            }
            Event::Ping { peer, name, addr, seq, text, rtt_ms, .. } => {
                self.begin(out, &time, "ping", CYAN);
                self.print_peer(out, *peer, name, addr);
                let rtt = rtt_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2} ms"));
                push(out, format_args!("#{seq:<4} {rtt:>8}  {}\n", Escaped(text)));
            }
            Event::Message { peer, name, addr, text, .. } => {
                self.begin(out, &time, "message", CYAN);
                self.print_peer(out, *peer, name, addr);
                push(out, format_args!("{}\n", Escaped(text)));
            }
            Event::Verdict { peer, name, addr, verdict, asked, seen_by, .. } => {
                self.begin(out, &time, "verdict", YELLOW);
                self.print_peer(out, *peer, name, addr);
                push(out, format_args!("{}\n", verdict.explain(*asked, *seen_by)));
            }
            Event::Unstable { peer, name, addr, losses, .. } => {
                self.begin(out, &time, "unstable", YELLOW);
                self.print_peer(out, *peer, name, addr);
                push(out, format_args!("lost {losses} times; up once it holds\n"));
            }
            Event::Isolated { lost, members, .. } => {
                self.begin(out, &time, "isolated", RED);
                push(out, format_args!("this node has lost {lost} of {}\n", count(*members, "member")));
            }
            Event::Rejoined { members, .. } => {
                self.begin(out, &time, "rejoined", GREEN);
                push(out, format_args!("{}\n", count(*members, "member")));
            }
            Event::Alert { incident, kind, phase, text, .. } => {
                self.begin(out, &time, "alert", BOLD);
                push(out, format_args!("{kind} {phase} {incident}: {}\n", Escaped(text)));
            }
            Event::Stopped => {
                self.begin(out, &time, "stopped", BOLD);
                out.truncate(out.trim_end_matches(' ').len());
                out.push('\n');
            }
            // Event is non-exhaustive: a new kind is shown by its Display.
            other => push(out, format_args!("{time}  {other}\n")),
        }
    }

    /// The name of a member, or its short id.
    fn name_of(&self, peer: &PeerId) -> String {
        self.names.get(peer).cloned().unwrap_or_else(|| peer.short().to_string())
    }

    fn begin(&self, out: &mut String, time: &str, word: &str, colour: &str) {
        let (colour, reset) = if self.is_coloured { (colour, RESET) } else { ("", "") };
        let padding = "listening".len() - word.len();
        push(out, format_args!("{time}  {colour}{word}{reset}{:padding$}  ", ""));
    }

    fn print_peer(&mut self, out: &mut String, peer: PeerId, name: &str, addr: &DialAddr) {
        let name = Escaped(name).to_string();
        let addr = addr.to_string();
        self.name_width = self.name_width.max(name.chars().count().min(NAME_WIDTH_MAX));
        self.addr_width = self.addr_width.max(addr.len().min(ADDR_WIDTH_MAX));
        let (name_width, addr_width) = (self.name_width, self.addr_width);
        if name_width != 0 {
            push(out, format_args!("{name:<name_width$}  "));
        }
        push(out, format_args!("{}  {addr:<addr_width$}  ", peer.short()));
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a String does not fail.
    let _ = out.write_fmt(text);
}

/// Prints this node's address and id, and commands to copy that join through it. With the id in front of the
/// address no other node can take its place. `lan` has this machine's addresses for other machines, the likeliest first.
fn print_join_hints(out: &mut String, id: PeerId, addr: SocketAddr, lan: &[IpAddr], hints: &JoinHints) {
    let port = addr.port();
    if hints.is_brief {
        let pin = &id.to_string()[..PIN_DIGITS_MIN];
        let elsewhere = match lan.iter().find(|ip| ip.is_ipv4() || addr.is_ipv6()) {
            Some(ip) => format!("{PROGRAM} --connect {pin}@{}", SocketAddr::new(*ip, port)),
            None => "no other machine reaches this one: it has no address but loopback".to_owned(),
        };
        push(
            out,
            format_args!("port {port}, with a new key for this run (--state DIR keeps one); Ctrl-C leaves\n"),
        );
        push(out, format_args!("{:11}join with  {PROGRAM} --port 0 --connect {pin}@127.0.0.1:{port}\n", ""));
        push(out, format_args!("{:11}elsewhere  {elsewhere}\n", ""));
        return;
    }
    let row = |out: &mut String, left: &str, right: &str| {
        push(out, format_args!("{:11}{left:<9}  {right}\n", ""));
    };
    // With port 0, since this node may use the default port of this machine.
    let here = |ip: IpAddr| format!("{PROGRAM} --port 0 --connect {id}@{}", SocketAddr::new(ip, port));
    let from_elsewhere = |ip: IpAddr| format!("{PROGRAM} --connect {id}@{}", SocketAddr::new(ip, port));
    let is_closed = hints.invitation.is_some() || hints.closed.is_some();
    if let Some(invitation) = &hints.invitation {
        push(out, format_args!("{addr}\n"));
        row(out, "id", &id.to_string());
        row(out, "others", "join this closed network with the next line; every holder of it can join:");
        push(out, format_args!("{}\n", **invitation));
    } else if let Some(state) = &hints.closed {
        push(out, format_args!("{addr}\n"));
        row(out, "id", &id.to_string());
        row(
            out,
            "others",
            &format!("{PROGRAM} invite --state {state} prints how they join this closed network"),
        );
    } else if addr.ip().is_unspecified() {
        push(out, format_args!("{addr} (every interface)\n"));
        row(out, "id", &id.to_string());
        row(out, "join with", &here(Ipv4Addr::LOCALHOST.into()));
        // A listener without IPv6 is not reached at IPv6 addresses.
        let is_served = |ip: &&IpAddr| ip.is_ipv4() || addr.is_ipv6();
        for ip in lan.iter().filter(|_| hints.advertised.is_none()).filter(is_served) {
            row(out, "elsewhere", &from_elsewhere(*ip));
        }
    } else {
        push(out, format_args!("{addr}\n"));
        row(out, "id", &id.to_string());
        let command = if addr.ip().is_loopback() { here(addr.ip()) } else { from_elsewhere(addr.ip()) };
        row(out, "join with", &command);
    }
    if let Some(advertised) = hints.advertised.as_ref().filter(|_| !is_closed) {
        row(out, "elsewhere", &format!("{PROGRAM} --connect {id}@{advertised}"));
    }
    if let Some(page) = &hints.page {
        row(out, "page", page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2p_gossip::DownReason;
    use p2p_gossip::internals::{sample, text};

    const ID: PeerId = PeerId::from_bytes([0xab; 32]);

    fn addr() -> DialAddr {
        "127.0.0.1:8081".parse().unwrap()
    }

    fn printer(output: Output, is_coloured: bool) -> Printer {
        Printer::new(output, is_coloured, JoinHints::default())
    }

    fn time() -> Timestamp {
        "2026-01-31T12:00:00.1239Z".parse().unwrap()
    }

    fn shown(printer: &mut Printer, event: &Event) -> String {
        let mut out = String::new();
        printer.print(&mut out, time(), event);
        out
    }

    fn up(name: &str) -> Event {
        sample::up(ID, name, addr(), 2)
    }

    fn ping(text: &str) -> Event {
        sample::ping(ID, "bob", addr(), 7, text, Some(0.414))
    }

    #[test]
    fn event_is_one_aligned_line_of_text() {
        let mut printer = printer(Output::Text, false);
        let left = sample::left(ID, "", addr(), 1);
        let down = sample::down(ID, "bob", addr(), DownReason::Timeout, 1);
        let lines = [up(""), up("bob"), left, down, ping("hello"), Event::Stopped];
        let text: String = lines.iter().map(|event| shown(&mut printer, event)).collect();
        assert_eq!(
            text,
            "\
12:00:00Z  up         ababababab  127.0.0.1:8081  2 members
12:00:00Z  up         bob  ababababab  127.0.0.1:8081  2 members
12:00:00Z  left            ababababab  127.0.0.1:8081  1 member
12:00:00Z  down       bob  ababababab  127.0.0.1:8081  1 member, timeout
12:00:00Z  ping       bob  ababababab  127.0.0.1:8081  #7     0.41 ms  hello
12:00:00Z  stopped
"
        );
    }

    fn with_page() -> JoinHints {
        JoinHints { page: Some("http://127.0.0.1:9090/".to_owned()), ..JoinHints::default() }
    }

    #[test]
    fn first_lines_show_how_to_join() {
        let mut out = String::new();
        let lan = ["192.0.2.7", "2001:db8::7"].map(|ip| ip.parse().unwrap());
        print_join_hints(&mut out, ID, "[::]:8080".parse().unwrap(), &lan, &with_page());
        let id = "ab".repeat(32);
        assert_eq!(
            out,
            format!(
                "\
[::]:8080 (every interface)
           id         {id}
           join with  p2p-gossip --port 0 --connect {id}@127.0.0.1:8080
           elsewhere  p2p-gossip --connect {id}@192.0.2.7:8080
           elsewhere  p2p-gossip --connect {id}@[2001:db8::7]:8080
           page       http://127.0.0.1:9090/
"
            )
        );
        let mut out = String::new();
        print_join_hints(&mut out, ID, "0.0.0.0:8080".parse().unwrap(), &lan, &with_page());
        assert_eq!(out.matches("elsewhere").count(), 1, "{out}");
        let mut out = String::new();
        print_join_hints(&mut out, ID, "[2001:db8::7]:9".parse().unwrap(), &lan, &JoinHints::default());
        assert!(out.ends_with(&format!("join with  p2p-gossip --connect {id}@[2001:db8::7]:9\n")), "{out}");
        // An advertised address overrides those of the interfaces.
        let hints =
            JoinHints { advertised: Some("mesh.example:17000".parse().unwrap()), ..JoinHints::default() };
        for addr in ["[::]:9", "192.0.2.7:9"] {
            let mut out = String::new();
            print_join_hints(&mut out, ID, addr.parse().unwrap(), &lan, &hints);
            let last = out.lines().last().unwrap();
            assert_eq!(last.trim(), format!("elsewhere  p2p-gossip --connect {id}@mesh.example:17000"));
            assert_eq!(out.matches("elsewhere").count(), 1, "{out}");
        }
    }

    #[test]
    fn newcomer_sees_three_lines() {
        let hints = JoinHints { is_brief: true, ..JoinHints::default() };
        let mut out = String::new();
        let lan = ["192.0.2.7", "2001:db8::7"].map(|ip| ip.parse().unwrap());
        print_join_hints(&mut out, ID, "[::]:8080".parse().unwrap(), &lan, &hints);
        assert_eq!(
            out,
            "\
port 8080, with a new key for this run (--state DIR keeps one); Ctrl-C leaves
           join with  p2p-gossip --port 0 --connect abababababababab@127.0.0.1:8080
           elsewhere  p2p-gossip --connect abababababababab@192.0.2.7:8080
"
        );
        let mut out = String::new();
        print_join_hints(&mut out, ID, "[::]:8080".parse().unwrap(), &[], &hints);
        assert!(out.lines().count() == 3 && out.contains("no address but loopback"), "{out}");
    }

    #[test]
    fn colour_is_around_the_event_word_only_and_only_if_enabled() {
        let line = shown(&mut printer(Output::Text, true), &up("bob"));
        assert!(line.starts_with("12:00:00Z  \x1b[32mup\x1b[0m         bob"), "{line:?}");
        assert!(!shown(&mut printer(Output::Text, false), &up("bob")).contains('\x1b'));
        assert!(!shown(&mut printer(Output::Json, true), &up("bob")).contains('\x1b'));
    }

    #[test]
    fn json_begins_with_the_time_then_the_event() {
        let line = shown(&mut printer(Output::Json, false), &up("bob"));
        let id = "ab".repeat(32);
        let wanted = format!(
            r#"{{"time":"2026-01-31T12:00:00.123Z","event":"up","peer":"{id}","name":"bob","addr":"127.0.0.1:8081","via":null,"members":2}}"#
        );
        assert_eq!(line, wanted + "\n");
        let stopped = shown(&mut printer(Output::Json, false), &Event::Stopped);
        assert_eq!(stopped, "{\"time\":\"2026-01-31T12:00:00.123Z\",\"event\":\"stopped\"}\n");
        let listening = sample::listening(ID, "127.0.0.1:8081".parse().unwrap());
        let mut with_page = Printer::new(Output::Json, false, with_page());
        assert!(shown(&mut with_page, &listening).ends_with(",\"http\":\"http://127.0.0.1:9090/\"}\n"));
        assert!(shown(&mut with_page, &up("bob")).ends_with(",\"members\":2}\n"));
    }

    #[test]
    fn hostile_text_is_escaped_and_keeps_its_value() {
        let hostile = "a\u{1b}[31m\u{7f}\u{9b}b\n\u{202e}\u{200b}\u{e0041}\"\\ Zoë 東京 🦀";
        let line = shown(&mut printer(Output::Json, false), &ping(hostile));
        assert!(!line.trim_end_matches('\n').chars().any(text::is_unsafe), "{line:?}");
        assert!(line.contains("\\udb40\\udc41") && line.contains("東京 🦀"), "{line}");
        let back: Event = serde_json::from_str(&line).unwrap();
        assert_eq!(back, ping(hostile));
        let line = shown(&mut printer(Output::Text, false), &ping(hostile));
        assert!(!line.trim_end_matches('\n').chars().any(text::is_unsafe), "{line:?}");
    }
}
