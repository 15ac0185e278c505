//! Tests of single rules, each on one mesh alone. In a run of many nodes the other nodes would compensate most violations,
//! only later or with more messages.

mod alerts;
mod budgets;
mod calm;
mod carrying;
mod detour;
mod dialing;
mod discovery;
mod lists;
mod liveness;
mod loss;
mod memory;
mod names;
mod network_keys;
mod overload;
mod own_addresses;
mod punch;
mod relay;
mod sessions;
mod settled;
mod silence;
mod standing;
mod trust;
mod witnesses;

use std::time::Duration;

use p2p_gossip::internals::mesh::{Output, Report, SessionId};
use p2p_gossip::internals::wire::ByeReason;

use crate::sim::mesh_harness::{MeshHarness, addr, id, requests};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Node 9 after it has met node 3 and received its empty list.
pub(crate) fn joined_node() -> (MeshHarness, SessionId) {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    node.list(session, std::iter::empty());
    (node, session)
}

/// Node 9 after it has received a list of `count` strangers, from node 20 on. Its dials to them stay open.
pub(crate) fn node_with_strangers(count: u8) -> (MeshHarness, SessionId, Vec<Output>) {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    node.list(session, (20..20 + count).map(|n| (id(n), addr(n))));
    let outputs = node.wait_with_dials_open(ms(1));
    (node, session, outputs)
}

/// Lets time pass while a peer sends a heartbeat each second, with this digest or with the node's own.
pub(crate) fn wait_with_heartbeats(
    node: &mut MeshHarness,
    session: SessionId,
    digest: Option<u64>,
    time: Duration,
) -> Vec<Output> {
    let mut outputs = Vec::new();
    for _ in 0..time.as_secs() {
        let digest = digest.unwrap_or(node.mesh.digest());
        outputs.extend(node.heartbeat(session, digest));
        outputs.extend(node.wait_with_dials_open(SECOND));
    }
    outputs
}

/// Lets time pass while a peer sends heartbeats with this digest and answers requests with empty lists. Returns the
/// number of requests.
pub(crate) fn requests_without_news(
    node: &mut MeshHarness,
    session: SessionId,
    digest: u64,
    time: Duration,
) -> usize {
    let mut total = 0;
    for _ in 0..time.as_secs() {
        let requests = requests(&wait_with_heartbeats(node, session, Some(digest), SECOND));
        total += requests;
        if requests > 0 {
            node.list(session, std::iter::empty());
        }
    }
    total
}

/// Makes the node request the list of a peer, by heartbeats with another digest.
pub(crate) fn make_node_request(node: &mut MeshHarness, session: SessionId, digest: u64) {
    let outputs = wait_with_heartbeats(node, session, Some(digest), 2 * SECOND);
    assert_eq!(requests(&outputs), 1, "{outputs:?}");
}

/// Number of the wanted reports among the outputs.
pub(crate) fn reports(outputs: &[Output], wanted: impl Fn(&Report) -> bool) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Report(report) if wanted(report))).count()
}

/// Whether the node closes this session for this reason.
pub(crate) fn closes_with(outputs: &[Output], session: SessionId, reason: ByeReason) -> bool {
    outputs.contains(&Output::Close { session, reason })
}

/// The reports among the outputs.
pub(crate) fn reported(outputs: &[Output]) -> Vec<&Report> {
    outputs.iter().filter_map(|output| if let Output::Report(r) = output { Some(r) } else { None }).collect()
}
