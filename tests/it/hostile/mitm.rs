//! A man in the middle (mitm) of the first contact: it terminates the TLS of both sides with its own key and
//! forwards the plaintext. A node that trusts on first use accepts it as its peer. A node that knows the
//! peer's id, or shares a network key with it, detects the mitm.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use p2p_gossip::{Event, Identity, NetworkKey, PeerId};
use rustix::event::{PollFd, PollFlags, poll};

use super::raw::{Credentials, Raw};
use crate::support::history::Member;
use crate::support::process::Spec;
use crate::support::{Cluster, DEADLINE, localhost};

/// The result of one connection to the mitm.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The dialler ended the handshake. The flag is true if it had sent its certificate.
    RefusedByDialler { certificate_shown: bool },
    /// The mitm forwarded bytes until one side closed: counts from the dialler and from the target.
    Relayed([usize; 2]),
}

struct Mitm {
    id: PeerId,
    addr: SocketAddr,
    outcomes: Receiver<Outcome>,
}

impl Mitm {
    /// Starts a mitm that forwards every incoming connection to the target.
    fn start(target: SocketAddr) -> Self {
        let me = Arc::new(Credentials::new());
        let listener = TcpListener::bind(localhost()).unwrap();
        let (id, addr) = (me.id(), listener.local_addr().unwrap());
        let (sender, outcomes) = channel();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (near, me, sender) = (Raw::accept(socket, &me), Arc::clone(&me), sender.clone());
                thread::spawn(move || intercept(near, target, &me, &sender));
            }
        });
        Self { id, addr, outcomes }
    }

    fn outcome(&self) -> Outcome {
        self.outcomes.recv_timeout(DEADLINE).expect("a connection has ended")
    }
}

fn intercept(mut near: Raw, target: SocketAddr, me: &Credentials, outcomes: &Sender<Outcome>) {
    // Sending fails once the test is over.
    if near.shake_hands().is_err() {
        let certificate_shown = near.tls.peer_certificates().is_some();
        let _ = outcomes.send(Outcome::RefusedByDialler { certificate_shown });
        return;
    }
    let mut ends = [near, Raw::dial(target, me)];
    let mut passed = [0; 2];
    loop {
        forward(&mut ends, &mut passed);
        let mut fds = ends.each_ref().map(|end| PollFd::new(&end.socket, PollFlags::IN));
        poll(&mut fds, None).unwrap();
        let ready = fds.map(|fd| !fd.revents().is_empty());
        for (end, _) in ends.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            let read = end.tls.read_tls(&mut end.socket);
            let goes_on = matches!(read, Ok(1..)) && end.tls.process_new_packets().is_ok();
            if !goes_on {
                forward(&mut ends, &mut passed);
                let _ = outcomes.send(Outcome::Relayed(passed));
                return;
            }
        }
    }
}

/// Forwards the plaintext of each side to the other and counts the bytes.
fn forward(ends: &mut [Raw; 2], passed: &mut [usize; 2]) {
    for (from, count) in passed.iter_mut().enumerate() {
        let mut bytes = Vec::new();
        // Ends with an error when no plaintext is left for now.
        let _ = ends[from].tls.reader().read_to_end(&mut bytes);
        let to = &mut ends[1 - from];
        let _ = to.tls.writer().write_all(&bytes);
        while to.tls.wants_write() && to.tls.write_tls(&mut to.socket).is_ok() {}
        *count += bytes.len();
    }
}

/// Two nodes; the dialler knows only the mitm's address for the target.
struct Scenario {
    cluster: Cluster,
    target: Member,
    target_id: PeerId,
    mitm: Mitm,
    dialler_key: PathBuf,
}

impl Scenario {
    /// The closure completes the target's options; it receives the dialler's id.
    fn start(target: impl FnOnce(Spec, PeerId) -> Spec) -> Self {
        let mut cluster = Cluster::new();
        let dialler_key = cluster.new_key("dialler");
        let dialler_id = Identity::from_key_file(&dialler_key).unwrap().id();
        let target = cluster.start(target(Spec::named("target").with_bind(localhost()), dialler_id));
        let (target_id, addr) = (cluster.id(target), cluster.addr(target));
        Self { cluster, target, target_id, mitm: Mitm::start(addr), dialler_key }
    }

    fn start_dialler(&mut self, with: impl FnOnce(Spec) -> Spec) -> Member {
        let spec = Spec::named("dialler").with_bind(localhost()).with_key(&self.dialler_key);
        self.cluster.start(with(spec))
    }

    fn wait_log(&self, member: Member, words: &[&str]) {
        self.cluster.wait_for(&format!("{words:?} in the log"), &[member], |history| {
            history.log(member).iter().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
        });
    }

    fn check_no_member(&self, member: Member) {
        self.cluster.check(&[member], |history| {
            let joined = history.ups_since(member, 0).first().copied();
            joined.map(|id| format!("{} was counted as a member", id.short()))
        });
    }
}

/// The limit of trust on first use (guide: security).
#[test]
fn open_mesh_accepts_a_mitm_as_its_peer() {
    let mut scenario = Scenario::start(|spec, _| spec);
    let addr = scenario.mitm.addr;
    let dialler = scenario.start_dialler(|spec| spec.with_connect(addr));
    let (mitm, target) = (scenario.mitm.id, scenario.target);
    // Users can notice it: the id that both nodes show belongs to neither.
    scenario.cluster.wait_for("pings through the mitm", &[dialler, target], |history| {
        let from_mitm = |e: &Event| matches!(e, Event::Ping { peer, .. } if *peer == mitm);
        let pinged = |member| history.events_since(member, 0).any(from_mitm);
        (pinged(dialler) && pinged(target)).then_some(())
    });
    scenario.cluster.check(&[dialler, target], |history| {
        let fooled = |member| history.view(member).iter().eq([&mitm]);
        (!fooled(dialler) || !fooled(target)).then(|| "they have other peers than the mitm".to_owned())
    });
}

#[test]
fn pinned_address_reveals_nothing_to_a_mitm() {
    let mut scenario = Scenario::start(|spec, _| spec);
    let connect = format!("{}@{}", &scenario.target_id.to_string()[..16], scenario.mitm.addr);
    let dialler = scenario.start_dialler(|spec| spec.with_option("--connect", connect));
    assert_eq!(scenario.mitm.outcome(), Outcome::RefusedByDialler { certificate_shown: false });
    let (found, expected) = (scenario.mitm.id.to_string(), scenario.target_id.to_string());
    scenario.wait_log(dialler, &["ERROR", &found, &expected[..16]]);
    scenario.check_no_member(dialler);
    scenario.check_no_member(scenario.target);
}

#[test]
fn allow_list_on_either_side_keeps_a_mitm_out() {
    // First an allow list of the dialler, then one of the target.
    let mut scenario = Scenario::start(|spec, _| spec);
    let (addr, target_id) = (scenario.mitm.addr, scenario.target_id.to_string());
    let dialler = scenario.start_dialler(|spec| spec.with_connect(addr).with_option("--allow", target_id));
    assert_eq!(scenario.mitm.outcome(), Outcome::RefusedByDialler { certificate_shown: false });
    let mitm = scenario.mitm.id.to_string();
    scenario.wait_log(dialler, &["refused", &mitm, "allow list"]);
    scenario.check_no_member(dialler);
    scenario.check_no_member(scenario.target);

    let mut scenario = Scenario::start(|spec, dialler| spec.with_option("--allow", dialler.to_string()));
    let addr = scenario.mitm.addr;
    let dialler = scenario.start_dialler(|spec| spec.with_connect(addr));
    let outcome = scenario.mitm.outcome();
    assert!(matches!(outcome, Outcome::Relayed([_, 0])), "{outcome:?}");
    let mitm = scenario.mitm.id.to_string();
    scenario.wait_log(scenario.target, &["incoming connection refused", &mitm, "allow list"]);
    scenario.check_no_member(dialler);
    scenario.check_no_member(scenario.target);
}

#[test]
fn network_key_proof_fails_through_a_mitm() {
    let directory = tempfile::tempdir().unwrap();
    let network_key = directory.path().join("network");
    NetworkKey::generate().unwrap().write_new(&network_key).unwrap();
    let mut scenario = Scenario::start(|spec, _| spec.with_option("--network-key", &network_key));
    let addr = scenario.mitm.addr;
    let dialler =
        scenario.start_dialler(|spec| spec.with_connect(addr).with_option("--network-key", &network_key));
    let outcome = scenario.mitm.outcome();
    assert!(matches!(outcome, Outcome::Relayed([from_dialler, _]) if from_dialler > 0), "{outcome:?}");
    scenario.wait_log(scenario.target, &["incoming connection refused", "another network key"]);
    scenario.wait_log(dialler, &["cannot join", "another network key"]);
    scenario.check_no_member(dialler);
    scenario.check_no_member(scenario.target);
    // Without the mitm the same two nodes connect.
    let direct = scenario.cluster.addr(scenario.target);
    scenario.cluster.kill(dialler);
    let dialler =
        scenario.start_dialler(|spec| spec.with_connect(direct).with_option("--network-key", &network_key));
    scenario.cluster.wait_full_mesh(&[scenario.target, dialler]);
}
