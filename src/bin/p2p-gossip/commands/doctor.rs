//! The verb `doctor`: looks at what usually goes wrong, and says what to do.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::path::Path;

use jiff::Timestamp;
use p2p_gossip::internals::{ProbeAnswer, probe};
use p2p_gossip::{
    ConnectAddr, DialAddr, Escaped, Identity, KeyRing, NetworkKey, NetworkKeyError, StateDir, StateError,
};
use serde::Serialize;

use super::VerbError;
use super::running_node::{NodeStatus, parse};
use crate::cli::{Doctor, Output};
use crate::http::{Client, ClientError};
use crate::output::count;

/// Addresses of a name that are tried.
const NAME_ADDRS_MAX: usize = 8;
/// The first day of the year in which this was written: an earlier clock is wrong.
const CLOCK_MIN: &str = "2026-01-01T00:00:00Z";

/// One finding.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    /// Whether something is wrong there.
    is_wrong: bool,
    /// What was found, and what to do.
    text: String,
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, what: &str, text: impl Into<String>) {
        self.0.push(Finding { what: what.to_owned(), is_wrong: false, text: text.into() });
    }

    fn wrong(&mut self, what: &str, text: impl Into<String>) {
        self.0.push(Finding { what: what.to_owned(), is_wrong: true, text: text.into() });
    }
}

/// Prints the findings.
///
/// # Errors
/// Something is wrong.
pub(super) fn doctor(doctor: &Doctor, output: Output) -> Result<String, VerbError> {
    // The findings show the name.
    if let Some(Err(error @ StateError::KeyAsName)) = doctor.state.as_deref().map(StateDir::peek_id) {
        return Err(error.into());
    }
    // So does the name of a file.
    let files = doctor.network_keys.iter().map(|file| (file, NetworkKey::from_file(file)));
    let files: Vec<_> = files.collect();
    if files.iter().any(|(_, key)| matches!(key, Err(NetworkKeyError::KeyAsName))) {
        return Err(NetworkKeyError::KeyAsName.into());
    }
    let mut findings = Findings::default();
    check_clock(&mut findings, Timestamp::now());
    let status = doctor.state.as_deref().and_then(|state| check_state(&mut findings, state));
    let mut keys = Vec::new();
    for (file, key) in files {
        keys.extend(note_key(&mut findings, &file.display().to_string(), key.map(|key| vec![key])));
    }
    // As a node does: with a file it does not use the key of its directory.
    if let Some(state) = doctor.state.as_deref().filter(|_| doctor.network_keys.is_empty()) {
        keys.extend(stored_keys(&mut findings, state));
    }
    let keys = keys.concat();
    if status.is_none() {
        check_port(&mut findings, doctor.port);
    }
    // A second process with the key of a running node would only be refused as its double.
    let own = doctor.state.as_deref().filter(|_| status.is_none()).and_then(own_identity);
    let identity = own.map_or_else(Identity::generate, Ok)?;
    doctor.connect.iter().for_each(|connect| check_address(&mut findings, connect, &identity, &keys));
    let shown = show(&findings, output)?;
    let wrong = findings.0.iter().filter(|finding| finding.is_wrong).count();
    if wrong == 0 {
        return Ok(shown);
    }
    print!("{shown}");
    Err(VerbError::Findings(count(wrong, "problem")))
}

fn show(findings: &Findings, output: Output) -> Result<String, VerbError> {
    let mut shown = String::new();
    for finding in &findings.0 {
        // Writing into a String does not fail.
        let _ = match output {
            Output::Json => writeln!(shown, "{}", serde_json::to_string(finding)?),
            Output::Text => {
                let mark = if finding.is_wrong { "WRONG" } else { "ok" };
                writeln!(shown, "{mark:<5}  {}: {}", Escaped(&finding.what), Escaped(&finding.text))
            }
        };
    }
    Ok(shown)
}

fn check_clock(findings: &mut Findings, now: Timestamp) {
    let earliest: Result<Timestamp, _> = CLOCK_MIN.parse();
    if earliest.is_ok_and(|earliest| now < earliest) {
        let text = format!(
            "it says {now:.0}, which is in the past; the mesh works all the same, but logs show wrong times: \
             set the clock"
        );
        findings.wrong("clock", text);
    } else {
        findings.good("clock", format!("{now:.0}"));
    }
}

/// Checks the state directory. Returns the status of the node that uses it, if one runs.
fn check_state(findings: &mut Findings, state: &Path) -> Option<NodeStatus> {
    let what = format!("state {}", state.display());
    match StateDir::peek_id(state) {
        Ok(id) => findings.good(&what, format!("the key of {id}, readable by its owner only")),
        Err(error) if !state.exists() => {
            findings.good(&what, format!("not made yet; the first start makes it ({error})"));
            return None;
        }
        Err(error) => findings.wrong(&what, error.to_string()),
    }
    match StateDir::peek(state) {
        Ok(known) => findings.good(&what, count(known.len(), "known peer")),
        Err(error) => findings.wrong(&what, error.to_string()),
    }
    let answer = Client::new(state.join("control")).get("/status");
    match answer.map_err(VerbError::from).and_then(|answer| parse::<NodeStatus>(&answer)) {
        Ok(status) if status.joined => {
            let text =
                format!("it runs at {} and sees {}", status.node.addr, count(status.members, "member"));
            findings.good("node", text);
            Some(status)
        }
        Ok(status) => {
            let text = format!(
                "it runs at {}, but no --connect address answers: ask p2p-gossip why ADDR, and try doctor --connect ADDR",
                status.node.addr
            );
            findings.wrong("node", text);
            Some(status)
        }
        Err(VerbError::Client(ClientError::NoNode(_))) => {
            findings.good("node", "none runs with this state directory");
            None
        }
        Err(error) => {
            findings.wrong("node", error.to_string());
            None
        }
    }
}

/// The network keys in the state directory.
fn stored_keys(findings: &mut Findings, state: &Path) -> Option<Vec<NetworkKey>> {
    // Without a directory the findings say so already.
    let ring = StateDir::peek_key_ring(state).transpose().filter(|_| state.exists())?;
    let what = state.join("network.key").display().to_string();
    note_key(findings, &what, ring.map(|ring: KeyRing| ring.keys().cloned().collect()))
}

/// Says whether the keys can be read, and returns them.
fn note_key(
    findings: &mut Findings,
    what: &str,
    keys: Result<Vec<NetworkKey>, impl std::fmt::Display>,
) -> Option<Vec<NetworkKey>> {
    match keys {
        Ok(keys) => {
            let earlier = match keys.len() {
                0 | 1 => String::new(),
                all => format!(", and {} before it, still accepted", all - 1),
            };
            findings.good(what, format!("a network key, readable by its owner only{earlier}"));
            Some(keys)
        }
        Err(error) => {
            findings.wrong(what, error.to_string());
            None
        }
    }
}

fn own_identity(state: &Path) -> Option<Identity> {
    let has_key = StateDir::peek_id(state).is_ok();
    has_key.then(|| StateDir::open_existing(state).ok()?.identity().ok()).flatten()
}

/// Checks whether a node could listen on the port.
fn check_port(findings: &mut Findings, port: u16) {
    let what = format!("port {port}");
    let bound = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
    match bound {
        Ok(_) => findings
            .good(&what, "free; whether a firewall lets peers in shows doctor --connect on another machine"),
        Err(error) => {
            let text = format!("{error}; choose another --port, or stop the program that listens there");
            findings.wrong(&what, text);
        }
    }
}

/// Checks an address of a peer: the name, TCP, TLS, the id, the lists and the network key.
fn check_address(findings: &mut Findings, connect: &ConnectAddr, identity: &Identity, keys: &[NetworkKey]) {
    let what = connect.to_string();
    for addr in resolve(findings, &what, &connect.addr) {
        let what = if Some(addr) == connect.addr.socket() { what.clone() } else { format!("{what} {addr}") };
        let probe = probe(addr, identity, keys);
        match (&probe.peer, probe.connected_in) {
            (Err(reason), None) => {
                let text = format!(
                    "{reason}; check that a node runs there, listens on that port, and that no firewall drops it"
                );
                findings.wrong(&what, text);
            }
            (Err(reason), Some(_)) => {
                findings.wrong(&what, format!("something answers, but it is no node of this mesh: {reason}"));
            }
            (Ok(peer), _) if connect.pin.is_some_and(|pin| !pin.matches(peer)) => {
                findings.wrong(&what, format!("another peer answers: {peer}; check the address and the id"));
            }
            (Ok(peer), Some(time)) => {
                findings.good(&what, format!("{peer} answers after {:.1} ms", time.as_secs_f64() * 1000.0));
                check_answer(findings, &what, &probe.answer, identity, keys);
            }
            (Ok(peer), None) => findings.good(&what, format!("{peer} answers")),
        }
    }
}

/// Says whether the peer lets this node in.
fn check_answer(
    findings: &mut Findings,
    what: &str,
    answer: &ProbeAnswer,
    identity: &Identity,
    keys: &[NetworkKey],
) {
    let text = match answer {
        ProbeAnswer::None => return,
        ProbeAnswer::Admitted if keys.is_empty() => {
            return findings.good(what, "it lets this node in; its network is open");
        }
        ProbeAnswer::Admitted => {
            return findings.good(what, "it lets this node in; both hold the network key");
        }
        ProbeAnswer::KeyMissing => {
            "its network is closed, and this node has no network key: start it with --join and the ticket that \
             p2p-gossip invite prints there, or with --network-key"
        }
        ProbeAnswer::KeyWrong => {
            "it asks for another network key: it is in another network, or its network has changed the key; start \
             this node with --join and a new ticket, which p2p-gossip invite prints there"
        }
        ProbeAnswer::KeyUnknown => {
            "its network is open, so it does not accept a node with a network key: start this node without the \
             key, or close the other network with --closed or --join"
        }
        ProbeAnswer::Refused(reason) => {
            return findings
                .wrong(what, format!("{reason}; the owner of that node can allow {}", identity.id()));
        }
    };
    findings.wrong(what, text);
}

fn resolve(findings: &mut Findings, what: &str, addr: &DialAddr) -> Vec<SocketAddr> {
    if let Some(addr) = addr.socket() {
        return vec![addr];
    }
    match addr.to_string().to_socket_addrs() {
        Ok(found) => {
            let mut addrs: Vec<SocketAddr> = Vec::new();
            for addr in found.filter(|addr| DialAddr::from(*addr).is_dialable()) {
                if !addrs.contains(&addr) && addrs.len() < NAME_ADDRS_MAX {
                    addrs.push(addr);
                }
            }
            if addrs.is_empty() {
                findings.wrong(what, "the name has no address that a node can have");
            } else {
                let list: Vec<String> = addrs.iter().map(|addr| addr.ip().to_string()).collect();
                findings.good(what, format!("the name leads to {}", list.join(", ")));
            }
            addrs
        }
        Err(error) => {
            let text = format!(
                "cannot look the name up: {error}; check the name and /etc/resolv.conf, or use the IP address"
            );
            findings.wrong(what, text);
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_before_the_program_was_written_is_wrong() {
        let mut findings = Findings::default();
        check_clock(&mut findings, "1970-01-01T00:05:00Z".parse().unwrap());
        check_clock(&mut findings, "2031-01-01T00:05:00Z".parse().unwrap());
        assert_eq!(findings.0.iter().map(|finding| finding.is_wrong).collect::<Vec<_>>(), [true, false]);
    }
}
