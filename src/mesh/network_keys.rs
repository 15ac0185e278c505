//! The network's key and its change while the network runs: the new key reaches every member that has proven an earlier
//! one, and the earlier ones are accepted for a while, for members that were away.

use std::time::{Duration, Instant};

use super::io::{Output, Report};
use super::key_state::{KEY_GRACE_MIN, KeyProof, NetworkKeyStatus, NetworkKeys, RotateError};
use super::machine::Mesh;
use super::timer::Timer;
use crate::trust::key_ring::{EARLIER_KEYS_MAX, KEY_GRACE_MAX, KeyRing, Told};
use crate::trust::network_key::NetworkKey;
use crate::trust::peer_id::PeerId;
use crate::wire::Message;

/// Longest time until the connected time is charged to the earlier keys, and members without the current key are told
/// again.
const ROUND: Duration = Duration::from_secs(600);
impl Mesh {
    /// Sets the keys of this node, which may change while it runs. The driver calls this before the first input.
    pub fn set_key_ring(&mut self, now: Instant, ring: KeyRing) {
        self.network_keys.ring = Some(ring);
        self.schedule_key_round(now);
    }

    /// The state of the network's key; `None` if the key can't change while this node runs.
    #[must_use]
    pub fn network_key_status(&self) -> Option<NetworkKeyStatus> {
        let ring = self.network_keys.ring.as_ref()?;
        let holders =
            self.peers.iter().filter(|(_, peer)| peer.is_joined() && peer.network_key == KeyProof::Current);
        Some(NetworkKeyStatus {
            generation: ring.generation(),
            holders: holders.count() + 1,
            earlier_keys: ring.earlier_keys(),
            grace_left: ring.grace_left(),
        })
    }

    /// Whether the user may change the key of the network now.
    ///
    /// # Errors
    /// The keys of this node can't change while it runs, or too many earlier keys are still accepted.
    pub fn may_rotate_network_key(&self) -> Result<(), RotateError> {
        match &self.network_keys.ring {
            None => Err(RotateError::NoKeyInState),
            Some(ring) if ring.earlier_keys() >= EARLIER_KEYS_MAX => Err(RotateError::TooManyKeys),
            Some(_) => Ok(()),
        }
    }

    /// The user changes the key of the network. Without a key of this node that may change, nothing happens.
    pub(super) fn rotate_network_key(&mut self, now: Instant, key: NetworkKey, grace: Duration) {
        let _ = self.charge_keys(now);
        let Some(ring) = &mut self.network_keys.ring else {
            return;
        };
        ring.rotate(key, grace.clamp(KEY_GRACE_MIN, KEY_GRACE_MAX));
        self.key_changed(now, None);
    }

    /// A peer tells the key of the network.
    pub(super) fn received_network_key(
        &mut self,
        now: Instant,
        id: PeerId,
        generation: u64,
        key: &NetworkKey,
        grace: Duration,
    ) {
        if self.peers.get(&id).is_none_or(|peer| peer.network_key == KeyProof::None) {
            return;
        }
        if self.charge_keys(now) {
            self.output_keys();
        }
        let NetworkKeys { ring, changes, .. } = &mut self.network_keys;
        let Some(ring) = ring else {
            return self.report(Report::NetworkKeyOutdated { by: id });
        };
        let is_later = ring.would_adopt(generation, key);
        if is_later && changes.take(now).is_err() {
            // The peer tells it again later.
            return;
        }
        match ring.tell(generation, key, grace.clamp(KEY_GRACE_MIN, KEY_GRACE_MAX)) {
            Told::Adopted => {
                self.key_changed(now, Some(id));
                self.send(&id, Message::NetworkKeyHeld { generation });
            }
            Told::Same => {
                self.holds_key(&id);
                self.send(&id, Message::NetworkKeyHeld { generation });
            }
            Told::Earlier => self.tell_key(&id),
            Told::Implausible => {}
        }
    }

    /// A peer says that it holds the key of this generation.
    pub(super) fn received_network_key_held(&mut self, id: PeerId, generation: u64) {
        let ours = self.network_keys.ring.as_ref().map(KeyRing::generation);
        if ours == Some(generation)
            && self.peers.get(&id).is_some_and(|peer| peer.network_key != KeyProof::None)
        {
            self.holds_key(&id);
        }
    }

    /// The relation of a key that a peer has proven to the keys of this node now. They may have changed since the
    /// session began.
    pub(super) fn key_proof(&self, proven: Option<&NetworkKey>) -> KeyProof {
        match (proven, &self.network_keys.ring) {
            (None, _) => KeyProof::None,
            (Some(key), Some(ring)) if key != ring.current() => KeyProof::Earlier,
            (Some(_), _) => KeyProof::Current,
        }
    }

    /// A session with a peer has come up. A peer that has proven an earlier key has missed a change.
    pub(super) fn tell_key_on_meeting(&mut self, id: &PeerId) {
        if self.peers.get(id).is_some_and(|peer| peer.network_key == KeyProof::Earlier) {
            self.tell_key(id);
        }
    }

    /// Charges the earlier keys for the connected time, and tells the current key to members that lack it.
    pub(super) fn key_round_due(&mut self, now: Instant) {
        let _ = self.charge_keys(now);
        // Also without an end of a key: the disk keeps the time that is left.
        self.output_keys();
        self.tell_key_to_all();
        self.schedule_key_round(now);
    }

    /// This node has another current key, which it learned from a peer or made itself.
    fn key_changed(&mut self, now: Instant, by: Option<PeerId>) {
        let Some(generation) = self.network_keys.ring.as_ref().map(KeyRing::generation) else {
            return;
        };
        self.output_keys();
        self.report(Report::NetworkKeyChanged { by, generation });
        for peer in self.peers.iter_mut() {
            if peer.network_key == KeyProof::Current {
                peer.network_key = KeyProof::Earlier;
            }
        }
        if let Some(by) = by {
            self.holds_key(&by);
        }
        self.tell_key_to_all();
        self.schedule_key_round(now);
    }

    fn holds_key(&mut self, id: &PeerId) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.network_key = KeyProof::Current;
        }
    }

    /// Tells the current key to all connected peers that have proven an earlier one.
    fn tell_key_to_all(&mut self) {
        let lacking: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.connected().is_some() && peer.network_key == KeyProof::Earlier)
            .map(|(id, _)| *id)
            .collect();
        for id in lacking {
            self.tell_key(&id);
        }
    }

    fn tell_key(&mut self, id: &PeerId) {
        let Some(ring) = &self.network_keys.ring else {
            return;
        };
        let message = Message::NetworkKey {
            generation: ring.generation(),
            key: ring.current().clone(),
            grace_s: ring.grace_left().as_secs(),
        };
        self.send(id, message);
    }

    /// Charges the earlier keys for the connected time. Returns whether one is not accepted any more.
    #[must_use]
    fn charge_keys(&mut self, now: Instant) -> bool {
        let total = self.peers.connected_time.total(now);
        let elapsed = total.saturating_sub(std::mem::replace(&mut self.network_keys.charged, total));
        self.network_keys.ring.as_mut().is_some_and(|ring| ring.spend(elapsed))
    }

    /// Hands out the keys: sessions accept them, and the disk keeps them.
    fn output_keys(&mut self) {
        if let Some(ring) = self.network_keys.ring.clone() {
            self.output(Output::NetworkKeys(ring));
        }
    }

    /// Sets the timer for the next round, if an earlier key is accepted.
    fn schedule_key_round(&mut self, now: Instant) {
        let Some(ring) = self.network_keys.ring.as_ref().filter(|ring| ring.earlier_keys() > 0) else {
            return self.timers.cancel(Timer::KeyRound);
        };
        // Rounded up, so that the round finds nothing left of an earlier key.
        let wait = ring.next_end().map_or(ROUND, |left| left.min(ROUND));
        self.timers.set(Timer::KeyRound, now + wait + Duration::from_millis(1));
    }
}
