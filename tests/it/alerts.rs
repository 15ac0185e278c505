//! One alarm for one incident, with real processes and the programs of `--alert`; and the shipped examples of such
//! programs, each with a stand-in for its receiver.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fs, thread};

use p2p_gossip::PeerId;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::executable::{RunToEnd as _, write_script};
use crate::support::history::Member;
use crate::support::netns::{Network, addr, partition};
use crate::support::process::Spec;
use crate::support::skip::has;
use crate::support::{Cluster, DEADLINE};

/// One run of an alert program.
#[derive(Clone, Debug)]
struct Alarm {
    at: Duration,
    /// The process id of the node.
    node: u32,
    incident: String,
    phase: String,
    kind: String,
    peers: BTreeSet<PeerId>,
}

/// A cluster in which every node has the same alert program. The program writes a line for each run.
struct Watched {
    cluster: Cluster,
    members: Vec<Member>,
    script: PathBuf,
}

impl Watched {
    fn start(count: usize) -> Self {
        let mut cluster = Cluster::new();
        let script = cluster.path("alert");
        write_alert_script(&script);
        let spec = |n: usize| Spec::named(format!("n{n}")).with_option("--alert", &script);
        let members = cluster.start_star(spec(0), (1..count).map(spec));
        cluster.wait_full_mesh(&members);
        Self { cluster, members, script }
    }

    /// The same with a network namespace for each node. Without circuits, which would heal what a fault breaks.
    fn start_in(network: &Network, count: usize) -> Self {
        let mut cluster = Cluster::new();
        let script = cluster.path("alert");
        write_alert_script(&script);
        let mut members = Vec::new();
        for node in 1..=count {
            let spec = Spec::named(format!("n{node}")).with_bind(addr(node)).with_args("--relay off");
            let spec = spec.with_namespace(network.namespace(node)).with_option("--alert", &script);
            members.push(cluster.spawn(if node == 1 { spec } else { spec.with_connect(addr(1)) }));
        }
        cluster.wait_full_mesh(&members);
        Self { cluster, members, script }
    }

    fn ids(&self, members: &[Member]) -> BTreeSet<PeerId> {
        members.iter().map(|&member| self.cluster.id(member)).collect()
    }

    /// Whether the program ran at one of these members.
    fn ran_at(&self, alarm: &Alarm, members: &[Member]) -> bool {
        members.iter().any(|&member| self.cluster.pid(member) == alarm.node)
    }

    fn alarms(&self) -> Vec<Alarm> {
        let log = fs::read_to_string(self.script.with_extension("log")).unwrap_or_default();
        // The last line may not be complete yet.
        let lines = log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        lines.map(alarm).collect()
    }

    /// Waits until the alarms are as wanted.
    #[track_caller]
    fn wait_for_alarms(&self, awaited: &str, is_enough: impl Fn(&[Alarm]) -> bool) -> Vec<Alarm> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let alarms = self.alarms();
            if is_enough(&alarms) {
                return alarms;
            }
            assert!(Instant::now() < deadline, "waited for {awaited}: {alarms:#?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A program that appends a line with the node's process id, the incident, its phase, its kind and its peers.
fn write_alert_script(path: &Path) {
    let line = "#!/bin/sh\nprintf '%s %s %s %s %s %s\\n' \"$(date +%s.%N)\" \"$PPID\" \"$P2P_GOSSIP_INCIDENT\" \"$P2P_GOSSIP_PHASE\" \
                \"$P2P_GOSSIP_KIND\" \"$(echo $P2P_GOSSIP_PEERS)\" >> \"$0.log\"";
    write_script(path, line);
}

fn alarm(line: &str) -> Alarm {
    let mut words = line.split(' ');
    let mut next = || words.next().expect("six words").to_owned();
    let (at, node, incident, phase, kind) = (next(), next(), next(), next(), next());
    let peers = words.map(|word| word.parse().expect("an id")).collect();
    let (at, node) =
        (Duration::from_secs_f64(at.parse().expect("a time")), node.parse().expect("a process id"));
    Alarm { at, node, incident, phase, kind, peers }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

/// The ids of these phases' alarms.
fn alerted(alarms: &[Alarm], phase: &str) -> BTreeSet<PeerId> {
    let those = alarms.iter().filter(|alarm| alarm.phase == phase);
    those.flat_map(|alarm| alarm.peers.iter().copied()).collect()
}

#[track_caller]
fn assert_no_duplicates(alarms: &[Alarm]) {
    let mut runs: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for alarm in alarms {
        *runs.entry((&alarm.incident, &alarm.phase)).or_default() += 1;
    }
    assert!(runs.values().all(|runs| *runs == 1), "{alarms:#?}");
}

/// Kills this number of eight nodes at once, others each time.
fn kill_of_eight(killed: usize) {
    let mut mesh = Watched::start(8);
    let mut order = mesh.members.clone();
    fastrand::Rng::with_seed(killed as u64).shuffle(&mut order);
    let (dead, survivors) = order.split_at(killed);
    let ids: BTreeSet<PeerId> = dead.iter().map(|&member| mesh.cluster.id(member)).collect();
    let began = now();
    dead.iter().for_each(|&member| mesh.cluster.kill(member));
    let alarms =
        mesh.wait_for_alarms("an alarm for each", |alarms| alerted(alarms, "begin").is_superset(&ids));
    let first = alarms.iter().map(|alarm| alarm.at).min().expect("an alarm").saturating_sub(began);
    println!("{killed} of 8 killed: first alarm after {first:?}, {} alarms", alarms.len());
    if survivors.len() > 1 {
        // A second run would come when the turn of the first member is over: after five seconds, or 30 pings.
        let mark = mesh.cluster.mark();
        mesh.cluster.wait_pings(survivors, 30, mark);
    }
    let alarms = mesh.alarms();
    assert_eq!(alerted(&alarms, "begin"), ids, "{alarms:#?}");
    // A program of a node that was killed a moment later may have run before its node could say so.
    let living: BTreeSet<u32> = survivors.iter().map(|&member| mesh.cluster.pid(member)).collect();
    let of_survivors: Vec<Alarm> = alarms.into_iter().filter(|alarm| living.contains(&alarm.node)).collect();
    assert_no_duplicates(&of_survivors);
}

#[test]
fn killed_node_is_alerted_once() {
    kill_of_eight(1);
}

#[test]
fn each_of_three_killed_nodes_of_eight_is_alerted() {
    kill_of_eight(3);
}

#[test]
fn each_of_five_killed_nodes_of_eight_is_alerted() {
    kill_of_eight(5);
}

#[test]
fn survivor_of_eight_nodes_alerts_all_seven() {
    kill_of_eight(7);
}

#[test]
fn stopped_node_is_alerted_once_and_again_when_it_is_back() {
    let mut mesh = Watched::start(3);
    let stopped = mesh.members[1];
    let id = BTreeSet::from([mesh.cluster.id(stopped)]);
    let began = now();
    mesh.cluster.signal(stopped, Signal::STOP);
    let alarms = mesh.wait_for_alarms("an alarm", |alarms| !alarms.is_empty());
    println!("SIGSTOP: alarm after {:?}", alarms[0].at.saturating_sub(began));
    mesh.cluster.signal(stopped, Signal::CONT);
    let alarms = mesh.wait_for_alarms("the end", |alarms| alarms.len() >= 2);
    let seen: Vec<_> = alarms.iter().map(|alarm| (alarm.phase.as_str(), alarm.kind.as_str())).collect();
    assert_eq!(seen, [("begin", "node"), ("end", "node")], "{alarms:#?}");
    assert!(alarms.iter().all(|alarm| alarm.peers == id));
    assert_eq!(alarms[0].incident, alarms[1].incident);
}

/// The larger side of a split has one incident for all peers that it lost, and the smaller side says only that it is
/// isolated. Each has one end.
#[test]
fn split_is_one_incident_on_each_side() {
    let Some(network) = Network::new(7) else { return };
    let mesh = Watched::start_in(&network, 7);
    let (few, most) = mesh.members.split_at(2);
    network.set_faults(&partition(&[1, 2], &[3, 4, 5, 6, 7]));
    let begun = mesh.wait_for_alarms("an alarm on each side", |alarms| alarms.len() >= 2);
    network.clear_faults();
    mesh.wait_for_alarms("both ends", |alarms| alarms.len() >= 4);
    // A second run would come when the turn of the first member is over: after five seconds, or 30 pings.
    mesh.cluster.wait_pings(&mesh.members, 30, mesh.cluster.mark());
    let alarms = mesh.alarms();
    assert_no_duplicates(&alarms);
    assert_eq!((begun.len(), alarms.len()), (2, 4), "{alarms:#?}");
    for (kind, side, lost) in [("partition", most, few), ("isolated", few, most)] {
        let of_kind: Vec<&Alarm> = alarms.iter().filter(|alarm| alarm.kind == kind).collect();
        let phases: Vec<&str> = of_kind.iter().map(|alarm| alarm.phase.as_str()).collect();
        assert_eq!(phases, ["begin", "end"], "{kind}: {alarms:#?}");
        assert_eq!(of_kind[0].incident, of_kind[1].incident);
        assert_eq!(of_kind[0].peers, mesh.ids(lost), "{kind}");
        assert!(mesh.ran_at(of_kind[0], side), "{kind}: {alarms:#?}");
    }
}

#[test]
fn link_that_stays_broken_is_one_incident_of_the_mesh() {
    let Some(network) = Network::new(4) else { return };
    let mesh = Watched::start_in(&network, 4);
    let ends = mesh.ids(&mesh.members[..2]);
    let began = now();
    network.set_faults(&partition(&[1], &[2]));
    let alarms = mesh.wait_for_alarms("an alarm", |alarms| !alarms.is_empty());
    let after = alarms[0].at.saturating_sub(began);
    assert!(after >= Duration::from_secs(30), "a link that breaks for a moment is no incident: {after:?}");
    network.clear_faults();
    let alarms = mesh.wait_for_alarms("the end", |alarms| alarms.len() >= 2);
    let seen: Vec<_> = alarms.iter().map(|alarm| (alarm.phase.as_str(), alarm.kind.as_str())).collect();
    assert_eq!(seen, [("begin", "link"), ("end", "link")], "{alarms:#?}");
    assert!(alarms.iter().all(|alarm| alarm.peers == ends), "{alarms:#?}");
    assert_eq!(alarms[0].incident, alarms[1].incident);
}

#[test]
fn failed_program_is_followed_by_that_of_another_node() {
    let mut cluster = Cluster::new();
    let (failing, working) = (cluster.path("failing"), cluster.path("working"));
    write_script(&failing, "#!/bin/sh\necho failed >> \"$0.log\"; exit 3");
    write_script(&working, "#!/bin/sh\necho \"$P2P_GOSSIP_TEXT\" >> \"$0.log\"");
    // One of three works. The turn reaches it in any order.
    let scripts = [&failing, &failing, &working, &failing];
    let specs: Vec<Spec> = scripts
        .iter()
        .zip(0..)
        .map(|(script, n)| Spec::named(format!("n{n}")).with_option("--alert", script))
        .collect();
    let mut specs = specs.into_iter();
    let members = cluster.start_star(specs.next().expect("four"), specs);
    cluster.wait_full_mesh(&members);
    let short = cluster.id(members[3]).short().to_string();
    cluster.kill(members[3]);
    let deadline = Instant::now() + DEADLINE;
    let log = working.with_extension("log");
    while fs::read_to_string(&log).map_or(true, |text| text != format!("n3 ({short}) is down\n")) {
        assert!(Instant::now() < deadline, "{:?}", fs::read_to_string(&log));
        thread::sleep(Duration::from_millis(5));
    }
}

/// A shipped example.
fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dist/alerts").join(name)
}

/// Runs an example as a node runs it. The peer's words try to be more than words.
fn run_example(name: &str, phase: &str, variables: &[(&str, &str)]) -> Output {
    let words = [
        ("EVENT", "alert"),
        ("TIME", "2026-01-31T12:00:00.123Z"),
        ("INCIDENT", "0f3a9c5be1724d68"),
        ("KIND", "node"),
        ("PHASE", phase),
        ("PEERS", "abab"),
        ("TEXT", "@\"ü\\u{a}$(reboot) (abab) is down"),
    ];
    let mut command = Command::new(example(name));
    command.envs(words.map(|(name, value)| (format!("P2P_GOSSIP_{name}"), value)));
    command.envs(variables.iter().copied()).run_to_end_on(b"{\"event\":\"alert\"}\n")
}

/// The head and the body of a request.
type Request = (String, String);

/// Answers one HTTP request with this status. Returns the server's address, and the request once it has come.
fn receiver(status: &'static str) -> (SocketAddr, thread::JoinHandle<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let serve = move || {
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut reader = BufReader::new(&socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.expect("a length")];
        reader.read_exact(&mut body).unwrap();
        write!(&socket, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        (head, String::from_utf8(body).unwrap())
    };
    (addr, thread::spawn(serve))
}

/// Runs an example against a receiver at `URL`. Returns the request.
#[track_caller]
fn request_of(name: &str, phase: &str, url_variable: &str, more: &[(&str, &str)]) -> Request {
    let (addr, request) = receiver("200 OK");
    let url = format!("http://{addr}/hook");
    let output = run_example(name, phase, &[&[(url_variable, url.as_str())], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.stdout, output.stderr), (Vec::new(), Vec::new()));
    request.join().unwrap()
}

#[test]
fn webhook_example_posts_the_object_and_fails_if_the_receiver_refuses_it() {
    if !has("curl", "Debian: curl") {
        return;
    }
    let (head, body) = request_of("webhook", "begin", "WEBHOOK_URL", &[]);
    assert!(
        head.starts_with("POST /hook HTTP/1.1\r\n") && head.contains("Content-Type: application/json"),
        "{head}"
    );
    assert_eq!(body, "{\"event\":\"alert\"}\n");
    let (addr, request) = receiver("503 Service Unavailable");
    let url = format!("http://{addr}/");
    assert!(!run_example("webhook", "begin", &[("WEBHOOK_URL", &url)]).status.success());
    request.join().unwrap();
}

#[test]
fn ntfy_example_sends_text_priority_and_token() {
    if !has("curl", "Debian: curl") {
        return;
    }
    let (head, body) = request_of("ntfy", "begin", "NTFY_URL", &[("NTFY_TOKEN", "tk_test")]);
    assert_eq!(body, "@\"ü\\u{a}$(reboot) (abab) is down");
    for line in ["Priority: high", "Title: p2p-gossip: node, begin", "Authorization: Bearer tk_test"] {
        assert!(head.lines().any(|found| found == line), "{line} is missing: {head}");
    }
    let (head, _) = request_of("ntfy", "end", "NTFY_URL", &[]);
    assert!(head.contains("Priority: default") && !head.contains("Authorization"), "{head}");
}

#[test]
fn alertmanager_example_opens_and_resolves_one_alert() {
    if !has("curl", "Debian: curl") {
        return;
    }
    let alert = |phase| {
        let (head, body) = request_of("alertmanager", phase, "ALERTMANAGER_URL", &[]);
        assert!(head.starts_with("POST /hook/api/v2/alerts HTTP/1.1\r\n"), "{head}");
        let alerts: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert_eq!(alerts.as_array().unwrap().len(), 1);
        alerts[0].clone()
    };
    let (begin, end) = (alert("begin"), alert("end"));
    // Alertmanager tells alerts apart by their labels.
    assert_eq!(begin["labels"], end["labels"]);
    assert_eq!(begin["labels"]["incident"], "0f3a9c5be1724d68");
    assert_eq!(begin["annotations"]["summary"], "@\"ü\\u{a}$(reboot) (abab) is down");
    assert_eq!(begin["startsAt"], "2026-01-31T12:00:00.123Z");
    assert!(begin["endsAt"].as_str() > begin["startsAt"].as_str());
    assert_eq!(end["endsAt"], "2026-01-31T12:00:00.123Z");
}

#[test]
fn mail_example_writes_one_message_for_each_phase_in_one_thread() {
    let dir = tempfile::tempdir().unwrap();
    let sendmail = dir.path().join("sendmail");
    write_script(&sendmail, "#!/bin/sh\nprintf '%s\\n' \"$@\" > \"$0.arguments\"; cat > \"$0.message\"");
    let message = |phase| {
        let variables = [("SENDMAIL", sendmail.to_str().unwrap()), ("ALERT_MAIL_TO", "-ops@example.org")];
        let output = run_example("mail", phase, &variables);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let arguments = fs::read_to_string(sendmail.with_extension("arguments")).unwrap();
        assert_eq!(arguments, "-i\n--\n-ops@example.org\n");
        fs::read_to_string(sendmail.with_extension("message")).unwrap()
    };
    let begin = message("begin");
    let (head, body) = begin.split_once("\n\n").unwrap();
    assert!(head.is_ascii(), "{head}");
    assert!(head.contains("Subject: p2p-gossip: @\"??\\u{a}$(reboot) (abab) is down\n"), "{head}");
    assert!(head.contains("Message-ID: <0f3a9c5be1724d68.begin@p2p-gossip>\n"), "{head}");
    assert!(
        body.contains("@\"ü\\u{a}$(reboot) (abab) is down\n") && body.contains("peer      abab\n"),
        "{body}"
    );
    assert!(message("end").contains("In-Reply-To: <0f3a9c5be1724d68.begin@p2p-gossip>\n"));
}
