//! The Hello that opens a session, and the proof in it that its sender holds the network key.
//!
//! The proof is HMAC-SHA-256, by the key, over who proves it (the end that dialled or the one that
//! accepted) and a value that only the two ends of this TLS connection can know (its exporter, RFC
//! 8446 section 7.5). So it means nothing on another connection, in the other direction, or to
//! somebody in the middle, who has two connections with two values.

use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls::Connection;
use sha2::Sha256;

use crate::network_key::NetworkKey;
use crate::tls_error::TlsError;
use crate::wire::{self, ByeReason, Frame, Hello, Message, WireError};

/// Names the value that is taken from TLS; nobody else uses that name.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-p2p-gossip network key";
const EXPORTED_BYTES: usize = 32;
/// What the two ends put in front of that value.
const DIALLER: &[u8] = b"dialler";
const ACCEPTOR: &[u8] = b"acceptor";

/// What this node says first on each connection, and demands to hear.
#[derive(Debug)]
pub(crate) struct Greeting {
    hello: Hello,
    /// Accepted, all of them; the first is the one to prove. None: the network is open.
    keys: Vec<NetworkKey>,
}

/// Why no Hello can be said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetingError {
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("cannot prove the network key: {0}")]
    Exporter(#[from] TlsError),
}

/// Why the other side's Hello is not good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Mismatch {
    /// We hold a key, and the other side has shown none.
    #[error("it holds no network key; this node requires one")]
    Missing,
    /// We hold a key, and the other side has shown another.
    #[error("it holds another network key")]
    Wrong,
    /// The other side has shown a key, and we hold none.
    #[error("it requires a network key; start with --network-key")]
    Unknown,
}

impl Mismatch {
    /// What to tell the other side.
    pub(crate) fn reason(self) -> ByeReason {
        match self {
            Self::Missing => ByeReason::NetworkKeyMissing,
            Self::Wrong => ByeReason::NetworkKeyWrong,
            Self::Unknown => ByeReason::NetworkKeyUnknown,
        }
    }
}

impl Greeting {
    pub(crate) fn new(hello: Hello, keys: Vec<NetworkKey>) -> Self {
        Self { hello, keys }
    }

    /// Our Hello for this connection, whose handshake is complete. Proves the given key, which the
    /// other side has proven, or else the first of ours.
    pub(crate) fn hello(
        &self,
        tls: &Connection,
        answering: Option<&NetworkKey>,
    ) -> Result<Frame, GreetingError> {
        let mut hello = self.hello.clone();
        if let Some(key) = answering.or(self.keys.first()) {
            let role = if is_dialler(tls) { DIALLER } else { ACCEPTOR };
            hello.proof = Some(mac(key, role, &exported(tls)?).finalize().into_bytes().into());
        }
        Ok(wire::encode(&Message::Hello(hello))?)
    }

    /// The key that the other side's Hello proves, if one is needed.
    pub(crate) fn check(&self, tls: &Connection, theirs: &Hello) -> Result<Option<&NetworkKey>, Mismatch> {
        let proof = match (&theirs.proof, self.keys.is_empty()) {
            (None, true) => return Ok(None),
            (None, false) => return Err(Mismatch::Missing),
            (Some(_), true) => return Err(Mismatch::Unknown),
            (Some(proof), false) => proof,
        };
        let role = if is_dialler(tls) { ACCEPTOR } else { DIALLER };
        // Without the value nothing is proven.
        let exported = exported(tls).map_err(|_| Mismatch::Wrong)?;
        // Compares in constant time.
        let is_proven = |key: &&NetworkKey| mac(key, role, &exported).verify_slice(proof).is_ok();
        self.keys.iter().find(is_proven).map(Some).ok_or(Mismatch::Wrong)
    }
}

fn is_dialler(tls: &Connection) -> bool {
    matches!(tls, Connection::Client(_))
}

fn exported(tls: &Connection) -> Result<[u8; EXPORTED_BYTES], TlsError> {
    Ok(tls.export_keying_material([0; EXPORTED_BYTES], EXPORTER_LABEL, None)?)
}

fn mac(key: &NetworkKey, role: &[u8], exported: &[u8; EXPORTED_BYTES]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(role);
    mac.update(exported);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;
    use crate::identity::Identity;
    use crate::pin::Expected;
    use crate::tls::Tls;

    /// Both ends of a connection whose handshake is complete: who dialled, who accepted.
    fn connection() -> [Connection; 2] {
        let [a, b] = [(); 2].map(|()| Tls::new(&Identity::generate().unwrap(), Access::default()).unwrap());
        let (mut dialler, mut acceptor) = (a.dial(Expected::Anybody).unwrap().0, b.accept().unwrap().0);
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

    fn greeting(keys: &[&NetworkKey]) -> Greeting {
        Greeting::new(Hello::plain(), keys.iter().copied().cloned().collect())
    }

    fn said(frame: &Frame) -> Hello {
        match wire::decode(&frame[4..]) {
            Ok(Message::Hello(hello)) => hello,
            other => panic!("not a Hello: {other:?}"),
        }
    }

    /// What the acceptor makes of the dialler's Hello, and if that is fine the dialler of its answer.
    fn meet(dialler: &Greeting, acceptor: &Greeting) -> Result<(), Mismatch> {
        let [near, far] = connection();
        let hello = said(&dialler.hello(&near, None).unwrap());
        let key = acceptor.check(&far, &hello)?;
        let answer = said(&acceptor.hello(&far, key).unwrap());
        dialler.check(&near, &answer).map(drop)
    }

    #[test]
    fn holders_of_one_key_meet_and_nobody_else_does() {
        let [ours, other] = [(); 2].map(|()| NetworkKey::generate().unwrap());
        let (open, closed) = (greeting(&[]), greeting(&[&ours]));
        assert_eq!(meet(&open, &open), Ok(()));
        assert_eq!(meet(&closed, &closed), Ok(()));
        assert_eq!(meet(&open, &closed), Err(Mismatch::Missing));
        assert_eq!(meet(&closed, &open), Err(Mismatch::Unknown));
        assert_eq!(meet(&closed, &greeting(&[&other])), Err(Mismatch::Wrong));
    }

    #[test]
    fn a_key_is_changed_in_three_steps_and_neighbouring_steps_meet() {
        let [old, new] = [(); 2].map(|()| NetworkKey::generate().unwrap());
        let steps = [&[&old][..], &[&old, &new], &[&new, &old], &[&new]].map(greeting);
        for (a, b) in steps.iter().zip(&steps[1..]) {
            assert_eq!((meet(a, b), meet(b, a)), (Ok(()), Ok(())));
        }
        // Who proves a key first is answered with that key, so one direction is enough.
        assert_eq!(meet(&steps[0], &steps[2]), Ok(()));
        assert_eq!(meet(&steps[2], &steps[0]), Err(Mismatch::Wrong));
        assert_eq!(meet(&steps[0], &steps[3]), Err(Mismatch::Wrong));
    }

    #[test]
    fn a_proof_is_worth_nothing_elsewhere_or_sent_back() {
        let key = NetworkKey::generate().unwrap();
        let closed = greeting(&[&key]);
        let [near, far] = connection();
        let [other_near, other_far] = connection();
        let hello = said(&closed.hello(&near, None).unwrap());
        assert!(closed.check(&far, &hello).is_ok());
        // Replayed, or passed on by somebody in the middle, who has another connection.
        assert_eq!(closed.check(&other_far, &hello), Err(Mismatch::Wrong));
        assert_eq!(closed.check(&other_near, &hello), Err(Mismatch::Wrong));
        // Reflected.
        assert_eq!(closed.check(&near, &hello), Err(Mismatch::Wrong));
        let damaged = Hello { proof: hello.proof.map(|proof| proof.map(|byte| byte ^ 1)), ..hello };
        assert_eq!(closed.check(&far, &damaged), Err(Mismatch::Wrong));
    }
}
