//! Ports and addresses that cannot be had.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use rustix::net::{AddressFamily, SocketType};

use super::program::{Files, Node, addr_of, assert_failure, assert_failure_of, unprivileged};

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap();
    let port = addr.port().to_string();
    let needles = [&*addr.to_string(), "another program", "--port"];
    assert_failure(&["--bind", "127.0.0.1", "--port", &port], &needles);
}

#[test]
fn a_forbidden_port_is_named_with_what_to_do() {
    // Linux lets the administrator move the border, and containers often start without one.
    let border = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if border.is_ok_and(|first| first.trim() == "0") {
        eprintln!("SKIPPED: every port is allowed here (net.ipv4.ip_unprivileged_port_start is 0)");
        return;
    }
    let files = Files::new();
    let needles = ["127.0.0.1:1", "1024"];
    assert_failure_of(unprivileged(&files).args(["--bind=127.0.0.1", "--port=1"]), &needles);
}

#[test]
fn an_address_that_is_not_ours_is_named_with_what_to_do() {
    let needles = ["203.0.113.254:0", "interface", "--bind"];
    assert_failure(&["--bind", "203.0.113.254", "--port", "0"], &needles);
}

#[test]
fn an_unreachable_peer_is_reported_and_the_node_runs_on() {
    // Bound until the end and never listened on: nobody else gets the port, and connecting is refused.
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
