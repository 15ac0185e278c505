//! Beacons: the datagrams by which nodes of one local network find each other. Encodes, tags and checks them.
//!
//! A beacon has 31 bytes: `p2pb`, the version, a random number of the process, the port on which its node listens, and a
//! tag. The tag is HMAC-SHA-256 with the network key as its key, shortened to 16 bytes. Its input is the name of the
//! network, all bytes before it, and the IP address that the datagram comes from. So:
//!
//! - A node of another network, or with another key, does not understand the beacon, and learns no name and no id.
//! - A copy of the beacon from another address is invalid. A node that repeats a beacon directs dials to its sender only.
//!
//! An open network has no key, so every program that knows its name can make the tag.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::trust::network_key::NetworkKey;

/// Length of a beacon in bytes.
pub const BEACON_BYTES: usize = BODY_BYTES + TAG_BYTES;
/// Bytes before the tag.
const BODY_BYTES: usize = 15;
/// Bytes of the tag: too many to guess one, and half of the HMAC keeps the beacon small.
const TAG_BYTES: usize = 16;
const MAGIC: [u8; 4] = *b"p2pb";
const VERSION: u8 = 1;
/// Begins the input of the HMAC; the network key is used with other labels elsewhere.
const LABEL: &[u8] = b"p2p-gossip beacon";

/// A beacon of another node of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// The number of the process that sent it, which its Hello has as well.
    pub instance: u64,
    /// The address to dial: the one that the datagram came from, with the port on which the node listens.
    pub addr: SocketAddr,
}

/// Makes and checks the beacons of one node.
#[derive(Debug)]
pub struct Beacons {
    /// The number of this process, by which it knows its own beacons.
    instance: u64,
    /// The name of the network.
    network: String,
    /// HMACs that have had the label and the name of the network, one for each key. The first makes tags.
    macs: Vec<Hmac<Sha256>>,
}

impl Beacons {
    /// The beacons of the network with this name and these keys; without a key the network is open.
    #[must_use]
    pub fn new(network: &str, keys: &[NetworkKey], instance: u64) -> Self {
        let mut beacons = Self { instance, network: network.to_owned(), macs: Vec::new() };
        beacons.set_keys(keys);
        beacons
    }

    /// Accepts these keys from now on; the first makes tags.
    pub fn set_keys(&mut self, keys: &[NetworkKey]) {
        let network = &self.network;
        let mac = |key: &[u8]| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
            mac.update(LABEL);
            mac.update(&(network.len() as u64).to_be_bytes());
            mac.update(network.as_bytes());
            mac
        };
        let mut macs: Vec<_> = keys.iter().map(|key| mac(key.as_bytes())).collect();
        if macs.is_empty() {
            macs.push(mac(&[]));
        }
        self.macs = macs;
    }

    /// The beacon of a node that listens on this port, for a datagram from this address.
    #[must_use]
    pub fn encode(&self, port: u16, source: IpAddr) -> [u8; BEACON_BYTES] {
        let mut beacon = [0; BEACON_BYTES];
        let (body, tag) = beacon.split_at_mut(BODY_BYTES);
        body[..4].copy_from_slice(&MAGIC);
        body[4] = VERSION;
        body[5..13].copy_from_slice(&self.instance.to_be_bytes());
        body[13..].copy_from_slice(&port.to_be_bytes());
        // There is always one.
        let tagged = with_input(&self.macs[0], body, source).finalize().into_bytes();
        tag.copy_from_slice(&tagged[..TAG_BYTES]);
        beacon
    }

    /// The beacon in a datagram from this address; `None` if there is none of this network, or it is this process's own.
    #[must_use]
    pub fn decode(&self, datagram: &[u8], source: SocketAddr) -> Option<Beacon> {
        let (body, tag) = datagram.split_at_checked(BODY_BYTES)?;
        let [m0, m1, m2, m3, version, instance @ .., port_high, port_low] = body else {
            return None;
        };
        let instance = u64::from_be_bytes(instance.try_into().ok()?);
        let port = u16::from_be_bytes([*port_high, *port_low]);
        let is_beacon = tag.len() == TAG_BYTES && [*m0, *m1, *m2, *m3] == MAGIC && *version == VERSION;
        if !is_beacon || port == 0 || instance == self.instance {
            return None;
        }
        // Compares in constant time.
        let is_ours =
            |mac: &Hmac<Sha256>| with_input(mac, body, source.ip()).verify_truncated_left(tag).is_ok();
        self.macs.iter().any(is_ours).then(|| Beacon { instance, addr: with_port(source, port) })
    }
}

fn with_input(mac: &Hmac<Sha256>, body: &[u8], source: IpAddr) -> Hmac<Sha256> {
    let mut mac = mac.clone();
    mac.update(body);
    match source.to_canonical() {
        IpAddr::V4(ip) => mac.update(&ip.octets()),
        IpAddr::V6(ip) => mac.update(&ip.octets()),
    }
    mac
}

fn with_port(source: SocketAddr, port: u16) -> SocketAddr {
    match source {
        SocketAddr::V4(v4) => (*v4.ip(), port).into(),
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), port, 0, v6.scope_id()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "192.0.2.7:24816";

    fn source() -> SocketAddr {
        SOURCE.parse().unwrap()
    }

    #[test]
    fn beacon_names_the_address_of_its_sender_with_the_port_of_its_node() {
        let key = NetworkKey::generate().unwrap();
        for keys in [vec![], vec![key]] {
            let (ours, theirs) = (Beacons::new("home", &keys, 1), Beacons::new("home", &keys, 2));
            let beacon = theirs.encode(8080, source().ip());
            assert_eq!(
                ours.decode(&beacon, source()),
                Some(Beacon { instance: 2, addr: "192.0.2.7:8080".parse().unwrap() })
            );
            assert_eq!(theirs.decode(&beacon, source()), None, "its own");
            let link_local: SocketAddr = "[fe80::7%3]:24816".parse().unwrap();
            let beacon = theirs.encode(8080, link_local.ip());
            assert_eq!(
                ours.decode(&beacon, link_local),
                Some(Beacon { instance: 2, addr: "[fe80::7%3]:8080".parse().unwrap() })
            );
        }
    }

    #[test]
    fn beacon_of_another_network_key_address_or_version_means_nothing() {
        let [key, other] = [(); 2].map(|()| NetworkKey::generate().unwrap());
        let ours = Beacons::new("home", std::slice::from_ref(&key), 1);
        let beacon =
            |network, keys: &[NetworkKey]| Beacons::new(network, keys, 2).encode(8080, source().ip());
        let good = beacon("home", std::slice::from_ref(&key));
        assert!(ours.decode(&good, source()).is_some());
        assert_eq!(ours.decode(&beacon("work", std::slice::from_ref(&key)), source()), None);
        assert_eq!(ours.decode(&beacon("home", std::slice::from_ref(&other)), source()), None);
        assert_eq!(ours.decode(&beacon("home", &[]), source()), None);
        assert_eq!(Beacons::new("home", &[], 3).decode(&good, source()), None);
        assert_eq!(ours.decode(&good, "192.0.2.8:24816".parse().unwrap()), None, "a copy");
        for at in 0..BEACON_BYTES {
            let mut forged = good;
            forged[at] ^= 1;
            assert_eq!(ours.decode(&forged, source()), None, "byte {at}");
            assert_eq!(ours.decode(&good[..at], source()), None, "{at} bytes");
        }
        let longer: Vec<u8> = good.iter().copied().chain([0]).collect();
        assert_eq!(ours.decode(&longer, source()), None);
        // While the key changes, a node understands both keys.
        let both = Beacons::new("home", &[other, key], 4);
        assert!(both.decode(&good, source()).is_some());
    }

    #[test]
    fn beacon_without_a_port_means_nothing() {
        let (ours, theirs) = (Beacons::new("home", &[], 1), Beacons::new("home", &[], 2));
        assert_eq!(ours.decode(&theirs.encode(0, source().ip()), source()), None);
    }

    /// Nodes of different versions of the program must understand each other.
    #[test]
    fn format_of_the_beacon_stays() {
        let beacon = Beacons::new("home", &[], 0x0102_0304_0506_0708).encode(8080, source().ip());
        let body = *b"p2pb\x01\x01\x02\x03\x04\x05\x06\x07\x08\x1f\x90";
        assert_eq!(beacon[..BODY_BYTES], body);
        let mut mac = Hmac::<Sha256>::new_from_slice(&[]).unwrap();
        mac.update(b"p2p-gossip beacon\0\0\0\0\0\0\0\x04home");
        mac.update(&body);
        mac.update(&[192, 0, 2, 7]);
        assert_eq!(beacon[BODY_BYTES..], mac.finalize().into_bytes()[..TAG_BYTES]);
    }
}
