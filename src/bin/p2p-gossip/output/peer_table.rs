//! The table of members that SIGUSR1 asks for.

use std::fmt::Write as _;
use std::time::Duration;

use p2p_gossip::{Escaped, PeerId, PeerInfo, PeerState, Status};

const TITLES: [&str; 7] = ["NAME", "ID", "ADDRESS", "STATE", "SINCE", "RTT", "SILENCE"];

/// A line for each peer that is known, those that are up first, in columns.
pub(crate) fn table(id: PeerId, status: &Status) -> String {
    let mut peers: Vec<&PeerInfo> = status.mesh.peers.iter().collect();
    peers.sort_by_key(|peer| (peer.state, peer.id));
    let rows: Vec<[String; 7]> = peers.into_iter().map(row).collect();
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.chain([TITLES[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let count = |state| status.mesh.peers.iter().filter(|peer| peer.state == state).count();
    let counts: Vec<String> = PeerState::ALL
        .into_iter()
        .map(|state| (count(state), state.word()))
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let counts = if counts.is_empty() { "nobody else".to_owned() } else { counts.join(", ") };
    let mut table = format!("{} sees {counts}\n", id.short());
    let mut line = |cells: [&str; 7]| {
        let start = table.len();
        for (cell, width) in cells.into_iter().zip(widths) {
            // Writing into a String does not fail.
            let _ = write!(table, "{cell:<width$}  ");
        }
        table.truncate(start + table[start..].trim_end().len());
        table.push('\n');
    };
    line(TITLES);
    for row in &rows {
        line(row.each_ref().map(String::as_str));
    }
    table
}

fn row(peer: &PeerInfo) -> [String; 7] {
    let or_nothing = |shown: Option<String>| shown.unwrap_or_else(|| "-".to_owned());
    let name = if peer.name.is_empty() { "-".to_owned() } else { Escaped(&peer.name).to_string() };
    [
        name,
        peer.id.short().to_string(),
        peer.addr.to_string(),
        peer.state.word().to_owned(),
        rough(peer.since),
        or_nothing(peer.rtt.map(|rtt| format!("{:.2} ms", rtt.as_secs_f64() * 1000.0))),
        or_nothing(peer.silence.map(|silence| format!("{:.1} s", silence.as_secs_f64()))),
    ]
}

/// A duration in its two largest units.
fn rough(time: Duration) -> String {
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
    fn durations_are_as_long_as_they_are_useful() {
        for (seconds, shown) in
            [(0, "0s"), (59, "59s"), (61, "1m01s"), (3599, "59m59s"), (3661, "1h01m"), (90_061, "1d01h")]
        {
            assert_eq!(rough(Duration::from_secs(seconds)), shown);
        }
    }
}
