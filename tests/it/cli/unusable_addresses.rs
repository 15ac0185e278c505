//! Tests of ports and addresses that a node cannot bind or reach.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use rustix::net::{AddressFamily, SocketType};

use super::program::{Files, Node, addr_of, assert_failure, assert_failure_of, unprivileged};
use crate::support::skip::say_skipped;

#[test]
fn port_in_use_is_named_with_a_remedy() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap();
    let port = addr.port().to_string();
    let needles = [&*addr.to_string(), "another program", "--port"];
    assert_failure(&["--bind", "127.0.0.1", "--port", &port], &needles);
}

#[test]
fn forbidden_port_is_named_with_a_remedy() {
    // Linux lets the administrator move the first unprivileged port; containers often have it at 0.
    let first_unprivileged = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if first_unprivileged.is_ok_and(|first| first.trim() == "0") {
        say_skipped("every port is allowed here (net.ipv4.ip_unprivileged_port_start is 0)");
        return;
    }
    let files = Files::new();
    let needles = ["127.0.0.1:1", "1024"];
    assert_failure_of(unprivileged(&files).args(["--bind=127.0.0.1", "--port=1"]), &needles);
}

#[test]
fn foreign_bind_address_is_named_with_a_remedy() {
    let needles = ["203.0.113.254:0", "interface", "--bind"];
    assert_failure(&["--bind", "203.0.113.254", "--port", "0"], &needles);
}

/// The interface may come later, so this is no wrong usage: a service manager starts the node again.
#[test]
fn missing_interface_of_the_bind_address_is_a_failure_at_run_time() {
    let needles = ["cannot listen on [fe80::1]:0", "this machine has no network interface 'nowhere0' now"];
    assert_failure(&["--bind", "fe80::1%nowhere0", "--port", "0"], &needles);
}

#[test]
fn unreachable_peer_is_logged_and_the_node_runs_on() {
    // A socket that is bound but does not listen: no process can take the port, and dials are refused.
    let held = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&held, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let addr = SocketAddr::try_from(rustix::net::getsockname(&held).unwrap()).unwrap();
    let node = Node::start(&["--connect", &addr.to_string()]);
    let listening = node.event("listening");
    let line = node.log_line("cannot join");
    assert!(line.contains(" WARN ") && line.contains(&format!("addr={addr}")), "{line}");
    let second = Node::start(&["--connect", &addr_of(&listening)]);
    second.event("up");
    node.event("up");
    node.stop();
}
