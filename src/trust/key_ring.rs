//! The network keys of a node whose network changes its key while it runs: the current key, and earlier keys that are
//! still accepted.

use std::fmt::Write as _;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::network_key::NetworkKey;
use crate::util::hex;

/// Most earlier keys that are accepted beside the current one. A Hello has a proof of each.
pub(crate) const EARLIER_KEYS_MAX: usize = 7;
/// Length of the name of a network in bytes.
const NETWORK_ID_BYTES: usize = 16;
/// Precedes the first key in the input of the hash that names a network.
const NETWORK_ID_LABEL: &[u8] = b"p2p-gossip network";
/// Longest time for which an earlier key is accepted.
pub const KEY_GRACE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Most changes of the key that a node can have missed. A larger step is a mistake or an attempt to use up all
/// numbers, so that no member can change the key again.
const GENERATION_STEP_MAX: u64 = 1000;

/// Tells two networks apart, also after their keys have changed: a hash of the first key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkId([u8; NETWORK_ID_BYTES]);

impl NetworkId {
    fn of(first: &NetworkKey) -> Self {
        let digest = Sha256::new().chain_update(NETWORK_ID_LABEL).chain_update(first.as_bytes()).finalize();
        Self(std::array::from_fn(|at| digest[at]))
    }

    pub(crate) fn from_bytes(bytes: [u8; NETWORK_ID_BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The keys that a node accepts. It proves the current one, and the earlier ones as well to a peer that may have missed
/// the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRing {
    network: NetworkId,
    generation: u64,
    current: NetworkKey,
    /// Latest first; at most [`EARLIER_KEYS_MAX`].
    earlier: Vec<EarlierKey>,
}

/// A key that was current before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EarlierKey {
    key: NetworkKey,
    /// It is accepted for this much more connected time; `None` without an end.
    left: Option<Duration>,
}

/// The relation of a key that a peer tells to the keys of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is later, and is the current key from now on.
    Adopted,
    /// It is the current key.
    Same,
    /// It is earlier than the current key: the peer has missed a change.
    Earlier,
    /// Its number is out of the range in which a change can be.
    Implausible,
}

impl KeyRing {
    /// The ring of a network that has not changed its key.
    #[must_use]
    pub fn new(key: NetworkKey) -> Self {
        Self { network: NetworkId::of(&key), generation: 0, current: key, earlier: Vec::new() }
    }

    /// The ring of a node that joins a network with this key.
    pub(crate) fn joined(network: NetworkId, generation: u64, key: NetworkKey) -> Self {
        Self { network, generation, current: key, earlier: Vec::new() }
    }

    /// A ring whose first key is current and whose others are accepted without an end; `None` without a key.
    #[must_use]
    pub fn of_files(keys: impl IntoIterator<Item = NetworkKey>) -> Option<Self> {
        let mut keys = keys.into_iter();
        let current = keys.next()?;
        let earlier = keys.take(EARLIER_KEYS_MAX).map(|key| EarlierKey { key, left: None }).collect();
        Some(Self { network: NetworkId::of(&current), generation: 0, current, earlier })
    }

    /// The network whose keys these are.
    #[must_use]
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// The number of changes of the key since the network began.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The key that this node proves first.
    #[must_use]
    pub fn current(&self) -> &NetworkKey {
        &self.current
    }

    /// All keys that this node accepts, the current one first.
    pub fn keys(&self) -> impl Iterator<Item = &NetworkKey> {
        std::iter::once(&self.current).chain(self.earlier.iter().map(|earlier| &earlier.key))
    }

    /// The time for which the latest earlier key is still accepted; zero without one.
    #[must_use]
    pub fn grace_left(&self) -> Duration {
        self.earlier.first().map_or(Duration::ZERO, |earlier| earlier.left.unwrap_or(KEY_GRACE_MAX))
    }

    /// The number of earlier keys that this node accepts.
    #[must_use]
    pub fn earlier_keys(&self) -> usize {
        self.earlier.len()
    }

    /// Makes `key` the current key of the next generation. The current key is accepted for `grace` more.
    pub(crate) fn rotate(&mut self, key: NetworkKey, grace: Duration) {
        self.replace(self.generation.saturating_add(1), key, grace);
    }

    /// Whether [`KeyRing::tell`] would adopt this key.
    pub(crate) fn would_adopt(&self, generation: u64, key: &NetworkKey) -> bool {
        let is_plausible = generation <= self.generation.saturating_add(GENERATION_STEP_MAX);
        is_plausible && (generation, key.as_bytes()) > (self.generation, self.current.as_bytes())
    }

    /// A peer tells the key of this generation. Of two keys of one generation, which two members made at the same time,
    /// the larger one counts everywhere.
    pub(crate) fn tell(&mut self, generation: u64, key: &NetworkKey, grace: Duration) -> Told {
        if generation == self.generation && *key == self.current {
            return Told::Same;
        }
        if generation > self.generation.saturating_add(GENERATION_STEP_MAX) {
            return Told::Implausible;
        }
        if !self.would_adopt(generation, key) {
            return Told::Earlier;
        }
        self.replace(generation, key.clone(), grace);
        Told::Adopted
    }

    /// This much connected time has passed. Returns whether a key is not accepted any more.
    pub(crate) fn spend(&mut self, elapsed: Duration) -> bool {
        let before = self.earlier.len();
        for earlier in &mut self.earlier {
            earlier.left = earlier.left.map(|left| left.saturating_sub(elapsed));
        }
        self.earlier.retain(|earlier| earlier.left != Some(Duration::ZERO));
        self.earlier.len() < before
    }

    /// The connected time until the next key is not accepted any more; `None` if there is no such key.
    pub(crate) fn next_end(&self) -> Option<Duration> {
        self.earlier.iter().filter_map(|earlier| earlier.left).min()
    }

    fn replace(&mut self, generation: u64, key: NetworkKey, grace: Duration) {
        let before = std::mem::replace(&mut self.current, key);
        self.generation = generation;
        self.earlier.retain(|earlier| earlier.key != self.current);
        self.earlier.insert(0, EarlierKey { key: before, left: Some(grace.min(KEY_GRACE_MAX)) });
        self.earlier.truncate(EARLIER_KEYS_MAX);
    }

    /// The text of its file.
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        // A reallocation would leave the keys behind in memory.
        let mut text = Zeroizing::new(String::with_capacity(1024));
        // Writing into a String does not fail.
        let _ =
            write!(text, "# The key of the network. Keep it secret. p2p-gossip writes this file.\nnetwork ");
        for byte in self.network.0 {
            let _ = write!(text, "{byte:02x}");
        }
        let _ = write!(text, "\ngeneration {}\ncurrent ", self.generation);
        self.current.write_hex(&mut text);
        for EarlierKey { key, left } in &self.earlier {
            text.push_str("\nearlier ");
            key.write_hex(&mut text);
            if let Some(left) = left {
                // Rounded up: a key with a part of a second left is accepted now.
                let _ = write!(text, " {}", left.as_secs() + u64::from(left.subsec_nanos() > 0));
            }
        }
        text.push('\n');
        text
    }

    /// Reads the text of its file, or of the file of a single key. The error is the number of a line, from 1, that has
    /// no meaning; 0 if no key is there.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, usize> {
        let (mut network, mut generation, mut current, mut earlier) = (None, None, None, Vec::new());
        let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            let words = (words.next(), words.next(), words.next(), words.next());
            let is_understood = match words {
                (Some(b"network"), Some(digits), None, None) if network.is_none() => {
                    let mut bytes = [0; NETWORK_ID_BYTES];
                    network = hex::parse_into(digits, &mut bytes).then_some(NetworkId(bytes));
                    network.is_some()
                }
                (Some(b"generation"), Some(number), None, None) if generation.is_none() => {
                    generation = parse_number(number);
                    generation.is_some()
                }
                (Some(b"current"), Some(key), None, None) | (Some(key), None, None, None)
                    if current.is_none() =>
                {
                    current = NetworkKey::from_hex(key);
                    current.is_some()
                }
                (Some(b"earlier"), Some(key), left, None) if earlier.len() < EARLIER_KEYS_MAX => {
                    let left = left.map_or(Some(None), |seconds| parse_grace(seconds).map(Some));
                    let found = NetworkKey::from_hex(key).zip(left);
                    let is_understood = found.is_some();
                    earlier.extend(found.map(|(key, left)| EarlierKey { key, left }));
                    is_understood
                }
                _ => false,
            };
            if !is_understood {
                return Err(index + 1);
            }
        }
        let current = current.ok_or(0_usize)?;
        let network = network.unwrap_or_else(|| NetworkId::of(&current));
        Ok(Self { network, generation: generation.unwrap_or(0), current, earlier })
    }
}

fn parse_grace(seconds: &[u8]) -> Option<Duration> {
    Some(Duration::from_secs(parse_number(seconds)?).min(KEY_GRACE_MAX))
}

fn parse_number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn keys<const N: usize>() -> [NetworkKey; N] {
        [(); N].map(|()| NetworkKey::generate().unwrap())
    }

    #[test]
    fn key_changes_and_the_earlier_key_is_accepted_for_its_grace() {
        let [first, second, third] = keys();
        let mut ring = KeyRing::new(first.clone());
        ring.rotate(second.clone(), 2 * HOUR);
        assert_eq!(ring.keys().collect::<Vec<_>>(), [&second, &first]);
        assert!(!ring.spend(HOUR));
        assert_eq!((ring.generation(), ring.next_end()), (1, Some(HOUR)));
        ring.rotate(third.clone(), 3 * HOUR);
        assert_eq!(ring.keys().collect::<Vec<_>>(), [&third, &second, &first]);
        assert!(ring.spend(HOUR));
        assert_eq!(ring.keys().collect::<Vec<_>>(), [&third, &second]);
        assert_eq!(ring.grace_left(), 2 * HOUR);
    }

    #[test]
    fn later_key_is_adopted_and_an_earlier_one_is_not() {
        let [first, second, third] = keys();
        let mut ring = KeyRing::new(first.clone());
        assert_eq!(ring.tell(0, &first, HOUR), Told::Same);
        assert_eq!(ring.tell(2, &second, HOUR), Told::Adopted);
        assert_eq!((ring.generation(), ring.current()), (2, &second));
        assert_eq!(ring.tell(1, &third, HOUR), Told::Earlier);
        assert_eq!(ring.tell(2 + GENERATION_STEP_MAX + 1, &third, HOUR), Told::Implausible);
        assert_eq!(ring.tell(u64::MAX, &third, HOUR), Told::Implausible);
        assert_eq!((ring.current(), ring.earlier_keys()), (&second, 1));
    }

    #[test]
    fn two_keys_of_one_generation_end_as_the_same_key_everywhere() {
        let [old, one, other] = keys();
        let (mut a, mut b) = (KeyRing::new(old.clone()), KeyRing::new(old.clone()));
        a.rotate(one, HOUR);
        b.rotate(other, HOUR);
        let (of_a, of_b) = (a.current().clone(), b.current().clone());
        let told = [a.tell(1, &of_b, HOUR), b.tell(1, &of_a, HOUR)];
        assert!(told.contains(&Told::Adopted) && told.contains(&Told::Earlier), "{told:?}");
        assert_eq!(a.current(), b.current());
        // The loser still accepts its own key and the old one.
        assert!(
            a.earlier_keys().max(b.earlier_keys()) == 2 && a.keys().chain(b.keys()).any(|key| *key == old)
        );
    }

    #[test]
    fn number_of_earlier_keys_is_limited() {
        let mut ring = KeyRing::new(NetworkKey::generate().unwrap());
        for _ in 0..2 * EARLIER_KEYS_MAX {
            ring.rotate(NetworkKey::generate().unwrap(), KEY_GRACE_MAX * 2);
        }
        assert_eq!(ring.earlier_keys(), EARLIER_KEYS_MAX);
        assert_eq!(ring.grace_left(), KEY_GRACE_MAX);
    }

    #[test]
    fn written_ring_is_read_back() {
        let [first, second, third] = keys();
        let mut ring = KeyRing::of_files([first.clone(), second]).unwrap();
        assert_eq!(KeyRing::parse(ring.to_text().as_bytes()), Ok(ring.clone()));
        ring.rotate(third, HOUR);
        assert_eq!(KeyRing::parse(ring.to_text().as_bytes()), Ok(ring.clone()));
        ring.spend(Duration::from_millis(1500));
        assert_eq!(
            KeyRing::parse(ring.to_text().as_bytes()).unwrap().grace_left(),
            HOUR - Duration::from_secs(1)
        );
        // The file of a single key.
        let mut text = String::from("# ours\n\n ");
        first.write_hex(&mut text);
        assert_eq!(KeyRing::parse(text.as_bytes()), Ok(KeyRing::new(first)));
    }

    #[test]
    fn damaged_file_is_refused_with_the_line() {
        let key = "ab".repeat(32);
        for (text, line) in [
            (String::new(), 0),
            ("generation 3\n".to_owned(), 0),
            (format!("generation x\ncurrent {key}\n"), 1),
            (format!("generation 1\ngeneration 2\ncurrent {key}\n"), 2),
            (format!("current {key}\ncurrent {key}\n"), 2),
            (format!("current {}\n", &key[1..]), 1),
            (format!("current {key}\nearlier {key} soon\n"), 2),
            (format!("current {key}\nearlier {key} 5 6\n"), 2),
            (
                format!("current {key}\n{}", format!("earlier {key}\n").repeat(EARLIER_KEYS_MAX + 1)),
                EARLIER_KEYS_MAX + 2,
            ),
            (format!("current {key}\nwhat {key}\n"), 2),
            (format!("network {}\ncurrent {key}\n", &key[..31]), 1),
        ] {
            assert_eq!(KeyRing::parse(text.as_bytes()), Err(line), "{}", text.len());
        }
    }
}
