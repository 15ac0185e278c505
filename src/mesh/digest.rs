//! The membership digest, small enough for every heartbeat.

use crate::trust::peer_id::PeerId;

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
