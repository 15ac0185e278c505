//! The membership digest, small enough for every heartbeat.

use crate::trust::peer_id::PeerId;

/// Suspects among which [`parts`] searches.
pub(super) const SUSPECTS_MAX: usize = 32;

/// The XOR of the first eight bytes of each id, big-endian. Equal sets have equal digests in any order, and a change
/// costs one XOR. The digest detects omissions, not malice; handshakes prove the ids in lists anyway.
#[must_use]
pub fn membership_digest<'a>(members: impl IntoIterator<Item = &'a PeerId>) -> u64 {
    members.into_iter().fold(0, |digest, id| digest ^ digest_term(id))
}

/// The term of one member in a digest. XOR adds it and removes it.
pub(super) fn digest_term(id: &PeerId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *id.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The ids whose terms make up a difference of two digests: any of `suspects` and at most one of `others`. `None` if
/// there are no such ids. The more suspects there are, the likelier is a wrong answer: 2^-32 for 32 of them.
pub(super) fn parts(difference: u64, suspects: &[PeerId], others: &[PeerId]) -> Option<Vec<PeerId>> {
    debug_assert!(suspects.len() <= SUSPECTS_MAX, "{} suspects", suspects.len());
    // Gaussian elimination, where adding is XOR. Each row is a sum of terms, and a bit for each suspect in the sum. No row
    // has the highest bit of another one.
    let mut rows: Vec<(u64, u32)> = Vec::with_capacity(suspects.len());
    let reduce = |rows: &[(u64, u32)], sum: (u64, u32)| {
        rows.iter().fold(
            sum,
            |(sum, of), (row, rows_of)| {
                if sum ^ row < sum { (sum ^ row, of ^ rows_of) } else { (sum, of) }
            },
        )
    };
    for (at, id) in suspects.iter().enumerate() {
        let row = reduce(&rows, (digest_term(id), 1 << at));
        if row.0 != 0 {
            rows.push(row);
        }
    }
    let without = |other: Option<&PeerId>| match reduce(&rows, (difference ^ other.map_or(0, digest_term), 0))
    {
        (0, of) => Some(of),
        _ => None,
    };
    let (of, other) =
        [None].into_iter().chain(others.iter().map(Some)).find_map(|other| Some((without(other)?, other)))?;
    let is_part = |at: &usize| of & (1 << at) != 0;
    let parts = (0..suspects.len()).filter(is_part).map(|at| suspects[at]);
    Some(parts.chain(other.copied()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_depends_on_members_and_not_on_their_order() {
        let [a, b, c] = [1, 2, 3].map(|n| PeerId::from_bytes([n; 32]));
        assert_eq!(membership_digest([&a, &b, &c]), membership_digest([&c, &a, &b]));
        assert_ne!(membership_digest([&a, &b]), membership_digest([&a, &c]));
        assert_eq!(membership_digest([&a, &b]) ^ digest_term(&b), membership_digest([&a]));
    }
}
