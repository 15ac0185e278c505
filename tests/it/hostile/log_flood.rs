//! Peers that repeat an action which the node logs.

use p2p_gossip::internals::wire::{ByeReason, Message};

use super::attack_harness::Attack;
use super::raw::{Credentials, Raw};
use crate::support::process::Spec;

/// Connections of the attacker. A log without a limit has a line for at least every second one.
const ROUNDS: usize = 400;
/// Each cause may have some lines at once, and one every two seconds after that.
const LINES_MAX: usize = ROUNDS / 4;

#[test]
fn goodbyes_of_peers_that_refuse_the_node_do_not_fill_the_log() {
    // Up and left lines have their own limit and test.
    let mut attack = Attack::start_on(Spec::named("victim").with_log("info,p2p_gossip::members=off"));
    let others = [ByeReason::NotAdmitted, ByeReason::Cloned, ByeReason::AddressTaken, ByeReason::Replaced];
    let reasons = others.iter().flat_map(|&other| [ByeReason::Full, other]).cycle();
    for reason in reasons.take(ROUNDS) {
        let mut raw = Raw::join(attack.addr(), &Credentials::new());
        raw.send(&Message::Bye(reason)).unwrap();
        raw.wait_end();
    }
    attack.cluster.wait_for("the victim to count all goodbyes", &[attack.victim], |history| {
        (history.downs_since(attack.victim, 0).len() >= ROUNDS).then_some(())
    });
    // Another thread writes the log; it has caught up when the newcomer has joined and left.
    attack.newcomer_joins();
    attack.wait_log("its --max-peers");
    let lines = attack.log_count("");
    assert!(lines <= LINES_MAX, "{lines} lines for {ROUNDS} goodbyes");
    attack.end();
}
