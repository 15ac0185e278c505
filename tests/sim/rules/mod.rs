//! The rules of the mesh one by one, each on one mesh alone: a whole mesh would make up for most of
//! them when they are broken, only later, or with more effort.

mod dialing;
mod lists;
mod liveness;
mod loss;
mod memory;
mod sessions;
mod settled;
mod silence;
mod trust;

use std::time::Duration;

use p2p_gossip::internals::mesh::{Output, Report, SessionId};
use p2p_gossip::internals::wire::ByeReason;

use crate::sim::mesh_harness::{MeshHarness, addr, id, requests};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Node 9, which has met node 3 and got its empty list.
pub(crate) fn joined() -> (MeshHarness, SessionId) {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    node.list(session, std::iter::empty());
    (node, session)
}

/// Node 9, which has got a list of so many strangers, from node 20 on, and dials them in vain.
pub(crate) fn with_strangers(count: u8) -> (MeshHarness, SessionId, Vec<Output>) {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    node.list(session, (20..20 + count).map(|n| (id(n), addr(n))));
    let outputs = node.wait_in_vain(ms(1));
    (node, session, outputs)
}

/// Time passes while a peer keeps telling that it knows others than we do, or the same.
pub(crate) fn with_heartbeats(
    node: &mut MeshHarness,
    session: SessionId,
    digest: Option<u64>,
    time: Duration,
) -> Vec<Output> {
    let mut outputs = Vec::new();
    for _ in 0..time.as_secs() {
        let digest = digest.unwrap_or(node.mesh.digest());
        outputs.extend(node.heartbeat(session, digest));
        outputs.extend(node.wait_in_vain(SECOND));
    }
    outputs
}

/// The same; it answers requests with empty lists. Returns the number of requests.
pub(crate) fn asked_in_vain(
    node: &mut MeshHarness,
    session: SessionId,
    digest: u64,
    time: Duration,
) -> usize {
    let mut asked = 0;
    for _ in 0..time.as_secs() {
        let requests = requests(&with_heartbeats(node, session, Some(digest), SECOND));
        asked += requests;
        if requests > 0 {
            node.list(session, std::iter::empty());
        }
    }
    asked
}

/// Makes it ask for the list of a peer that knows others than we do.
pub(crate) fn make_it_ask(node: &mut MeshHarness, session: SessionId, digest: u64) {
    let outputs = with_heartbeats(node, session, Some(digest), 2 * SECOND);
    assert_eq!(requests(&outputs), 1, "{outputs:?}");
}

pub(crate) fn reports(outputs: &[Output], wanted: impl Fn(&Report) -> bool) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Report(report) if wanted(report))).count()
}

pub(crate) fn says(outputs: &[Output], session: SessionId, reason: ByeReason) -> bool {
    outputs.contains(&Output::Close { session, reason })
}

/// The reports for the log.
pub(crate) fn reported(outputs: &[Output]) -> Vec<&Report> {
    outputs.iter().filter_map(|output| if let Output::Report(r) = output { Some(r) } else { None }).collect()
}
