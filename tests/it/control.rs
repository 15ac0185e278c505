//! Tests of the control socket with the real program: the verbs that ask a running node, bad clients, other users, and
//! `doctor`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use p2p_gossip::{Event, NetworkKey, StateDir};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::executable::RunToEnd as _;
use crate::support::history::Member;
use crate::support::process::Spec;
use crate::support::skip::say_skipped;
use crate::support::{Cluster, DEADLINE, assert_mesh_stays_up, localhost, unique_addr};

/// Time between two questions of a test that waits.
const ASK_EVERY: Duration = Duration::from_millis(100);

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-gossip"));
    command.stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

fn run(args: &[&str], socket: &Path) -> Output {
    program().args(args).arg("--control").arg(socket).run_to_end()
}

/// Runs a verb successfully; returns its stdout.
#[track_caller]
fn verb(args: &[&str], socket: &Path) -> String {
    let output = run(args, socket);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a verb with JSON output.
#[track_caller]
fn json(args: &[&str], socket: &Path) -> Value {
    let shown = verb(&[args, &["--output", "json"]].concat(), socket);
    serde_json::from_str(&shown).unwrap_or_else(|error| panic!("{args:?}: {error}: {shown}"))
}

/// Checks that a verb fails at run time with one line that has these words.
#[track_caller]
fn assert_failure(args: &[&str], socket: &Path, words: &str) {
    let output = run(args, socket);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    assert!(stderr.contains(words) && stderr.lines().count() == 1, "{args:?}: {stderr}");
}

/// Repeats a verb until its JSON meets the condition.
#[track_caller]
fn wait_json(args: &[&str], socket: &Path, is_met: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let shown = json(args, socket);
        if is_met(&shown) {
            return shown;
        }
        assert!(Instant::now() < deadline, "{args:?}: {shown}");
        std::thread::sleep(ASK_EVERY);
    }
}

fn spec(cluster: &Cluster, name: &str) -> (Spec, PathBuf) {
    let socket = cluster.path(&format!("{name}.control"));
    (Spec::named(name).with_bind(localhost()).with_option("--control", &socket), socket)
}

/// Two nodes that see each other, and their sockets.
fn pair(cluster: &mut Cluster) -> ([Member; 2], [PathBuf; 2]) {
    let ((a, a_socket), (b, b_socket)) = (spec(cluster, "a"), spec(cluster, "b"));
    let members = cluster.start_star(a, [b]);
    cluster.wait_full_mesh(&members);
    ([members[0], members[1]], [a_socket, b_socket])
}

fn whats(why: &Value) -> Vec<&str> {
    why["timeline"].as_array().unwrap().iter().map(|entry| entry["what"].as_str().unwrap()).collect()
}

#[test]
fn verbs_show_the_members_and_the_history_of_each() {
    let mut cluster = Cluster::new();
    let ([a, b], [socket, _]) = pair(&mut cluster);
    assert_eq!(verb(&["wait", "--members", "2"], &socket), "2 members\n");
    let (id, short) = (cluster.id(b).to_string(), cluster.id(b).short().to_string());
    let table = verb(&["members"], &socket);
    assert!(table.contains("1 up") && table.contains(&short) && table.contains("SILENCE"), "{table}");
    let row = json(&["members"], &socket);
    assert_eq!((row["id"].as_str(), row["state"].as_str()), (Some(&*id), Some("up")));
    let status = json(&["status"], &socket);
    assert_eq!(status["node"]["id"], cluster.id(a).to_string());
    assert!(verb(&["status"], &socket).contains("2, this node included"));

    let lives = verb(&["ping", &short], &socket);
    assert!(lives.contains("lives: ping #") && lives.contains(&short), "{lives}");
    // A name leads to the peer, too.
    assert!(verb(&["ping", "b"], &socket).contains(&short));
    assert_eq!(json(&["why", "b"], &socket)["id"].as_str(), Some(&*id));
    assert_failure(&["ping", "c"], &socket, "no known peer has this name");

    let why = json(&["why", &short], &socket);
    assert_eq!((why["id"].as_str(), why["peer"]["state"].as_str()), (Some(&*id), Some("up")));
    assert_eq!(whats(&why), ["session", "up"]);
    assert!(!why["addresses"].as_array().unwrap().is_empty(), "{why}");
    cluster.kill(b);
    let why = wait_json(&["why", &id], &socket, |why| whats(why).contains(&"dial failed"));
    assert_eq!(whats(&why)[..4], ["session", "up", "session end", "down"]);
    assert_eq!(why["peer"]["state"], "dead");
    let text = verb(&["why", &short], &socket);
    assert!(text.contains("dead for") && text.contains("dial failed"), "{text}");

    assert_failure(&["ping", &short], &socket, "not connected");
    assert_eq!(verb(&["forget", &short], &socket), format!("forgot {id}\n"));
    assert_failure(&["why", &short], &socket, "no known peer has an id that begins with");
    assert_failure(&["forget", &short], &socket, "no known peer has an id that begins with");
    assert_failure(&["wait", "--members", "2", "--timeout", "1"], &socket, "1 of 2 members");
}

/// A name proves nothing, so it leads to a peer only if no other one has it.
#[test]
fn ping_reaches_its_peer_at_once() {
    let mut cluster = Cluster::new();
    let ((a, socket), (b, _)) = (spec(&cluster, "a"), spec(&cluster, "b"));
    let members = cluster.start_star(a.with_period(3600.0), [b]);
    cluster.wait_full_mesh(&members);
    let (from, to) = (cluster.id(members[0]), cluster.id(members[1]));
    let wait_for = |seq: u64| {
        cluster.wait_for("the ping", &members[1..], |history| {
            let pings = history.pings_since(0);
            pings.get(&(members[1], from)).is_some_and(|seqs| seqs.contains(&seq)).then_some(())
        });
    };
    // The first one goes out by itself. The next one would in an hour.
    wait_for(1);
    assert_eq!(json(&["ping", &to.short().to_string()], &socket)["seq"], 2);
    wait_for(2);
}

#[test]
fn name_of_two_peers_leads_to_neither() {
    let mut cluster = Cluster::new();
    let (a, socket) = spec(&cluster, "a");
    let twins = [(); 2].map(|()| Spec::named("b").with_bind(localhost()));
    let members = cluster.start_star(a, twins);
    cluster.wait_full_mesh(&members);
    verb(&["wait", "--members", "3"], &socket);
    for (request, twin) in [("ping", members[1]), ("why", members[2])] {
        assert_failure(&[request, "b"], &socket, "several known peers have this name");
        assert_failure(&[request, "b"], &socket, &cluster.id(twin).short().to_string());
    }
}

#[test]
fn verbs_connect_send_and_leave() {
    let mut cluster = Cluster::new();
    let ((a, a_socket), (b, b_socket)) = (spec(&cluster, "a"), spec(&cluster, "b"));
    let (a, b) = (cluster.start(a), cluster.start(b));
    // An address at which no node listens: its dials fail, and `why` tells so.
    let unused = unique_addr().to_string();
    assert!(verb(&["connect", &unused], &a_socket).contains(&unused));
    let why = wait_json(&["why", &unused], &a_socket, |why| whats(why).contains(&"dial failed"));
    assert_eq!((&why["peer"], whats(&why)[0]), (&Value::Null, "connect"));
    assert_failure(&["why", "203.0.113.9:1"], &a_socket, "nothing has happened at that address");
    assert_failure(&["connect", "255.255.255.255:1"], &a_socket, "no node can be reached");

    let mark = cluster.mark();
    verb(&["connect", &cluster.addr(b).to_string()], &a_socket);
    cluster.wait_full_mesh(&[a, b]);
    assert_eq!(verb(&["send", "two words"], &a_socket), "sent to 1 peer\n");
    cluster.wait_for("the message", &[b], |history| {
        let is_it = |event: &Event| matches!(event, Event::Message { text, .. } if text == "two words");
        history.events_since(b, mark).any(is_it).then_some(())
    });
    assert_failure(&["send", &"x".repeat(4097)], &a_socket, "at most 4096");
    assert_failure(&["forget", &cluster.id(b).short().to_string()], &a_socket, "deny it first");

    // A node that leaves ends with exit code 0, and takes its socket away.
    let mut cluster = cluster;
    assert_eq!(verb(&["leave"], &b_socket), "the node leaves\n");
    cluster.wait_left(&[a], cluster.id(b), mark);
    let status = cluster.end_with_signal(b, Signal::CONT);
    assert_eq!(status.code(), Some(0));
    assert!(!b_socket.exists());
    assert_failure(&["members"], &b_socket, "no node runs there");
    assert!(a_socket.exists());
}

#[test]
fn denied_peer_is_disconnected_until_it_is_allowed_again() {
    let mut cluster = Cluster::new();
    let list = cluster.file("deny", "");
    let ((a, socket), (b, _)) = (spec(&cluster, "a"), spec(&cluster, "b"));
    let members = cluster.start_star(a.with_option("--deny-file", &list), [b]);
    cluster.wait_full_mesh(&members);
    let [a, b] = [members[0], members[1]];
    let (id, mark) = (cluster.id(b), cluster.mark());
    verb(&["deny", &id.short().to_string()], &socket);
    cluster.wait_down(&[a], id, p2p_gossip::DownReason::Denied, mark);
    // The change outlives a reload; a list with an error changes nothing.
    verb(&["reload"], &socket);
    fs::write(&list, "no id\n").unwrap();
    assert_failure(&["reload"], &socket, "the old lists stay in force");
    fs::write(&list, "").unwrap();
    let mark = cluster.mark();
    verb(&["allow", &id.to_string()], &socket);
    cluster.wait_for("the peer to come back", &[a], |history| {
        history.ups_since(a, mark).contains(&id).then_some(())
    });
}

#[test]
fn control_socket_belongs_to_the_owner_and_outlives_a_killed_node() {
    let mut cluster = Cluster::new();
    let state = cluster.path("state");
    let socket = state.join("control");
    let node = || Spec::named("a").with_bind(localhost()).with_state(&state);
    let first = cluster.start(node());
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    cluster.kill(first);
    assert!(socket.exists());
    assert_failure(&["members"], &socket, "no node runs there");
    // The socket of the dead process is replaced; that of a living one is an error.
    cluster.start(node());
    verb(&["members"], &socket);
    let second = program().args(["--port=0", "--bind=127.0.0.1", "--control"]).arg(&socket).run_to_end();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("listens at the control socket"), "{second:?}");

    if rustix::process::geteuid().is_root() {
        // Another user that may reach the socket is refused by its id.
        let open = cluster.path("open");
        let node = Spec::named("b").with_bind(localhost()).with_option("--control", &open);
        cluster.start(node);
        fs::set_permissions(open.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).unwrap();
        let script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
                      s.sendall(b'GET /status HTTP/1.0\\r\\n\\r\\n'); print(s.recv(99).decode())";
        let mut foreign = Command::new("python3");
        foreign.args(["-c", script]).arg(&open).uid(54_321).gid(54_321);
        match foreign.output() {
            Ok(output) => {
                let answer = String::from_utf8_lossy(&output.stdout);
                assert!(answer.starts_with("HTTP/1.1 403 "), "{output:?}");
            }
            Err(error) => say_skipped(&format!("python3: {error}")),
        }
    }
}

#[test]
fn bad_clients_of_the_control_socket_keep_no_verb_out() {
    let mut cluster = Cluster::new();
    let ([a, b], [socket, _]) = pair(&mut cluster);
    let mark = cluster.mark();
    let mut held: Vec<UnixStream> = Vec::new();
    for round in 0..1000 {
        let mut client = UnixStream::connect(&socket).unwrap();
        if round % 2 == 1 {
            // The server may have closed the connection already, to make room.
            let _ = client.write_all(b"POST /send HTTP/1.1\r\nHost: node\r\nContent-Length: 5\r\n\r\nhal");
        }
        held.push(client);
        if round % 200 == 199 {
            verb(&["members"], &socket);
        }
    }
    drop(held);
    for (request, code) in [
        ("DELETE /peers HTTP/1.1\r\nHost: node\r\n\r\n", "405"),
        ("POST /nothing HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\n\r\n", "404"),
        ("POST /ping HTTP/1.1\r\nHost: node\r\nContent-Length: 2\r\n\r\nzz", "400"),
        ("POST /send HTTP/1.1\r\nHost: node\r\nContent-Length: 99999\r\n\r\n", "431"),
        ("GET /why?%zz HTTP/1.1\r\nHost: node\r\n\r\n", "400"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let mut client = UnixStream::connect(&socket).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{request}: {answer}");
    }
    cluster.check_steady(&[a, b], mark);
    assert_mesh_stays_up(&cluster, &[a, b]);
}

#[test]
fn page_on_tcp_changes_nothing() {
    use crate::http::client::{page_of, send, with_page};
    let mut cluster = Cluster::new();
    let node = cluster.start(with_page("a"));
    let page = page_of(&cluster, node);
    let post = "POST /leave HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(send(page, post.as_bytes()).code, 405);
    let why = "GET /why?00000000 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(send(page, why.as_bytes()).code, 404);
}

#[test]
fn doctor_says_what_is_wrong() {
    let doctor = |args: &[&str]| {
        let output = program().arg("doctor").args(args).run_to_end();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text, String::from_utf8(output.stderr).unwrap())
    };
    let mut cluster = Cluster::new();
    let state = cluster.path("state");
    let node = cluster.start(Spec::named("a").with_bind(localhost()).with_state(&state));
    let (addr, id) = (cluster.addr(node), cluster.id(node).to_string());
    let path = state.to_str().unwrap();
    let (code, text, stderr) = doctor(&["--state", path, "--connect", &format!("{id}@{addr}")]);
    assert_eq!(code, Some(0), "{text}{stderr}");
    assert!(text.contains(&format!("{id} answers after")) && text.contains("sees 1 member\n"), "{text}");

    let (other, port) = (format!("{}@{addr}", "0".repeat(64)), addr.port().to_string());
    let unused = unique_addr().to_string();
    let (code, text, stderr) =
        doctor(&["--port", &port, "--connect", &other, "--connect", &unused, "--connect", "no.invalid:80"]);
    assert_eq!((code, stderr.as_str()), (Some(1), "p2p-gossip: 4 problems; see above\n"), "{text}");
    for words in [
        &format!("WRONG  port {port}: "),
        &format!("another peer answers: {id}"),
        &format!("WRONG  {unused}: cannot connect"),
        "cannot look the name up",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, text, _) = doctor(&["--state", path, "--port=0", "--output=json"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("chmod 700") && text.lines().all(|line| line.starts_with('{')), "{text}");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
}

/// A running node of a closed network, and one of an open network: what `doctor` says of each with the right key, another
/// key, an earlier key and none. It joins neither.
#[test]
fn doctor_tells_the_three_problems_with_a_network_key_apart() {
    let mut cluster = Cluster::new();
    let [closed, open, rejoining] = ["closed", "open", "member"]
        .map(|name| Spec::named(name).with_bind(localhost()).with_state(&cluster.path(name)));
    let closed = closed.with_switch("--closed");
    let (closed, open) = (cluster.start(closed), cluster.start(open));
    let [ours, other] = ["closed", "other"].map(|name| cluster.path(name));
    let state = StateDir::open(&other).unwrap();
    state.identity().unwrap();
    state.close_network().unwrap();
    drop(state);
    // A node of the closed network that does not run.
    let member = cluster.path("member");
    let state = StateDir::open(&member).unwrap();
    state.identity().unwrap();
    drop(state);
    fs::copy(ours.join("network.key"), member.join("network.key")).unwrap();
    let file = cluster.path("file.key");
    NetworkKey::generate().unwrap().write_new(&file).unwrap();
    let [member, other, file] = [&member, &other, &file].map(|path| path.to_str().unwrap());
    let mark = cluster.mark();
    for (node, args, code, words) in [
        (closed, &["--state", member][..], 0, "it lets this node in; both hold the network key"),
        (closed, &["--state", other], 1, "it asks for another network key"),
        (closed, &["--network-key", file], 1, "it asks for another network key"),
        // As at a node, the file counts and not the key of the directory.
        (closed, &["--state", member, "--network-key", file], 1, "it asks for another network key"),
        (closed, &[], 1, "its network is closed, and this node has no network key"),
        (open, &["--state", member], 1, "its network is open"),
        (open, &[], 0, "it lets this node in; its network is open"),
    ] {
        let addr = cluster.addr(node).to_string();
        let output = program().args(["doctor", "--port=0", "--connect", &addr]).args(args).run_to_end();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(words), "{args:?}: {text}");
        let wrong = text.lines().filter(|line| line.starts_with("WRONG")).count();
        assert_eq!(wrong, usize::try_from(code).unwrap(), "{args:?}: {text}");
    }
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    let output = program().args(["doctor", "--port=0", "--network-key", file]).run_to_end();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("chmod 600"), "{text}");
    // The first peers that the nodes see are those that come after all of these.
    let specs = [(open, Spec::named("late").with_bind(localhost())), (closed, rejoining)];
    for (node, spec) in specs {
        let late = cluster.start(spec.with_connect(cluster.addr(node)));
        cluster.wait_full_mesh(&[node, late]);
        let id = cluster.id(late);
        cluster.check(&[node], |history| {
            let ups = history.ups_since(node, mark);
            (ups != [id]).then(|| format!("not only the late peer came up: {ups:?}"))
        });
    }
}
