//! A network of namespaces with two routed subnets and one host behind a NAT gate.
//!
//! ```text
//!   a1 a2 ── 10.81.1.0/24 ── router ── 10.81.2.0/24 ── b1 b2 gate ── 192.168.81.0/24 ── c1
//!            fd81:1::/64               fd81:2::/64           10.81.2.254:17000 leads to c1
//! ```

use std::io;
use std::net::SocketAddr;

use super::netns::{run, unique_prefix};
use super::skip::skip;

/// Every node listens on this port.
pub(crate) const PORT: u16 = 7000;
/// Public address of the hidden host.
pub(crate) const GATE: &str = "10.81.2.254:17000";

const ROUTER: &str = "router";
const GATE_NAME: &str = "gate";
const INSIDE: &str = "192.168.81";

/// A host on subnet 1 or 2; `last` is the last part of its address there.
struct Host {
    name: &'static str,
    subnet: u8,
    last: u8,
}

const SUBNET_HOSTS: [Host; 5] = [
    Host { name: "a1", subnet: 1, last: 11 },
    Host { name: "a2", subnet: 1, last: 12 },
    Host { name: "b1", subnet: 2, last: 11 },
    Host { name: "b2", subnet: 2, last: 12 },
    Host { name: GATE_NAME, subnet: 2, last: 254 },
];

/// The hosts for nodes; the last is the hidden one.
pub(crate) const HOSTS: [&str; 5] = ["a1", "a2", "b1", "b2", "c1"];

/// The namespaces of such a network. Removed when dropped; drop it after the nodes in it.
#[derive(Debug)]
pub(crate) struct Site {
    tag: String,
}

impl Site {
    /// Builds the network; `None`, with the reason on stderr, if that is impossible.
    pub(crate) fn new() -> Option<Self> {
        let site = Self { tag: unique_prefix()? };
        match site.build() {
            Ok(()) => Some(site),
            Err(error) => skip(&format!("the kernel does not give us the network needed: {error}")),
        }
    }

    fn build(&self) -> io::Result<()> {
        let add: String = self.names().map(|name| format!("netns add {name}\n")).collect();
        run(&["ip", "-batch", "-"], &add)?;
        for subnet in [1, 2] {
            self.try_ip(
                ROUTER,
                &format!(
                    "link add lan{subnet} type bridge\n\
                     addr add 10.81.{subnet}.1/24 dev lan{subnet}\n\
                     addr add fd81:{subnet}::1/64 dev lan{subnet} nodad\n\
                     link set lan{subnet} up\n"
                ),
            )?;
        }
        for Host { name, subnet, last } in SUBNET_HOSTS {
            let namespace = self.namespace(name);
            self.try_ip(
                ROUTER,
                &format!(
                    "link add {name} type veth peer name eth0 netns {namespace}\n\
                     link set {name} master lan{subnet} up\n"
                ),
            )?;
            self.try_ip(
                name,
                &format!(
                    "link set lo up\naddr add 10.81.{subnet}.{last}/24 dev eth0\n\
                     addr add fd81:{subnet}::{last}/64 dev eth0 nodad\nlink set eth0 up\n"
                ),
            )?;
            self.route(name, subnet)?;
        }
        let inside = self.namespace("c1");
        self.try_ip(
            GATE_NAME,
            &format!(
                "link add in0 type veth peer name eth0 netns {inside}\n\
                 addr add {INSIDE}.1/24 dev in0\nlink set in0 up\n"
            ),
        )?;
        self.try_ip(
            "c1",
            &format!(
                "link set lo up\naddr add {INSIDE}.2/24 dev eth0\nlink set eth0 up\n\
                 route add default via {INSIDE}.1\n"
            ),
        )?;
        self.forward(ROUTER, true)?;
        self.forward(GATE_NAME, true)?;
        let rules = format!(
            "add table ip mapping\n\
             add chain ip mapping in {{ type nat hook prerouting priority -100; }}\n\
             add rule ip mapping in iifname eth0 tcp dport 17000 dnat to {INSIDE}.2:{PORT}\n\
             add chain ip mapping out {{ type nat hook postrouting priority 100; }}\n\
             add rule ip mapping out oifname eth0 masquerade\n"
        );
        run(&["ip", "netns", "exec", &self.namespace(GATE_NAME), "nft", "-f", "-"], &rules).map(drop)
    }

    /// Sets the router as the host's default route.
    fn route(&self, host: &str, subnet: u8) -> io::Result<()> {
        let routes =
            format!("route add default via 10.81.{subnet}.1\nroute add default via fd81:{subnet}::1\n");
        self.try_ip(host, &routes)
    }

    fn forward(&self, host: &str, is_on: bool) -> io::Result<()> {
        let switches: String = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]
            .map(|switch| format!("echo {} > /proc/sys/net/{switch};", u8::from(is_on)))
            .concat();
        run(&["ip", "netns", "exec", &self.namespace(host), "sh", "-ec", &switches], "").map(drop)
    }

    fn try_ip(&self, host: &str, commands: &str) -> io::Result<()> {
        run(&["ip", "-n", &self.namespace(host), "-batch", "-"], commands).map(drop)
    }

    fn ip(&self, host: &str, commands: &str) {
        self.try_ip(host, commands).expect("the network can be changed");
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let hosts = SUBNET_HOSTS.iter().map(|host| host.name).chain([ROUTER, "c1"]);
        hosts.map(|host| self.namespace(host)).collect::<Vec<_>>().into_iter()
    }

    /// The name of a host's namespace.
    pub(crate) fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.tag)
    }

    /// Takes the host's link down, which also removes its routes.
    pub(crate) fn unplug(&self, host: &str) {
        self.ip(host, "link set eth0 down");
    }

    /// Brings the host's link, addresses and routes up again.
    pub(crate) fn plug_in(&self, host: &str) {
        self.ip(host, "link set eth0 up");
        if host == "c1" {
            self.ip(host, &format!("route replace default via {INSIDE}.1"));
            return;
        }
        let Host { subnet, last, .. } = subnet_host(host);
        // The kernel removes IPv6 addresses and routes with the link.
        self.ip(
            host,
            &format!(
                "addr replace fd81:{subnet}::{last}/64 dev eth0 nodad\n\
                 route replace default via 10.81.{subnet}.1\nroute replace default via fd81:{subnet}::1\n"
            ),
        );
    }

    /// Stops or restarts forwarding between the subnets. Traffic within a subnet goes on.
    pub(crate) fn set_router(&self, is_on: bool) {
        self.forward(ROUTER, is_on).expect("the router can be switched");
    }

    /// Removes the host's IPv4 address; it keeps IPv6 only.
    pub(crate) fn drop_ipv4(&self, host: &str) {
        let Host { subnet, last, .. } = subnet_host(host);
        self.ip(host, &format!("addr del 10.81.{subnet}.{last}/24 dev eth0"));
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let delete: String = self.names().map(|name| format!("netns delete {name}\n")).collect();
        // A namespace that was never added fails to be removed; `-force` goes on with the rest.
        let _ = run(&["ip", "-force", "-batch", "-"], &delete);
    }
}

fn subnet_host(host: &str) -> &'static Host {
    SUBNET_HOSTS.iter().find(|found| found.name == host).expect("a host on a subnet")
}

/// The IPv4 address where a host on a subnet listens.
pub(crate) fn addr(host: &str) -> SocketAddr {
    let Host { subnet, last, .. } = subnet_host(host);
    SocketAddr::from(([10, 81, *subnet, *last], PORT))
}

/// The IPv6 address where a host on a subnet listens.
pub(crate) fn addr6(host: &str) -> SocketAddr {
    let Host { subnet, last, .. } = subnet_host(host);
    format!("[fd81:{subnet}::{last}]:{PORT}").parse().expect("an address")
}
