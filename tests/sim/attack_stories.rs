//! Stories of attacks: an attacker does one thing, and a seed varies the details. Their tests are in `attacks.rs`.

use super::attacker::{Attack, Lies, Plot, Target};
use super::clock::{MS, Micros, SECOND};
use super::scenario::{Action, Restart, Scenario, Slot};
use super::stories::Story;

/// The attack of most stories begins when the nodes have known each other for a few seconds, or for more than a minute.
const BEGINNINGS: [Micros; 2] = [5 * SECOND, 75 * SECOND];
/// The attack goes on for the rest of the run.
const FOR_EVER: Micros = Micros::MAX;

/// The size of an attack. The explorer runs the large ones, the tests the small ones.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    nodes: usize,
    /// Fresh keys at one node.
    keys: u32,
    /// Invented peers on each list.
    invented: u32,
    peers_max: usize,
}

/// The attacks as they were seen in use.
pub const LARGE: Size =
    Size { nodes: 8, keys: 1_800, invented: 1_100, peers_max: p2p_gossip::internals::limits::PEERS_MAX };
/// Attacks that exceed the limits of small tables, and all budgets.
pub const SMALL: Size = Size { nodes: 4, keys: 150, invented: 150, peers_max: 100 };

/// The stories by name.
pub const STORIES: &[(&str, Story)] = &[
    ("fresh-keys", |seed| fresh_keys_advertise_a_third_party(seed, LARGE)),
    ("invented-peers", |seed| member_invents_peers(seed, LARGE)),
    ("full-tables", |seed| fresh_keys_fill_the_tables_of_a_split_mesh(seed, LARGE)),
    ("taken-address", another_key_at_the_address_of_a_dead_peer),
    ("not-back", member_says_that_a_node_which_left_is_connected),
    ("two-apart", |seed| two_members_lose_each_other_under_attack(seed, LARGE)),
    ("short-visit", stranger_comes_for_a_moment),
];

fn begin(seed: u64) -> (fastrand::Rng, Micros) {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0xa77a);
    let from = BEGINNINGS[rng.usize(..BEGINNINGS.len())];
    (rng, from)
}

/// The faults end before the attack begins, so the mesh must stay whole all the time.
fn attacked(mut scenario: Scenario, attack: Attack, seconds: Micros) -> Scenario {
    scenario.stay = attack.from + seconds * SECOND;
    scenario.attacks_go_on = true;
    scenario.attacked_by(attack).faults_end_at_ms(1_000)
}

/// In one second many fresh keys come to one node and go. Each advertises a third party's port.
pub fn fresh_keys_advertise_a_third_party(seed: u64, size: Size) -> Scenario {
    let (mut rng, from) = begin(seed);
    let advertises = vec![Target::ThirdParty { answers: rng.bool() }];
    let stay = [50 * MS, 400 * MS, 3 * SECOND][rng.usize(..3)];
    let plot = Plot::FreshKeys {
        at: vec![rng.usize(..size.nodes)],
        keys: size.keys,
        within: SECOND,
        stay,
        advertises,
    };
    let scenario = Scenario::new(seed, size.nodes).with(|faults| faults.peers_max = size.peers_max);
    attacked(scenario, Attack { slot: 0, from, until: FOR_EVER, plot }, 140)
}

/// A member of all nodes lists many invented peers, at one address of a third party or at as many. Later
/// another node joins.
pub fn member_invents_peers(seed: u64, size: Size) -> Scenario {
    let (mut rng, from) = begin(seed);
    let lies = Lies { invented: size.invented, at_many: rng.bool(), are_new: rng.bool(), ..Lies::default() };
    let last = size.nodes;
    let mut scenario = Scenario::new(seed, size.nodes + 1).with(|faults| faults.peers_max = size.peers_max);
    scenario.script.retain(|(_, action)| *action != Action::Start(last, Restart::SAME));
    let joins = from / MS + rng.u64(1_000..60_000);
    scenario = attacked(scenario, Attack::member(0, from, FOR_EVER, lies), 140);
    scenario.script.retain(|(_, action)| *action != Action::EndFaults);
    scenario.stay = 90 * SECOND;
    scenario.at_ms(joins, Action::Start(last, Restart::SAME)).faults_end_at_ms(joins)
}

/// Four nodes have known each other for a minute. They are split, 2 and 2, and more fresh keys than its
/// table has room for come to each within 0.7 s.
/// Then the network heals.
pub fn fresh_keys_fill_the_tables_of_a_split_mesh(seed: u64, size: Size) -> Scenario {
    let mut rng = fastrand::Rng::with_seed(seed);
    let plot = Plot::FreshKeys {
        at: vec![0, 1, 2, 3],
        keys: 4 * (size.peers_max as u32 * 11 / 10),
        within: 700 * MS,
        stay: [20 * MS, 300 * MS, 30 * SECOND][rng.usize(..3)],
        advertises: Vec::new(),
    };
    let attack = Attack { slot: 0, from: 80 * SECOND, until: FOR_EVER, plot };
    let scenario = Scenario::new(seed, 4).with(|faults| faults.peers_max = size.peers_max);
    let mut scenario = scenario.split_ms(75_000, 90_000, &[0, 1], &[2, 3]);
    scenario.attacks_go_on = true;
    scenario.attacked_by(attack).faults_end_at_ms(90_000)
}

/// With `--strict`, a node that has dialled the others dies, and another key comes from its address and port, for a time.
pub fn another_key_at_the_address_of_a_dead_peer(seed: u64) -> Scenario {
    let mut rng = fastrand::Rng::with_seed(seed);
    let nodes = rng.usize(3..=8);
    // The last nodes have dialled all others. The first has dialled none.
    let victim = rng.usize(1..nodes);
    let dies = [5_000, 75_000][rng.usize(..2)];
    let intruder = Restart { new_key: true, ..Restart::SAME };
    Scenario::new(seed, nodes)
        .with(|faults| faults.strict = true)
        .at_ms(dies, Action::Kill(victim))
        .at_ms(dies + 500, Action::Start(victim, intruder))
        .at_ms(dies + 20_500, Action::Kill(victim))
        .faults_end_at_ms(dies + 21_000)
}

/// A node leaves, and a member says in its lists that the node is connected, at its address and at a third party's.
pub fn member_says_that_a_node_which_left_is_connected(seed: u64) -> Scenario {
    let (mut rng, from) = begin(seed);
    let lies = Lies { left_are_connected: true, ..Lies::default() };
    let leaves = from / MS + rng.u64(1..20_000);
    attacked(Scenario::new(seed, 5), Attack::member(0, from, FOR_EVER, lies), 180)
        .at_ms(leaves, Action::Leave(rng.usize(1..5)))
}

/// Two members lose each other, or have never met, while an attacker comes and goes five times a second or lists many
/// invented peers.
pub fn two_members_lose_each_other_under_attack(seed: u64, size: Size) -> Scenario {
    let (mut rng, from) = begin(seed);
    let nodes = rng.usize(3..=8);
    let lies = Lies { invented: size.invented, at_many: rng.bool(), are_new: rng.bool(), ..Lies::default() };
    let attack = match rng.u32(..2) {
        0 => Attack::flapping(0, from, FOR_EVER),
        _ => Attack::member(0, from, FOR_EVER, lies),
    };
    let (left, right): (Slot, Slot) = (nodes - 1, nodes - 2);
    let have_met = rng.bool();
    let apart = if have_met { from / MS + 5_000 } else { 0 };
    let healed = from / MS + 10_000 + rng.u64(..40_000);
    let scenario = Scenario::new(seed, nodes).with(|faults| faults.peers_max = size.peers_max);
    let mut scenario = scenario.split_ms(apart, healed, &[left], &[right]);
    scenario.attacks_go_on = true;
    // Both join through the first node.
    scenario.connect[left] = vec![0];
    scenario.connect[right] = vec![0];
    scenario.attacked_by(attack).faults_end_at_ms(healed)
}

/// A stranger connects to each node for a moment and advertises ports of a third party. Later all nodes start again with
/// the peers that they know.
pub fn stranger_comes_for_a_moment(seed: u64) -> Scenario {
    let (mut rng, from) = begin(seed);
    let plot = Plot::FreshKeys {
        at: vec![rng.usize(..4)],
        keys: 1,
        within: SECOND,
        stay: [20 * MS, SECOND, 20 * SECOND][rng.usize(..3)],
        advertises: vec![
            Target::ThirdParty { answers: true },
            Target::OwnMachine,
            Target::ThirdParty { answers: false },
        ],
    };
    let mut scenario = attacked(Scenario::new(seed, 4), Attack { slot: 0, from, until: FOR_EVER, plot }, 100);
    let again = from / MS + 90_000;
    scenario.script.retain(|(_, action)| *action != Action::EndFaults);
    for slot in 0..4 {
        scenario = scenario
            .at_ms(again, Action::Kill(slot))
            .at_ms(again + 500, Action::Start(slot, Restart::REMEMBERING));
    }
    scenario.faults_end_at_ms(again + 1_000)
}
