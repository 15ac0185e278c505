//! A private network of the benchmark: a loopback interface without other traffic, so that
//! connections can be counted and every port is free.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// The environment variable that tells the program that it runs inside the namespace.
const INSIDE: &str = "P2P_GOSSIP_BENCH_INSIDE";

/// Replaces this process with the same program in a new network namespace; returns `Ok` there. If that is not
/// possible, the benchmark runs on the machine's own loopback; the error says so.
pub(crate) fn isolate() -> Result<(), String> {
    if env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let mut reason = String::from("util-linux and iproute2 are needed");
    // Root may do this. Other users may if the system lets them be root of a namespace.
    for arguments in [&["--net"][..], &["--map-root-user", "--net"]] {
        let up = "ip link set lo up";
        let mut probe = Command::new("unshare");
        probe.args(arguments).args(["sh", "-c", up]).stdin(Stdio::null());
        match probe.output() {
            Ok(output) if output.status.success() => {
                let mut again = Command::new("unshare");
                again.args(arguments).args(["sh", "-c", &format!("{up} && exec \"$0\" \"$@\"")]);
                let error = again.args(env::args_os()).env(INSIDE, "1").exec();
                reason = error.to_string();
            }
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().clone_into(&mut reason),
            Err(error) => reason = format!("unshare: {error}"),
        }
    }
    Err(format!(
        "Run on the machine's own loopback ({reason}): connections of other programs are counted as well."
    ))
}
