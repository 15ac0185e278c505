//! The tests of the stories of attacks, with the figures that hold for each honest node.

use p2p_gossip::PeerState;

use crate::sim::attack_stories::{self as stories, SMALL};
use crate::sim::clock::{Micros, SECOND};
use crate::sim::scenario::Scenario;
use crate::sim::world::{Outcome, World};

/// Dials of one node that one teller, or one third party, causes in the first minute. Four a minute follow.
const LENT_IN_FIRST_MINUTE: usize = 64;
const LENT_IN_A_MINUTE: usize = 4;
const MINUTE: Micros = 60 * SECOND;

/// Runs a scenario. The world shows the nodes at the end.
fn run(scenario: Scenario) -> (Outcome, World) {
    let mut world = World::new(scenario).with_notes(false);
    match world.run_to_end() {
        Ok(outcome) => (outcome, world),
        Err(found) => {
            let notes = found.last_notes.join("\n");
            panic!("{notes}\ninvariant {} broken at {} µs: {}", found.invariant, found.at, found.detail)
        }
    }
}

/// Checks the dials of each node to third parties, of which so many accounts pay. The first minute of a node begins with its
/// first dial.
fn check_lent_dials(world: &World, accounts: usize) {
    for proc in 0..world.procs.len() {
        let dials = || world.lent_dials.iter().filter(|(_, dialler)| *dialler == proc).map(|(at, _)| *at);
        let Some(first) = dials().min() else {
            continue;
        };
        for minutes in 1..20_u32 {
            let made = dials().filter(|at| *at < first + u64::from(minutes) * MINUTE).count();
            let most = LENT_IN_FIRST_MINUTE + LENT_IN_A_MINUTE * usize::try_from(minutes - 1).unwrap();
            assert!(made <= accounts * most, "p{proc} dialled third parties {made} times in {minutes} min");
        }
    }
}

#[test]
fn fresh_keys_lend_few_dials_to_a_third_party() {
    for seed in 0..4 {
        let (_, world) = run(stories::fresh_keys_advertise_a_third_party(seed, SMALL));
        check_lent_dials(&world, 1);
    }
}

#[test]
fn invented_peers_lend_few_dials_to_third_parties_and_delay_no_joiner() {
    for seed in 0..3 {
        let (outcome, world) = run(stories::member_invents_peers(seed, SMALL));
        assert!(!world.lent_dials.is_empty(), "seed {seed}: nothing was dialled");
        assert!(outcome.healed_after < 5 * SECOND, "seed {seed}: {outcome:?}");
        // One address pays for itself. For many addresses the liar pays: first as a stranger, then as a peer.
        check_lent_dials(&world, 2);
    }
}

#[test]
fn fresh_keys_push_no_known_peer_out() {
    for seed in 0..6 {
        let (outcome, _) = run(stories::fresh_keys_fill_the_tables_of_a_split_mesh(seed, SMALL));
        assert!(outcome.healed_after < 5 * SECOND, "seed {seed}: {outcome:?}");
    }
}

#[test]
fn strict_nodes_refuse_another_key_at_the_address_of_a_dead_peer() {
    for seed in 0..12 {
        let (outcome, _) = run(stories::another_key_at_the_address_of_a_dead_peer(seed));
        assert!(outcome.stats.addresses_taken > 0, "seed {seed}: the intruder was not refused");
    }
}

#[test]
fn node_that_left_stays_left_whatever_a_list_says() {
    for seed in 0..6 {
        let (_, world) = run(stories::member_says_that_a_node_which_left_is_connected(seed));
        let gone = world.procs.iter().find(|process| !process.alive).map(|process| process.id);
        let gone = gone.expect("one node left");
        for process in world.procs.iter().filter(|process| process.alive && !process.is_attacker) {
            let shown =
                process.mesh().visible_states().find(|(id, ..)| *id == gone).map(|(_, state, _)| state);
            assert_eq!(shown, Some(PeerState::Left), "seed {seed}");
            let stored = &world.slots[process.slot].memory[0];
            if let Some(known) = stored.iter().find(|known| known.id == gone) {
                assert!(known.left, "seed {seed}");
            }
        }
        check_lent_dials(&world, 1);
    }
}

#[test]
fn flapping_and_rumours_keep_no_two_members_apart() {
    for seed in 0..8 {
        let (outcome, _) = run(stories::two_members_lose_each_other_under_attack(seed, SMALL));
        assert!(outcome.healed_after <= 5 * SECOND, "seed {seed}: {outcome:?}");
    }
}

#[test]
fn stranger_that_came_for_a_moment_is_no_dead_member_and_lends_no_dials_later() {
    for seed in 0..6 {
        let scenario = stories::stranger_comes_for_a_moment(seed);
        let restarted =
            scenario.script.iter().find_map(|(at, action)| action.restores_peers().then_some(*at));
        let restarted = restarted.expect("the nodes restart");
        let (_, world) = run(scenario);
        let late = world.lent_dials.iter().filter(|(at, _)| *at >= restarted).count();
        assert_eq!(late, 0, "seed {seed}: dials to what the stranger advertised, after the restart");
        for process in world.procs.iter().filter(|process| !process.is_attacker) {
            let honest: Vec<_> =
                world.procs.iter().filter(|other| !other.is_attacker).map(|o| o.id).collect();
            let is_dead =
                |(id, state, _): &(_, PeerState, _)| *state == PeerState::Dead && !honest.contains(id);
            assert_eq!(process.mesh().visible_states().filter(is_dead).count(), 0, "seed {seed}");
        }
    }
}
