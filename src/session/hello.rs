//! The Hello that opens a session, and its proof that the sender holds the network key.
//!
//! The proof is HMAC-SHA-256 with the network key as its key (RFC 2104). Its input is the role of the sender
//! (dialler or acceptor) and a value that only the two ends of this TLS connection know (its exporter, RFC 8446
//! section 7.5). So a proof is invalid on another connection and in the other direction. A man in the middle
//! cannot pass it on, because that node has two connections with two values.

use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls::Connection;
use sha2::Sha256;

use crate::trust::network_key::NetworkKey;
use crate::trust::tls_error::TlsError;
use crate::wire::{self, ByeReason, Frame, Hello, Message, PROOFS_MAX, WireError};

/// Label of the exported value; used for no other purpose.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-p2p-gossip network key";
/// A value that only the two ends of one TLS connection know (RFC 8446, section 7.5).
pub type Exported = [u8; 32];

/// The role of one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It opened the connection.
    Dialler,
    /// It accepted the connection.
    Acceptor,
}

impl Role {
    /// The role of the other end.
    fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Acceptor,
            Self::Acceptor => Self::Dialler,
        }
    }

    /// Precedes the exported value in the input of the HMAC, if this is the role of the sender.
    fn label(self) -> &'static [u8] {
        match self {
            Self::Dialler => b"dialler",
            Self::Acceptor => b"acceptor",
        }
    }
}

/// Creates this node's Hello for each connection, and checks the peer's Hello.
#[derive(Debug)]
pub struct HelloExchange {
    hello: Hello,
    /// All of these keys are accepted. The first is current. If empty, the network is open.
    keys: Vec<NetworkKey>,
}

/// The peer's Hello does not prove a network key that this node accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Mismatch {
    /// This node holds a key, and the peer has proven none.
    #[error("it holds no network key; this node requires one")]
    Missing,
    /// This node holds a key, and the peer has proven another.
    #[error("it holds another network key")]
    Wrong,
    /// The peer has proven a key, and this node holds none.
    #[error("it requires a network key; start with --network-key")]
    Unknown,
}

impl Mismatch {
    /// The reason for the goodbye to the peer.
    pub(crate) fn reason(self) -> ByeReason {
        match self {
            Self::Missing => ByeReason::NetworkKeyMissing,
            Self::Wrong => ByeReason::NetworkKeyWrong,
            Self::Unknown => ByeReason::NetworkKeyUnknown,
        }
    }
}

impl HelloExchange {
    /// `hello` lacks the proof, which each connection adds.
    #[must_use]
    pub fn new(hello: Hello, keys: Vec<NetworkKey>) -> Self {
        Self { hello, keys }
    }

    /// The keys that this node accepts; the first is current.
    #[must_use]
    pub fn keys(&self) -> &[NetworkKey] {
        &self.keys
    }

    /// The same Hello with other keys.
    #[must_use]
    pub fn with_keys(&self, keys: Vec<NetworkKey>) -> Self {
        Self { hello: self.hello.clone(), keys }
    }

    /// Returns our Hello for one connection. The Hello proves the key `answering`, which the peer has proven, or else
    /// all our keys: the peer may lack the current one. `interval_ms` is our heartbeat interval now.
    pub(super) fn hello(
        &self,
        role: Role,
        exported: &Exported,
        answering: Option<&NetworkKey>,
        interval_ms: u32,
    ) -> Result<Frame, WireError> {
        let mut hello = self.hello.clone();
        hello.heartbeat_ms = interval_ms;
        let keys = answering.map_or(self.keys.as_slice(), std::slice::from_ref);
        let proof = |key| mac(key, role, exported).finalize().into_bytes().into();
        hello.proofs = keys.iter().take(PROOFS_MAX).map(proof).collect();
        wire::encode(&Message::Hello(hello))
    }

    /// Returns the key that the peer's Hello proves, or `None` in an open network. `role` is ours.
    pub(super) fn check(
        &self,
        role: Role,
        exported: &Exported,
        theirs: &Hello,
    ) -> Result<Option<&NetworkKey>, Mismatch> {
        match (theirs.proofs.is_empty(), self.keys.is_empty()) {
            (true, true) => return Ok(None),
            (true, false) => return Err(Mismatch::Missing),
            (false, true) => return Err(Mismatch::Unknown),
            (false, false) => {}
        }
        let is_proven = |key: &&NetworkKey| {
            let expected = mac(key, role.other(), exported);
            // Compares in constant time.
            theirs.proofs.iter().any(|proof| expected.clone().verify_slice(proof).is_ok())
        };
        self.keys.iter().find(is_proven).map(Some).ok_or(Mismatch::Wrong)
    }
}

/// Returns the value that only the two ends of this connection know. Its handshake must be complete.
pub(super) fn exported(tls: &Connection) -> Result<Exported, TlsError> {
    Ok(tls.export_keying_material([0; size_of::<Exported>()], EXPORTER_LABEL, None)?)
}

fn mac(key: &NetworkKey, sender: Role, exported: &Exported) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(sender.label());
    mac.update(exported);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::access::Access;
    use crate::trust::identity::Identity;
    use crate::trust::pin::Expected;
    use crate::trust::tls::Tls;

    /// Both ends of a connection whose handshake is complete: the dialler and the acceptor.
    fn connection() -> [Connection; 2] {
        let [a, b] = [(); 2].map(|()| Tls::new(&Identity::generate().unwrap(), Access::default()).unwrap());
        let (mut dialler, mut acceptor) = (a.dial(Expected::AnyPeer).unwrap().0, b.accept().unwrap().0);
        while dialler.is_handshaking() || acceptor.is_handshaking() {
            for _ in 0..2 {
                let mut bytes = Vec::new();
                while dialler.wants_write() {
                    dialler.write_tls(&mut bytes).unwrap();
                }
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    acceptor.read_tls(&mut rest).unwrap();
                    acceptor.process_new_packets().unwrap();
                }
                std::mem::swap(&mut dialler, &mut acceptor);
            }
        }
        [dialler, acceptor]
    }

    fn exchange(keys: &[&NetworkKey]) -> HelloExchange {
        HelloExchange::new(Hello::plain(), keys.iter().copied().cloned().collect())
    }

    fn decoded(frame: &Frame) -> Hello {
        match wire::decode(&frame[4..]) {
            Ok(Message::Hello(hello)) => hello,
            other => panic!("not a Hello: {other:?}"),
        }
    }

    /// The acceptor checks the dialler's Hello. If that is valid, the dialler checks the answer.
    fn connect(dialler: &HelloExchange, acceptor: &HelloExchange) -> Result<(), Mismatch> {
        let exported = [7; 32];
        let hello = decoded(&dialler.hello(Role::Dialler, &exported, None, 1000).unwrap());
        let key = acceptor.check(Role::Acceptor, &exported, &hello)?;
        let answer = decoded(&acceptor.hello(Role::Acceptor, &exported, key, 1000).unwrap());
        dialler.check(Role::Dialler, &exported, &answer).map(drop)
    }

    #[test]
    fn only_holders_of_one_key_connect() {
        let [ours, other] = [(); 2].map(|()| NetworkKey::generate().unwrap());
        let (open, closed) = (exchange(&[]), exchange(&[&ours]));
        assert_eq!(connect(&open, &open), Ok(()));
        assert_eq!(connect(&closed, &closed), Ok(()));
        assert_eq!(connect(&open, &closed), Err(Mismatch::Missing));
        assert_eq!(connect(&closed, &open), Err(Mismatch::Unknown));
        assert_eq!(connect(&closed, &exchange(&[&other])), Err(Mismatch::Wrong));
    }

    #[test]
    fn nodes_with_a_common_key_connect_and_know_which_key_the_peer_has() {
        let [old, new] = [(); 2].map(|()| NetworkKey::generate().unwrap());
        let [before, first, then, after] = [&[&old][..], &[&old, &new], &[&new, &old], &[&new]].map(exchange);
        for (a, b) in [(&before, &first), (&first, &then), (&then, &after), (&before, &then)] {
            assert_eq!((connect(a, b), connect(b, a)), (Ok(()), Ok(())));
        }
        assert_eq!(connect(&before, &after), Err(Mismatch::Wrong));
        // The node that has changed its key accepts the other, and sees that the other has not.
        let hello = decoded(&before.hello(Role::Dialler, &[7; 32], None, 1000).unwrap());
        assert_eq!(then.check(Role::Acceptor, &[7; 32], &hello), Ok(Some(&old)));
        let hello = decoded(&then.hello(Role::Dialler, &[7; 32], None, 1000).unwrap());
        assert_eq!(first.check(Role::Acceptor, &[7; 32], &hello), Ok(Some(&old)));
        assert_eq!(after.check(Role::Acceptor, &[7; 32], &hello), Ok(Some(&new)));
    }

    #[test]
    fn proof_is_invalid_on_another_connection_and_when_reflected() {
        let key = NetworkKey::generate().unwrap();
        let closed = exchange(&[&key]);
        // Both ends of one connection export the same value, and no other connection does.
        let [here, elsewhere] = [(); 2].map(|()| connection().map(|tls| exported(&tls).unwrap()));
        assert!(here[0] == here[1] && here[0] != elsewhere[0]);
        let [here, elsewhere] = [here[0], elsewhere[0]];
        let hello = decoded(&closed.hello(Role::Dialler, &here, None, 1000).unwrap());
        assert!(closed.check(Role::Acceptor, &here, &hello).is_ok());
        // Replayed, or passed on by a man in the middle over another connection.
        assert_eq!(closed.check(Role::Acceptor, &elsewhere, &hello), Err(Mismatch::Wrong));
        assert_eq!(closed.check(Role::Dialler, &elsewhere, &hello), Err(Mismatch::Wrong));
        // Reflected.
        assert_eq!(closed.check(Role::Dialler, &here, &hello), Err(Mismatch::Wrong));
        let damage = |proof: &[u8; 32]| proof.map(|byte| byte ^ 1);
        let damaged = Hello { proofs: hello.proofs.iter().map(damage).collect(), ..hello };
        assert_eq!(closed.check(Role::Acceptor, &here, &damaged), Err(Mismatch::Wrong));
    }
}
