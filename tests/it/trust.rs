//! Authorization of peers with real processes: pins, allow and deny lists, network keys and `--strict`.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::executable::RunToEnd as _;
use crate::support::history::Member;
use crate::support::process::Spec;
use crate::support::{Cluster, localhost, unique_addr};
use p2p_gossip::{DownReason, Identity, NetworkKey, PeerId};
use rustix::process::Signal;

/// Creates a key file; returns its path and its peer id.
fn key(cluster: &Cluster, name: &str) -> (PathBuf, PeerId) {
    let file = cluster.new_key(name);
    let id = Identity::from_key_file(&file).unwrap().id();
    (file, id)
}

fn spec(name: &str) -> Spec {
    Spec::named(name).with_bind(localhost())
}

fn wait_log(cluster: &Cluster, member: Member, words: &[&str]) {
    cluster.wait_for(&format!("{words:?} in one line of the log"), &[member], |history| {
        history.log(member).iter().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
    });
}

fn wait_up(cluster: &Cluster, member: Member, peer: PeerId, mark: usize) {
    cluster.wait_for(&format!("up of {}", peer.short()), &[member], |history| {
        history.ups_since(member, mark).contains(&peer).then_some(())
    });
}

/// Checks that neither node has counted the other as a member.
fn check_never_connected(cluster: &Cluster, a: Member, b: Member) {
    let (a_id, b_id) = (cluster.id(a), cluster.id(b));
    cluster.check(&[a, b], |history| {
        let connected = history.ups_since(a, 0).contains(&b_id) || history.ups_since(b, 0).contains(&a_id);
        connected.then(|| "they connected".to_owned())
    });
}

/// Runs the program to its end; returns the exit code and stderr.
fn run(args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-gossip"));
    let output = command.args(args).stdin(Stdio::null()).run_to_end();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn pinned_address_accepts_the_whole_id_or_its_beginning() {
    let mut cluster = Cluster::new();
    let first = cluster.start(spec("first"));
    let (id, addr) = (cluster.id(first).to_string(), cluster.addr(first));
    let mut members = vec![first];
    for (name, pin) in [("whole", &id[..]), ("prefix", &id[..16]), ("upper", &id[..33].to_uppercase())] {
        members.push(cluster.start(spec(name).with_option("--connect", format!("{pin}@{addr}"))));
    }
    cluster.wait_full_mesh(&members);
}

#[test]
fn wrong_peer_at_a_pinned_address_learns_nothing_and_the_right_one_is_joined_later() {
    let mut cluster = Cluster::new();
    let (right_key, right_id) = key(&cluster, "right");
    let place = unique_addr();
    let wrong = cluster.start(Spec::named("wrong").with_bind(place));
    let connect = format!("{}@{place}", &right_id.to_string()[..24]);
    let seeker = cluster.start(spec("seeker").with_option("--connect", connect));
    let (found, expected) = (cluster.id(wrong).to_string(), right_id.to_string());
    let words = ["ERROR", &found, &expected[..24]];
    wait_log(&cluster, seeker, &words);
    // The node keeps retrying but logs the error once: two more dials have failed in the same way.
    let failures = |cluster: &Cluster| {
        let answered = format!("peer {} answered", &found[..10]);
        cluster.wait_for("two more failures", &[seeker], |history| {
            (history.log_count(seeker, &answered) >= 2).then_some(())
        });
    };
    failures(&cluster);
    cluster.check(&[seeker], |history| {
        let is_error = |line: &&String| words.iter().all(|word| line.contains(word));
        let errors = history.log(seeker).iter().filter(is_error).count();
        (errors != 1).then(|| format!("logged {errors} times"))
    });
    // The wrong peer received neither a certificate nor any data, so it does not know the seeker's id.
    wait_log(&cluster, wrong, &["incoming connection refused", "expects"]);
    check_never_connected(&cluster, seeker, wrong);
    let seeker_id = cluster.id(seeker).to_string();
    cluster.check(&[wrong], |history| {
        let named = history.log_mentions(wrong, &seeker_id[..10]);
        named.then(|| "the wrong peer knows the seeker's id".to_owned())
    });
    cluster.kill(wrong);
    let right = cluster.start(Spec::named("right").with_bind(place).with_key(&right_key));
    cluster.wait_full_mesh(&[seeker, right]);
}

#[test]
fn allow_list_admits_its_peers_and_logs_the_ids_of_others() {
    let mut cluster = Cluster::new();
    let (friend_key, friend_id) = key(&cluster, "friend");
    let closed = cluster.start(spec("closed").with_option("--allow", friend_id.to_string()));
    let addr = cluster.addr(closed);
    let stranger = cluster.start(spec("stranger").with_connect(addr));
    let stranger_id = cluster.id(stranger).to_string();
    wait_log(&cluster, closed, &["WARN", "refused", &stranger_id, "allow list"]);
    wait_log(&cluster, stranger, &["WARN", "refuses us"]);
    let friend = cluster.start(spec("friend").with_key(&friend_key).with_connect(addr));
    cluster.wait_full_mesh(&[closed, friend]);
    check_never_connected(&cluster, closed, stranger);
}

#[test]
fn denied_peer_is_refused_even_if_it_is_allowed_or_listed_by_a_peer() {
    let mut cluster = Cluster::new();
    let (outcast_key, outcast_id) = key(&cluster, "outcast");
    let (friend_key, friend_id) = key(&cluster, "friend");
    let friend = cluster.start(spec("friend").with_key(&friend_key));
    let addr = cluster.addr(friend);
    let outcast = cluster.start(spec("outcast").with_key(&outcast_key).with_connect(addr));
    cluster.wait_full_mesh(&[friend, outcast]);
    let list = cluster.file("allowed", &format!("{outcast_id} # by mistake\n\n# a friend\n{friend_id}\n"));
    let closed = cluster.start(
        spec("closed")
            .with_option("--allow-file", &list)
            .with_option("--deny", outcast_id.to_string())
            .with_connect(addr),
    );
    wait_up(&cluster, closed, friend_id, 0);
    // The outcast learns the address of the new node and dials it.
    wait_log(&cluster, closed, &["refused", &outcast_id.to_string(), "deny list"]);
    cluster.wait_pings(&[friend, closed], 3, cluster.mark());
    check_never_connected(&cluster, closed, outcast);
}

#[test]
fn invalid_list_file_is_reported_with_its_line() {
    let cluster = Cluster::new();
    let (_, id) = key(&cluster, "peer");
    let bad = cluster.file("bad", &format!("# peers\n{id} # one\n\n{id}0\n"));
    for option in ["--allow-file", "--deny-file"] {
        let (code, stderr) = run(&["--port", "0", option, bad.to_str().unwrap()]);
        assert_eq!(code, Some(1), "{stderr}");
        let wanted = format!("{} line 4: ", bad.display());
        assert!(
            stderr.contains(&wanted)
                && stderr.contains("64 hexadecimal digits")
                && stderr.lines().count() == 1,
            "{stderr}"
        );
        let (code, stderr) = run(&["--port", "0", option, "/nowhere/list"]);
        assert!(code == Some(1) && stderr.contains("cannot read /nowhere/list"), "{stderr}");
    }
}

#[test]
fn lists_that_admit_no_peer_or_deny_the_own_id_are_warned_about() {
    let mut cluster = Cluster::new();
    let (own_key, own_id) = key(&cluster, "own");
    let alone = cluster.start(spec("alone").with_key(&own_key).with_option("--allow", own_id.to_string()));
    wait_log(&cluster, alone, &["WARN", "admits"]);
    let denied = cluster.start(spec("denied").with_key(&own_key).with_option("--deny", own_id.to_string()));
    wait_log(&cluster, denied, &["WARN", "deny list"]);
}

#[test]
fn sighup_applies_lists_to_open_sessions_and_ignores_an_invalid_file() {
    let mut cluster = Cluster::new();
    let list = cluster.file("denied", "# empty\n");
    let first = cluster.start(spec("first").with_option("--deny-file", &list));
    let addr = cluster.addr(first);
    let second = cluster.start(spec("second").with_connect(addr));
    let third = cluster.start(spec("third").with_connect(addr));
    let all = [first, second, third];
    cluster.wait_full_mesh(&all);
    let (first_id, third_id) = (cluster.id(first), cluster.id(third));

    let mark = cluster.mark();
    fs::write(&list, format!("{third_id}   # misbehaves\n")).unwrap();
    cluster.signal(first, Signal::HUP);
    cluster.wait_down(&[first], third_id, DownReason::Denied, mark);
    cluster.wait_down(&[third], first_id, DownReason::Refused, mark);
    wait_log(&cluster, first, &["peer refused", &third_id.to_string(), "deny list"]);
    wait_log(&cluster, third, &["refused this node", "deny list"]);
    wait_log(&cluster, first, &["incoming connection refused", &third_id.to_string()]);

    let mark = cluster.mark();
    fs::write(&list, "\nnot an id\n").unwrap();
    cluster.signal(first, Signal::HUP);
    let named = format!("{} line 2", list.display());
    wait_log(&cluster, first, &["ERROR", &named]);
    cluster.wait_pings(&[first, second], 3, mark);
    cluster.check_steady(&[first, second], mark);

    fs::write(&list, "").unwrap();
    cluster.signal(first, Signal::HUP);
    wait_up(&cluster, first, third_id, mark);
    cluster.wait_full_mesh(&all);
    cluster.check_steady(&[second], mark);
}

#[test]
fn sighup_ends_a_node_without_list_files() {
    let mut cluster = Cluster::new();
    let node = cluster.start(spec("node"));
    if is_ignored(Signal::HUP) {
        // As under nohup: the node inherits the ignored signal and keeps ignoring it.
        cluster.signal(node, Signal::HUP);
        let mark = cluster.mark();
        let other = cluster.start(spec("other").with_connect(cluster.addr(node)));
        cluster.wait_pings(&[node, other], 1, mark);
        return;
    }
    assert!(!cluster.end_with_signal(node, Signal::HUP).success());
}

/// True if this process ignores the signal.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask & 1 << (signal.as_raw() - 1) != 0
}

/// Creates a file with a new network key.
fn network_key(cluster: &Cluster, name: &str) -> PathBuf {
    let file = cluster.path(name);
    NetworkKey::generate().unwrap().write_new(&file).unwrap();
    file
}

#[test]
fn holders_of_a_network_key_connect_and_other_nodes_log_the_reason() {
    let mut cluster = Cluster::new();
    let [ours, other] = ["ours", "other"].map(|name| network_key(&cluster, name));
    let first = cluster.start(spec("first").with_option("--network-key", &ours));
    let addr = cluster.addr(first);
    let friend = cluster.start(spec("friend").with_option("--network-key", &ours).with_connect(addr));
    cluster.wait_full_mesh(&[first, friend]);

    let none = cluster.start(spec("none").with_connect(addr));
    wait_log(&cluster, none, &["WARN", "requires a network key"]);
    wait_log(&cluster, first, &["WARN", "holds no network key"]);
    let wrong = cluster.start(spec("wrong").with_option("--network-key", &other).with_connect(addr));
    wait_log(&cluster, wrong, &["WARN", "another network key"]);
    wait_log(&cluster, first, &["WARN", "another network key"]);
    let holder =
        cluster.start(spec("holder").with_option("--network-key", &ours).with_connect(cluster.addr(none)));
    wait_log(&cluster, holder, &["WARN", "holds no network key"]);
    wait_log(&cluster, none, &["WARN", "requires a network key"]);

    for (a, b) in [(first, none), (first, wrong), (holder, none)] {
        check_never_connected(&cluster, a, b);
    }
    let secrets = [&ours, &other].map(|file| fs::read_to_string(file).unwrap().trim().to_owned());
    let members = [first, friend, none, wrong, holder];
    cluster.check(&members, |history| {
        let leaks = |&&member: &&Member| secrets.iter().any(|secret| history.log_mentions(member, secret));
        members.iter().find(leaks).map(|_| "a log shows a network key".to_owned())
    });
}

#[test]
fn network_key_changes_node_by_node_without_losing_the_mesh() {
    let mut cluster = Cluster::new();
    let [old, new] = ["old", "new"].map(|name| network_key(&cluster, name));
    let places = [(); 3].map(|()| unique_addr());
    let keys = ["a", "b", "c"].map(|name| cluster.new_key(name));
    let node = |n: usize, network_keys: &[&Path]| {
        let mut spec = Spec::named(format!("node{n}")).with_bind(places[n]).with_key(&keys[n]);
        for (_, place) in places.iter().enumerate().filter(|(other, _)| *other != n) {
            spec = spec.with_connect(*place);
        }
        network_keys.iter().fold(spec, |spec, file| spec.with_option("--network-key", file))
    };
    let mut members: Vec<Member> = (0..3).map(|n| cluster.start(node(n, &[&old]))).collect();
    cluster.wait_full_mesh(&members);
    for network_keys in [&[&old as &Path, &new][..], &[&new, &old], &[&new]] {
        for n in 0..3 {
            cluster.terminate(members[n]);
            let others: Vec<Member> = members.iter().copied().filter(|&m| m != members[n]).collect();
            let id = cluster.id(members[n]);
            let mark = cluster.mark();
            members[n] = cluster.start(node(n, network_keys));
            cluster.wait_full_mesh(&members);
            // Meanwhile the other nodes have lost only the restarted node.
            cluster.check(&others, |history| {
                let lost =
                    |&m: &Member| history.downs_since(m, mark).into_iter().find(|(peer, _)| *peer != id);
                others.iter().find_map(lost).map(|(peer, why)| format!("{} was lost: {why}", peer.short()))
            });
        }
    }
}

#[test]
fn invalid_network_keys_are_reported() {
    let cluster = Cluster::new();
    let files = ["one", "two", "three"].map(|name| network_key(&cluster, name));
    let bad = cluster.file("bad", "# not a key\n123\n");
    fs::set_permissions(&bad, fs::Permissions::from_mode(0o600)).unwrap();
    let (code, stderr) = run(&["--network-key", bad.to_str().unwrap()]);
    assert!(
        code == Some(1) && stderr.contains("bad line 2: ") && stderr.contains("64 hexadecimal digits"),
        "{stderr}"
    );
    let three: Vec<&str> = files.iter().flat_map(|file| ["--network-key", file.to_str().unwrap()]).collect();
    let (code, stderr) = run(&three);
    assert!(code == Some(2) && stderr.contains("3 network keys") && stderr.contains("at most 2"), "{stderr}");
}

/// Starts a watcher and an old node, then replaces the old node by a node with another key at the same address.
/// Returns the watcher, the new node, the old and the new id, and the options to start the old node again.
fn start_replaced(cluster: &mut Cluster, watcher: Spec) -> (Member, Member, [PeerId; 2], Spec) {
    let (old_key, old_id) = key(cluster, "old");
    let place = Spec::named("old").with_bind(unique_addr());
    let old = cluster.start(place.clone().with_key(&old_key));
    let watcher = cluster.start(watcher.with_connect(cluster.addr(old)));
    cluster.wait_full_mesh(&[watcher, old]);
    let at = cluster.addr(old);
    cluster.kill(old);
    let new = cluster.start(Spec::named("new").with_bind(at).with_connect(cluster.addr(watcher)));
    let new_id = cluster.id(new);
    (watcher, new, [old_id, new_id], Spec::named("old again").with_bind(at).with_key(&old_key))
}

#[test]
fn new_key_at_a_known_address_is_warned_about_and_is_a_new_peer() {
    let mut cluster = Cluster::new();
    let (watcher, new, [old_id, new_id], _) = start_replaced(&mut cluster, spec("watcher"));
    wait_up(&cluster, watcher, new_id, 0);
    let ids = [old_id.to_string(), new_id.to_string()];
    wait_log(&cluster, watcher, &["WARN", "new peer", &ids[0], &ids[1], "first_seen=20"]);
    cluster.wait_full_mesh(&[watcher, new]);
}

#[test]
fn strict_node_refuses_a_new_key_at_a_known_address() {
    let mut cluster = Cluster::new();
    let strict = spec("strict").with_switch("--strict");
    let (watcher, new, [old_id, new_id], old) = start_replaced(&mut cluster, strict);
    let ids = [old_id.to_string(), new_id.to_string()];
    wait_log(&cluster, watcher, &["WARN", "--strict", &ids[0], &ids[1], "first_seen=20"]);
    wait_log(&cluster, new, &["refused this node", "address of another peer"]);
    cluster.kill(new);
    let back = cluster.start(old);
    cluster.wait_full_mesh(&[watcher, back]);
    cluster.check(&[watcher], |history| {
        let joined = history.ups_since(watcher, 0).contains(&new_id);
        joined.then(|| "the strict node counted the new one as a member".to_owned())
    });
}

/// Runs the README's recipe command by command; only the host names differ.
#[test]
fn closed_network_recipe_of_the_guide_works() {
    let guide = include_str!("../../src/guide/security.md");
    let list = guide.split_once("cat > allowed <<'END'\n").unwrap().1.split_once("END\n").unwrap().0;
    let shown: Vec<&str> = list.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(shown.len() == 3 && shown.iter().all(|id| id.parse::<PeerId>().is_ok()), "{shown:?}");

    let mut cluster = Cluster::new();
    let hosts = ["alpha", "beta", "gamma"];
    let (network, state) = (cluster.path("network.key"), |name: &str| format!("{name}-state"));
    let verb = |args: &[&Path]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_p2p-gossip")).args(args).stdin(Stdio::null()).run_to_end();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let word = Path::new;
    verb(&[word("keygen"), word("--network"), &network]);
    let mut lines = String::new();
    for name in hosts {
        let (key, cert) = (cluster.path(&format!("{name}.key")), cluster.path(&format!("{name}.crt")));
        verb(&[word("keygen"), word("--key"), &key, word("--cert"), &cert]);
        let id = verb(&[word("id"), word("--key"), &key]);
        lines += &format!("{id}   # {name}\n");
    }
    let allowed = cluster.file("allowed", &lines);
    let places = hosts.map(|_| unique_addr());
    let members: Vec<Member> = hosts
        .iter()
        .zip(places)
        .map(|(name, place)| {
            let spec = Spec::named(*name)
                .with_bind(place)
                .with_key(&cluster.path(&format!("{name}.key")))
                .with_option("--cert", cluster.path(&format!("{name}.crt")))
                .with_option("--allow-file", &allowed)
                .with_option("--network-key", &network)
                .with_switch("--strict")
                .with_option("--state", cluster.path(&state(name)));
            places.iter().fold(spec, |spec, place| spec.with_connect(*place))
        })
        .collect::<Vec<Spec>>()
        .into_iter()
        .map(|spec| cluster.start(spec))
        .collect();
    cluster.wait_full_mesh(&members);
    let stranger = cluster.start(spec("stranger").with_connect(places[0]));
    let stranger_id = cluster.id(stranger).to_string();
    wait_log(&cluster, members[0], &["refused", &stranger_id, "allow list"]);
    members.iter().for_each(|&member| check_never_connected(&cluster, member, stranger));
}
