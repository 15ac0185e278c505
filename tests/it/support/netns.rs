//! A private network for one test, with faults: a namespace for each node, joined by veth pairs to a
//! bridge in a further namespace.
//!
//! Tests change nothing outside these namespaces, and no packet can leave them: the bridge has only the
//! nodes' ports. Faults in transit (lost packets) are rules of the bridge; faults that a node's own kernel
//! reports are rules and routes of that node's namespace.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::skip::skip;

/// First part of the names of all these namespaces. The test process's id and a count follow.
const PREFIX: &str = "p2pfault";
/// Every node listens on this port of its address. It is below the range of source ports.
const PORT: u16 = 7000;
/// The nftables chain that drops packets in transit between the nodes.
const BRIDGE_CHAIN: &str = "bridge faults forward";
/// The nftables chain by which a node's own kernel refuses to send.
const OUTPUT_CHAIN: &str = "inet faults output";

/// Namespaces for nodes 1 … `size`. Removed when dropped; drop it after the nodes in it.
#[derive(Debug)]
pub(crate) struct Network {
    tag: String,
    size: usize,
}

impl Network {
    /// Builds a network for that many nodes; `None`, with the reason on stderr, if that is impossible.
    pub(crate) fn new(size: usize) -> Option<Self> {
        let network = Self { tag: unique_prefix()?, size };
        match network.build() {
            Ok(()) => Some(network),
            Err(error) => skip(&format!("the kernel does not give us the network needed: {error}")),
        }
    }

    fn build(&self) -> io::Result<()> {
        let names = (1..=self.size).map(|node| self.namespace(node)).chain([self.hub()]);
        let add: String = names.map(|name| format!("netns add {name}\n")).collect();
        run(&["ip", "-batch", "-"], &add)?;

        let mut links = "link add br0 type bridge\nlink set br0 up\n".to_owned();
        for node in 1..=self.size {
            let name = self.namespace(node);
            let mac = mac(node);
            links += &format!("link add v{node} type veth peer name eth0 address {mac} netns {name}\n");
            links += &format!("link set v{node} master br0 up\n");
        }
        run(&["ip", "-n", &self.hub(), "-batch", "-"], &links)?;
        for node in 1..=self.size {
            let ip = addr(node).ip();
            let mut own = format!("link set lo up\naddr add {ip}/24 dev eth0\nlink set eth0 up\n");
            // All namespaces share the kernel's limit of learned neighbours, and some dozens of nodes
            // would exceed it. Permanent entries don't count.
            for other in (1..=self.size).filter(|&other| other != node) {
                own += &format!(
                    "neigh replace {} lladdr {} dev eth0 nud permanent\n",
                    addr(other).ip(),
                    mac(other)
                );
            }
            run(&["ip", "-n", &self.namespace(node), "-batch", "-"], &own)?;
            let chain = format!("add chain {OUTPUT_CHAIN} {{ type filter hook output priority 0; }}\n");
            self.nft(&self.namespace(node), &format!("add table inet faults\n{chain}"))?;
        }
        let chain = format!("add chain {BRIDGE_CHAIN} {{ type filter hook forward priority 0; }}\n");
        // A kernel without random numbers in rules fails here, not in the middle of a test.
        let trial = format!("add rule {BRIDGE_CHAIN} {}\n", random_loss(20));
        self.nft(&self.hub(), &format!("add table bridge faults\n{chain}{trial}flush chain {BRIDGE_CHAIN}\n"))
    }

    /// The name of a node's namespace.
    pub(crate) fn namespace(&self, node: usize) -> String {
        format!("{}-{node}", self.tag)
    }

    /// The number of nodes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.tag)
    }

    /// Replaces the rules for packets in transit between the nodes.
    pub(crate) fn set_faults(&self, rules: &[String]) {
        self.replace_rules(&self.hub(), BRIDGE_CHAIN, rules);
    }

    /// Removes the rules for packets in transit.
    pub(crate) fn clear_faults(&self) {
        self.set_faults(&[]);
    }

    /// Replaces the rules of this node's own kernel for packets that the node sends.
    pub(crate) fn set_sender_faults(&self, node: usize, rules: &[String]) {
        self.replace_rules(&self.namespace(node), OUTPUT_CHAIN, rules);
    }

    /// Packets that the node has sent since `set_sender_faults` set a rule with a `counter`.
    pub(crate) fn packets_counted(&self, node: usize) -> u64 {
        let namespace = self.namespace(node);
        let list = ["ip", "netns", "exec", &namespace, "nft", "list", "chain"].into_iter();
        let command: Vec<&str> = list.chain(OUTPUT_CHAIN.split(' ')).collect();
        let listed = run(&command, "").expect("rules can be listed");
        let text = String::from_utf8_lossy(&listed.stdout);
        let mut words = text.split_whitespace().skip_while(|&word| word != "packets").skip(1);
        words.next().and_then(|count| count.parse().ok()).expect("one rule counts")
    }

    fn replace_rules(&self, namespace: &str, chain: &str, rules: &[String]) {
        let flush = format!("flush chain {chain}\n");
        let rules = rules.iter().map(|rule| format!("add rule {chain} {rule}\n"));
        // One transaction: no packet meets a part of the rules.
        let script: String = [flush].into_iter().chain(rules).collect();
        self.nft(namespace, &script).expect("the fault can be imposed");
    }

    fn nft(&self, namespace: &str, script: &str) -> io::Result<()> {
        run(&["ip", "netns", "exec", namespace, "nft", "-f", "-"], script).map(drop)
    }

    /// Runs one command of ip(8) in the node's namespace: `link set eth0 down`, `route add …`.
    pub(crate) fn ip(&self, node: usize, command: &str) {
        run(&["ip", "-n", &self.namespace(node), "-batch", "-"], command).expect("the fault can be imposed");
    }

    /// Moves `hidden` from the bridge to a link behind `router`, which translates addresses (NAT): the
    /// router replaces `hidden`'s source address by its own, and maps this port to `hidden`'s port.
    /// `None`, with the reason on stderr, if the kernel cannot do that.
    pub(crate) fn put_behind_router(&self, hidden: usize, router: usize, mapped_port: u16) -> Option<()> {
        self.move_behind(hidden, router);
        let inside = inside(hidden, 2);
        self.translate(
            router,
            &format!(
                "add chain ip mapping in {{ type nat hook prerouting priority -100; }}\n\
                 add rule ip mapping in iifname eth0 tcp dport {mapped_port} dnat to {inside}:{PORT}\n\
                 add chain ip mapping out {{ type nat hook postrouting priority 100; }}\n\
                 add rule ip mapping out oifname eth0 masquerade\n"
            ),
        )
    }

    /// Moves these nodes from the bridge to links behind `router`, which translates their addresses (NAT).
    /// `None`, with the reason on stderr, if the kernel cannot do that.
    pub(crate) fn put_behind_nat(&self, hidden: &[usize], router: usize, nat: Nat) -> Option<()> {
        hidden.iter().for_each(|&hidden| self.move_behind(hidden, router));
        self.translate(router, nat.rules())
    }

    /// Moves `hidden` from the bridge to a link behind `router`, which forwards by these rules of nft(8). `None`, with the
    /// reason on stderr, if the kernel cannot do that.
    pub(crate) fn put_behind_forwarder(&self, hidden: usize, router: usize, rules: &str) -> Option<()> {
        self.move_behind(hidden, router);
        self.forward(router, rules)
    }

    /// The node's own kernel drops connections that come unasked from other nodes. `None`, with the reason on stderr, if the
    /// kernel cannot do that.
    pub(crate) fn refuse_new_connections(&self, node: usize) -> Option<()> {
        let rules = "add table inet firewall\n\
            add chain inet firewall in { type filter hook input priority 0; }\n\
            add rule inet firewall in iifname eth0 ct state new drop\n";
        match self.nft(&self.namespace(node), rules) {
            Ok(()) => Some(()),
            Err(error) => skip(&format!("the kernel does not track connections: {error}")),
        }
    }

    /// Whether the node has an established TCP connection to this IP address, by its kernel.
    pub(crate) fn has_connection(&self, node: usize, to: Ipv4Addr) -> bool {
        let (namespace, to) = (self.namespace(node), to.to_string());
        let command = ["ip", "netns", "exec", &namespace, "ss", "-Htn", "state", "established", "dst", &to];
        !run(&command, "").expect("connections can be listed").stdout.is_empty()
    }

    fn move_behind(&self, hidden: usize, router: usize) {
        let (link, namespace) = (format!("in{hidden}"), self.namespace(hidden));
        self.ip(hidden, "link set eth0 down");
        self.ip(router, &format!("link add {link} type veth peer name {link} netns {namespace}"));
        for (node, host) in [(router, 1), (hidden, 2)] {
            let ip = inside(hidden, host);
            self.ip(node, &format!("addr add {ip}/24 dev {link}\nlink set {link} up"));
        }
        self.ip(hidden, &format!("route add default via {}", inside(hidden, 1)));
    }

    fn translate(&self, router: usize, rules: &str) -> Option<()> {
        self.forward(router, &format!("add table ip mapping\n{rules}"))
    }

    fn forward(&self, router: usize, rules: &str) -> Option<()> {
        let router = self.namespace(router);
        let forward = ["ip", "netns", "exec", &router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"];
        match run(&forward, "").and_then(|_| self.nft(&router, rules)) {
            Ok(()) => Some(()),
            Err(error) => skip(&format!("the kernel does not translate addresses so: {error}")),
        }
    }

    /// The index of the node's bridge interface in the node's namespace.
    pub(crate) fn interface_index(&self, node: usize) -> u32 {
        let shown = run(&["ip", "-n", &self.namespace(node), "-o", "link", "show", "dev", "eth0"], "");
        let shown = shown.expect("interfaces can be listed");
        let text = String::from_utf8_lossy(&shown.stdout);
        text.split(':').next().and_then(|index| index.parse().ok()).expect("a number comes first")
    }

    /// The number of the node's established TCP connections, by its kernel.
    pub(crate) fn connections(&self, node: usize) -> usize {
        let namespace = self.namespace(node);
        let command = ["ip", "netns", "exec", &namespace, "ss", "-Htn", "state", "established"];
        let listed = run(&command, "").expect("connections can be listed");
        String::from_utf8_lossy(&listed.stdout).lines().count()
    }

    /// Ends the node's TCP connections to these other nodes in the node's own kernel.
    pub(crate) fn cut_connections(&self, node: usize, others: &[usize]) {
        let namespace = self.namespace(node);
        let mut command = vec!["ip", "netns", "exec", &namespace, "ss", "-K", "-t", "state", "established"];
        let others: Vec<String> = others.iter().map(|&other| addr(other).ip().to_string()).collect();
        for (at, other) in others.iter().enumerate() {
            command.extend(if at == 0 { ["(", "dst"] } else { ["or", "dst"] });
            command.push(other);
        }
        command.push(")");
        run(&command, "").expect("connections can be cut");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let names = (1..=self.size).map(|node| self.namespace(node)).chain([self.hub()]);
        let delete: String = names.map(|name| format!("netns delete {name}\n")).collect();
        // A namespace that was never added fails to be removed; `-force` goes on with the rest.
        let _ = run(&["ip", "-force", "-batch", "-"], &delete);
    }
}

/// One namespace without a link to any other. Removed when dropped; drop it after the nodes in it.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace and runs these commands of ip(8) in it; `None`, with the reason on stderr, if that
    /// is impossible.
    pub(crate) fn new(commands: &str) -> Option<Self> {
        let namespace = Self { name: format!("{}-1", unique_prefix_for(&[["ip", "-V"]])?) };
        let built = run(&["ip", "netns", "add", &namespace.name], "")
            .and_then(|_| run(&["ip", "-n", &namespace.name, "-batch", "-"], commands));
        match built {
            Ok(_) => Some(namespace),
            Err(error) => skip(&format!("the kernel does not give us the network needed: {error}")),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A namespace that could not be added cannot be removed either.
        let _ = run(&["ip", "netns", "delete", &self.name], "");
    }
}

/// A unique prefix for names of namespaces; `None`, with the reason on stderr, without root or the tools.
pub(crate) fn unique_prefix() -> Option<String> {
    unique_prefix_for(&[["ip", "-V"], ["nft", "-v"], ["ss", "-V"]])
}

/// As `unique_prefix`, for these tools, each with the option that prints its version.
fn unique_prefix_for(tools: &[[&str; 2]]) -> Option<String> {
    static SWEEP: Once = Once::new();
    if !geteuid().is_root() {
        return skip("network namespaces need root");
    }
    for tool in tools {
        if let Err(error) = run(tool, "") {
            return skip(&format!("{error}; Debian has it in the package iproute2 or nftables"));
        }
    }
    SWEEP.call_once(remove_stale);
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    Some(format!("{PREFIX}-{}-{count}", std::process::id()))
}

/// The address of a host on the link to a node behind a router: 1 is the router, 2 the node.
pub(crate) fn inside(node: usize, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, u8::try_from(node).expect("a small network"), host)
}

/// How a router translates addresses (RFC 4787, RFC 5382). Each kind drops what arrives unasked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nat {
    /// A connection keeps its source port, so the mapping is the same for each destination. Only the destination gets in.
    Masquerade,
    /// Linux derives the outside port from all addresses and ports of the connection. Only the destination gets in.
    Random,
    /// Each connection has a random outside port. Only the destination gets in.
    FullyRandom,
    /// As `Masquerade`, but anyone gets in at the outside port of a connection, also from inside (hairpin).
    Open,
}

impl Nat {
    fn rules(self) -> &'static str {
        // Nothing listens on the router: without the filter its kernel would refuse connections from outside.
        macro_rules! outward {
            ($masquerade:literal) => {
                concat!(
                    "add chain ip mapping filter { type filter hook input priority 0; }\n\
                     add rule ip mapping filter ct state new drop\n\
                     add chain ip mapping out { type nat hook postrouting priority 100; }\n\
                     add rule ip mapping out oifname eth0 ",
                    $masquerade,
                    "\n"
                )
            };
        }
        match self {
            Self::Masquerade => outward!("masquerade"),
            Self::Random => outward!("masquerade random"),
            Self::FullyRandom => outward!("masquerade fully-random"),
            // The map has learned each port from the connection that went out from it. A connection that comes back to
            // the inside gets the router's address as its source, so that the answers return by way of the router.
            Self::Open => concat!(
                outward!("masquerade"),
                "add map ip mapping hosts { type inet_service : ipv4_addr; flags dynamic; size 1024; }\n\
                 add chain ip mapping learn { type filter hook forward priority 0; }\n\
                 add rule ip mapping learn iifname != eth0 ip protocol tcp add @hosts { tcp sport : ip saddr }\n\
                 add chain ip mapping in { type nat hook prerouting priority -100; }\n\
                 add rule ip mapping in fib daddr type local meta l4proto tcp dnat to tcp dport map @hosts\n\
                 add rule ip mapping out ct status dnat masquerade\n"
            ),
        }
    }
}

/// The address where node 1, 2, … listens; the same in every network, as networks are separate.
pub(crate) fn addr(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 77, 0, u8::try_from(node).expect("a small network")], PORT))
}

/// The IPv6 address of a node, for tests that add IPv6.
pub(crate) fn addr6(node: usize) -> SocketAddr {
    let node = u16::try_from(node).expect("a small network");
    SocketAddr::from(([0xfd77, 0, 0, 0, 0, 0, 0, node], PORT))
}

fn mac(node: usize) -> String {
    format!("02:00:0a:4d:00:{node:02x}")
}

/// Rule: drops all packets from these nodes to those.
pub(crate) fn drop_from_to(from: &[usize], to: &[usize]) -> String {
    format!("ip saddr {{ {} }} ip daddr {{ {} }} drop", ips(from), ips(to))
}

/// Rules: drop all packets between two groups of nodes.
pub(crate) fn partition(here: &[usize], there: &[usize]) -> Vec<String> {
    vec![drop_from_to(here, there), drop_from_to(there, here)]
}

/// Rule: drops the connection attempts of one node to another, and nothing else.
pub(crate) fn drop_dials(from: usize, to: usize) -> String {
    let (from, to) = (addr(from).ip(), addr(to).ip());
    format!("ip saddr {from} ip daddr {to} tcp flags & (syn | ack) == syn drop")
}

/// Rule: drops this share of all IPv4 packets.
pub(crate) fn random_loss(percent: u32) -> String {
    format!("meta protocol ip numgen random mod 100 < {percent} drop")
}

fn ips(nodes: &[usize]) -> String {
    let ips: Vec<String> = nodes.iter().map(|&node| addr(node).ip().to_string()).collect();
    ips.join(", ")
}

/// Removes the namespaces of killed test processes, with the nodes that still run in them.
fn remove_stale() {
    let Ok(listed) = run(&["ip", "netns", "list"], "") else {
        return;
    };
    for name in String::from_utf8_lossy(&listed.stdout).lines().filter_map(|line| line.split(' ').next()) {
        let mut parts = name.split('-');
        let is_ours = parts.next() == Some(PREFIX);
        let owner = parts.next().filter(|_| is_ours);
        let Some(owner) = owner.filter(|owner| owner.parse::<u32>().is_ok()) else {
            continue;
        };
        if Path::new("/proc").join(owner).exists() {
            continue;
        }
        if let Ok(pids) = run(&["ip", "netns", "pids", name], "") {
            let pids = String::from_utf8_lossy(&pids.stdout).into_owned();
            for pid in pids.lines().filter_map(|pid| Pid::from_raw(pid.trim().parse().ok()?)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = run(&["ip", "netns", "delete", name], "");
    }
}

/// Runs a command with this input; the error has the command's stderr.
pub(crate) fn run(command: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::other(format!("{}: {error}", command[0])))?;
    // A command that reads no input may have closed the pipe already.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(output);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{}: {}", command.join(" "), stderr.trim())))
}
