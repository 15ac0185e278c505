//! A router that maps ports on request (NAT-PMP), as routers of homes do: miniupnpd, which many of them run.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::DEADLINE;
use super::netns::{Network, addr, run};
use super::skip::{has, skip};

/// The router's outside address. miniupnpd maps no port if that is a private address.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(11, 77, 0, 5);
/// Drops what arrives unasked for, but for the ports that miniupnpd maps in the chains that bear its name. `OUTSIDE` stands
/// for the only address at which it maps them.
const RULES: &str = "add table inet filter
add chain inet filter miniupnpd
add chain inet filter prerouting_miniupnpd
add chain inet filter postrouting_miniupnpd
add chain inet filter forward { type filter hook forward priority 0; policy drop; }
add rule inet filter forward ct state established,related accept
add rule inet filter forward iifname != eth0 accept
add rule inet filter forward jump miniupnpd
add chain inet filter prerouting { type nat hook prerouting priority -100; }
add rule inet filter prerouting ip daddr OUTSIDE jump prerouting_miniupnpd
add chain inet filter postrouting { type nat hook postrouting priority 100; }
add rule inet filter postrouting jump postrouting_miniupnpd
add rule inet filter postrouting oifname eth0 masquerade
";

/// The program that answers on the router. Ends when dropped; drop it before the network.
#[derive(Debug)]
pub(crate) struct PortMapper {
    daemon: Child,
    namespace: String,
    /// Where the router passes on connections to the node.
    pub(crate) outside: SocketAddr,
    _dir: tempfile::TempDir,
}

impl PortMapper {
    /// Moves `hidden` from the bridge to a link behind `router`, on which miniupnpd runs. `None`, with the reason on stderr,
    /// if it is not installed.
    pub(crate) fn start(network: &Network, hidden: usize, router: usize) -> Option<Self> {
        if !has("miniupnpd", "Debian: miniupnpd-nftables") {
            return None;
        }
        network.put_behind_forwarder(hidden, router, &RULES.replace("OUTSIDE", &OUTSIDE.to_string()))?;
        let outside = SocketAddr::from((OUTSIDE, addr(hidden).port()));
        network.ip(router, &format!("addr add {OUTSIDE}/24 dev eth0"));
        for node in (1..=network.size()).filter(|&node| node != hidden && node != router) {
            network.ip(node, &format!("route add {OUTSIDE}/32 dev eth0"));
        }
        let dir = tempfile::tempdir().unwrap();
        let (config, log) = (dir.path().join("conf"), dir.path().join("log"));
        let text = format!(
            "ext_ifname=eth0\next_ip={OUTSIDE}\nlistening_ip=in{hidden}\nenable_natpmp=yes\nenable_upnp=no\n\
             secure_mode=yes\nallow 1024-65535 10.78.0.0/16 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n"
        );
        fs::write(&config, text).unwrap();
        let namespace = network.namespace(router);
        let daemon = Command::new("ip")
            .args(["netns", "exec", &namespace, "miniupnpd", "-d", "-f"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut router = Self { daemon, namespace, outside, _dir: dir };
        let deadline = Instant::now() + DEADLINE;
        loop {
            let said = fs::read_to_string(&log).unwrap();
            if said.contains("Listening for NAT-PMP") {
                return Some(router);
            }
            if router.daemon.try_wait().unwrap().is_some() {
                return skip(&format!("miniupnpd does not run here: {said}"));
            }
            assert!(Instant::now() < deadline, "{said}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the router maps ports, or maps none any more.
    pub(crate) fn wait_for_mapping(&self, is_mapped: bool) {
        let deadline = Instant::now() + DEADLINE;
        let list = ["ip", "netns", "exec", &self.namespace, "nft", "list", "chain", "inet", "filter"];
        loop {
            let listed = run(&[&list[..], &["prerouting_miniupnpd"]].concat(), "").unwrap();
            let rules = String::from_utf8_lossy(&listed.stdout);
            if rules.contains("dnat") == is_mapped {
                return;
            }
            assert!(Instant::now() < deadline, "{rules}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for PortMapper {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
