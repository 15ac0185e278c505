//! The table of peers that SIGUSR1 shows on stderr.

use std::time::Duration;

use p2p_gossip::{Escaped, PeerId, PeerInfo, PeerState, Status};

use crate::output::table::format_table;

const TITLES: [&str; 9] = ["NAME", "ID", "ADDRESS", "VIA", "STATE", "SINCE", "RTT", "SILENCE", "VERDICT"];

/// A line with the number of peers in each state, then a table of all known peers, those that are up first.
pub(crate) fn table(id: PeerId, status: &Status) -> String {
    let mut peers: Vec<&PeerInfo> = status.mesh.peers.iter().collect();
    peers.sort_by_key(|peer| (peer.state, peer.id));
    let mut rows = vec![TITLES.map(str::to_owned)];
    rows.extend(peers.into_iter().map(row));
    format!("{} sees {}\n{}", id.short(), count_states(&status.mesh.peers), format_table(&rows))
}

/// `3 up, 1 dead`.
fn count_states(peers: &[PeerInfo]) -> String {
    let count = |state| peers.iter().filter(|peer| peer.state == state).count();
    let counts: Vec<String> = PeerState::ALL
        .into_iter()
        .map(|state| (count(state), state.word()))
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    if counts.is_empty() { "no other node".to_owned() } else { counts.join(", ") }
}

fn row(peer: &PeerInfo) -> [String; 9] {
    let or_dash = |shown: Option<String>| shown.unwrap_or_else(|| "-".to_owned());
    let name = if peer.name.is_empty() { "-".to_owned() } else { Escaped(&peer.name).to_string() };
    [
        name,
        peer.id.short().to_string(),
        peer.addr.to_string(),
        or_dash(peer.via.map(|via| via.short().to_string())),
        peer.state.word().to_owned(),
        two_units(peer.since),
        or_dash(peer.rtt.map(|rtt| format!("{:.2} ms", rtt.as_secs_f64() * 1000.0))),
        or_dash(peer.silence.map(|silence| format!("{:.1} s", silence.as_secs_f64()))),
        or_dash(peer.verdict.map(|said| format!("{} {}/{}", said.verdict, said.seen_by, said.asked))),
    ]
}

/// A duration in its two largest units, from seconds to days: `1m01s`, `1d01h`.
pub(crate) fn two_units(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, ..) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_shows_its_two_largest_units() {
        for (seconds, shown) in
            [(0, "0s"), (59, "59s"), (61, "1m01s"), (3599, "59m59s"), (3661, "1h01m"), (90_061, "1d01h")]
        {
            assert_eq!(two_units(Duration::from_secs(seconds)), shown);
        }
    }
}
