//! The verb `watch`: the peers of a running node as they change. In a terminal it redraws in place and takes keys.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, select, tick};
use p2p_gossip::internals::worker::Worker;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use super::VerbError;
use super::running_node::{NodeStatus, Order, Peer, Peers, ask, parse, peers_as_lines, table};
use crate::cli::Output;
use crate::http::Client;
use crate::output::stream::is_coloured;

/// Time between two looks at the node.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The size of a terminal that does not tell its own.
const COLUMNS: usize = 80;
const LINES: usize = 24;

/// Another screen, so that the user's lines come back at the end; without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RESET: &str = "\x1b[0m";

/// Shows the peers until the user or the node ends.
pub(super) fn watch(client: &Client, output: Output) -> Result<String, VerbError> {
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb();
    if output == Output::Text && is_terminal { redraw(client) } else { print_changes(client, output) }
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty())
}

/// Prints the peers now, and again whenever one has changed its state.
fn print_changes(client: &Client, output: Output) -> Result<String, VerbError> {
    let mut last = None;
    loop {
        let answer = client.get("/peers")?;
        let mut peers: Peers = parse(&answer)?;
        let states: Vec<(String, String)> =
            peers.peers.iter().map(|peer| (peer.id.clone(), peer.state.clone())).collect();
        if last.as_ref() != Some(&states) {
            let text = match output {
                Output::Json => peers_as_lines(&answer)?,
                Output::Text => {
                    let status: NodeStatus = ask(client, "/status")?;
                    status.line(&peers.peers) + &table(&mut peers.peers, Order::State) + "\n"
                }
            };
            match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(String::new()),
                written => written?,
            }
            last = Some(states);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A key, or a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Quit,
    Sort(Order),
    Redraw,
}

fn key_of(byte: u8) -> Option<Key> {
    Some(match byte {
        b'q' | b'Q' => Key::Quit,
        b's' => Key::Sort(Order::State),
        b'n' => Key::Sort(Order::Name),
        b'r' => Key::Sort(Order::RoundTrip),
        b' ' => Key::Redraw,
        _ => return None,
    })
}

/// Redraws in place.
fn redraw(client: &Client) -> Result<String, VerbError> {
    // The first look comes before the screen is taken: an error then stays visible.
    let mut shown = look(client)?;
    let keys = keys()?;
    let ticks = tick(LOOK_EVERY);
    let is_coloured = is_coloured(&io::stdout());
    let screen = Screen::enter()?;
    let mut order = Order::default();
    let outcome = loop {
        let drawn = draw(&shown.0, &mut shown.1, order, is_coloured, screen.size());
        if let Err(error) = screen.write(&drawn) {
            break Err(error.into());
        }
        select! {
            recv(keys) -> key => match key {
                Ok(Key::Sort(wanted)) => order = wanted,
                Ok(Key::Redraw) => {}
                // The input has ended: the terminal is gone.
                Ok(Key::Quit) | Err(_) => break Ok(String::new()),
            },
            recv(ticks) -> _ => match look(client) {
                Ok(new) => shown = new,
                Err(error) => break Err(error),
            },
        }
    };
    drop(screen);
    outcome
}

fn look(client: &Client) -> Result<(NodeStatus, Vec<Peer>), VerbError> {
    let Peers { peers } = ask(client, "/peers")?;
    Ok((ask(client, "/status")?, peers))
}

/// Keys and signals, each read by a thread of its own, which ends with the process.
fn keys() -> io::Result<Receiver<Key>> {
    let (keys, pressed) = bounded(16);
    let signalled = keys.clone();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGWINCH])?;
    Worker::spawn("signals", move || {
        for signal in signals.forever() {
            let key = if signal == SIGWINCH { Key::Redraw } else { Key::Quit };
            if signalled.send(key).is_err() {
                return;
            }
        }
    })?;
    Worker::spawn("keys", move || {
        let mut byte = [0];
        loop {
            let key = match io::stdin().read(&mut byte) {
                Ok(0) => Some(Key::Quit),
                Ok(_) => key_of(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
                Err(_) => Some(Key::Quit),
            };
            if key.is_some_and(|key| keys.send(key).is_err() || key == Key::Quit) {
                return;
            }
        }
    })?;
    Ok(pressed)
}

/// The terminal while it belongs to `watch`; as it was before once this is dropped, also by a panic.
struct Screen {
    before: Termios,
}

impl Screen {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut modes = before.clone();
        // Keys come at once and unseen. Signals stay: they end the program in order, but for a stop.
        modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        modes.special_codes[SpecialCodeIndex::VSUSP] = 0;
        modes.special_codes[SpecialCodeIndex::VMIN] = 1;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
        let screen = Self { before };
        screen.write(ENTER)?;
        Ok(screen)
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// Columns and lines.
    fn size(&self) -> (usize, usize) {
        let size = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        size.map_or((COLUMNS, LINES), |size| (size.ws_col.into(), size.ws_row.into()))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.write(LEAVE);
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The whole screen: a line about the node, the table, and the keys. Longer lines and tables are cut.
fn draw(
    status: &NodeStatus,
    peers: &mut [Peer],
    order: Order,
    is_coloured: bool,
    (columns, lines): (usize, usize),
) -> String {
    let mut screen = HOME.to_owned();
    let mut line = |text: &str, colour: &str| {
        let cut: String = text.chars().take(columns).collect();
        let (colour, reset) = if is_coloured && !colour.is_empty() { (colour, RESET) } else { ("", "") };
        // Writing into a String does not fail.
        let _ = write!(screen, "{colour}{cut}{reset}{CLEAR_LINE}\r\n");
    };
    line(status.line(peers).trim_end(), BOLD);
    let table = table(peers, order);
    // The first line, the title, the keys, and a last line that stays empty.
    let room = lines.saturating_sub(4);
    let mut rows = table.lines();
    line(rows.next().unwrap_or_default(), BOLD);
    for (row, peer) in rows.zip(peers.iter()).take(room) {
        let colour = match peer.state.as_str() {
            "up" => GREEN,
            "dead" => RED,
            "unstable" => YELLOW,
            _ => "",
        };
        line(row, colour);
    }
    let more = match peers.len().saturating_sub(room) {
        0 => String::new(),
        more => format!("{more} more; "),
    };
    line(&format!("{more}sort by s state, n name, r round trip; q ends"), "");
    screen.push_str(CLEAR_BELOW);
    screen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> NodeStatus {
        serde_json::from_value(serde_json::json!({
            "node": {"id": "ab".repeat(32), "name": "db1", "addr": "[::]:8080", "program": "p",
                     "started": "t", "timeout_s": 3.0},
            "members": 2, "joined": true, "dials_in_flight": 0,
        }))
        .unwrap()
    }

    fn peers(count: usize) -> Vec<Peer> {
        let peer = |n: usize| Peer {
            id: format!("{n:064x}"),
            name: "a name that is quite long".to_owned(),
            addr: "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535".to_owned(),
            state: "up".to_owned(),
            ..Peer::default()
        };
        (0..count).map(peer).collect()
    }

    #[test]
    fn screen_is_cut_to_the_terminal() {
        let drawn = draw(&status(), &mut peers(50), Order::State, false, (80, 24));
        assert!(drawn.lines().count() <= 24, "{drawn}");
        for line in drawn.lines() {
            let text = line.replace(HOME, "").replace(CLEAR_LINE, "").replace(CLEAR_BELOW, "");
            assert!(text.chars().count() <= 80, "{text}");
        }
        assert!(drawn.contains("30 more; sort by"), "{drawn}");
        assert!(!drawn.contains("\x1b[3") && !drawn.contains(BOLD));
        assert!(draw(&status(), &mut peers(1), Order::State, true, (80, 24)).contains(GREEN));
        // A terminal of one line is no panic.
        draw(&status(), &mut peers(3), Order::Name, true, (1, 1));
    }
}
