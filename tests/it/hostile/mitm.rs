//! A man in the middle of the first contact: terminates the TLS of both sides with its own key and
//! passes on what each says. Who trusts on first use takes it for the other side; who knows the
//! other side's id, or shares a secret with it, does not.

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

/// What came of one connection to the person in the middle.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The victim who dialled ended the handshake; whether it had shown a certificate by then.
    RefusedByDialler { certificate_shown: bool },
    /// Bytes were passed on until one side closed: so many from who dialled, and from the other.
    Relayed([usize; 2]),
}

struct Mitm {
    id: PeerId,
    addr: SocketAddr,
    outcomes: Receiver<Outcome>,
}

impl Mitm {
    /// Between a dialler and the node at that address.
    fn before(target: SocketAddr) -> Self {
        let me = Arc::new(Credentials::new());
        let listener = TcpListener::bind(localhost()).unwrap();
        let (id, addr) = (me.id(), listener.local_addr().unwrap());
        let (sender, outcomes) = channel();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (near, me, sender) = (Raw::accept(socket, &me), Arc::clone(&me), sender.clone());
                thread::spawn(move || stand_between(near, target, &me, &sender));
            }
        });
        Self { id, addr, outcomes }
    }

    fn outcome(&self) -> Outcome {
        self.outcomes.recv_timeout(DEADLINE).expect("a dialler connected and the connection ended")
    }
}

fn stand_between(mut near: Raw, target: SocketAddr, me: &Credentials, outcomes: &Sender<Outcome>) {
    // After the test there is no receiver.
    if near.shake_hands().is_err() {
        let certificate_shown = near.tls.peer_certificates().is_some();
        let _ = outcomes.send(Outcome::RefusedByDialler { certificate_shown });
        return;
    }
    let mut ends = [near, Raw::dial(target, me)];
    let mut passed = [0; 2];
    loop {
        pass_on(&mut ends, &mut passed);
        let mut fds = ends.each_ref().map(|end| PollFd::new(&end.socket, PollFlags::IN));
        poll(&mut fds, None).unwrap();
        let ready = fds.map(|fd| !fd.revents().is_empty());
        for (end, _) in ends.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            let read = end.tls.read_tls(&mut end.socket);
            let goes_on = matches!(read, Ok(1..)) && end.tls.process_new_packets().is_ok();
            if !goes_on {
                pass_on(&mut ends, &mut passed);
                let _ = outcomes.send(Outcome::Relayed(passed));
                return;
            }
        }
    }
}

/// Says to each side what the other has said, and counts the bytes.
fn pass_on(ends: &mut [Raw; 2], passed: &mut [usize; 2]) {
    for (from, count) in passed.iter_mut().enumerate() {
        let mut bytes = Vec::new();
        // Ends where there is nothing more for now.
        let _ = ends[from].tls.reader().read_to_end(&mut bytes);
        let to = &mut ends[1 - from];
        let _ = to.tls.writer().write_all(&bytes);
        while to.tls.wants_write() && to.tls.write_tls(&mut to.socket).is_ok() {}
        *count += bytes.len();
    }
}

/// Two nodes with keys of their own; one knows the other by the address of the middle only.
struct Story {
    cluster: Cluster,
    target: Member,
    target_id: PeerId,
    mitm: Mitm,
    dialler_key: PathBuf,
}

impl Story {
    /// `target` gets what it is to be told of the id of who will dial.
    fn begin(target: impl FnOnce(Spec, PeerId) -> Spec) -> Self {
        let mut cluster = Cluster::new();
        let dialler_key = cluster.new_key("dialler");
        let dialler_id = Identity::from_key_file(&dialler_key).unwrap().id();
        let target = cluster.start(target(Spec::named("target").with_bind(localhost()), dialler_id));
        let (target_id, addr) = (cluster.id(target), cluster.addr(target));
        Self { cluster, target, target_id, mitm: Mitm::before(addr), dialler_key }
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

    fn nobody_came(&self, member: Member) {
        self.cluster.check(&[member], |history| {
            let came = history.ups_since(member, 0).first().copied();
            came.map(|id| format!("{} was counted as a member", id.short()))
        });
    }
}

/// The limit of trust on first use, as the guide's page on security states it.
#[test]
fn open_mesh_accepts_a_man_in_the_middle_as_a_peer() {
    let mut story = Story::begin(|spec, _| spec);
    let addr = story.mitm.addr;
    let dialler = story.start_dialler(|spec| spec.with_connect(addr));
    let (mitm, target) = (story.mitm.id, story.target);
    // Both are told so, if they look at the id: it is neither's.
    story.cluster.wait_for("pings through the middle", &[dialler, target], |history| {
        let from_middle = |e: &Event| matches!(e, Event::Ping { peer, .. } if *peer == mitm);
        let pinged = |member| history.events_since(member, 0).any(from_middle);
        (pinged(dialler) && pinged(target)).then_some(())
    });
    story.cluster.check(&[dialler, target], |history| {
        let fooled = |member| history.view(member).iter().eq([&mitm]);
        (!fooled(dialler) || !fooled(target)).then(|| "they see another peer, too".to_owned())
    });
}

#[test]
fn pinned_address_reveals_nothing_to_a_man_in_the_middle() {
    let mut story = Story::begin(|spec, _| spec);
    let connect = format!("{}@{}", &story.target_id.to_string()[..16], story.mitm.addr);
    let dialler = story.start_dialler(|spec| spec.with_option("--connect", connect));
    assert_eq!(story.mitm.outcome(), Outcome::RefusedByDialler { certificate_shown: false });
    let (found, expected) = (story.mitm.id.to_string(), story.target_id.to_string());
    story.wait_log(dialler, &["ERROR", &found, &expected[..16]]);
    story.nobody_came(dialler);
    story.nobody_came(story.target);
}

#[test]
fn allow_list_on_either_side_stops_a_man_in_the_middle() {
    // Of who dials, and then of who is dialled.
    let mut story = Story::begin(|spec, _| spec);
    let (addr, target_id) = (story.mitm.addr, story.target_id.to_string());
    let dialler = story.start_dialler(|spec| spec.with_connect(addr).with_option("--allow", target_id));
    assert_eq!(story.mitm.outcome(), Outcome::RefusedByDialler { certificate_shown: false });
    let mitm = story.mitm.id.to_string();
    story.wait_log(dialler, &["refused", &mitm, "allow list"]);
    story.nobody_came(dialler);
    story.nobody_came(story.target);

    let mut story = Story::begin(|spec, dialler| spec.with_option("--allow", dialler.to_string()));
    let addr = story.mitm.addr;
    let dialler = story.start_dialler(|spec| spec.with_connect(addr));
    let outcome = story.mitm.outcome();
    assert!(matches!(outcome, Outcome::Relayed([_, 0])), "{outcome:?}");
    let mitm = story.mitm.id.to_string();
    story.wait_log(story.target, &["incoming connection refused", &mitm, "allow list"]);
    story.nobody_came(dialler);
    story.nobody_came(story.target);
}

#[test]
fn network_key_proof_fails_through_a_man_in_the_middle() {
    let directory = tempfile::tempdir().unwrap();
    let network_key = directory.path().join("network");
    NetworkKey::generate().unwrap().write_new(&network_key).unwrap();
    let mut story = Story::begin(|spec, _| spec.with_option("--network-key", &network_key));
    let addr = story.mitm.addr;
    let dialler =
        story.start_dialler(|spec| spec.with_connect(addr).with_option("--network-key", &network_key));
    let outcome = story.mitm.outcome();
    assert!(matches!(outcome, Outcome::Relayed([said, _]) if said > 0), "{outcome:?}");
    story.wait_log(story.target, &["incoming connection refused", "another network key"]);
    story.wait_log(dialler, &["cannot join", "another network key"]);
    story.nobody_came(dialler);
    story.nobody_came(story.target);
    // Without a man in the middle the same two nodes meet.
    let direct = story.cluster.addr(story.target);
    story.cluster.kill(dialler);
    let dialler =
        story.start_dialler(|spec| spec.with_connect(direct).with_option("--network-key", &network_key));
    story.cluster.wait_full_mesh(&[story.target, dialler]);
}
